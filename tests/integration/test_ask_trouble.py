"""The LLM lane under quota waits, lost leases and a database that is away: nothing paid for is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from lanes import DOWN, NAME, OUTSIDE, PRICE, REJECTED, THROTTLED, FakeLLM, FakeQuota, World, reply
from sqlalchemy import Connection

from datashunt import prompts
from datashunt.classifier import Spec
from datashunt.errors import BrokerError, LLMRejected, StoreError, UsageError
from datashunt.items import Item, Reply
from datashunt.pipeline import ask as lane
from datashunt.prompts import Prompt
from datashunt.quota import Limits, Refused, Slot
from datashunt.store import dead

DOUBT = "negative 0.5 what a day"


def during(world: World, statement: str, answer: Reply | None = None) -> Callable[[Prompt], Reply]:
    """A reply that comes after something else has happened."""

    def say(_: Prompt) -> Reply:
        world.change(statement)
        return answer or reply()

    return say


def test_an_ask_that_this_worker_cannot_put_waits_and_keeps_no_other_from_being_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    world.apply(name="guarded", llm={"redact": ["email"]})
    _, wakes = world.submit(Item("i", DOUBT), name="guarded")
    list(world.scorer().run("guarded", wakes[0].ids))
    made = world.score(DOUBT)
    whole = prompts.render

    def render(spec: Spec, *given: Any, **more: Any) -> Prompt:
        if spec.name == "guarded":
            raise UsageError("llm.redact needs two more libraries")
        return whole(spec, *given, **more)

    monkeypatch.setattr(prompts, "render", render)
    assert world.ask(FakeLLM(), made) == 1
    rows = "SELECT name, asks.state, attempts FROM asks JOIN classifiers c ON c.id = classifier_id ORDER BY name"
    assert world.rows(rows) == [("guarded", "waiting", 0), (NAME, "answered", 0)]
    assert "not_put" in caplog.text + capsys.readouterr().err
    monkeypatch.undo()
    world.change("UPDATE asks SET not_before = now()")
    assert world.ask(FakeLLM()) == 1


# the quota


def test_a_quota_wait_is_a_row_and_uses_up_neither_attempt_nor_money(world: World) -> None:
    made = world.score(DOUBT)
    llm, quota = FakeLLM(), FakeQuota([Refused(40.0)])
    assert world.ask(llm, made, quota=quota) == 0
    ask = world.rows("SELECT *, extract(epoch FROM not_before - now()) AS wait_s FROM asks")[0]
    assert (ask.state, ask.attempts) == ("waiting", 0)
    assert 30 < ask.wait_s <= 40
    assert llm.prompts == world.calls() == []


def test_a_slot_is_asked_for_with_the_limits_and_settled_with_the_real_usage(world: World) -> None:
    world.apply(llm={"rpm": 60, "tpm": 5000, "concurrency": 7})
    world.score(DOUBT)
    quota = FakeQuota()
    world.ask(FakeLLM(), quota=quota)
    (key, tokens, limits) = quota.asked[0]
    assert (key, limits) == ("key of teacher-1", Limits(60, 5000, 7))
    assert tokens == world.calls()[0].reserved_tokens
    assert quota.settled == [110]


def test_an_item_larger_than_a_minutes_tokens_is_a_dead_letter_at_once(world: World) -> None:
    world.score(DOUBT)
    too_big = LLMRejected("needs 9000 tokens and llm.tpm allows 5000", kind="over_token_limit")
    assert world.ask(FakeLLM(), quota=FakeQuota([too_big])) == 0
    assert world.states() == {"dead": 1}
    assert world.rows("SELECT reason, detail FROM dead_letters") == [("over_token_limit", str(too_big))]
    assert world.calls() == []


def test_an_unreachable_quota_store_spends_nothing(world: World) -> None:
    world.score(DOUBT)
    llm = FakeLLM()
    with pytest.raises(BrokerError):
        world.ask(llm, quota=FakeQuota([BrokerError("gone")]))
    assert llm.prompts == world.calls() == []


def test_a_quota_store_that_is_lost_after_a_call_does_not_lose_the_bill(world: World) -> None:
    class Lost(FakeQuota):
        def pause(self, key: str, seconds: float) -> None:
            raise BrokerError("gone")

    world.score(DOUBT)
    world.ask(FakeLLM([THROTTLED]), quota=Lost())
    assert world.states("calls") == {"failed": 1}
    assert world.states("asks") == {"waiting": 1}


# leases


def test_a_lease_lost_before_sending_sends_nothing_and_gives_the_slot_back(world: World) -> None:
    class Slow(FakeQuota):
        def acquire(self, *arguments: Any, **more: Any) -> Slot | Refused:
            world.change("UPDATE asks SET lease_token = gen_random_uuid() WHERE state = 'calling'")
            return super().acquire(*arguments, **more)

    world.score(DOUBT)
    llm, quota = FakeLLM(), Slow()
    assert world.ask(llm, quota=quota) == 0
    assert llm.prompts == world.calls() == []
    assert quota.settled == [None]


def test_an_expired_lease_sends_nothing_though_nobody_took_it_over(world: World) -> None:
    class Slow(FakeQuota):
        def acquire(self, *arguments: Any, **more: Any) -> Slot | Refused:
            world.change("UPDATE asks SET lease_until = now() - interval '1 s' WHERE state = 'calling'")
            return super().acquire(*arguments, **more)

    world.score(DOUBT)
    llm = FakeLLM()
    assert world.ask(llm, quota=Slow()) == 0
    assert llm.prompts == []


def test_a_worker_that_shall_end_finishes_its_call_and_begins_no_other(world: World) -> None:
    made = world.score(DOUBT, DOUBT, DOUBT)
    llm = FakeLLM()
    assert world.asker(llm).run(NAME, made, stop=lambda: llm.prompts != []).calls == 1
    assert world.states("asks") == {"answered": 1, "waiting": 2}


def test_a_late_reply_that_finds_its_ask_open_finishes_it(world: World) -> None:
    world.score(DOUBT)
    lost = "UPDATE asks SET state = 'waiting', lease_token = NULL, lease_until = NULL"
    assert world.ask(FakeLLM([during(world, lost, reply("neutral"))])) == 1
    assert world.rows("SELECT state, label FROM items") == [("done", "neutral")]
    assert world.states("asks") == {"answered": 1}


def test_a_late_reply_brings_back_what_was_given_up(world: World) -> None:
    world.score(DOUBT)

    def given_up(_: Prompt) -> Reply:
        world.change("UPDATE asks SET lease_until = '-infinity', attempts = :n", n=world.settings.llm_max_attempts - 1)
        world.change("UPDATE calls SET attempt = :n", n=world.settings.llm_max_attempts)
        world.runtime.ticker.run()
        assert world.states() == world.states("asks") == {"dead": 1}
        return reply("neutral")

    assert world.ask(FakeLLM([given_up])) == 1
    assert world.rows("SELECT state, label FROM items") == [("done", "neutral")]
    assert world.states("asks") == {"answered": 1}
    with world.store.begin() as tx:
        assert dead.listed(tx, world.known().id) == []


def test_a_late_reply_to_a_closed_ask_is_booked_and_changes_nothing(world: World) -> None:
    world.score(DOUBT)

    def overtaken(_: Prompt) -> Reply:
        world.change("UPDATE asks SET state = 'waiting', lease_token = NULL, lease_until = NULL")
        world.ask(FakeLLM([reply("positive")]))
        return reply("negative")

    assert world.ask(FakeLLM([overtaken])) == 1
    assert world.rows("SELECT state, label FROM items") == [("done", "positive")]
    assert world.rows("SELECT label FROM answers") == [("positive",)]
    assert world.one("SELECT count(*) FROM outcomes") == 1
    assert [(c.state, c.cost_usd) for c in world.calls()] == [("answered", PRICE)] * 2


def test_a_late_reply_sets_a_call_right_that_was_given_up(world: World) -> None:
    world.score(DOUBT)
    given_up = (
        "UPDATE calls SET state = 'unknown', cost_usd = reserved_usd, settled_at = now(), error_kind = 'no_reply'"
    )
    world.ask(FakeLLM([during(world, given_up)]))
    (call,) = world.calls()
    assert (call.state, call.cost_usd, call.error_kind) == ("answered", PRICE, None)


@pytest.mark.parametrize("error", [DOWN, THROTTLED, REJECTED, OUTSIDE])
def test_a_late_failure_does_not_touch_what_another_worker_holds(world: World, error: Exception) -> None:
    world.score(DOUBT)

    def late(_: Prompt) -> Reply:
        world.change("UPDATE asks SET lease_token = gen_random_uuid()")
        raise error

    world.ask(FakeLLM([late]))
    assert world.rows("SELECT state, attempts, misses FROM asks") == [("calling", 0, 0)]
    assert world.states() == {"asked": 1}
    assert len(world.calls()) == 1
    assert world.calls()[0].settled_at is not None


def test_an_answer_for_an_item_that_a_person_has_labelled_keeps_the_label(world: World) -> None:
    world.score(DOUBT)
    person = (
        "WITH o AS (INSERT INTO outcomes (item_id, classifier_id, spec_version, label, source)"
        " SELECT id, classifier_id, 1, 'neutral', 'human' FROM items RETURNING id)"
        " UPDATE items SET state = 'done', label = 'neutral', source = 'human', outcome_id = o.id FROM o"
    )
    world.ask(FakeLLM([during(world, person, reply("positive"))]))
    assert world.rows("SELECT label, source FROM items") == [("neutral", "human")]
    assert world.rows("SELECT label FROM answers") == [("positive",)]


# PostgreSQL away while a paid reply is held


class AwayFor:
    """A store that fails when transactions of these numbers begin, counted from the first paid reply on."""

    def __init__(self, world: World, failures: int) -> None:
        self._store = world.store
        self.left = 0
        self._failures = failures

    def leave(self, answer: Reply | Exception) -> Callable[[Prompt], Reply]:
        def say(_: Prompt) -> Reply:
            self.left = self._failures
            if isinstance(answer, Exception):
                raise answer
            return answer

        return say

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        if self.left > 0:
            self.left -= 1
            raise StoreError("PostgreSQL cannot be used: connection refused")
        with self._store.begin() as tx:
            yield tx

    single = begin


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only when somebody sleeps."""
    made = SimpleNamespace(now=0.0, slept=[])

    def sleep(seconds: float) -> None:
        made.slept.append(seconds)
        made.now += seconds

    monkeypatch.setattr(lane, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=sleep))
    return made


@pytest.mark.parametrize("answer", [reply(), OUTSIDE])
def test_a_paid_reply_is_held_until_postgresql_is_back(
    world: World, clock: SimpleNamespace, answer: Reply | Exception
) -> None:
    made = world.score(DOUBT)
    away = AwayFor(world, failures=2)
    asker = world.asker(FakeLLM([away.leave(answer), reply()]))
    asker._store = away  # type: ignore[assignment]
    asker.run(NAME, made)
    assert clock.slept == [0.2, 0.4]
    assert world.states() == {"done": 1}
    assert all(call.state == "answered" and call.cost_usd == PRICE for call in world.calls())


def test_a_paid_reply_is_given_up_after_ten_minutes(world: World, clock: SimpleNamespace) -> None:
    made = world.score(DOUBT)
    away = AwayFor(world, failures=10_000)
    asker = world.asker(FakeLLM([away.leave(reply())]))
    asker._store = away  # type: ignore[assignment]
    with pytest.raises(StoreError):
        asker.run(NAME, made)
    assert 600 < clock.now < 610
    assert world.states("calls") == {"sent": 1}
