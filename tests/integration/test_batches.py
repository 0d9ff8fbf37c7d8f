"""Asks that can wait go through the Batches API at half the price, once, whatever dies on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from batching import OPEN, TWO_DAYS_S, Bench
from lanes import NAME, FakeLLM, World
from sqlalchemy import Connection, text

from datashunt.errors import LLMNotFound, LLMUnavailable
from datashunt.items import Item
from datashunt.llm import batches as api_of_batches
from datashunt.pipeline import batch as lane
from datashunt.pipeline import filling
from datashunt.simulator import Options, Simulator
from datashunt.store import batches, budgets, classifiers, results, spend
from datashunt.store.people import PersonLabel, take

DOUBT = [f"negative 0.5 what a day {n}" for n in range(6)]
Start = Callable[..., Bench]


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Start]:
    """Starts a simulation, and a batch lane that talks to it."""
    with ExitStack() as stack:

        def begin(faults: str | None = None, **options: Any) -> Bench:
            answers = tmp_path / "answers.jsonl"
            row = {"id": "1", "text": "nobody says this", "probabilities": {"neutral": 1.0}}
            answers.write_text(json.dumps(row) + "\n", encoding="utf-8")
            rules = tmp_path / "faults.yaml"
            rules.write_text(faults or "faults: []", encoding="utf-8")
            simulator = stack.enter_context(Simulator(Options(answers, faults=rules if faults else None, **options)))
            made = Bench(world, simulator)
            stack.callback(made.close)
            return made

        yield begin


def ended(bench: Bench) -> list[tuple[str, str | None]]:
    return [tuple(row) for row in bench.world.rows("SELECT state, ended_as FROM batches ORDER BY id")]  # type: ignore[misc]


NO_WORD = LLMUnavailable("the LLM endpoint was silent for too long", kind="timeout", may_be_billed=True)
UNKNOWN = LLMNotFound("no such batch (404)", kind="not_found", http_status=404)


def failing(*errors: Exception) -> Callable[..., Any]:
    """A call of the endpoint that brings these errors one after another, and the last for ever."""
    left = list(errors)

    def fail(*_: Any) -> Any:
        raise left.pop(0) if len(left) > 1 else left[0]

    return fail


def kinds(bench: Bench) -> set[tuple[str, str | None]]:
    return {(call.state, call.error_kind) for call in bench.world.calls()}


# which asks


def test_asks_with_a_far_deadline_are_answered_by_one_batch_at_half_the_price(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    assert bench.live() == 0
    bench.harvest()
    assert world.states() == {"done": 6}
    assert {call.state for call in world.calls()} == {"answered"}
    assert len(bench.remote()) == 1
    assert bench.simulator.ledger["endpoints"].keys() == {"batch"}
    bench.check_ledger()
    with world.store.begin() as tx:
        (spent,) = spend.spent(tx, "model")
    assert (spent.calls, spent.usd) == (6, sum(call.cost_usd for call in world.calls()))


def test_asks_without_a_deadline_or_with_a_near_one_are_asked_live(start: Start, world: World) -> None:
    bench = start()
    bench.ask(DOUBT[0], deadline=None)
    bench.ask(DOUBT[1], deadline=80_000.0)
    assert bench.tick() == []
    assert bench.live() == 2
    assert world.rows("SELECT * FROM batches") == []


@pytest.mark.parametrize(
    ("mode", "deadline", "batched"), [("off", TWO_DAYS_S, 0), ("only", None, 1), ("auto", None, 0)]
)
def test_the_file_says_which_asks_go_into_batches(
    start: Start, world: World, mode: str, deadline: float | None, batched: int
) -> None:
    world.apply(llm={"batch": mode})
    bench = start()
    bench.ask(DOUBT[0], deadline=deadline)
    bench.tick()
    assert world.one("SELECT count(*) FROM batches") == batched
    assert bench.live() == 1 - batched


def test_an_ask_whose_deadline_has_come_near_goes_live(start: Start, world: World) -> None:
    bench = start()
    bench.ask(DOUBT[0])
    world.change("UPDATE asks SET deadline = now() + interval '1 hour', announced_at = '-infinity'")
    assert bench.tick() == ["llm"]
    assert bench.live() == 1


def test_asks_for_a_batch_are_not_announced_one_by_one(start: Start, world: World) -> None:
    bench = start(batch_delay_s=3600.0)
    bench.ask(*DOUBT)
    world.change("UPDATE asks SET announced_at = '-infinity'")
    assert bench.tick() == ["batch"]


def test_asks_wait_for_others_before_a_batch_is_made(start: Start, world: World) -> None:
    bench = start()
    bench.settings = bench.settings.model_copy(update={"batch_gather_s": 60.0})
    bench.ask(DOUBT[0])
    assert bench.tick() == []
    world.change("UPDATE asks SET not_before = now() - interval '61 s'")
    assert bench.tick() == ["batch"]


def test_the_earliest_deadline_is_asked_first(start: Start, world: World) -> None:
    wanted = [datetime.now(UTC) + timedelta(hours=hours) for hours in (5, 1, 3)]
    items = [Item(f"i{n}", text, deadline=when) for n, (text, when) in enumerate(zip(DOUBT, wanted, strict=False))]
    _, wakes = world.submit(*items, Item("none", DOUBT[5]))
    list(world.scorer().run(NAME, wakes[0].ids))
    llm = FakeLLM()
    world.ask(llm)
    assert [json.loads(prompt.data)["item"][-1] for prompt in llm.prompts] == ["1", "2", "0", "5"]


def test_the_priority_goes_before_the_deadline(start: Start, world: World) -> None:
    bench = start()
    bench.ask(DOUBT[0], deadline=3600.0)
    bench.ask(DOUBT[1], deadline=7200.0)
    world.change("UPDATE asks SET priority = 1 WHERE deadline < now() + interval '5000 s'")
    llm = FakeLLM()
    world.ask(llm)
    assert [json.loads(prompt.data)["item"][-1] for prompt in llm.prompts] == ["1", "0"]


def test_the_file_of_each_classifier_says_which_of_its_own_asks_wait_for_a_batch(world: World) -> None:
    world.apply(name="other", llm={"batch": "only"})
    for name in ("other", NAME):
        _, wakes = world.submit(Item("i", DOUBT[0]), name=name)
        list(world.scorer().run(name, wakes[0].ids))
    assert world.ask(FakeLLM()) == 1
    assert world.rows(
        "SELECT name, asks.state FROM asks JOIN classifiers ON classifiers.id = classifier_id ORDER BY name"
    ) == [("other", "waiting"), (NAME, "answered")]


# what is sent


def test_requests_of_a_batch_are_booked_before_anything_is_sent(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    bench.dies("upload", after=False)
    assert [(call.state, call.cost_usd, call.attempt) for call in world.calls()] == [("sent", None, 1)] * 6
    assert all(call.reserved_usd > 0 and call.reserved_tokens > 0 for call in world.calls())
    assert world.states("asks") == {"calling": 6}


def test_a_batch_under_way_neither_expires_nor_becomes_unknown(start: Start, world: World) -> None:
    bench = start(batch_delay_s=3600.0)
    bench.ask(*DOUBT)
    bench.tick()
    world.change("UPDATE calls SET created_at = now() - interval '20 hours'")
    bench.tick()
    assert world.states("calls") == {"sent": 6}
    assert world.states("asks") == {"calling": 6}


@pytest.mark.parametrize("limit", ["MAX_REQUESTS", "MAX_BYTES"])
def test_what_does_not_fit_into_a_file_goes_into_the_next_one(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(filling, "CHUNK", 2)
    monkeypatch.setattr(filling, limit, {"MAX_REQUESTS": 4, "MAX_BYTES": 3000}[limit])
    bench = start()
    bench.ask(*DOUBT)
    bench.until(lambda: world.states() == {"done": 6})
    sizes = [row.n for row in world.rows("SELECT count(*) AS n FROM calls GROUP BY batch_id ORDER BY batch_id")]
    assert len(sizes) > 1
    assert sum(sizes) == 6
    bench.check_ledger()


def test_equal_texts_of_a_batch_are_paid_once(start: Start, world: World) -> None:
    world.bundle()  # without one a fifth of the asks is held out, and these are never reused
    bench = start()
    bench.ask(DOUBT[0], DOUBT[0], DOUBT[1])
    bench.until(lambda: world.states() == {"done": 3})
    assert len(world.calls()) == bench.simulator.ledger["served"] == 2
    assert world.one("SELECT count(*) FROM answers WHERE reused_from IS NOT NULL") == 1


def test_a_text_that_was_answered_before_needs_no_batch(start: Start, world: World) -> None:
    world.bundle()  # without one a fifth of the asks is held out, and these are never reused
    bench = start()
    bench.ask(DOUBT[0], deadline=None)
    bench.live()
    bench.ask(DOUBT[0])
    bench.harvest()
    assert world.states() == {"done": 2}
    assert bench.remote() == []
    assert len(world.calls()) == 1


def test_an_equal_text_whose_batch_is_under_way_waits_for_it(start: Start, world: World) -> None:
    world.bundle()  # without one a fifth of the asks is held out, and these are never reused
    bench = start(batch_delay_s=3600.0)
    bench.ask(DOUBT[0])
    bench.tick()
    bench.ask(DOUBT[0])
    bench.tick()
    assert ended(bench) == [("submitted", None), ("harvested", "empty")]
    assert world.one("SELECT not_before > now() + interval '5 min' FROM asks ORDER BY id DESC LIMIT 1")


def test_samples_are_drawn_in_a_batch_too(start: Start, world: World) -> None:
    world.apply(llm={"samples": 3})
    bench = start(without=frozenset({"logprobs"}))
    bench.ask(*DOUBT[:2])
    bench.until(lambda: world.states() == {"done": 2})
    assert {row.probability_source for row in world.rows("SELECT probability_source FROM answers")} == {"samples"}
    bench.check_ledger()


# a worker dies


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["upload", "create", "look_at", "forget"])
def test_a_worker_that_dies_at_a_step_costs_time_and_nothing_else(
    start: Start, world: World, step: str, after: bool
) -> None:
    bench = start()
    bench.ask(*DOUBT)
    bench.dies(step, after=after)
    bench.harvest()
    assert world.states() == {"done": 6}
    assert len(bench.remote()) == 1
    assert world.states("calls") == {"answered": 6}
    assert world.one("SELECT count(*) FROM answers") == 6
    assert list(bench.client.files.list()) == []
    bench.check_ledger()


def test_a_file_that_was_sent_is_not_sent_again(start: Start) -> None:
    bench = start(batch_delay_s=3600.0)
    bench.ask(*DOUBT)
    bench.dies("upload", after=True)
    bench.tick()
    assert len(list(bench.client.files.list())) == 1


def test_a_file_that_would_be_another_one_by_now_is_replaced(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    bench.dies("upload", after=True)
    bench.llm.abilities("teacher-1").without = frozenset({"temperature"})
    bench.harvest()
    assert world.states() == {"done": 6}
    assert len(bench.remote()) == 1
    assert list(bench.client.files.list()) == []


def test_a_worker_that_dies_in_the_middle_of_the_harvest(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "SETTLED_AT_ONCE", 2)
    bench = start()
    bench.ask(*DOUBT)
    bench.dies("reply_of", after=False, at=4)
    assert world.states() == {"done": 2, "asked": 4}
    bench.harvest()
    assert world.states() == {"done": 6}
    assert world.one("SELECT count(*) FROM answers") == 6
    bench.check_ledger()


def test_a_worker_that_dies_while_a_batch_is_filled_sends_what_it_has(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "CHUNK", 2)
    bench = start()
    bench.ask(*DOUBT)
    bench.dies("request_line", after=False, at=4)
    assert world.states("asks") == {"calling": 2, "waiting": 4}
    bench.until(lambda: world.states() == {"done": 6})
    assert len(bench.remote()) == 2
    bench.check_ledger()


def test_a_batch_whose_creation_was_not_heard_of_is_found_again(start: Start, world: World) -> None:
    bench = start("faults: [{fault: reset, at: [batches], calls: [1, 1], billed: true}]")
    bench.ask(*DOUBT)
    bench.tick()
    world.change("UPDATE batches SET due_at = now()")
    bench.harvest()
    assert world.states() == {"done": 6}
    assert len(bench.remote()) == 1
    bench.check_ledger()


def test_a_worker_that_slept_through_its_lease_changes_nothing(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    whole = bench.api.results

    def slow(*given: Any) -> Any:
        lines = list(whole(*given))
        world.change("UPDATE batches SET lease_token = gen_random_uuid()")
        return iter(lines)

    bench.api.results = slow  # type: ignore[method-assign]
    bench.until(lambda: world.one("SELECT count(*) FROM batches WHERE state = 'completed'") == 1)
    bench.tick()
    assert world.states("calls") == {"sent": 6}
    bench.api.results = whole  # type: ignore[method-assign]
    bench.lease_over()
    bench.harvest()
    assert world.states() == {"done": 6}


@pytest.mark.parametrize("fault", ["reset", "half_closed"])
def test_a_result_file_that_does_not_come_whole_is_fetched_again(start: Start, world: World, fault: str) -> None:
    bench = start(f"faults: [{{fault: {fault}, at: [files], calls: [2, 2], billed: true}}]")
    bench.ask(*DOUBT)
    known = "SELECT state, error IS NOT NULL, lease_until FROM batches"
    bench.until(lambda: world.rows(known) == [("completed", True, None)])
    world.change("UPDATE batches SET due_at = now()")
    bench.harvest()
    assert world.states() == {"done": 6}
    assert world.states("calls") == {"answered": 6}
    bench.check_ledger()


# a batch that ends otherwise


def test_what_an_expired_batch_did_not_bring_is_asked_again(start: Start, world: World) -> None:
    bench = start(batch_delay_s=0.4, batch_window_s=0.2)
    bench.ask(*DOUBT)
    bench.until(lambda: world.one("SELECT count(*) FROM batches WHERE state = 'harvested'") == 1)
    assert ended(bench)[0] == ("harvested", "expired")
    assert kinds(bench) >= {("answered", None), ("failed", "batch_expired")}
    assert 0 < world.states()["done"] < 6
    assert world.rows("SELECT DISTINCT attempts FROM asks") == [(0,)]
    bench.until(lambda: len(bench.remote()) == 2)
    world.apply(llm={"batch": "off"})
    bench.harvest()
    bench.live()
    assert world.states() == {"done": 6}
    bench.check_ledger()


def test_what_an_expired_batch_did_not_bring_is_asked_live_if_the_deadline_is_near(start: Start, world: World) -> None:
    bench = start(batch_delay_s=0.4, batch_window_s=0.2)
    bench.ask(*DOUBT)
    bench.dies("look_at", after=False)
    world.change("UPDATE asks SET deadline = now() + interval '1 hour'")
    bench.harvest()
    left = 6 - world.states()["done"]
    assert bench.live() == left > 0
    assert len(bench.remote()) == 1
    bench.check_ledger()


def test_a_batch_that_was_cancelled_keeps_what_is_done(start: Start, world: World) -> None:
    bench = start(batch_delay_s=3600.0)
    bench.ask(*DOUBT)
    bench.tick()
    bench.client.batches.cancel(bench.remote()[0].id)
    world.apply(llm={"batch": "off"})
    bench.harvest()
    assert ended(bench) == [("harvested", "cancelled")]
    assert kinds(bench) == {("failed", "batch_expired")}
    assert bench.live() == 6
    bench.check_ledger()


def test_a_batch_that_takes_too_long_is_cancelled(start: Start, world: World) -> None:
    bench = start(batch_delay_s=3600.0)
    bench.ask(*DOUBT)
    bench.tick()
    world.change("UPDATE batches SET submitted_at = now() - interval '24.1 hours'")
    world.change("UPDATE asks SET deadline = now() + interval '50 min'")
    bench.harvest()
    assert ended(bench) == [("harvested", "cancelled")]
    assert bench.live() == 6


def test_a_batch_that_never_ends_is_given_up(start: Start, world: World) -> None:
    bench = start(batch_delay_s=3600.0)
    bench.ask(DOUBT[0])
    bench.tick()
    bench.api.cancel = lambda *_: None  # type: ignore[method-assign]
    world.change("UPDATE batches SET submitted_at = now() - interval '24.9 hours', due_at = now()")
    bench.tick()
    assert ended(bench) == [("submitted", None)]
    world.change("UPDATE batches SET submitted_at = now() - interval '25.1 hours', due_at = now()")
    bench.harvest()
    assert ended(bench) == [("harvested", "lost")]
    assert kinds(bench) == {("unknown", "no_reply")}
    assert world.rows("SELECT state, attempts FROM asks") == [("waiting", 1)]


@pytest.mark.parametrize(("mode", "live"), [("auto", 6), ("only", 0)])
def test_a_batch_that_is_found_invalid_costs_nothing_and_its_asks_go_another_way(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch, mode: str, live: int
) -> None:
    monkeypatch.setattr(api_of_batches, "_URL", "/v1/decisions")
    world.apply(llm={"batch": mode})
    bench = start()
    bench.ask(*DOUBT)
    bench.harvest()
    assert ended(bench) == [("harvested", "failed")]
    assert "invalid_url in line 1" in world.one("SELECT error FROM batches")
    assert kinds(bench) == {("failed", "batch_refused")}
    assert world.rows("SELECT DISTINCT attempts FROM asks") == [(0 if mode == "auto" else 1,)]
    assert bench.live() == live
    bench.check_ledger()


def test_a_server_without_batches_is_asked_live(start: Start, world: World) -> None:
    bench = start(without=frozenset({"batches"}))
    bench.ask(*DOUBT)
    bench.harvest()
    assert ended(bench) == [("harvested", "refused")]
    assert bench.live() == 6
    assert world.states() == {"done": 6}
    assert bench.tick() == []


def test_asks_that_may_only_go_into_batches_die_where_there_are_none(start: Start, world: World) -> None:
    world.apply(llm={"batch": "only"})
    bench = start(without=frozenset({"batches"}))
    bench.ask(DOUBT[0], deadline=None)
    for _ in range(world.settings.llm_max_attempts):
        bench.harvest()
        world.change("UPDATE asks SET not_before = now() - interval '1 s'")
    assert world.states() == {"dead": 1}
    assert world.rows("SELECT reason FROM dead_letters") == [("batch_refused",)]


def test_an_endpoint_that_is_away_is_tried_until_it_is_too_late_to_begin(start: Start, world: World) -> None:
    bench = start("faults: [{fault: 503, at: [files, batches]}]")
    bench.ask(*DOUBT)
    bench.tick()
    assert world.rows("SELECT state, tries FROM batches") == [("building", 1)]
    world.change("UPDATE batches SET due_at = now(), created_at = now() - interval '2 hours'")
    bench.harvest()
    assert ended(bench) == [("harvested", "late")]
    assert bench.live() == 6


@pytest.mark.parametrize("step", ["look_at", "results"])
def test_an_endpoint_that_once_knows_nothing_of_a_running_batch_is_asked_again(
    start: Start, world: World, step: str
) -> None:
    bench = start()
    bench.ask(*DOUBT)
    whole = getattr(bench.api, step)

    def once(*given: Any) -> Any:
        setattr(bench.api, step, whole)
        raise UNKNOWN

    setattr(bench.api, step, once)
    bench.harvest()
    assert ended(bench) == [("harvested", "completed")]
    assert world.states() == {"done": 6}
    assert len(bench.remote()) == 1
    bench.check_ledger()


def test_a_batch_that_may_have_been_created_unheard_is_looked_for_later_and_not_created_again(
    start: Start, world: World
) -> None:
    bench = start()
    bench.ask(*DOUBT)
    whole, given = bench.api.create, []

    def unheard(*arguments: Any) -> str:
        given.extend(arguments)
        raise NO_WORD

    bench.api.create = unheard  # type: ignore[method-assign]
    bench.tick()
    bench.api.create = whole  # type: ignore[method-assign]
    assert bench.tick() == []
    assert world.one("SELECT extract(epoch FROM due_at - now()) FROM batches") > 120
    whole(*given)  # the endpoint was slow, no more
    world.change("UPDATE batches SET due_at = now()")
    bench.harvest()
    assert ended(bench) == [("harvested", "completed")]
    assert len(bench.remote()) == 1
    bench.check_ledger()


def test_one_that_may_run_unheard_outlasts_a_refusal(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    create, find = bench.api.create, bench.api.find

    def unheard(*given: Any) -> str:
        create(*given)
        raise NO_WORD

    bench.api.create, bench.api.find = unheard, failing(UNKNOWN)  # type: ignore[method-assign]
    for _ in range(2):
        world.change("UPDATE batches SET due_at = now()")
        bench.tick()
    assert ended(bench) == [("uploaded", None)]
    bench.api.create, bench.api.find = create, find  # type: ignore[method-assign]
    world.change("UPDATE batches SET due_at = now()")
    bench.harvest()
    assert ended(bench) == [("harvested", "completed")]
    assert len(bench.remote()) == 1
    bench.check_ledger()


def test_what_is_refused_to_the_last_though_it_may_run_is_booked_as_unknown(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PATIENCE", 2)
    bench = start()
    bench.ask(DOUBT[0])
    bench.api.create, bench.api.find = failing(NO_WORD), failing(UNKNOWN)  # type: ignore[method-assign]
    bench.tick()
    world.change("UPDATE batches SET due_at = now()")
    bench.harvest()
    assert ended(bench) == [("harvested", "lost")]
    (call,) = world.calls()
    assert (call.state, call.cost_usd) == ("unknown", call.reserved_usd)


def test_an_outage_uses_up_no_patience_with_refusals(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PATIENCE", 2)
    bench = start(batch_delay_s=3600.0)
    bench.ask(DOUBT[0])
    bench.tick()
    away = LLMUnavailable("away", kind="server_error", http_status=503)
    troubles = [away, away, UNKNOWN, away, away, UNKNOWN, UNKNOWN]
    bench.api.look_at = failing(*troubles)  # type: ignore[method-assign]
    for _ in troubles:
        world.change("UPDATE batches SET due_at = now()")
        bench.tick()
    assert ended(bench) == [("submitted", None)]


def test_an_ask_whose_text_was_removed_goes_into_no_batch(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    world.change("DELETE FROM texts WHERE item_id = (SELECT min(item_id) FROM asks)")
    bench.harvest()
    assert world.states() == {"done": 5, "dead": 1}
    assert world.rows("SELECT reason FROM dead_letters") == [("text_removed",)]
    bench.check_ledger()


def test_a_batch_that_the_endpoint_has_forgotten_is_booked_as_unknown(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PATIENCE", 2)
    bench = start(batch_delay_s=3600.0)
    bench.ask(DOUBT[0])
    bench.tick()
    world.change("UPDATE batches SET remote_id = 'batch_nowhere'")
    bench.harvest()
    assert ended(bench) == [("harvested", "lost")]
    (call,) = world.calls()
    assert (call.state, call.cost_usd) == ("unknown", call.reserved_usd)
    assert world.rows("SELECT state, attempts FROM asks") == [("waiting", 1)]


# what its lines say


def test_error_lines_are_treated_as_live_errors_are(start: Start, world: World) -> None:
    bench = start(
        "faults: [{fault: 500, at: [batch], calls: [1, 1]}, {fault: context_too_long, at: [batch], calls: [2, 2]},"
        " {fault: refusal, at: [batch], calls: [3, 3]}, {fault: 429, at: [batch], calls: [4, 4]}]"
    )
    bench.ask(*DOUBT)
    bench.harvest()
    assert world.states() == {"done": 2, "asked": 4}
    found = {(c.state, c.error_kind) for c in world.calls()}
    assert found == {
        ("answered", None),
        ("failed", "server_error"),
        ("failed", "context_too_long"),
        ("answered", "refusal"),
        ("failed", "throttled"),
    }
    asks = sorted(world.rows("SELECT state, attempts, misses, keep_chars IS NOT NULL FROM asks"))
    assert asks == [("answered", 0, 0, False)] * 2 + [
        ("waiting", 0, 0, False),
        ("waiting", 0, 0, True),  # shortened, as it was too long
        ("waiting", 0, 1, False),
        ("waiting", 1, 0, False),
    ]


def test_what_an_error_line_says_can_be_stored_whatever_it_is(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    whole = bench.api.results

    def worse(*given: Any) -> Iterator[api_of_batches.Line]:
        page = json.dumps({"error": {"message": "no\0thing \ud83d", "type": {}, "code": "\ud800"}})
        for n, line in enumerate(whole(*given)):
            said = f'{{"custom_id": "{line.custom_id}", "response": {{"status_code": 400, "body": {page}}}}}'
            yield api_of_batches.Line.of(said.encode()) if n < 2 else line
        yield api_of_batches.Line.of(b'{"custom_id": "' + b"9" * 5_000 + b'", "response": {"status_code": 200}}')
        yield api_of_batches.Line.of(b'{"custom_id": "999999", "response": {"status_code": 1e400}}')

    bench.api.results = worse  # type: ignore[method-assign]
    bench.harvest()
    assert world.states() == {"done": 4, "dead": 2}
    assert kinds(bench) == {("answered", None), ("failed", "rejected")}


def test_an_ask_that_falls_back_to_another_model_is_asked_live(start: Start, world: World) -> None:
    world.bundle()  # without one a fifth of the asks is held out, and these never fall back
    world.apply(llm={"model": "teacher-1", "models": ["teacher-1", "teacher-2"], "batch": "only"})
    bench = start("faults: [{fault: content_filter, at: [batch], calls: [1, 1]}]")
    bench.ask(DOUBT[0])
    assert bench.live() == 0
    bench.harvest()
    assert world.rows("SELECT state, fallback FROM asks") == [("waiting", 1)]
    assert bench.live() == 1
    assert [(call.model, call.batch_id is None) for call in world.calls()] == [
        ("teacher-1", False),
        ("teacher-2", True),
    ]
    bench.check_ledger()


@pytest.mark.parametrize(("faults", "ended_as"), [(None, "answered"), ("refusal", "withdrawn"), ("500", "withdrawn")])
def test_a_line_of_a_withdrawn_ask_is_booked_and_changes_no_outcome(
    start: Start, world: World, faults: str | None, ended_as: str
) -> None:
    world.bundle()  # asks that are held out stay open
    bench = start(faults and f"faults: [{{fault: {faults}, at: [batch], calls: [1, 1]}}]")
    bench.ask(DOUBT[0])
    bench.dies("look_at", after=False)
    with world.store.begin() as tx:
        take(tx, world.known(), [PersonLabel(1, world.one("SELECT key FROM items"), "positive", "ann")])
    assert world.states("asks") == {"withdrawn": 1}
    bench.harvest()
    assert world.rows("SELECT state, label, source FROM items") == [("done", "positive", "human")]
    assert world.states("asks") == {ended_as: 1}
    assert world.one("SELECT count(*) FROM outcomes") == 1
    bench.check_ledger()


def test_a_part_that_the_server_refuses_is_left_out_of_the_next_batch(start: Start, world: World) -> None:
    bench = start(without=frozenset({"temperature"}))
    bench.ask(*DOUBT[:2])
    bench.harvest()
    assert kinds(bench) == {("failed", "refused_parameter")}
    world.change("UPDATE asks SET not_before = now() - interval '1 s'")
    bench.until(lambda: world.states() == {"done": 2})
    bench.check_ledger()


def test_lines_that_nobody_asked_for_are_reported_and_ignored(
    start: Start, world: World, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    bench = start()
    bench.ask(*DOUBT)
    whole = bench.api.results

    def more(*given: Any) -> Iterator[api_of_batches.Line]:
        yield api_of_batches.Line.of(b'{"custom_id": "999999", "response": {"status_code": 200, "body": {}}}')
        yield api_of_batches.Line.of(b'{"custom_id": "99999999999999999999999"}')
        yield api_of_batches.Line.of(b"no JSON")
        yield from whole(*given)

    bench.api.results = more  # type: ignore[method-assign]
    caplog.set_level("INFO")
    bench.harvest()
    assert world.states() == {"done": 6}
    assert "batch_lines_unknown" in caplog.text + capsys.readouterr().err
    bench.check_ledger()


def test_a_completed_batch_that_lacks_a_line_is_paid_for_and_asked_again(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT[:2])
    whole = bench.api.results

    def less(*given: Any) -> Iterator[api_of_batches.Line]:
        yield next(whole(*given))

    bench.api.results = less  # type: ignore[method-assign]
    bench.harvest()
    assert kinds(bench) == {("answered", None), ("unknown", "no_reply")}
    assert sorted(world.rows("SELECT state, attempts FROM asks")) == [("answered", 0), ("waiting", 1)]


def test_an_answer_that_came_in_between_stays_and_the_line_is_paid(start: Start, world: World) -> None:
    bench = start()
    made = bench.ask(DOUBT[0])
    bench.dies("look_at", after=False)
    world.change("UPDATE asks SET state = 'waiting', lease_token = NULL, deadline = NULL")
    assert world.ask(FakeLLM(), made) == 1
    before = world.rows("SELECT * FROM answers")
    bench.harvest()
    assert world.rows("SELECT * FROM answers") == before
    assert world.states("calls") == {"answered": 2}
    assert world.states() == {"done": 1}


def test_answers_over_labels_that_are_no_more_are_paid_and_asked_again(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    bench.dies("look_at", after=False)
    world.apply(labels=["bad", "good"])
    bench.harvest()
    assert world.states("calls") == {"answered": 6}
    assert world.states() == {"asked": 6}
    bench.until(lambda: world.states() == {"done": 6})
    assert {row.label for row in world.rows("SELECT label FROM items")} <= {"bad", "good"}
    bench.check_ledger()


def test_a_batch_that_is_done_leaves_no_file_at_the_endpoint(start: Start) -> None:
    bench = start()
    bench.ask(*DOUBT)
    bench.harvest()
    assert list(bench.client.files.list()) == []


# what can be seen


def test_batches_in_flight_can_be_seen(start: Start, world: World) -> None:
    bench = start(batch_delay_s=3600.0)
    bench.ask(*DOUBT)
    bench.tick()
    with world.store.begin() as tx:
        known = classifiers.current(tx, NAME)
        (found,) = batches.in_flight(tx, known.id)
        cost = results.status(tx, known.id)["cost_usd"]
    assert (found.state, found.requests) == ("submitted", 6)
    assert 0 <= found.age_s < 60
    assert cost == pytest.approx(float(sum(call.reserved_usd for call in world.calls())))


def test_ten_ticks_at_once_make_one_batch(start: Start, world: World) -> None:
    bench = start()
    bench.ask(*DOUBT)
    for _ in range(10):
        with world.store.begin() as tx:
            batches.plan(tx, classifiers.current(tx, NAME), gather_s=0.0)
    assert world.one(OPEN) == 1


# a day's budget


def test_a_batch_takes_no_more_asks_than_todays_budget_has_places_for(start: Start, world: World) -> None:
    world.apply(llm={"batch": "only"}, policy={"mode": "budget", "calls_per_day": 4, "audit_rate": 0.0})
    bench = start()
    bench.ask(*DOUBT)
    waiting = "SELECT count(*) FROM asks WHERE state = 'waiting' AND reserved IS NULL AND not_before > now()"
    assert world.one(waiting) == 2
    world.change("UPDATE asks SET not_before = now()")
    bench.harvest()
    assert world.one("SELECT count(*) FROM calls") == 4
    assert world.one(waiting) == 2
    assert tuple(world.rows("SELECT spent, reserved FROM budget_days")[0]) == (4, 0)


def test_what_a_batch_finds_no_place_for_is_put_off_when_the_days_row_is_free_again(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = start()
    bench.ask(*DOUBT)
    world.apply(llm={"batch": "only"}, policy={"mode": "budget", "calls_per_day": 4, "audit_rate": 0.0})
    monkeypatch.setattr(filling, "CHUNK", 5)
    put_off, seen = budgets.put_off, []

    def looking(tx: Connection, *given: Any) -> bool:
        with world.store.begin() as scoring:
            scoring.execute(text("SELECT FROM budget_days FOR UPDATE NOWAIT"))
        seen.append(world.states("asks"))
        return put_off(tx, *given)

    monkeypatch.setattr(budgets, "put_off", looking)
    bench.harvest()
    assert seen == [{"calling": 4, "waiting": 2}]
    assert world.states("asks") == {"answered": 4, "waiting": 2}
    assert world.one("SELECT count(*) FROM asks WHERE not_before > now() AND reserved IS NULL") == 2


def test_a_harvest_locks_the_days_row_after_every_ask_as_all_others_do(start: Start, world: World) -> None:
    world.apply(llm={"batch": "only"}, policy={"mode": "budget", "calls_per_day": 9, "audit_rate": 0.0})
    bench = start()
    bench.ask(*DOUBT[:2])
    bench.dies("look_at", after=False)
    with ThreadPoolExecutor(1) as pool:
        with world.store.begin() as person:
            person.execute(text("SELECT FROM asks ORDER BY id DESC LIMIT 1 FOR UPDATE"))
            harvest = pool.submit(bench.harvest)
            world.until_somebody_waits()
            person.execute(text("SELECT FROM budget_days FOR UPDATE NOWAIT"))
        harvest.result(timeout=60)
    assert world.states() == {"done": 2}


def test_asks_for_a_batch_wait_until_somebody_says_what_they_cost(
    start: Start, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    bench = start()
    bench.ask(*DOUBT)
    usd = {"mode": "budget", "usd_per_day": 5, "audit_rate": 0.0}
    world.apply(llm={"model": "nobody-knows-it", "input_price": None, "output_price": None}, policy=usd)
    bench.harvest()
    assert ended(bench) == [("harvested", "empty")]
    assert world.calls() == bench.remote() == []
    assert world.rows("SELECT DISTINCT state, attempts, not_before > now() FROM asks") == [("waiting", 0, True)]
    assert [record.message for record in caplog.records].count("price_unknown") == 1
    world.apply(policy=usd)
    world.change("UPDATE asks SET not_before = now() - interval '1 s'")
    bench.until(lambda: world.states() == {"done": 6})
    bench.check_ledger()
