"""What workers report of themselves, and when a worker that lives is called stuck."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from lanes import NAME, World
from typer.testing import CliRunner

from datashunt.cli import app
from datashunt.items import Wake
from datashunt.pipeline import liveness
from datashunt.pipeline.liveness import Health
from datashunt.pipeline.pulse import Pulse
from datashunt.store import Store, workers
from datashunt.store.workers import Sign

HERE = "here"


def sign(name: str = "score@here", **other: Any) -> Sign:
    known = {"host": HERE, "pid": 7, "queues": ("score",), "taken": 3, "up_s": 500.0, "idle_s": 1.0}
    return Sign(name, **{**known, **other})


def report(store: Store, *signs: Sign) -> None:
    with store.begin() as tx:
        for one in signs:
            workers.report(tx, one)


def look(world: World, queue: str = "score", host: str = HERE) -> Health:
    return liveness.examine(world.store, world.runtime.publisher, world.settings, queue, host)


def publish(world: World, lane: str = "score") -> None:
    world.runtime.publisher.publish([Wake(lane, NAME, (1,))])


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between two looks, none of which is waited for."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_a_worker_that_worked_a_moment_ago_is_well_whatever_waits(world: World, again: list[float]) -> None:
    report(world.store, sign(idle_s=70.0))
    publish(world)
    assert look(world) == Health(True, "score@here lives, and worked 70 s ago")
    assert again == []


def test_an_idle_worker_is_well_while_nothing_waits(world: World, again: list[float]) -> None:
    report(world.store, sign(idle_s=10_000.0))
    assert look(world) == Health(True, "score@here lives, and no message waits in the queue score")
    assert again == []


@pytest.mark.parametrize(("queue", "limit_s"), [("score", 75), ("llm", 105), ("intake", 105), ("distil", 135)])
def test_a_worker_that_sits_on_messages_for_longer_than_a_lease_is_not(
    world: World, again: list[float], queue: str, limit_s: int
) -> None:
    app_ = world.runtime.publisher._app
    app_.send_task("datashunt.tick", queue=queue)
    app_.send_task("datashunt.tick", queue=queue)
    report(world.store, sign(queues=(queue,), idle_s=limit_s - 2.0))
    assert look(world, queue).ok
    report(world.store, sign(queues=(queue,), idle_s=limit_s + 1.0, pid=8))
    assert look(world, queue) == Health(
        False,
        f"score@here lives, but has done nothing for {limit_s + 1} s, and 2 messages wait in the queue {queue}",
    )
    assert again == [2 * liveness.every_s(world.settings)]


def test_a_message_that_came_just_now_and_is_taken_at_the_second_look_proves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(world.store, sign(idle_s=500.0))
    publish(world)
    monkeypatch.setattr(time, "sleep", lambda _: report(world.store, sign(idle_s=500.0, taken=4)))
    assert look(world) == Health(True, "score@here lives, and takes messages")


def test_a_worker_without_a_sign_of_life_is_not_well(world: World) -> None:
    assert look(world) == Health(False, "no worker of the queue score on here has given a sign of life")
    report(world.store, sign(), sign("llm@here", queues=("llm", "intake")))
    world.change("UPDATE workers SET seen_at = now() - interval '31 seconds' WHERE name = 'score@here'")
    assert look(world) == Health(False, "score@here gave its last sign of life 31 s ago")
    assert look(world, "llm").ok
    assert look(world, host="elsewhere").why == "no worker of the queue score on elsewhere has given a sign of life"


def test_a_row_of_an_earlier_worker_of_this_host_does_not_count(world: World) -> None:
    report(world.store, sign("old@here", idle_s=900.0), sign())
    world.change("UPDATE workers SET seen_at = now() - interval '900 seconds' WHERE name = 'old@here'")
    publish(world)
    assert look(world).ok


@pytest.mark.parametrize("broken", ["database_url", "broker_url"])
def test_what_cannot_be_found_out_is_no_fault_of_the_worker(world: World, broken: str) -> None:
    report(world.store, sign(idle_s=500.0))
    url = {"database_url": "postgresql://a@127.0.0.1:9/x", "broker_url": "redis://127.0.0.1:9/0"}[broken]
    secret = type(world.settings.database_url)
    away = type(world.runtime)(world.settings.model_copy(update={broken: secret(url)}))
    found = liveness.examine(away.store, away.publisher, world.settings, "score", HERE)
    away.close()
    assert found.ok
    assert found.why.startswith("nothing is known of the queue score: ")
    assert "check that it runs" in found.why


def test_a_worker_is_forgotten_when_it_ends_and_a_killed_one_after_a_day(world: World) -> None:
    report(world.store, sign("killed@here"), sign())
    with world.store.begin() as tx:
        workers.gone(tx, sign(pid=6))  # another process of this name
        workers.gone(tx, sign())
        assert [one.name for one in workers.listed(tx)] == ["killed@here"]
    world.change("UPDATE workers SET seen_at = now() - interval '25 hours'")
    report(world.store, sign())
    with world.store.begin() as tx:
        assert [one.name for one in workers.listed(tx)] == ["score@here"]


def test_a_pulse_reports_what_was_taken_and_no_more_often_than_it_should(world: World) -> None:
    pulse = Pulse()
    pulse.report(world.store, world.settings)
    assert world.rows("SELECT * FROM workers") == []  # no worker yet
    pulse.begin("score@me", {"score"})
    pulse.take()
    pulse.take()
    pulse.report(world.store, world.settings)
    pulse.take()
    pulse.report(world.store, world.settings)
    ((name, host, queues, taken),) = world.rows("SELECT name, host, queues, taken FROM workers")
    assert (name, host, queues, taken) == ("score@me", socket.gethostname(), ["score"], 2)
    assert world.one("SELECT now() - worked_at < interval '30 seconds' FROM workers") is True
    pulse.end(world.store)
    assert world.rows("SELECT * FROM workers") == []


def test_a_forked_process_that_works_is_a_sign_of_work_of_its_worker(world: World) -> None:
    report(world.store, sign(idle_s=500.0))
    with world.store.begin() as tx:
        workers.works(tx, "score@here")
    report(world.store, sign(idle_s=501.0))  # the parent, which has seen nothing of it
    assert world.one("SELECT now() - worked_at < interval '60 seconds' FROM workers") is True
    report(world.store, sign(idle_s=501.0, pid=9))  # another worker of this name
    assert world.one("SELECT now() - worked_at > interval '60 seconds' FROM workers") is True


def use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands use the servers of this test."""
    for name in ("database_url", "broker_url"):
        monkeypatch.setenv(f"DATASHUNT_{name.upper()}", getattr(world.settings, name).get_secret_value())


