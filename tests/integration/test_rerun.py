"""Finished items are classified again: once, under the current file, and never against a person's word."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import uuid4

import pytest
from lanes import NAME, REJECTED, FakeLLM, World, reply

from datashunt.errors import UsageError
from datashunt.items import Item, Wake
from datashunt.pipeline import people, rerun
from datashunt.prompts import Prompt
from datashunt.store import dead, distillations, scores
from datashunt.streams import Row

KEEP, DOUBT = "positive 0.95", "negative 0.5"


def again(world: World, before: int | None = None) -> list[Wake]:
    return list(rerun.rerun(world.store, NAME, rerun.plan(world.store, NAME, before)))


def finish(world: World, wakes: list[Wake], llm: FakeLLM | None = None) -> None:
    """Score and ask what was queued again."""
    rows = [row for wake in wakes for row in wake.ids]
    asks = [row for wake in world.scorer().run(NAME, rows) for row in wake.ids]
    world.ask(llm or FakeLLM([reply("neutral")]), asks)


def history(world: World) -> list[tuple[str, int, str, str]]:
    found = world.rows(
        "SELECT key, spec_version, outcomes.label, outcomes.source FROM outcomes JOIN items ON items.id = item_id"
        " ORDER BY outcomes.id"
    )
    return [tuple(row) for row in found]


@pytest.fixture
def done(world: World) -> World:
    """One kept and one asked item under version 1; version 2 has another instruction."""
    world.bundle()
    world.score(KEEP, DOUBT)
    world.ask(FakeLLM([reply("negative")]))
    world.apply(instruction="Say how the writer felt.")
    return world


def test_finished_items_are_classified_again_and_their_old_outcomes_stay_in_history(done: World) -> None:
    wakes = again(done)
    assert [(wake.lane, len(wake.ids)) for wake in wakes] == [("score", 2)]
    assert done.states() == {"queued": 2}
    finish(done, wakes)
    assert done.states() == {"done": 2}
    assert history(done) == [
        ("i0", 1, "positive", "small"),
        ("i1", 1, "negative", "llm"),
        ("i0", 2, "positive", "small"),
        ("i1", 2, "neutral", "llm"),
    ]
    assert done.rows("SELECT label FROM items ORDER BY id") == [("positive",), ("neutral",)]


def test_only_what_was_held_out_the_first_time_is_held_out_again_and_counts_once(world: World) -> None:
    world.bundle()
    asks = world.score("positive 0.5 was taught", "positive 0.5 was judged", KEEP)
    world.change("UPDATE asks SET role = 'judge', propensity = 1.0 WHERE id = :ask", ask=asks[1])
    world.ask(FakeLLM([reply("negative")]))
    world.apply(policy={"threshold": 0.96})
    list(world.scorer().run(NAME, [row for wake in again(world) for row in wake.ids]))
    world.submit(Item("new", "positive 0.5 new"))
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items WHERE state = 'queued'")]))
    world.change("UPDATE asks SET role = 'judge', propensity = 1.0 WHERE state = 'waiting'")
    world.ask(FakeLLM([reply("neutral")]))
    assert world.one("SELECT count(*) FROM answers WHERE role = 'judge'") == 5
    with world.store.begin() as tx:
        found = distillations.answers(tx, world.known())
    assert {(one.text, one.label, one.role) for one in found} == {
        ("positive 0.5 was taught", "negative", "train"),
        ("positive 0.5 was judged", "neutral", "judge"),
        ("positive 0.5 new", "neutral", "judge"),
    }
    assert len(found) == 3


def test_no_answer_of_the_old_version_is_used_again(done: World) -> None:
    llm = FakeLLM([reply("neutral")])
    finish(done, again(done), llm)
    (prompt,) = llm.prompts
    assert "felt" in prompt.messages[0]["content"]


def test_a_second_run_finds_nothing_to_do_whatever_became_of_the_first(done: World) -> None:
    wakes = again(done)
    assert rerun.plan(done.store, NAME).items == 0
    assert again(done) == []
    finish(done, wakes)
    assert again(done) == []
    assert len(history(done)) == 4


def test_a_run_that_breaks_off_is_gone_on_with(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "BATCH", 1)
    steps = rerun.rerun(done.store, NAME, rerun.plan(done.store, NAME))
    first = next(steps)
    assert done.states() == {"queued": 1, "done": 1}
    rest = again(done)
    assert len(rest) == 1
    assert set(first.ids) | set(rest[0].ids) == {row.id for row in done.rows("SELECT id FROM items")}
    assert list(steps) == []


def test_a_run_waits_until_no_worker_decides_by_the_older_file(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        done.change("UPDATE specs SET created_at = created_at - make_interval(secs => :s)", s=seconds)

    monkeypatch.setattr(rerun.time, "sleep", sleep)
    rerun.until_known(done.store, NAME, 1000.0)
    assert sum(pauses) == pytest.approx(1000.0 + rerun.IN_HAND_S, abs=60)
    pauses.clear()
    rerun.until_known(done.store, NAME, 1000.0)
    assert pauses == []


def test_two_runs_at_once_queue_each_item_once(done: World) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: again(done), range(4)))
    rows = [row for wakes in found for wake in wakes for row in wake.ids]
    assert len(rows) == len(set(rows)) == 2


def test_a_persons_label_is_never_run_again(done: World) -> None:
    list(people.label(done.store, NAME, [Row(1, "i0", "neutral")], by="ann"))
    wakes = again(done)
    assert sum(len(wake.ids) for wake in wakes) == 1
    finish(done, wakes)
    assert done.rows("SELECT label, source FROM items WHERE key = 'i0'") == [("neutral", "human")]


def test_only_outcomes_of_earlier_versions_are_run_again(done: World) -> None:
    finish(done, again(done))
    done.apply(instruction="Say how the writer will feel.")
    assert rerun.plan(done.store, NAME, 2).items == 0
    assert rerun.plan(done.store, NAME, 3).items == 2
    assert rerun.plan(done.store, NAME).before == 3
    for before in (0, 4):
        with pytest.raises(UsageError, match=f"versions 1 to 3, found --spec-before {before}"):
            rerun.plan(done.store, NAME, before)


def test_new_items_are_scored_before_those_that_are_run_again(done: World) -> None:
    again(done)
    done.submit(Item("new", KEEP))
    with done.store.begin() as tx:
        (first,) = scores.claim(tx, done.known().id, uuid4(), lease_s=60, most=1)
    assert first.id == "new"


def test_the_plan_prices_one_question_about_each_item(done: World) -> None:
    made = rerun.plan(done.store, NAME)
    prompt = rerun.usage(done.known().spec, KEEP)
    assert made.items == 2
    assert made.cost_usd is not None
    each = (prompt.prompt + 2 * prompt.completion) / Decimal(1_000_000)
    assert made.cost_usd == pytest.approx(2 * each, rel=Decimal("0.05"))
    calls = FakeLLM([reply("neutral")])
    finish(done, again(done), calls)
    paid = sum(call.reserved_usd for call in done.calls()[1:])
    assert paid <= made.cost_usd


def test_the_plan_counts_every_sample_as_a_request(done: World) -> None:
    one = rerun.plan(done.store, NAME).cost_usd
    done.apply(llm={"samples": 5})
    assert one is not None
    assert rerun.plan(done.store, NAME, 2).cost_usd == pytest.approx(5 * one, rel=Decimal("0.1"))


def test_an_unknown_price_is_no_price(done: World) -> None:
    done.apply(llm={"model": "nobody-sells-this", "input_price": None, "output_price": None})
    assert rerun.plan(done.store, NAME).cost_usd is None


# audits


@pytest.fixture
def audited(world: World) -> World:
    """One kept item whose audit waits, under version 2 of the file."""
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    world.score(KEEP)
    return world


def change(audited: World) -> None:
    """Apply version 3."""
    audited.apply(policy={"audit_rate": 1.0}, instruction="Say how the writer felt.")


def test_an_item_keeps_its_audit_draw_and_its_open_ask_is_withdrawn_for_a_new_one(audited: World) -> None:
    change(audited)
    finish(audited, again(audited))
    assert audited.rows("SELECT spec_version, reason, role <> 'train', state FROM asks ORDER BY id") == [
        (2, "audit", True, "withdrawn"),
        (3, "audit", True, "answered"),
    ]
    assert len(set(audited.rows("SELECT role FROM asks"))) == 1


def test_an_old_call_under_way_is_paid_and_decides_nothing(audited: World) -> None:
    def meanwhile(_: Prompt) -> object:
        change(audited)
        finish(audited, again(audited))
        return reply("negative")

    audited.ask(FakeLLM([meanwhile]))  # type: ignore[list-item]
    assert audited.states() == {"done": 1}
    assert audited.rows("SELECT label, source FROM items") == [("positive", "small")]
    assert [call.state for call in audited.calls()] == ["answered", "answered"]
    assert audited.rows("SELECT spec_version, label FROM answers ORDER BY spec_version") == [
        (2, "negative"),
        (3, "neutral"),
    ]


def test_a_dead_audit_of_the_old_version_is_not_replayed_beside_the_new_one(audited: World) -> None:
    audited.ask(FakeLLM([REJECTED]))
    change(audited)
    wakes = again(audited)
    list(audited.scorer().run(NAME, wakes[0].ids))
    with audited.store.begin() as tx:
        assert dead.listed(tx, audited.known().id) == []
        assert dead.replay(tx, audited.known().id, NAME, None) == []
    assert audited.states("asks") == {"dead": 1, "waiting": 1}
