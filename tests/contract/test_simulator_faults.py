"""Every fault of the simulation, as the official client meets it, and what the ledger says of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import SecretStr
from simulated import ROWS, SPEC, ask, client_of, connection_to, decide, label_of, write_answers, write_faults

from datashunt.errors import LLMUnavailable
from datashunt.llm import LLM
from datashunt.prompts import render
from datashunt.simulator import Options, Simulator, server

Start = Callable[..., tuple[Simulator, openai.OpenAI]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a simulation with faults, and a client of it."""
    with ExitStack() as stack:

        def begin(faults: str, **options: Any) -> tuple[Simulator, openai.OpenAI]:
            given = Options(write_answers(tmp_path), faults=write_faults(tmp_path, faults), **options)
            simulator = stack.enter_context(Simulator(given))
            return simulator, stack.enter_context(client_of(simulator))

        yield begin


def first_call(fault: str, *more: str) -> str:
    rule = {"fault": int(fault) if fault.isdigit() else fault, "calls": [1, 1]}
    return "faults:\n  - " + "\n    ".join([f"{name}: {json.dumps(value)}" for name, value in rule.items()] + [*more])


def booked(simulator: Simulator, fault: str) -> dict[str, int]:
    counts: dict[str, int] = simulator.ledger["faults"][fault]
    return counts


def tokens_of(simulator: Simulator) -> tuple[int, int]:
    return simulator.ledger["prompt_tokens"], simulator.ledger["completion_tokens"]


@pytest.mark.parametrize(
    ("fault", "raised", "code"),
    [
        ("408", openai.APIStatusError, None),
        ("409", openai.ConflictError, None),
        ("429", openai.RateLimitError, "rate_limit_exceeded"),
        ("500", openai.InternalServerError, None),
        ("502", openai.InternalServerError, None),
        ("503", openai.InternalServerError, None),
        ("504", openai.InternalServerError, None),
        ("content_filter", openai.BadRequestError, "content_filter"),
        ("context_too_long", openai.BadRequestError, "context_length_exceeded"),
        ("model_not_found", openai.NotFoundError, "model_not_found"),
        ("bad_key", openai.AuthenticationError, "invalid_api_key"),
        ("insufficient_quota", openai.RateLimitError, "insufficient_quota"),
    ],
)
def test_an_error_of_the_service_is_not_billed_and_passes(
    start: Start, fault: str, raised: type[openai.APIStatusError], code: str | None
) -> None:
    simulator, client = start(first_call(fault))
    with pytest.raises(raised) as caught:
        ask(client, "Good.")
    assert caught.value.code == code
    assert not fault.isdigit() or caught.value.status_code == int(fault)
    assert "retry-after" not in caught.value.response.headers
    assert tokens_of(simulator) == (0, 0)
    assert label_of(ask(client, "Good.")) == "positive"
    assert booked(simulator, fault) == {"requests": 1, "billed": 0, "prompt_tokens": 0, "completion_tokens": 0}


@pytest.mark.parametrize("fault", ["429", "503"])
def test_retry_after_is_told_where_the_rule_says_so(start: Start, fault: str) -> None:
    _, client = start(first_call(fault, "retry_after_s: 2.5"))
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "Good.")
    assert caught.value.response.headers["retry-after"] == "2.5"
    assert caught.value.response.headers["retry-after-ms"] == "2500"


@pytest.mark.parametrize("fault", ["504", "timeout", "reset", "half_closed"])
@pytest.mark.parametrize("billed", [True, False])
def test_what_is_lost_on_the_way_is_billed_if_the_rule_says_so(start: Start, fault: str, billed: bool) -> None:
    simulator, client = start(first_call(fault, f"billed: {json.dumps(billed)}"))
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError)) as caught:
        ask(client, "Good.", timeout=0.5 if fault == "timeout" else 20.0)
    assert isinstance(caught.value, openai.APITimeoutError) == (fault == "timeout")
    spent = tokens_of(simulator)
    again = ask(client, "Good.").usage
    assert spent == ((again.prompt_tokens, again.completion_tokens) if billed else (0, 0))
    counts = {"requests": 1, "billed": int(billed), "prompt_tokens": spent[0], "completion_tokens": spent[1]}
    assert booked(simulator, fault) == counts
    assert (simulator.ledger["requests"], simulator.ledger["served"], simulator.ledger["failed"]) == (2, 1, 1)


