"""A day's budget on a real database: who is asked, what is booked, and what many workers cannot do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from lanes import DOWN, NAME, OUTSIDE, PRICE, REJECTED, FakeLLM, FakeQuota, World, reply
from sqlalchemy import Row, text

from datashunt import llm
from datashunt.classifier import NONE_OF_THESE, LLMSpec
from datashunt.errors import LLMError, StoreError
from datashunt.items import Item, Reply
from datashunt.pipeline import budget as lane
from datashunt.pipeline.ask import Asker
from datashunt.pipeline.budget import put_off as postpone
from datashunt.pipeline.models import Directory
from datashunt.pipeline.score import Scorer
from datashunt.policy import BudgetPolicy
from datashunt.prompts import Prompt
from datashunt.store import Connection, budgets, people, spend, sweeps

DOUBT, SURE = "negative 0.5", "positive 0.99"
MIDNIGHT = datetime(2031, 5, 5, tzinfo=UTC)


class Clock:
    """A day that goes on when it is told to."""

    def __init__(self, hour: float = 12.0) -> None:
        self.moment = MIDNIGHT + timedelta(hours=hour)

    def __call__(self, tx: Connection) -> datetime:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock(23.99)


def budget(world: World, **policy: Any) -> None:
    """Apply the classifier with a budget; calls unless something else is given."""
    given = {"mode": "budget", "audit_rate": 0.0, **policy}
    world.apply(policy={"threshold": 0.9, **({} if "usd_per_day" in given else {"calls_per_day": 10}), **given})


def score(world: World, clock: Clock, *texts: str, start: int = 0) -> list[int]:
    """Submit and score; returns the asks that are due."""
    _, wakes = world.submit(*[Item(f"i{start + n}", text) for n, text in enumerate(texts)])
    scorer = Scorer(world.store, Directory(world.store, 0.0), world.models, world.settings, clock)  # type: ignore[arg-type]
    return [row for wake in scorer.run(NAME, wakes[0].ids) for row in wake.ids]


def ask(world: World, clock: Clock, llm: FakeLLM, rows: Sequence[int] | None = None) -> int:
    if rows is None:
        rows = [row.id for row in world.rows("SELECT id FROM asks ORDER BY id")]
    asker = Asker(world.store, Directory(world.store, 0.0), llm, None, world.settings, clock)  # type: ignore[arg-type]
    return asker.run(NAME, rows).calls


def day(world: World) -> Row[Any]:
    """The newest day's row."""
    return world.rows("SELECT * FROM budget_days ORDER BY day DESC LIMIT 1")[0]


def booked(world: World) -> tuple[Decimal, Decimal]:
    """Spent and reserved."""
    return day(world).spent, day(world).reserved


def test_the_least_confident_are_asked_and_the_others_kept(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, calls_per_day=3)
    due = score(world, clock, *[f"positive 0.{n}" for n in range(60, 80)])
    assert len(due) == 3
    assert world.rows("SELECT key FROM items WHERE state = 'asked' ORDER BY id") == [("i0",), ("i1",), ("i2",)]
    assert world.states() == {"asked": 3, "done": 17}
    assert booked(world) == (0, 3)
    assert (day(world).budget, day(world).granted, day(world).asked) == (3, 3, 3)
    assert sum(day(world).arrivals) == 20
    assert 0.6 < day(world).threshold < 0.8
    assert {row.threshold for row in world.rows("SELECT threshold FROM scores")} == {day(world).threshold}


def test_what_a_call_costs_takes_the_place_of_what_was_reserved(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, usd_per_day="0.01")
    score(world, clock, DOUBT)
    spent, reserved = booked(world)
    assert spent == 0
    assert 0 < reserved < Decimal("0.01")
    ask(world, clock, FakeLLM())
    assert booked(world) == (PRICE, 0)
    assert day(world).settled == reserved
    assert world.states() == {"done": 1}


def test_a_call_that_failed_is_free_and_its_ask_keeps_its_place(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, calls_per_day=1)
    score(world, clock, DOUBT)
    ask(world, clock, FakeLLM([DOWN]))
    assert booked(world) == (0, 1)
    world.change("UPDATE asks SET not_before = now()")
    ask(world, clock, FakeLLM())
    assert booked(world) == (1, 0)


def test_an_ask_that_is_given_up_gives_back_what_was_reserved_for_it(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world)
    score(world, clock, DOUBT)
    for _ in range(world.settings.llm_max_attempts):
        ask(world, clock, FakeLLM([DOWN]))
        world.change("UPDATE asks SET not_before = now()")
    assert world.states("asks") == {"dead": 1}
    assert booked(world) == (0, 0)


