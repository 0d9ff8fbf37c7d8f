"""People's labels: they win over whoever holds the item, change nothing twice, and forget nothing that was paid for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lanes import NAME, OUTSIDE, PRICE, FakeLLM, FakeModel, FakeModels, World, choke_on_all, reply

from datashunt import Client
from datashunt.items import Role
from datashunt.pipeline import people
from datashunt.pipeline.people import Labelled
from datashunt.prompts import Prompt
from datashunt.store import dead, distillations, reviews
from datashunt.store.people import PersonLabel, take
from datashunt.streams import BadRow, Row

KEEP, DOUBT = "positive 0.95", "negative 0.5"
PATIENCE_S = 30.0


def rows(*labels: tuple[str, ...]) -> list[Row | BadRow]:
    """Id, label and perhaps by whom, as a file would give them."""
    return [
        Row(line, key, label, fields={"by": who[0] if who else "ann"})
        for line, (key, label, *who) in enumerate(labels, start=2)
    ]


def label(world: World, *labels: tuple[str, ...]) -> Labelled:
    parts = list(people.label(world.store, NAME, rows(*labels)))
    refused = [bad for part in parts for bad in part.refused]
    return Labelled(
        sum(part.new for part in parts),
        sum(part.known for part in parts),
        sum(part.blank for part in parts),
        tuple(refused),
    )


def current(world: World) -> list[tuple[str, str, str]]:
    return [tuple(row) for row in world.rows("SELECT state, label, source FROM items ORDER BY id")]


def history(world: World) -> list[tuple[str, str, str | None]]:
    return [tuple(row) for row in world.rows("SELECT label, source, labelled_by FROM outcomes ORDER BY id")]


def test_a_label_becomes_the_current_outcome_and_the_old_one_stays_in_history(world: World) -> None:
    world.bundle()
    world.score(KEEP)
    assert label(world, ("i0", "neutral")) == Labelled(1, 0, 0, ())
    assert current(world) == [("done", "neutral", "human")]
    assert history(world) == [("positive", "small", None), ("neutral", "human", "ann")]
    with Client(world.settings) as client:
        found = client.result(NAME, "i0")
    assert found is not None
    assert (found.label, found.source, found.by) == ("neutral", "human", "ann")


def test_the_same_labels_twice_change_nothing(world: World) -> None:
    world.bundle()
    world.score(KEEP, DOUBT)
    given = (("i0", "neutral"), ("i1", "negative"))
    assert label(world, *given).new == 2
    before = world.rows("SELECT * FROM items ORDER BY id"), history(world)
    assert label(world, *given) == Labelled(0, 2, 0, ())
    assert (world.rows("SELECT * FROM items ORDER BY id"), history(world)) == before


def test_a_later_person_supersedes_and_an_old_file_does_not_undo_that(world: World) -> None:
    world.bundle()
    world.score(KEEP)
    label(world, ("i0", "neutral", "ann"))
    label(world, ("i0", "negative", "bob"))
    assert label(world, ("i0", "neutral", "ann")) == Labelled(0, 1, 0, ())
    assert current(world) == [("done", "negative", "human")]
    assert label(world, ("i0", "positive", "ann")).new == 1
    assert [(said, who) for said, _, who in history(world)[1:]] == [
        ("neutral", "ann"),
        ("negative", "bob"),
        ("positive", "ann"),
    ]


def test_of_an_item_that_stands_twice_in_a_file_the_last_line_counts(world: World) -> None:
    world.bundle()
    world.score(KEEP)
    assert label(world, ("i0", "neutral"), ("i0", "negative"), ("i0", "negative")) == Labelled(2, 1, 0, ())
    assert current(world) == [("done", "negative", "human")]


def test_what_cannot_be_taken_is_refused_with_its_line_and_the_rest_is_taken(world: World) -> None:
    world.bundle()
    world.score(KEEP, KEEP)
    found = label(
        world,
        ("i0", "neutral"),
        ("nobody", "neutral"),
        ("i1", "angry"),
        ("i1", ""),
        ("i1", "neutral", " "),
        ("a\0b", "neutral"),
        ("i1", " negative "),
    )
    assert (found.new, found.known, found.blank) == (2, 0, 1)
    assert [(bad.line, bad.id, bad.reason) for bad in found.refused] == [
        (3, "nobody", "unknown_id"),
        (4, "i1", "unknown_label"),
        (6, "i1", "bad_by"),
        (7, None, "bad_id"),
    ]
    assert "expected one of negative, neutral, positive, found 'angry'" in found.refused[1].detail
    assert [row[1] for row in current(world)] == ["neutral", "negative"]


def test_many_labels_are_taken_in_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "BATCH", 3)
    world.bundle()
    world.score(*[KEEP] * 7)
    parts = list(people.label(world.store, NAME, rows(*((f"i{n}", "neutral") for n in range(7)))))
    assert [part.new for part in parts] == [3, 3, 1]


def test_two_that_give_the_same_label_at_once_store_it_once(world: World) -> None:
    world.bundle()
    world.score(KEEP)
    with ThreadPoolExecutor(1) as pool:
        with world.store.begin() as tx:
            first = take(tx, world.known(), [PersonLabel(2, "i0", "neutral", "ann")])
            second = pool.submit(label, world, ("i0", "neutral", "ann"))
            until_somebody_waits(world)
        assert (first.new, second.result().new, second.result().known) == (1, 0, 1)
    assert history(world)[1:] == [("neutral", "human", "ann")]


def until_somebody_waits(world: World) -> None:
    give_up = time.monotonic() + PATIENCE_S
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while world.one(blocked) == 0:
        assert time.monotonic() < give_up


# items that are on their way


def test_a_queued_item_is_not_scored_any_more(world: World) -> None:
    world.bundle()
    _, (wake,) = world.submit(KEEP)
    label(world, ("i0", "neutral"))
    assert list(world.scorer().run(NAME, wake.ids)) == []
    assert current(world) == [("done", "neutral", "human")]
    assert world.one("SELECT count(*) FROM scores") == 0


def test_a_worker_that_scores_the_item_meanwhile_writes_nothing(world: World) -> None:
    world.bundle()
    models = FakeModels(FakeModel(before=lambda _: label(world, ("i0", "neutral"))))
    assert world.score(KEEP, DOUBT, models=models) != []
    assert current(world)[0] == ("done", "neutral", "human")
    assert world.states() == {"done": 1, "asked": 1}
    assert world.one("SELECT count(*) FROM scores") == 1


def test_an_ask_that_only_the_outcome_waited_for_is_withdrawn(world: World) -> None:
    world.bundle()
    asks = world.score(DOUBT)
    label(world, ("i0", "neutral"))
    llm = FakeLLM()
    assert world.ask(llm, asks) == 0
    assert llm.prompts == []
    assert world.states("asks") == {"withdrawn": 1}


def test_a_call_under_way_is_paid_and_its_answer_kept_but_the_label_stands(world: World) -> None:
    world.bundle()
    asks = world.score(DOUBT)

    def meanwhile(_: Prompt) -> object:
        label(world, ("i0", "neutral"))
        return reply("negative")

    assert world.ask(FakeLLM([meanwhile]), asks) == 1  # type: ignore[list-item]
    assert current(world) == [("done", "neutral", "human")]
    assert [(call.state, call.cost_usd) for call in world.calls()] == [("answered", PRICE)]
    assert world.one("SELECT label FROM answers") == "negative"
    assert [source for _, source, _ in history(world)] == ["human"]


@pytest.mark.parametrize("said", [OUTSIDE, reply("none of these")])
def test_a_call_under_way_that_brings_nothing_does_not_open_the_ask_again(world: World, said: object) -> None:
    world.bundle()
    asks = world.score(DOUBT)

    def meanwhile(_: Prompt) -> object:
        label(world, ("i0", "neutral"))
        return said

    assert world.ask(FakeLLM([meanwhile]), asks) == 1  # type: ignore[list-item]
    assert (world.states(), world.states("asks")) == ({"done": 1}, {"withdrawn": 1})


def test_an_ask_of_the_audit_stays_open_and_its_answer_changes_no_outcome(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    asks = world.score(DOUBT)
    label(world, ("i0", "neutral"))
    assert world.rows("SELECT state, reason FROM asks") == [("waiting", "audit")]
    world.ask(FakeLLM([reply("negative")]), asks)
    assert world.states("asks") == {"answered": 1}
    assert current(world) == [("done", "neutral", "human")]


def test_a_dead_item_gets_its_outcome_and_its_letter_is_closed(world: World) -> None:
    world.bundle()
    asks = world.score(DOUBT)
    world.ask(FakeLLM([OUTSIDE]), asks)
    assert world.states() == {"dead": 1}
    label(world, ("i0", "neutral"))
    assert current(world) == [("done", "neutral", "human")]
    with world.store.begin() as tx:
        assert dead.listed(tx, world.known().id) == []
        assert dead.replay(tx, world.known().id, NAME, None) == []


def test_a_held_item_gets_its_outcome(world: World) -> None:
    world.submit(DOUBT)
    world.change("UPDATE items SET state = 'held'")
    label(world, ("i0", "neutral"))
    assert current(world) == [("done", "neutral", "human")]


# what they teach


def learned(world: World) -> list[tuple[str, str, object]]:
    with world.store.begin() as tx:
        found = distillations.answers(tx, world.known(), up_to=10**9)
    return [(one.label, one.role, one.probabilities) for one in found]


SOFT = {"negative": 0.6, "neutral": 0.3, "positive": 0.1}


def test_a_label_teaches_in_place_of_the_llms_answer(world: World) -> None:
    world.bundle()
    world.score(DOUBT)
    world.ask(FakeLLM([reply("negative", probabilities=SOFT)]))
    assert learned(world)[0][0] == "negative"
    label(world, ("i0", "neutral"))
    assert learned(world) == [("neutral", Role.TRAIN, None)]


def test_a_label_of_a_held_out_item_leaves_the_llms_answer_alone(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    world.score(DOUBT)
    world.ask(FakeLLM([reply("negative")]))
    label(world, ("i0", "neutral"))
    ((said, role, _),) = learned(world)
    assert said == "negative"
    assert role is not Role.TRAIN


def test_an_answer_under_a_prior_teaches_only_what_a_person_said(world: World) -> None:
    world.apply(prompt={"pruning": "soft"})
    world.bundle()
    world.score(DOUBT)
    world.ask(FakeLLM([reply("negative")]))
    assert learned(world) == []
    label(world, ("i0", "neutral"))
    assert learned(world) == [("neutral", Role.TRAIN, None)]


# what a person should look at first


def looked(world: World, most: int = 50) -> list[tuple[str, str]]:
    with world.store.begin() as tx:
        return [(one.id, one.why) for one in reviews.queue(tx, world.known(), most)]


@pytest.fixture
def reviewable(world: World) -> World:
    """Held, dead in two ways, audited with and without disagreement, and three outcomes of falling confidence."""
    world.apply(policy={"audit_rate": 1.0, "threshold": 0.5})
    world.bundle()
    world.score("negative 0.6", "negative 0.9", "negative 0.7", "negative 0.8", DOUBT, "negative 0.4", "negative 0.3")

    def said(prompt: Prompt) -> object:
        text = str(prompt.messages[1])
        if "0.4" in text:
            return OUTSIDE
        return reply("positive" if "0.7" in text or "0.8" in text else "negative")

    world.ask(FakeLLM([said]))  # type: ignore[list-item]
    world.change("UPDATE items SET state = 'held', label = NULL, source = NULL, outcome_id = NULL WHERE key = 'i6'")
    return world


def test_held_items_come_first_then_unusable_answers_disagreements_and_doubt(reviewable: World) -> None:
    assert looked(reviewable) == [
        ("i6", "held"),
        ("i5", "dead: outside_candidates"),
        ("i3", "audit: the LLM differs"),
        ("i2", "audit: the LLM differs"),
        ("i4", "least sure"),
        ("i0", "least sure"),
        ("i1", "least sure"),
    ]
    assert len(looked(reviewable, 3)) == 3


def test_what_a_person_has_labelled_is_not_shown_again(reviewable: World) -> None:
    label(reviewable, *((key, "neutral") for key in ("i6", "i5", "i3", "i0")))
    assert [key for key, _ in looked(reviewable)] == ["i2", "i4", "i1"]


def test_an_item_that_no_model_could_be_asked_about_is_replayed_not_reviewed(world: World) -> None:
    world.bundle()
    world.score(KEEP, models=FakeModels(FakeModel(before=choke_on_all)))
    assert world.states() == {"dead": 1}
    assert looked(world) == []
