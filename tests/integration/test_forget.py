"""Forgetting: nothing of what an item said is left anywhere, what it cost is, and workers take it calmly."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lanes import NAME, FakeLLM, FakeModel, World, reply
from sqlalchemy import text

from datashunt import Client
from datashunt.errors import UsageError
from datashunt.items import Item
from datashunt.settings import Settings
from datashunt.store import classifiers, dead, forget, invariants, reruns, results, texts
from datashunt.store.forget import Forgotten
from datashunt.store.tables import Base

MARK = "xylophone"
SURE, UNSURE = f"positive 0.99 {MARK}", f"negative 0.4 {MARK}"


def forgotten(world: World, *ids: str) -> Forgotten:
    with world.store.begin() as tx:
        return forget.forget(tx, world.known().id, NAME, list(ids))


def status(world: World) -> dict[str, Any]:
    with world.store.begin() as tx:
        return results.status(tx, world.known().id)


def whole(world: World) -> str:
    """Every table, as text."""
    return "\n".join(
        str(row) for table in Base.metadata.sorted_tables for row in world.rows(f"SELECT * FROM {table.name}")
    )


def sound(world: World) -> None:
    with world.store.begin() as tx:
        assert [(one.name, broken.some) for one, broken in invariants.check(tx) if broken.count] == []


@pytest.fixture
def used(world: World) -> World:
    """Three items: kept, asked with an answer, and one that repeats that answer."""
    world.bundle()
    world.submit(Item("kept", SURE), Item("asked", UNSURE), Item("again", UNSURE), submission="s1")
    rows = [row.id for row in world.rows("SELECT id FROM items ORDER BY id")]
    asks = [row for wake in world.scorer().run(NAME, rows) for row in wake.ids]
    assert world.ask(FakeLLM([reply("negative")]), asks) == 1
    assert world.states() == {"done": 3}
    sound(world)
    return world


def test_text_answers_and_outcomes_go_and_the_counts_stay(used: World) -> None:
    before = status(used)
    hashes = {bytes(row.text_hash) for row in used.rows("SELECT text_hash FROM items")}
    payload = used.one("SELECT payload_hash FROM submissions")
    assert forgotten(used, "kept", "asked").items == 2
    after = status(used)
    assert after["states"] == {"done": 1, "forgotten": 2}
    for name in ("items", "sources", "asked", "cost_usd"):
        assert after[name] == before[name]
    for table in ("texts", "answers", "outcomes"):
        assert used.one(f"SELECT count(*) FROM {table} JOIN items ON items.id = item_id WHERE key <> 'again'") == 0
    assert used.one("SELECT count(*) FROM scores JOIN items ON items.id = item_id WHERE key <> 'again'") == 0
    assert [row.reuse_key for row in used.calls()] == [None]
    assert len({bytes(row.text_hash) for row in used.rows("SELECT text_hash FROM items")} & hashes) == 1
    assert used.one("SELECT payload_hash FROM submissions") != payload
    sound(used)


def test_nothing_that_was_written_is_left(used: World) -> None:
    used.change("UPDATE calls SET error = :said, votes = ARRAY[:said]", said=MARK)
    forgotten(used, "kept", "asked", "again")
    assert MARK not in whole(used)
    with used.store.begin() as tx:
        assert results.stream(tx, used.known().id, None, 10) == []
        assert results.states(tx, used.known().id, ["kept"]) == {"kept": "forgotten"}


def test_an_answer_that_repeats_a_forgotten_one_stays_and_is_no_original(used: World) -> None:
    first = used.one("SELECT key FROM items JOIN answers ON item_id = items.id WHERE reused_from IS NULL")
    forgotten(used, first)
    (left,) = used.rows("SELECT id, reused_from, label FROM answers")
    assert (left.reused_from, left.label) == (left.id, "negative")
    sound(used)
    used.submit(Item("new", UNSURE))
    rows = [row.id for row in used.rows("SELECT id FROM items WHERE key = 'new'")]
    asks = [row for wake in used.scorer().run(NAME, rows) for row in wake.ids]
    assert used.ask(FakeLLM([reply("negative")]), asks) == 1  # it is paid for again


def test_to_forget_again_changes_nothing(used: World) -> None:
    first = forgotten(used, "kept")
    state = used.rows("SELECT * FROM items ORDER BY id")
    assert forgotten(used, "kept") == first
    assert used.rows("SELECT * FROM items ORDER BY id") == state


def test_unknown_ids_are_named_and_nothing_is_forgotten(used: World) -> None:
    with pytest.raises(UsageError, match=r"has no item 'nobody'.*nothing was forgotten"):
        forgotten(used, "kept", "nobody")
    assert used.states() == {"done": 3}


def test_what_is_being_scored_ends_without_an_outcome(world: World) -> None:
    seen: list[Forgotten] = []
    world.bundle()
    models = type(world.models)(FakeModel(before=lambda texts: seen.append(forgotten(world, "i0"))))
    world.score(SURE, UNSURE, models=models)
    assert seen[0].in_flight == 1
    assert world.states() == {"forgotten": 1, "asked": 1}
    assert world.one("SELECT count(*) FROM outcomes") == 0
    sound(world)


def test_what_is_being_asked_ends_without_an_answer_and_is_paid_for(world: World) -> None:
    def meanwhile(prompt: Any) -> Any:
        assert forgotten(world, "i0").in_flight == 1
        return reply("negative")

    world.bundle()
    asks = world.score(UNSURE)
    world.ask(FakeLLM([meanwhile]), asks)
    assert world.states() == {"forgotten": 1}
    assert world.states("asks") == {"forgotten": 1}
    assert world.one("SELECT count(*) FROM answers") == 0
    assert world.calls()[0].cost_usd > 0
    sound(world)
    forgotten(world, "i0")
    assert world.calls()[0].reuse_key is None


def test_the_bundles_that_may_have_learnt_from_it_are_listed_also_later(used: World) -> None:
    used.bundle()
    used.bundle()
    used.change(
        "INSERT INTO distillations (classifier_id, spec_version, state, bundle_id, up_to_answer, up_to_score)"
        " SELECT classifier_id, spec_version, 'promoted', id, (SELECT max(id) FROM answers), 0 FROM bundles"
        " WHERE version = 2"
    )
    used.change("UPDATE bundles SET parent_id = (SELECT id FROM bundles WHERE version = 2) WHERE version = 3")
    asked = used.one("SELECT key FROM items JOIN answers ON item_id = items.id WHERE reused_from IS NULL")
    assert forgotten(used, asked).bundles == (2, 3)
    assert forgotten(used, asked).bundles == (2, 3)
    assert forgotten(used, "kept").bundles == ()


def test_a_distillation_that_is_due_for_the_first_time_has_read_nothing(used: World) -> None:
    used.change(
        "INSERT INTO distillations (classifier_id, spec_version, state)"
        " SELECT classifier_id, max(version), 'due' FROM specs GROUP BY 1"
    )
    assert not forgotten(used, "kept").distilling
    used.change("UPDATE distillations SET attempts = 1")
    assert forgotten(used, "kept").distilling


def test_the_id_of_a_forgotten_item_is_not_taken_again(used: World) -> None:
    forgotten(used, "kept")
    receipt, _ = used.submit(Item("kept", SURE))
    assert [one.reason for one in receipt.refused] == ["id_conflict"]


def test_by_age_only_texts_of_ended_items_go_and_outcomes_stay(used: World) -> None:
    used.submit(Item("queued", SURE))
    used.change("UPDATE items SET done_at = now() - interval '31 days' WHERE key <> 'again' AND state = 'done'")
    used.change("UPDATE items SET created_at = now() - interval '90 days'")
    removed, last = older_than_a_month(used)
    assert (removed, last is not None) == (2, True)
    assert older_than_a_month(used, after=last or 0) == older_than_a_month(used) == (0, None)
    assert used.states() == {"done": 3, "queued": 1}
    assert used.one("SELECT count(*) FROM outcomes") == 3
    assert used.one("SELECT count(*) FROM texts") == 2
    sound(used)


def test_what_has_no_text_is_not_run_again(used: World) -> None:
    used.change("UPDATE items SET done_at = now() - interval '31 days'")
    older_than_a_month(used)
    used.apply(instruction="Another question.")
    assert run_again(used) == ()


def older_than_a_month(world: World, *, after: int = 0) -> tuple[int, int | None]:
    with world.store.begin() as tx:
        return texts.remove_old(tx, world.known().id, 30 * 86_400.0, after=after)


def run_again(world: World) -> tuple[int, ...]:
    with world.store.begin() as tx:
        known = classifiers.current(tx, NAME)
        return reruns.requeue(tx, known, known.version, after=0, most=10).rows


def revive(world: World) -> tuple[int, ...]:
    with world.store.begin() as tx:
        return tuple(row for wake in dead.replay(tx, world.known().id, NAME, None) for row in wake.ids)


@pytest.fixture
def ended(used: World) -> World:
    """Items that ended long ago, one of them dead, under an older version of the file."""
    used.change("UPDATE items SET done_at = now() - interval '31 days'")
    used.change(
        "UPDATE items SET state = 'dead', label = NULL, source = NULL, outcome_id = NULL, done_at = NULL"
        " WHERE key = 'kept'"
    )
    used.change(
        "INSERT INTO dead_letters (classifier_id, item_id, reason, detail, created_at)"
        " SELECT classifier_id, id, 'never_scored', '', now() - interval '31 days' FROM items WHERE state = 'dead'"
    )
    used.apply(instruction="Another question.")
    return used


@pytest.mark.parametrize("back", [run_again, revive])
def test_whoever_comes_back_while_its_text_is_removed_stays_as_it_is(
    ended: World, back: Callable[[World], tuple[int, ...]]
) -> None:
    before = ended.states()
    with ThreadPoolExecutor(1) as pool:
        with ended.store.begin() as tx:
            texts.remove_old(tx, ended.known().id, 30 * 86_400.0, after=0)
            found = pool.submit(back, ended)
            ended.until_somebody_waits()
        assert found.result() == ()
    assert ended.states() == before


def test_whoever_came_back_keeps_its_text_whoever_was_about_to_remove_it(ended: World) -> None:
    with ThreadPoolExecutor(1) as pool, ended.store.begin() as tx:
        known = classifiers.current(tx, NAME)
        back = reruns.requeue(tx, known, known.version, after=0, most=10).rows
        assert back
        pool.submit(older_than_a_month, ended).result()
    assert ended.rows("SELECT item_id FROM texts WHERE item_id = ANY(:rows) ORDER BY 1", rows=list(back)) == [
        (row,) for row in back
    ]


def test_the_client_forgets(used: World, settings: Settings) -> None:
    with Client(settings) as client:
        assert client.forget(NAME, ["kept"]) == Forgotten(1, 0, (), distilling=False)
        assert client.wait(NAME, ["kept"], 5) == {"kept": "forgotten"}
        assert client.result(NAME, "kept") is None


def test_nobody_else_can_look_a_forgotten_text_up(used: World) -> None:
    forgotten(used, "kept")
    with used.store.begin() as tx:
        assert tx.execute(text("SELECT count(*) FROM items WHERE text_hash = sha256(CAST(:text AS bytea))"),
                          {"text": SURE.encode()}).scalar_one() == 0  # fmt: skip