def test_a_second_call_of_an_ask_takes_its_own_place_or_waits_for_the_next_day(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, calls_per_day=1)
    score(world, clock, DOUBT)
    assert ask(world, clock, FakeLLM([OUTSIDE, reply()])) == 1
    assert booked(world) == (1, 0)
    (left,) = world.rows("SELECT state, extract(epoch FROM not_before - now()) AS wait_s FROM asks")
    assert left.state == "waiting"
    assert 30 < left.wait_s <= 36


def test_a_call_without_a_word_is_spent_and_set_right_by_its_late_reply(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, usd_per_day="0.01")
    score(world, clock, DOUBT)
    reserved = booked(world)[1]

    def lost(_: object) -> Any:
        world.change("UPDATE calls SET created_at = now() - interval '1 hour'")
        with world.store.begin() as tx:
            sweeps.free_expired(tx, score_max_attempts=3, llm_max_attempts=3, call_deadline_s=60)
        assert booked(world) == (world.calls()[0].reserved_usd, 0)
        return reply()

    ask(world, clock, FakeLLM([lost]))
    assert booked(world) == (PRICE, 0)
    assert day(world).settled == reserved


def test_a_call_settles_on_the_day_it_was_reserved_on(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world)
    score(world, clock, DOUBT)
    clock.moment += timedelta(hours=1)
    score(world, clock, "negative 0.6", start=1)
    ask(world, clock, FakeLLM())
    days = world.rows("SELECT day::text, spent, reserved FROM budget_days ORDER BY day")
    assert days == [("2031-05-05", 1, 0), ("2031-05-06", 1, 0)]


def test_a_day_begins_at_midnight_of_its_time_zone(world: World) -> None:
    world.bundle()
    budget(world, timezone="Asia/Kolkata")
    score(world, Clock(19.0), DOUBT)
    assert world.one("SELECT day::text FROM budget_days") == "2031-05-06"


def test_a_new_day_knows_yesterdays_arrivals_and_confidences(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world)
    score(world, clock, DOUBT, SURE)
    clock.moment += timedelta(hours=1)
    score(world, clock, SURE, start=2)
    assert sum(day(world).profile) == 2
    assert sum(day(world).confidences) == pytest.approx(3, rel=0.01)


def test_confidences_of_another_bundle_are_forgotten(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world)
    score(world, clock, DOUBT, SURE)
    world.bundle()
    score(world, clock, SURE, start=2)
    assert sum(day(world).confidences) == pytest.approx(1)


# the cap


@pytest.fixture
def spent(world: World, clock: Clock) -> Iterator[World]:
    """A classifier that serves and has spent its two calls of today."""
    world.bundle()
    budget(world, calls_per_day=2)
    score(world, clock, "negative 0.9 one", "negative 0.9 another")
    ask(world, clock, FakeLLM())
    assert booked(world) == (2, 0)
    yield world
    assert world.rows("SELECT spent, reserved FROM budget_days ORDER BY day LIMIT 1") == [(2, 0)]


def at_cap(world: World, clock: Clock, at_cap: str, **policy: Any) -> list[int]:
    """Score 20 more items on the spent day; the first of them would have been asked."""
    budget(world, calls_per_day=2, at_cap=at_cap, **policy)
    return score(world, clock, *[f"positive 0.{n}" for n in range(50, 70)], start=2)


def test_at_the_cap_the_small_models_label_stands(spent: World, clock: Clock) -> None:
    assert at_cap(spent, clock, "keep") == []
    assert spent.states() == {"done": 22}


def test_at_the_cap_an_item_is_held(spent: World, clock: Clock) -> None:
    assert at_cap(spent, clock, "hold") == []
    assert spent.states() == {"done": 21, "held": 1}
    assert spent.one("SELECT key FROM items WHERE state = 'held'") == "i2"


def test_at_the_cap_an_item_waits_and_is_asked_on_the_next_day(spent: World, clock: Clock) -> None:
    assert at_cap(spent, clock, "wait") == []
    assert spent.states() == {"done": 21, "asked": 1}
    assert spent.one("SELECT not_before > now() + interval '30 s' FROM asks WHERE state = 'waiting'")
    assert ask(spent, clock, FakeLLM()) == 0
    tomorrow = Clock(25.0)
    spent.change("UPDATE asks SET not_before = now()")
    assert ask(spent, tomorrow, FakeLLM()) == 1
    assert spent.rows("SELECT day::text, spent FROM budget_days ORDER BY day") == [
        ("2031-05-05", 2),
        ("2031-05-06", 1),
    ]


