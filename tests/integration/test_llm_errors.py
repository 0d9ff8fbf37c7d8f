"""Every way in which an endpoint fails, over HTTP: what happens is what the table in docs/llm.md says."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from lanes import NAME, World
from pydantic import SecretStr

from datashunt.bootstrap import Runtime
from datashunt.quota import Limits, Open, Slot, allowance
from datashunt.settings import Settings
from datashunt.simulator import Options, Simulator
from datashunt.telemetry import JsonLines

CANARY = "canary-of-the-item"
KEY = "sk-canary-of-the-key"
TEXT = f"negative 0.5 {CANARY} was here"
DOCS = Path(__file__).parents[2] / "docs" / "llm.md"
TRIED_AGAIN_S = 0.2
LATE = re.compile(r"\b(timeout|slow_body)\b")
"""Faults that are only met at the end of the deadline; the others must not meet it."""
Connect = Callable[..., World]


def table() -> dict[str, dict[str, str]]:
    """The lines of the table, by the names in their first column."""
    section = DOCS.read_text(encoding="utf-8").split("## What can go wrong")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    heads, _, *rows = lines
    return {name: dict(zip(heads, row, strict=True)) for row in rows for name in re.findall(r"`(\w+)`", row[0])}


TABLE = table()


@pytest.fixture
def connect(settings: Settings, tmp_path: Path) -> Iterator[Connect]:
    """Makes a world whose LLM is a simulated endpoint with these faults."""
    with ExitStack() as stack:

        def made(faults: str | None, *, options: dict[str, Any] | None = None, **changes: Any) -> World:
            answers = tmp_path / "answers.jsonl"
            answers.write_text(f'{{"id": "i0", "text": "{TEXT}", "probabilities": {{"positive": 1.0}}}}\n')
            rules = None
            if faults is not None:
                rules = tmp_path / "faults.yaml"
                rules.write_text(f"faults:\n  - {faults}\n")
            simulator = stack.enter_context(Simulator(Options(answers=answers, faults=rules, **(options or {}))))
            known = {"llm_base_url": simulator.base_url, "llm_api_key": SecretStr(KEY)}
            known |= {"llm_deadline_s": 0.5 if faults is not None and LATE.search(faults) else 20.0}
            runtime = Runtime(settings.model_copy(update={"llm_max_attempts": 3, **known, **changes}))
            stack.callback(runtime.close)
            world = World(runtime)
            world.apply(llm={"api": "chat"})
            return world

        yield made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails for everybody is tried again soon."""
    monkeypatch.setattr(allowance, "STOPPED_S", TRIED_AGAIN_S)
    monkeypatch.setattr(allowance, "PROBE_S", TRIED_AGAIN_S)


def of_kind(fault: str, *, calls: str = "[1, null]", come_back_s: float = 0.1) -> str:
    """A rule of a file of faults: this happens to these requests."""
    more = {"slow_body": ", slow_s: 60", "429": f", retry_after_s: {come_back_s}"}
    return f"{{fault: {fault}, calls: {calls}{more.get(fault, '')}}}"


def work(world: World) -> None:
    """Ask what waits, whatever it waits for."""
    world.change("UPDATE asks SET not_before = now() WHERE state = 'waiting'")
    world.runtime.asker.run(NAME, [])


