"""Workers that die, sleep or repeat themselves, and a broker that forgets: every item ends exactly once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import redis
from sqlalchemy import text

from datashunt.items import Wake
from datashunt.simulator import Request, Response
from tests.acceptance.conftest import System, kept_states, plain_items, run_of, until

Hook = dict[str, Callable[[Request], Response | None]]


def items(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"id": f"i{n}", "text": f"text number {n}"} for n in range(start, start + count)]


def test_a_score_worker_killed_in_mid_batch_loses_and_doubles_nothing(system: System) -> None:
    system.apply()
    with system.locked("asks"):  # its batch is claimed, and cannot be written
        worker = system.start("score")
        system.client.submit("tone", items(600))
        until(lambda: system.one("SELECT count(*) FROM items WHERE state = 'scoring'") > 0, "a claimed batch")
        worker.kill()
        worker.wait()
    system.start("score")
    system.start("llm")
    until(lambda: system.done() == 600, "all items to be done")
    system.assert_sound(600)
    assert system.simulator.ledger["served"] == 600


def test_a_score_worker_stopped_for_longer_than_its_lease_writes_nothing_when_it_wakes(system: System) -> None:
    system.apply()
    with system.locked("asks"):
        sleeper = system.start("score")
        system.client.submit("tone", items(300))
        until(lambda: system.one("SELECT count(*) FROM items WHERE state = 'scoring'") > 0, "a claimed batch")
        sleeper.send_signal(signal.SIGSTOP)
    system.start("score")
    system.start("llm")
    until(lambda: system.done() == 300, "another worker to do its items")
    sleeper.send_signal(signal.SIGCONT)
    system.client.submit("tone", items(50, start=300))
    until(lambda: system.done() == 350, "the rest")
    system.assert_sound(350)
    assert sleeper.poll() is None


def test_an_llm_worker_killed_in_mid_call_asks_again_and_books_both_calls(system: System, hook: Hook) -> None:
    system.apply()
    held = threading.Event()
    seen = threading.Semaphore(0)

    def hold(_: Request) -> None:
        seen.release()
        held.wait(30)

    hook["on"] = hold
    system.settings = system.settings.model_copy(update={"llm_deadline_s": 1.0})
    system.start("score")
    worker = system.start("llm")
    system.client.submit("tone", items(3))
    assert seen.acquire(timeout=60)
    worker.kill()
    worker.wait()
    del hook["on"]
    held.set()
    with system.store.begin() as tx:  # the lease of a dead worker is long; its end is not what is tested
        tx.execute(text("UPDATE asks SET lease_until = now() WHERE state = 'calling'"))
        tx.execute(text("UPDATE calls SET created_at = now() - interval '1 hour' WHERE state = 'sent'"))
    system.start("llm")
    until(lambda: system.done() == 3, "all items to be done")
    system.assert_sound(3)
    unknown = system.one("SELECT count(*) FROM calls WHERE state = 'unknown' AND cost_usd = reserved_usd")
    assert unknown >= 1
    assert system.one("SELECT count(*) FROM calls") == 3 + unknown


def test_a_broker_that_comes_back_empty_costs_time_and_no_item(system: System) -> None:
    system.apply()
    system.client.submit("tone", items(400))  # its messages are in the broker, and nobody took them yet
    system.broker.kill()
    system.broker.start()
    system.start("score")
    system.start("llm")
    until(lambda: system.done() == 400, "all items to be done")
    system.broker.kill()
    receipt = system.client.submit("tone", items(40, start=400))  # accepted while there is no broker at all
    assert receipt.accepted == 40
    system.broker.start()
    until(lambda: system.done() == 440, "the workers to come back by themselves")
    system.assert_sound(440)


def test_a_broker_without_memory_ends_no_worker(system: System) -> None:
    system.apply()
    workers = [system.start(lane) for lane in ("score", "llm", "distil")]
    system.client.submit("tone", items(20))
    until(lambda: system.done() == 20, "the workers to run")
    until(lambda: system.one("SELECT count(*) FROM workers") == 3, "all of them")
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    rows = tuple(range(1, 5))
    system.runtime.publisher.publish([Wake(lane, "tone", rows) for lane in ("score", "llm", "distil") for _ in rows])
    with redis.Redis.from_url(system.broker.url) as broker:
        broker.config_set("maxmemory", "1kb")
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        until(lambda: system.logged("OutOfMemoryError") >= 3, "messages that cannot be taken")
        assert system.client.submit("tone", items(40, start=20)).accepted == 40  # nobody can be woken
        broker.config_set("maxmemory", "0")
    until(lambda: system.done() == 60, "the workers to take messages again")
    assert [worker.poll() for worker in workers] == [None, None, None]
    system.assert_sound(60)


def test_repeated_and_reordered_messages_ask_the_llm_once(system: System) -> None:
    system.apply()
    system.client.submit("tone", items(60))
    rows = tuple(row[0] for row in system.rows("SELECT id FROM items ORDER BY id DESC"))
    for _ in range(3):
        system.runtime.publisher.publish([Wake("score", "tone", rows), Wake("score", "tone", rows[:7])])
    system.start("score")
    system.start("score")
    system.start("llm")
    until(lambda: system.done() == 60, "all items to be done")
    asks = tuple(row[0] for row in system.rows("SELECT id FROM asks"))
    system.runtime.publisher.publish([Wake("llm", "tone", asks), Wake("llm", "tone", asks)])
    system.client.submit("tone", items(10, start=60))
    until(lambda: system.done() == 70, "what came after the repeated messages")
    system.assert_sound(70)
    assert system.simulator.ledger["served"] == 70


def test_a_paid_reply_that_comes_after_its_lease_is_used(system: System, hook: Hook) -> None:
    system.apply()
    held = threading.Event()
    seen = threading.Semaphore(0)

    def hold(_: Request) -> None:
        seen.release()
        held.wait(30)

    hook["on"] = hold
    system.start("score")
    worker = system.start("llm")
    system.client.submit("tone", items(1))
    assert seen.acquire(timeout=60)
    worker.send_signal(signal.SIGSTOP)
    with system.store.begin() as tx:  # as tick does it when the lease of a stopped worker has run out
        tx.execute(text("UPDATE asks SET state = 'waiting', lease_token = NULL, not_before = 'infinity'"))
        tx.execute(
            text("UPDATE calls SET state = 'unknown', cost_usd = reserved_usd, settled_at = now() WHERE state = 'sent'")
        )
    held.set()
    worker.send_signal(signal.SIGCONT)
    until(lambda: system.done() == 1, "the late reply to finish the item")
    system.assert_sound(1)
    assert system.rows("SELECT state FROM calls") == [("answered",)]
    assert system.simulator.ledger["served"] == 1


def test_a_worker_that_is_asked_to_stop_drains_and_exits_0(system: System) -> None:
    system.apply()
    score, llm = system.start("score"), system.start("llm")
    system.client.submit("tone", items(500))
    until(lambda: system.done() > 20, "the first outcomes")
    for worker in (score, llm):
        worker.send_signal(signal.SIGTERM)
    assert score.wait(timeout=60) == 0
    assert llm.wait(timeout=60) == 0
    system.start("score")
    system.start("llm")
    until(lambda: system.done() == 500, "the rest")
    system.assert_sound(500)
    assert system.simulator.ledger["served"] == 500


def test_a_distillation_that_is_asked_to_stop_exits_0_at_once_and_is_gone_on_with(system: System) -> None:
    system.apply(distil={"every_s": 0.5, "min_new_answers": 150, "max_answers": 150}, small_model={"max_tokens": 16})
    system.start("score")
    system.start("llm")
    worker = system.start("distil")
    system.client.submit("tone", plain_items(600))
    until(lambda: kept_states(system) != [], "a run that has written down where it stands")
    run = f"SELECT state, attempts FROM distillations WHERE id = {run_of(kept_states(system)[0])}"
    ((_, attempts),) = system.rows(run)  # a busy machine may have let the first lease run out
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0
    assert system.rows(run) == [("due", attempts - 1)]
    assert '"state": "stopped"' in system.log("distil", -1)
    assert kept_states(system) != []
    system.start("distil")
    ended = [[("promoted", attempts)], [("rejected", attempts)]]
    until(lambda: system.rows(run) in ended, "the next worker to end it")
    assert '"stage": "resume"' in system.log("distil", -1)
    until(lambda: kept_states(system) == [], "its state to be removed")
