"""The line before the LLM: who is served first, who waits in a thread, and what is left as a row."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from lanes import THROTTLED, FakeLLM, FakeQuota, World, reply

from datashunt.items import Item, RateLimits, Wake
from datashunt.pipeline import ask as lane
from datashunt.pipeline import line
from datashunt.quota import Busy, Health, Limits, Refused, Slot

DOUBT = "negative 0.5 what a day"


def doubts(count: int) -> list[str]:
    """Texts that are escalated, each its own: no answer is reused."""
    return [f"{DOUBT} {number}" for number in range(count)]


def asked(world: World) -> list[str]:
    """Keys of the items in the order of their calls."""
    return [row.key for row in world.rows("SELECT key FROM calls JOIN items ON items.id = item_id ORDER BY calls.id")]


def waits(world: World) -> list[tuple[str, bool]]:
    """State of each ask, and whether tick will publish it when it is due."""
    rows = world.rows("SELECT state, announced_at < not_before AS timer FROM asks ORDER BY id")
    return [(row.state, row.timer) for row in rows]


def test_priority_comes_before_reason_and_reason_before_age(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    entries = {"old audit": 0.95, "old": 0.5, "young": 0.5, "urgent": 0.5}
    _, wakes = world.submit(
        *[Item(key, f"negative {sure} {key}", priority=-(key == "urgent")) for key, sure in entries.items()]
    )
    for _ in world.scorer().run("sentiment", wakes[0].ids):
        pass
    world.ask(FakeLLM())
    assert asked(world) == ["urgent", "old", "young", "old audit"]


def test_a_flood_of_one_classifier_does_not_starve_another_with_the_same_key(world: World) -> None:
    world.apply(name="other", llm={"weight": 3.0})
    world.score(*doubts(30))
    _, wakes = world.submit(*[Item(f"o{n}", f"{DOUBT} {n}") for n in range(12)], name="other")
    for _ in world.scorer().run("other", wakes[0].ids):
        pass
    world.ask(FakeLLM(), quota=FakeQuota())
    first = Counter("other" if key.startswith("o") else "flood" for key in asked(world)[:16])
    assert first == {"other": 12, "flood": 4}
    assert len(asked(world)) == 42


def test_classifiers_with_keys_of_their_own_take_turns(world: World) -> None:
    world.apply(name="other", llm={"model": "teacher-2"})
    world.score(*doubts(4))
    _, wakes = world.submit(*[Item(f"o{n}", f"{DOUBT} {n}") for n in range(4)], name="other")
    for _ in world.scorer().run("other", wakes[0].ids):
        pass
    world.ask(FakeLLM(), quota=FakeQuota())
    assert Counter(key[0] for key in asked(world)[:4]) == {"i": 2, "o": 2}


def test_a_key_that_pauses_leaves_the_other_keys_at_work(world: World) -> None:
    world.apply(name="other", llm={"model": "teacher-2"})
    world.score(*doubts(3))
    _, wakes = world.submit(*[Item(f"o{n}", f"{DOUBT} {n}") for n in range(3)], name="other")
    for _ in world.scorer().run("other", wakes[0].ids):
        pass

    class OneKey(FakeQuota):
        def acquire(self, key: str, tokens: int, limits: Limits, **more: object) -> Slot | Refused | Busy:
            return Refused(40.0) if key.endswith("teacher-1") else Slot("slot", 0.0)

    world.ask(FakeLLM(), quota=OneKey())
    assert asked(world) == ["o0", "o1", "o2"]
    assert world.states("asks") == {"answered": 3, "waiting": 3}


def test_with_nobody_else_in_line_a_refused_ask_wakes_the_lane_when_its_time_comes(world: World) -> None:
    world.score(DOUBT)
    world.ask(FakeLLM(), quota=FakeQuota([Refused(40.0)]))
    assert waits(world) == [("waiting", True)]


def test_with_others_in_line_a_refused_ask_is_due_at_once_and_needs_no_message(world: World) -> None:
    world.score(DOUBT)
    quota = FakeQuota([Refused(2.0, others_wait=True)])
    world.asker(FakeLLM(), quota).run("sentiment", [], stop=lambda: bool(quota.asked))
    assert waits(world) == [("waiting", False)]
    assert world.one("SELECT not_before <= now() FROM asks") is True


def test_the_last_thread_of_a_process_comes_back_to_what_it_was_refused(world: World) -> None:
    world.score(DOUBT)
    quota = FakeQuota([Refused(0.0, others_wait=True), Slot("slot", 0.0)])
    assert world.asker(FakeLLM(), quota).run("sentiment", []).calls == 1


def test_a_message_keeps_its_thread_for_a_while_and_leaves_another_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "TURN_S", 0.0)
    made = world.score(*doubts(3))
    served = world.asker(FakeLLM()).run("sentiment", made)
    assert (served.calls, served.wakes) == (1, [Wake("llm", "sentiment", (made[0],))])


def test_a_slot_whose_time_passed_by_is_asked_for_again(world: World) -> None:
    world.score(DOUBT)
    quota = FakeQuota([Slot("late", 0.01), Slot("in time", 0.01)], late=[Refused(0.0)])
    assert world.ask(FakeLLM(), quota=quota) == 1
    assert len(quota.asked) == 2


def test_a_pause_that_begins_during_the_wait_sends_nothing(world: World) -> None:
    world.score(DOUBT)
    llm = FakeLLM()
    assert world.ask(llm, quota=FakeQuota([Slot("slot", 0.01)], late=[Refused(30.0)])) == 0
    assert llm.prompts == world.calls() == []
    assert waits(world) == [("waiting", True)]


def test_a_worker_that_shall_end_leaves_the_line_and_gives_its_slot_back(world: World) -> None:
    world.score(DOUBT)
    llm, quota, ended = FakeLLM(), FakeQuota([Slot("slot", 600.0)]), threading.Event()

    def stop() -> bool:
        return bool(quota.asked) or ended.is_set()

    assert world.asker(llm, quota).run("sentiment", [], stop=stop).calls == 0
    assert quota.settled == [None]
    assert waits(world) == [("waiting", True)]


def test_one_thread_stands_by_until_a_request_has_ended(world: World) -> None:
    world.score(DOUBT)
    quota = FakeQuota([Busy(), Busy(), Busy(), Slot("slot", 0.0)])
    assert world.ask(FakeLLM(), quota=quota) == 1
    assert len(quota.asked) == 4


def test_whoever_finds_another_standing_by_leaves_its_ask_to_it(world: World) -> None:
    world.score(DOUBT)
    asker = world.asker(FakeLLM(), FakeQuota([Busy()]))
    asker._line._standing_by["key of teacher-1"] = held = threading.Lock()
    with held:
        assert asker.run("sentiment", []).calls == 0
    assert waits(world) == [("waiting", False)]


def test_the_slot_is_settled_before_the_answer_is_stored(world: World) -> None:
    """Others wait for it, and PostgreSQL may take its time."""
    world.score(DOUBT)
    seen = []

    class Looks(FakeQuota):
        def settle(self, *arguments: Any, **more: Any) -> Health:
            seen.append(world.states("asks"))
            return super().settle(*arguments, **more)

    world.ask(FakeLLM(), quota=Looks())
    assert seen == [{"calling": 1}]


def test_an_endpoint_that_works_again_wakes_what_is_asked_live_and_nothing_that_waits_for_a_batch(world: World) -> None:
    world.apply(name="patient", llm={"batch": "only"})
    _, wakes = world.submit(Item("p", DOUBT), name="patient")
    for _ in world.scorer().run("patient", wakes[0].ids):
        pass
    made = world.score(*doubts(3))
    served = world.asker(FakeLLM(), FakeQuota(health=Health(news=True))).run("sentiment", [])
    assert served.wakes == [Wake("llm", "sentiment", (row,)) for row in made[1:]]


def test_limits_that_a_reply_names_are_told_to_everybody(world: World) -> None:
    world.score(DOUBT)
    quota = FakeQuota()
    world.ask(FakeLLM([reply(limits=RateLimits(500, 60_000))]), quota=quota)
    assert quota.stated == [Limits(500, 60_000)]


def test_throttled_calls_make_a_process_without_a_quota_store_wait_too(world: World) -> None:
    world.score(*doubts(5))
    llm = FakeLLM([THROTTLED])
    assert world.ask(llm) == 1
    assert world.states("asks") == {"waiting": 5}


def test_a_lease_does_not_run_out_in_the_line(world: World) -> None:
    assert world.settings.llm_deadline_s + line.FIRST_WAIT_S + line.MAX_SLOT_WAIT_S < world.settings.ask_lease_s


def test_asks_are_published_again_when_nobody_took_any_for_a_while(world: World) -> None:
    """A dead worker's lease lasts; when it was taken tells whether the lane lives."""
    made = world.score(*doubts(3))
    earlier = "now() - make_interval(secs => :s)"
    world.change(
        f"UPDATE asks SET announced_at = {earlier}, not_before = {earlier}", s=world.settings.stand_still_s + 1
    )
    taken = (
        "UPDATE asks SET state = 'calling', lease_token = gen_random_uuid(),"
        " lease_until = now() + make_interval(secs => :s) WHERE id = :row"
    )
    world.change(taken, s=world.settings.ask_lease_s - 1, row=made[0])
    assert world.runtime.ticker.run() == []
    world.change(taken, s=world.settings.ask_lease_s - world.settings.stand_still_s - 1, row=made[0])
    world.change("UPDATE due SET due_at = now()")
    assert world.runtime.ticker.run() == [Wake("llm", "sentiment", (row,)) for row in made[1:]]
