"""The line before the LLM: who is served first, who waits in a thread, and what is left as a row."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from lanes import NAME, THROTTLED, FakeLLM, FakeQuota, World, reply
from sqlalchemy import Connection, text

from datashunt.items import Item, RateLimits, Wake
from datashunt.pipeline import ask as lane
from datashunt.pipeline import line
from datashunt.quota import Busy, Health, Limits, Refused, Slot
from datashunt.store import batches, budgets, claims, classifiers, sweeps

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


TOMORROW = "now() + interval '1 day'"
IN_LINE = (
    "SELECT id FROM asks WHERE state = 'waiting' AND not_before <= now()"
    " ORDER BY priority, reason = 'audit', deadline NULLS LAST, id"
)


def claim(world: World, tx: Connection, *names: str) -> int | None:
    """The ask that is claimed for these classifiers, the first one first."""
    with world.admin.begin() as other:
        known = [classifiers.current(other, name) for name in names or (NAME,)]
    found = claims.claim(tx, {one.id: one.spec for one in known}, uuid4(), lease_s=60)
    return found and found.row


@pytest.mark.parametrize(
    ("before", "due"), [(30, 200), (claims.FRONT + 1, 200), (claims.FRONT + 1, claims.FEW + 1)], ids=str
)
def test_asks_that_are_not_due_change_nothing_in_the_order_of_those_that_are(
    world: World, before: int, due: int
) -> None:
    """Whether the first that is due is near the front, or one of few that are due, or one of many."""
    world.line_up(before, due=TOMORROW)
    world.change("UPDATE asks SET priority = -1")
    world.line_up(due)
    wanted = [row.id for row in world.rows(f"{IN_LINE} LIMIT 40")]
    with world.store.single() as tx:
        assert [claim(world, tx) for _ in wanted] == wanted


@pytest.mark.parametrize("before", [0, claims.FRONT + 1])
def test_what_is_claimed_at_this_moment_is_passed_over(world: World, before: int) -> None:
    world.line_up(before, due=TOMORROW)
    world.line_up(3)
    wanted = [row.id for row in world.rows(IN_LINE)]
    with world.store.begin() as one, world.store.begin() as two:
        assert [claim(world, one), claim(world, two), claim(world, one), claim(world, two)] == [*wanted, None]


@pytest.mark.parametrize("before", [0, claims.FRONT + 1])
def test_no_two_claims_take_the_same_ask(world: World, before: int) -> None:
    world.line_up(before, due=TOMORROW)
    world.line_up(120)

    def all_there_are(_: int) -> list[int]:
        with world.store.single() as tx:
            return list(iter(lambda: claim(world, tx), None))

    with ThreadPoolExecutor(6) as pool:
        taken = [row for rows in pool.map(all_there_are, range(6)) for row in rows]
    assert len(taken) == len(set(taken)) == 120
    assert world.one("SELECT count(*) FROM asks WHERE state = 'waiting'") == before


def test_a_classifier_whose_asks_are_not_due_hides_nobodys_and_keeps_its_turn(world: World) -> None:
    world.apply(name="other")
    world.line_up(claims.FRONT + 1, due=TOMORROW)
    world.line_up(2, name="other")
    first, second = (row.id for row in world.rows(IN_LINE))
    with world.store.single() as tx:
        assert claim(world, tx, NAME, "other") == first
        world.line_up(1)
        own = world.one("SELECT max(id) FROM asks")
        assert [claim(world, tx, NAME, "other") for _ in range(3)] == [own, second, None]


def take_for_a_batch(world: World, tx: Connection) -> None:
    made = "INSERT INTO batches (classifier_id, spec_version, announced_at) VALUES (:id, 1, now()) RETURNING id"
    batch = batches.claim(tx, tx.execute(text(made), {"id": world.known().id}).scalar_one(), uuid4(), lease_s=60)
    assert batch is not None
    assert len(batches.take(tx, batch, world.known(), most=3)) == 3


READERS: dict[str, Callable[..., Any]] = {
    "claim": claim,
    "tick": lambda world, tx: sweeps.standing_still(tx, {world.known().id: None}, still_s=0, ask_lease_s=60),
    "works again": lambda world, tx: len(sweeps.due_asks(tx, {world.known().id: None})) == 3,
    "plan": lambda world, tx: batches.plan(tx, world.known(), gather_s=0),
    "take": take_for_a_batch,
}


@pytest.mark.parametrize("statistics", ["none", "of before", "new"])
@pytest.mark.parametrize("reader", READERS)
def test_asks_that_are_not_due_are_not_all_read_to_find_those_that_are(
    world: World, reader: str, statistics: str
) -> None:
    world.apply(llm={"batch": "only" if reader in ("plan", "take") else "off"})
    world.line_up(20_000)
    with world.admin.begin() as tx:
        if statistics == "of before":
            tx.execute(text("ANALYZE asks"))
        later = tx.execute(text("SELECT now() + interval '1 hour'")).scalar_one()
        while budgets.put_off(tx, world.known().id, later):
            pass
    world.line_up(3)
    world.change("UPDATE asks SET priority = 9 WHERE not_before <= now()")
    if statistics == "new":
        world.change("ANALYZE asks")
    with world.store.begin() as tx:
        assert READERS[reader](world, tx) is not False
        read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'asks'"
        assert 1 <= tx.execute(text(read)).scalar_one() < 4 * claims.FRONT


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