def until(world: World, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, (world.states("asks"), world.rows("SELECT detail FROM dead_letters"))
        work(world)


def who_waits(world: World) -> str:
    quota = world.runtime.quota
    assert quota is not None
    model = world.known().spec.llm.model
    found = quota.acquire(world.runtime.llm.quota_key(model), 1, Limits(), max_wait_s=60)
    if isinstance(found, Open):
        return "this model"
    assert isinstance(found, Slot)
    return "everybody" if found.wait_s > 0 else "nobody"


def billed(world: World) -> str:
    call = world.calls()[0]
    if call.prompt_tokens is not None:
        assert call.cost_usd < call.reserved_usd
        return "its tokens"
    assert call.cost_usd in {0, call.reserved_usd}
    return "reserved" if call.cost_usd else "nothing"


def test_the_table_has_every_fault_that_the_simulated_endpoint_has() -> None:
    from datashunt.simulator.faults import KINDS

    assert TABLE.keys() == (KINDS.keys() - {"outage"}) | {"unreachable"}


@pytest.mark.parametrize("name", TABLE)
def test_what_goes_wrong_is_met_as_the_table_says(
    name: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    says = TABLE[name]
    world = (
        connect(None, llm_base_url="http://127.0.0.1:9/v1")
        if name == "unreachable"
        else connect(of_kind(name, come_back_s=30))
    )
    world.score(TEXT)
    world.runtime.asker.run(NAME, [], stop=lambda: world.calls() != [])
    assert len(world.calls()) == 1
    attempts = world.one("SELECT attempts FROM asks")
    assert ("yes" if attempts else "no") == says["attempt used"]
    assert billed(world) == says["billed as"]
    assert who_waits(world) == says["who waits"]

    if says["ends as"] == "dead letter":
        until(world, lambda: world.states("asks") == {"dead": 1})
        detail = world.one("SELECT detail FROM dead_letters")
        kinds = [call.error_kind for call in world.calls()]
        assert detail.count("Z teacher-1") == len(kinds) == (3 if says["attempt used"] == "yes" else len(kinds))
        assert all(f"Z teacher-1 {kind}" in detail for kind in kinds)
    else:
        for _ in range(5):
            work(world)
        assert world.states("asks") == {"waiting": 1}
        assert world.one("SELECT count(*) FROM dead_letters") == 0
    assert_nothing_told(world, caplog)


def assert_nothing_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the item nor the key is in what is logged or stored of errors."""
    told = [JsonLines().format(record) for record in caplog.records]
    told += [detail for (detail,) in world.rows("SELECT detail FROM dead_letters")]
    told += [str(row) for row in world.rows("SELECT error_kind, error, response_model, fingerprint FROM calls")]
    assert any("call_failed" in line for line in told)
    assert not [line for line in told if CANARY in line or KEY in line]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"unreachable", "content_filter"}))
def test_an_item_that_meets_an_error_once_is_answered_all_the_same(name: str, connect: Connect) -> None:
    world = connect(of_kind(name, calls="[1, 1]"))
    world.score(TEXT)
    until(world, lambda: world.states("asks") == {"answered": 1})
    assert world.states() == {"done": 1}
    assert world.one("SELECT count(*) FROM outcomes") == 1
    assert len(world.calls()) == 2


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("name", ["bad_key", "insufficient_quota", "model_not_found"])
def test_an_endpoint_that_lets_nobody_in_raises_one_alarm(
    name: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world = connect(of_kind(name, calls="[1, 4]"))
    world.score(*[f"{TEXT} {number}" for number in range(6)])
    until(world, lambda: world.states() == {"done": 6})
    events = [record.getMessage() for record in caplog.records]
    assert (events.count("llm_given_up"), events.count("llm_works_again")) == (1, 1)
    assert len(world.calls()) == 10
    assert world.one("SELECT max(attempts) FROM asks") == 0


@pytest.mark.usefixtures("soon")
def test_an_outage_uses_up_few_attempts_and_kills_nothing(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = connect(of_kind("503", calls="[3, 20]"))
    world.score(*[f"{TEXT} {number}" for number in range(8)])
    until(world, lambda: world.states() == {"done": 8})
    events = [record.getMessage() for record in caplog.records]
    assert (events.count("llm_given_up"), events.count("llm_works_again")) == (1, 1)
    assert len(world.calls()) == 8 + 18
    assert world.one("SELECT sum(attempts) FROM asks") == allowance.FAILURES - 1


def test_while_an_endpoint_fails_nothing_is_sent_to_it(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "PROBE_S", 3600.0)
    world = connect(of_kind("503"), llm_max_attempts=100)
    world.score(*[f"{TEXT} {number}" for number in range(8)])
    until(world, lambda: len(world.calls()) == allowance.FAILURES)
    for _ in range(5):
        work(world)
    assert len(world.calls()) == allowance.FAILURES
    assert world.states("asks") == {"waiting": 8}


# too long


def test_an_item_that_is_too_long_is_answered_without_its_middle(connect: Connect) -> None:
    world = connect(None, options={"context_tokens": 400})
    world.score(f"{TEXT} {'word ' * 2000}")
    until(world, lambda: world.states("asks") == {"answered": 1})
    assert [call.error_kind for call in world.calls()] == ["context_too_long", None]
    assert 0 < world.one("SELECT keep_chars FROM asks") < 2000


def test_an_item_that_is_too_long_without_its_middle_is_dead(connect: Connect) -> None:
    world = connect(of_kind("context_too_long"))
    world.score(f"{TEXT} {'word ' * 200}")
    until(world, lambda: world.states("asks") == {"dead": 1})
    assert [call.error_kind for call in world.calls()] == ["context_too_long"] * 2
    assert "though it was shortened" in world.one("SELECT detail FROM dead_letters")


# fallbacks


def with_a_fallback(world: World) -> None:
    """Two models, and a bundle: without one some asks are held out, and wait for the first."""
    world.apply(llm={"api": "chat", "model": "first", "models": ["first", "second"]})
    world.bundle()


def test_a_model_that_does_not_exist_is_stood_in_for(connect: Connect) -> None:
    world = connect(None, options={"models": frozenset({"second"})})
    with_a_fallback(world)
    world.score(*[f"{TEXT} {number}" for number in range(4)])
    until(world, lambda: world.states() == {"done": 4})
    assert set(world.rows("SELECT requested_model, fallback, role FROM answers")) == {("second", True, "train")}
    assert [call.model for call in world.calls()].count("first") >= 1


def test_what_judges_is_not_asked_of_a_fallback(connect: Connect) -> None:
    world = connect(None, options={"models": frozenset({"second"})})
    world.apply(llm={"api": "chat", "model": "first", "models": ["first", "second"]}, policy={"audit_rate": 1.0})
    world.score(TEXT)
    assert world.one("SELECT role FROM asks") != "train"
    for _ in range(5):
        work(world)
    assert world.states("asks") == {"waiting": 1}
    assert {call.model for call in world.calls()} == {"first"}


def test_what_the_first_refuses_is_put_to_the_second(connect: Connect) -> None:
    world = connect(of_kind("content_filter", calls="[1, 1]"))
    with_a_fallback(world)
    world.score(TEXT)
    until(world, lambda: world.states("asks") == {"answered": 1})
    assert [(call.model, call.error_kind) for call in world.calls()] == [("first", "content_filter"), ("second", None)]


def test_what_the_first_fails_too_often_is_put_to_the_second(connect: Connect) -> None:
    world = connect(of_kind("500", calls="[1, 3]"))
    with_a_fallback(world)
    world.score(TEXT)
    until(world, lambda: world.states("asks") == {"answered": 1})
    assert [call.model for call in world.calls()] == ["first"] * 3 + ["second"]


def test_while_the_first_is_given_up_the_second_is_asked(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "PROBE_S", 3600.0)
    world = connect(of_kind("500", calls=f"[1, {allowance.FAILURES}]"), llm_max_attempts=100)
    with_a_fallback(world)
    world.score(*[f"{TEXT} {number}" for number in range(8)])
    until(world, lambda: world.states() == {"done": 8})
    assert [call.model for call in world.calls()] == ["first"] * allowance.FAILURES + ["second"] * 8
    assert world.one("SELECT max(fallback) FROM asks") == 0