def test_a_slow_body_comes_piece_by_piece_and_is_whole(start: Start) -> None:
    simulator, client = start(
        "faults: [{fault: slow_body, slow_s: 0.3, calls: [1, 1]}, {fault: slow_body, slow_s: 0.3, at: [batches]}]"
    )
    assert label_of(ask(client, "Good.")) == "positive"
    assert label_of(ask(client, "Good.")) == "positive"
    assert booked(simulator, "slow_body")["billed"] == 1
    with connection_to(simulator) as raw:
        raw.sendall(b"GET /v1/batches HTTP/1.1\r\nAuthorization: Bearer k\r\nConnection: close\r\n\r\n")
        pieces = list(iter(lambda: raw.recv(65536), b""))
    assert len(pieces) > 2
    assert json.loads(b"".join(pieces).partition(b"\r\n\r\n")[2])["data"] == []


def test_a_slow_body_outlasts_a_deadline(start: Start) -> None:
    simulator, _ = start(first_call("slow_body", "slow_s: 3600"))
    llm = LLM(simulator.base_url, SecretStr("any"))
    with pytest.raises(LLMUnavailable, match="no whole reply") as caught:
        llm.ask(render(SPEC, "Good."), "m", deadline_s=0.5)
    llm.close()
    assert caught.value.may_be_billed


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", ["timeout", "half_closed", "slow_body, slow_s: 3600"])
def test_a_stop_waits_for_no_reply_that_will_not_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    monkeypatch.setattr(server, "GRACE_S", 3600.0)
    faults = write_faults(tmp_path, f"faults: [{{fault: {fault}, at: [files]}}]")
    with Simulator(Options(write_answers(tmp_path), faults=faults)) as simulator:
        waiting = connection_to(simulator)
        waiting.sendall(b"GET /v1/files HTTP/1.1\r\nAuthorization: Bearer k\r\n\r\n")
        deadline = time.monotonic() + 30
        while not simulator.ledger["faults"]:
            assert time.monotonic() < deadline
    waiting.close()


def test_truncated_json_is_a_whole_http_reply_that_cannot_be_decoded(start: Start) -> None:
    simulator, client = start(first_call("truncated_json"))
    with pytest.raises((openai.APIError, json.JSONDecodeError)):
        ask(client, "Good.")
    assert booked(simulator, "truncated_json")["billed"] == 1
    assert simulator.ledger["served"] == 1


def test_invalid_content_is_a_usual_completion_of_no_json(start: Start) -> None:
    _, client = start(first_call("invalid_content"))
    spoiled = ask(client, "Good.")
    assert spoiled.choices[0].finish_reason == "stop"
    with pytest.raises(json.JSONDecodeError):
        label_of(spoiled)


def test_a_reply_may_be_empty_refused_or_filtered_and_is_billed(start: Start) -> None:
    faults = ["empty_choices", "refusal", "filtered_reply"]
    rules = [f"  - {{fault: {fault}, calls: [{n}, {n}]}}" for n, fault in enumerate(faults, start=1)]
    simulator, client = start("\n".join(["faults:", *rules]))
    empty, refused, filtered, usual = (ask(client, "Good.") for _ in range(4))
    assert empty.choices == []
    assert (refused.choices[0].message.content, bool(refused.choices[0].message.refusal)) == (None, True)
    assert (filtered.choices[0].message.content, filtered.choices[0].finish_reason) == ("", "content_filter")
    assert label_of(usual) == "positive"
    for fault in faults:
        assert booked(simulator, fault)["prompt_tokens"] == usual.usage.prompt_tokens
    assert simulator.ledger["prompt_tokens"] == 4 * usual.usage.prompt_tokens


def test_an_outage_resets_every_request_but_those_for_the_ledger(start: Start) -> None:
    simulator, client = start("faults: [{fault: outage, seconds: [0, null]}]")
    for call in (lambda: ask(client, "Good."), client.models.list, client.batches.list):
        with pytest.raises(openai.APIConnectionError):
            call()
    assert client.get("/../simulator/ledger", cast_to=object) == simulator.ledger
    assert booked(simulator, "outage")["requests"] == 3
    assert tokens_of(simulator) == (0, 0)