def test_an_audit_that_meets_the_cap_waits_and_its_item_does_not(spent: World, clock: Clock) -> None:
    assert at_cap(spent, clock, "keep", audit_rate=1.0) == []
    assert spent.states() == {"done": 22}
    waiting = spent.rows("SELECT reason, propensity FROM asks WHERE state = 'waiting' AND not_before > now()")
    assert waiting == [("audit", 1.0)] * 20


def test_what_no_model_can_keep_waits(world: World, clock: Clock) -> None:
    budget(world, calls_per_day=2)
    assert len(score(world, clock, DOUBT, DOUBT, DOUBT)) == 2
    assert world.states() == {"asked": 3}
    assert world.one("SELECT count(*) FROM asks WHERE not_before > now() AND reserved IS NULL") == 1


def test_what_nobody_can_ask_is_held_without_a_model_too(world: World, clock: Clock) -> None:
    budget(world, calls_per_day=2, at_cap="hold")
    score(world, clock, DOUBT, DOUBT, DOUBT)
    assert world.states() == {"asked": 2, "held": 1}


def test_one_refused_ask_puts_off_all_that_wait_for_money(world: World, clock: Clock) -> None:
    world.score(*[f"{DOUBT} {n}" for n in range(5)])  # asked under a fixed policy: nothing is reserved
    budget(world, calls_per_day=1)
    assert ask(world, clock, FakeLLM()) == 1
    assert booked(world) == (1, 0)
    assert world.one("SELECT count(*) FROM asks WHERE state = 'waiting' AND not_before > now()") == 4