def test_the_commands_show_and_judge_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    use(world, monkeypatch)
    run = CliRunner().invoke
    assert "no worker has given a sign of life within a day" in run(app, ["status"]).output
    report(world.store, sign(host=socket.gethostname()))
    assert run(app, ["healthy", "--queue", "score"]).exit_code == 0
    ended = run(app, ["healthy", "--queue", "llm"])
    assert (ended.exit_code, ended.output.startswith("no worker of the queue llm on ")) == (1, True)
    assert "score@here" in run(app, ["status"]).output
    (shown,) = json.loads(run(app, ["status", "--workers", "--json"]).output)
    assert (shown["name"], shown["queues"], shown["taken"]) == ("score@here", ["score"], 3)
    wrong = run(app, ["healthy", "--queue", "scores"])
    assert wrong.exit_code == 1
    assert "expected score, llm, intake, distil, found 'scores'" in str(wrong.exception)


def test_status_fails_while_a_worker_lives_and_takes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, again: list[float]
) -> None:
    use(world, monkeypatch)
    run = CliRunner().invoke
    report(world.store, sign(idle_s=10_000.0), sign("llm@here", queues=("llm", "intake"), idle_s=10_000.0))
    assert run(app, ["status"]).exit_code == 0, "nothing waits for them"
    publish(world)
    for more in ([], ["--json"], ["--workers"], ["--workers", "--json"]):
        ended = run(app, ["status", *more])
        assert ended.exit_code == 1
        assert "score@here lives, but has done nothing for" in " ".join(ended.stderr.split())
        assert "llm@here" not in ended.stderr
    report(world.store, sign(idle_s=1.0))
    assert run(app, ["status"]).exit_code == 0