def test_a_window_of_time_that_is_over_or_to_come_changes_nothing(start: Start) -> None:
    _, client = start("faults: [{fault: bad_key, seconds: [86400, null]}, {fault: 500, seconds: [0, 0]}]")
    assert label_of(ask(client, "Good.")) == "positive"


def test_faults_at_a_rate_are_the_same_ones_for_the_same_requests(start: Start) -> None:
    def served(seed: int) -> list[bool]:
        _, client = start(f"seed: {seed}\nfaults: [{{fault: 500, rate: 0.5}}]")
        return [tried(client) for _ in range(40)]

    def tried(client: openai.OpenAI) -> bool:
        try:
            return bool(ask(client, "Good."))
        except openai.InternalServerError:
            return False

    first, again, other = served(1), served(1), served(2)
    assert first == again != other
    assert 8 <= sum(first) <= 32


def test_decisions_can_be_refused_empty_or_of_a_choice_that_nobody_offered(start: Start) -> None:
    faults = ["refusal", "empty_choices", "invalid_content"]
    rules = [f"  - {{fault: {fault}, calls: [{n}, {n}]}}" for n, fault in enumerate(faults, start=1)]
    simulator, client = start("\n".join(["faults:", *rules]))
    refused, empty, invalid, usual = (decide(client, "Good.") for _ in range(4))
    assert (refused.answers[0].type, refused.answers[0].name) == ("refusal", "label")
    assert empty.answers == []
    assert invalid.answers[0].choice not in SPEC.labels
    assert usual.answers[0].choice == "positive"
    assert simulator.ledger["prompt_tokens"] == 4 * usual.usage.input_tokens


def test_one_of_several_questions_is_refused_and_the_others_are_answered(start: Start) -> None:
    _, client = start(first_call("refusal"))
    assert sorted(answer.type for answer in decide(client, "Good.", questions=3).answers) == [
        "choice",
        "choice",
        "refusal",
    ]


def test_systemone_can_be_empty_or_of_a_choice_that_nobody_offered(start: Start) -> None:
    _, client = start(
        "faults: [{fault: empty_choices, calls: [1, 1]}, {fault: invalid_content, calls: [2, 2], at: [systemone]}]"
    )
    question = {"type": "choice", "criteria": dict.fromkeys(SPEC.labels)}
    body = {"model": "m", "state": "Good.", "questions": {"q": question}}
    empty, invalid = (client.post("/systemone", body=body, cast_to=object) for _ in range(2))
    assert isinstance(empty, dict)
    assert isinstance(invalid, dict)
    assert empty["answers"] == {}
    assert invalid["answers"]["q"]["choice"] not in SPEC.labels


def test_a_rule_counts_the_requests_of_its_own_endpoints(start: Start) -> None:
    _, client = start("faults: [{fault: 503, calls: [2, 2], at: [decisions]}]")
    assert label_of(ask(client, "Good.")) == "positive"
    assert decide(client, "Good.").answers[0].choice == "positive"
    assert label_of(ask(client, "Good.")) == "positive"
    with pytest.raises(openai.InternalServerError):
        decide(client, "Good.")


def test_a_request_that_is_refused_anyway_is_no_fault(start: Start) -> None:
    simulator, client = start("faults: [{fault: refusal}]", rpm=1)
    assert ask(client, "Good.").choices[0].message.refusal
    with pytest.raises(openai.RateLimitError):
        ask(client, str(ROWS[1]["text"]))
    assert booked(simulator, "refusal")["requests"] == 1


def test_a_connection_that_is_half_closed_still_listens(start: Start) -> None:
    simulator, _ = start("faults: [{fault: half_closed, at: [files]}]")
    with connection_to(simulator) as raw:
        raw.sendall(b"GET /v1/files HTTP/1.1\r\nAuthorization: Bearer k\r\n\r\n")
        received = b"".join(iter(lambda: raw.recv(65536), b""))
        raw.sendall(b"still there")  # a closed socket would reset
        assert received.startswith(b"HTTP/1.1 502 ")
        length = int(received.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert len(received.partition(b"\r\n\r\n")[2]) < length