@pytest.fixture
def put_off(world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Six asks for which there is money for one; the states of all before each chunk of two that is put off."""
    world.score(*[f"{DOUBT} {n}" for n in range(6)])  # asked under a fixed policy: nothing is reserved
    budget(world, calls_per_day=1)
    monkeypatch.setattr(budgets, "CHUNK", 2)
    chunk, seen = budgets.put_off, []

    def looking(tx: Connection, *given: Any) -> bool:
        seen.append(world.states("asks"))
        assert len(seen) < 10, "it goes on for ever"
        with world.store.begin() as scoring:
            scoring.execute(text("SELECT FROM budget_days FOR UPDATE NOWAIT"))
        return chunk(tx, *given)

    monkeypatch.setattr(budgets, "put_off", looking)
    return seen


LATER = "SELECT count(*) FROM asks WHERE state = 'waiting' AND reserved IS NULL AND not_before > now()"


def test_while_many_are_put_off_nobody_holds_the_days_row(
    world: World, clock: Clock, put_off: list[dict[str, int]]
) -> None:
    assert ask(world, clock, FakeLLM()) == 1
    assert put_off == [{"answered": 1, "waiting": 5}] * 3
    assert world.one(LATER) == 5


def test_what_is_left_due_by_one_who_dies_while_many_are_put_off_is_put_off_later(
    world: World, clock: Clock, put_off: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = budgets.put_off

    def dies(*given: Any) -> bool:
        assert chunk(*given)
        raise StoreError("away")

    with monkeypatch.context() as patch:
        patch.setattr(budgets, "put_off", dies)
        with pytest.raises(StoreError, match="away"):
            ask(world, clock, FakeLLM())
    assert (world.states("asks"), world.one(LATER)) == ({"answered": 1, "waiting": 5}, 3)
    assert ask(world, clock, FakeLLM()) == 0
    assert world.one(LATER) == 5
    assert booked(world) == (1, 0)


def test_who_puts_many_off_waits_for_nobody_and_does_not_go_on_after_midnight(
    world: World, put_off: list[dict[str, int]]
) -> None:
    known = world.known()
    with world.store.begin() as other:
        other.execute(text("SELECT FROM asks ORDER BY id LIMIT 5 FOR UPDATE"))
        postpone(world.store, known, 3600)
    assert (len(put_off), world.one(LATER)) == (1, 1)
    postpone(world.store, known, 0)
    assert (len(put_off), world.one(LATER)) == (2, 1)
    postpone(world.store, known, 3600, lambda: True)
    assert (len(put_off), world.one(LATER)) == (2, 1)


def test_a_lowered_budget_asks_nobody_and_the_spending_stays_booked(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, calls_per_day=5)
    score(world, clock, *[DOUBT] * 5)
    budget(world, calls_per_day=2)
    assert score(world, clock, *[DOUBT] * 5, start=5) == []
    assert (day(world).reserved, day(world).budget) == (5, 2)


def test_many_workers_cannot_race_past_the_cap(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, calls_per_day=100, audit_rate=0.1)
    for part in range(4):
        world.submit(*_items(part))
    rows = [row.id for row in world.rows("SELECT id FROM items")]

    def work(_: int) -> int:
        scorer = Scorer(world.store, Directory(world.store, 0.0), world.models, world.settings, clock)  # type: ignore[arg-type]
        return sum(len(wake.ids) for wake in scorer.run(NAME, rows))

    with ThreadPoolExecutor(4) as pool:
        asked = sum(pool.map(work, range(4)))
    assert asked == 100 == day(world).reserved
    assert sum(day(world).arrivals) == 2_000
    assert world.one("SELECT sum(reserved) FROM asks") == 100

    with ThreadPoolExecutor(4) as pool:
        calls = sum(pool.map(lambda _: ask(world, clock, FakeLLM()), range(4)))
    assert calls == 100 == world.one("SELECT count(*) FROM calls")
    assert booked(world) == (100, 0)


def _items(part: int) -> list[Any]:
    return [Item(f"{part}-{n}", f"positive 0.{500 + (n * 7) % 499} {part} {n}") for n in range(500)]


def test_a_batch_that_the_budget_cannot_pay_is_not_written(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, calls_per_day=5)
    known = world.known()
    policy = known.spec.policy
    assert isinstance(policy, BudgetPolicy)
    much = {"reserved": Decimal(6), "asks": 6, "arrivals": [], "confidences": [], "carry": 0.0, "threshold": 0.5}
    with world.store.begin() as tx:
        opened = budgets.open_day(tx, known.id, MIDNIGHT.date(), "calls", policy.per_day)
        with pytest.raises(StoreError, match="does not reach for 6 more"):
            budgets.book(tx, opened, bundle=None, **much)  # type: ignore[arg-type]
    assert booked(world) == (0, 0)


def test_a_lost_lease_reserves_nothing(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world)
    score(world, clock, DOUBT)
    with world.store.begin() as tx:
        opened = budgets.open_day(tx, world.known().id, MIDNIGHT.date(), "calls", Decimal(10))
        assert not budgets.reserve(tx, opened, world.one("SELECT id FROM asks"), uuid4(), Decimal(1))
    assert booked(world) == (0, 1)


def test_a_lost_lease_is_no_empty_budget(world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    world.bundle()
    budget(world)
    score(world, clock, *[f"{DOUBT} {n}" for n in range(3)])
    world.change("UPDATE asks SET reserved = NULL, budget_day_id = NULL")
    world.change("UPDATE budget_days SET reserved = 0")
    secure = lane.secure

    def slow(*given: Any) -> float | None:
        monkeypatch.undo()
        world.change("UPDATE asks SET lease_token = gen_random_uuid() WHERE state = 'calling'")
        return secure(*given)

    monkeypatch.setattr(lane, "secure", slow)
    assert ask(world, clock, FakeLLM()) == 2
    assert world.states("asks") == {"answered": 2, "calling": 1}
    assert booked(world) == (2, 0)


# prices


def test_a_price_that_nobody_knows_any_more_stops_only_its_own_classifier(
    world: World, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    mine = world.score(*[f"{DOUBT} {n}" for n in range(3)])
    world.apply(name="other")
    _, wakes = world.submit(Item("o", DOUBT), name="other")
    list(world.scorer().run("other", wakes[0].ids))
    unknown = {"model": "nobody-knows-it", "input_price": None, "output_price": None}
    world.apply(policy={"mode": "budget", "usd_per_day": 5}, llm=unknown)
    quota = FakeQuota()
    assert world.asker(FakeLLM(), quota).run(NAME, mine).calls == 1
    assert world.one("SELECT state FROM items WHERE key = 'o'") == "done"
    assert sorted(quota.settled, key=str) == [110, None]  # what was not sent is given back
    waiting = "SELECT DISTINCT state, attempts, not_before > now() AS later FROM asks WHERE id = ANY(:mine)"
    assert world.rows(waiting, mine=mine) == [("waiting", 0, True)]
    alarms = [record for record in caplog.records if record.message == "price_unknown"]
    assert [(alarm.levelname, alarm.__dict__["fields"]["classifier"]) for alarm in alarms] == [("ERROR", NAME)]
    budget(world, usd_per_day=5)
    world.change("UPDATE asks SET not_before = now()")
    assert ask(world, clock, FakeLLM()) == 3
    assert world.states() == {"done": 4}


def test_a_dearer_fallback_is_reserved_for_from_the_first_and_booked_at_its_own_price(
    world: World, clock: Clock
) -> None:
    world.bundle()
    usd = {"mode": "budget", "usd_per_day": 5, "audit_rate": 0.0}
    world.apply(policy=usd, llm={"models": ["teacher-1", "gpt-4.1"]})
    score(world, clock, DOUBT)
    _, reserved = booked(world)
    ask(world, clock, FakeLLM([REJECTED, reply()]))
    first, second = world.calls()
    assert (first.model, first.cost_usd, second.model) == ("teacher-1", 0, "gpt-4.1")
    assert second.cost_usd == llm.cost("gpt-4.1", reply().usage, LLMSpec()) > PRICE
    assert first.reserved_usd < second.reserved_usd == reserved
    assert booked(world) == (second.cost_usd, 0)
    with world.store.begin() as tx:
        by_model = {row.group: row.usd for row in spend.spent(tx, "model")}
    assert by_model == {"teacher-1": 0, "gpt-4.1": second.cost_usd}


def test_a_call_of_a_fallback_that_has_no_place_yet_takes_one_at_its_own_price(world: World, clock: Clock) -> None:
    world.bundle()
    world.score(DOUBT)  # asked under a fixed policy: nothing is reserved
    world.change("UPDATE asks SET fallback = 1")
    usd = {"mode": "budget", "usd_per_day": 5, "audit_rate": 0.0}
    world.apply(policy=usd, llm={"models": ["teacher-1", "gpt-4.1-nano"]})
    ask(world, clock, FakeLLM())
    (call,) = world.calls()
    assert call.model == "gpt-4.1-nano"
    assert day(world).granted == call.reserved_usd > 0
    assert call.cost_usd == llm.cost("gpt-4.1-nano", reply().usage, LLMSpec())


# what ends an ask without a call


def test_an_answer_that_was_paid_before_gives_back_what_was_reserved(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world, calls_per_day=5)
    score(world, clock, DOUBT, DOUBT)
    assert booked(world) == (0, 2)
    assert ask(world, clock, FakeLLM()) == 1
    assert world.states() == {"done": 2}
    assert booked(world) == (1, 0)


def test_a_label_of_a_person_gives_back_what_was_reserved(world: World, clock: Clock) -> None:
    world.bundle()
    budget(world)
    score(world, clock, DOUBT, "positive 0.6")
    with world.store.begin() as tx:
        people.take(tx, world.known(), [people.PersonLabel(1, "i0", "neutral", "ann")])
    assert world.states("asks") == {"withdrawn": 1, "waiting": 1}
    assert booked(world) == (0, 1)
    with world.store.begin() as tx:
        people.take(tx, world.known(), [people.PersonLabel(1, "i0", "neutral", "ann")])
    assert booked(world) == (0, 1)


def test_a_held_item_is_released_by_a_persons_label(spent: World, clock: Clock) -> None:
    at_cap(spent, clock, "hold")
    with spent.store.begin() as tx:
        people.take(tx, spent.known(), [people.PersonLabel(1, "i2", "neutral", "ann")])
    assert spent.states() == {"done": 22}


@pytest.mark.parametrize("answer", [OUTSIDE, DOWN, reply(NONE_OF_THESE)])
def test_whatever_a_call_brings_its_ask_is_locked_before_the_days_row(
    world: World, clock: Clock, answer: Reply | LLMError
) -> None:
    """Others lock them in this order: two who do not would wait for each other."""
    budget(world)
    score(world, clock, DOUBT)
    asked, go = threading.Event(), threading.Event()

    def say(_: Prompt) -> Reply | LLMError:
        asked.set()
        go.wait(60)
        return answer

    with ThreadPoolExecutor(1) as pool:
        lane = pool.submit(world.ask_once, FakeLLM([say]))
        assert asked.wait(60)
        with world.store.begin() as person:
            person.execute(text("SELECT FROM asks FOR UPDATE"))
            go.set()
            world.until_somebody_waits()
            person.execute(text("SELECT FROM budget_days FOR UPDATE NOWAIT"))
        lane.result(timeout=60)
    assert {call.state for call in world.calls()} <= {"answered", "failed"}


def test_samples_of_one_item_each_take_a_place(world: World, clock: Clock) -> None:
    world.bundle()
    world.apply(policy={"mode": "budget", "calls_per_day": 2, "audit_rate": 0.0}, llm={"samples": 3})
    score(world, clock, DOUBT)
    one = reply("negative", votes=("negative",))
    ask(world, clock, FakeLLM([one]))
    assert booked(world) == (2, 0)
    assert world.states("asks") == {"waiting": 1}
