"""The simulation over real HTTP, as the official client and a bare socket see it."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest
from simulated import ROWS, SPEC, ask, client_of, connection_to, label_of, port_of, write_answers

from datashunt.classifier import NONE_OF_THESE
from datashunt.errors import UsageError
from datashunt.prompts import render
from datashunt.simulator import (
    Options,
    Request,
    Response,
    Simulator,
    completion_of,
    error,
    parse_chat,
    throttled,
)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return write_answers(tmp_path)


@pytest.fixture
def simulator(answers: Path) -> Iterator[Simulator]:
    with Simulator(Options(answers=answers)) as running:
        yield running


def request_for(text: str) -> bytes:
    prompt = render(SPEC, text)
    body = {"model": "m", "messages": prompt.messages, "response_format": prompt.response_format}
    sent = json.dumps(body).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer k\r\nContent-Length: %d\r\n\r\n"
    return head % len(sent) + sent


def wait_until_served(simulator: Simulator, requests: int) -> None:
    deadline = time.monotonic() + 60
    while simulator.ledger["served"] < requests:
        assert time.monotonic() < deadline


def test_it_answers_from_the_file_with_logprobs_and_usage(simulator: Simulator) -> None:
    with client_of(simulator) as client:
        completion = ask(client, "  Good. ", logprobs=True, top_logprobs=20)
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == ('{"label":"positive"}', "stop")
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    alternatives = {top.token: math.exp(top.logprob) for top in choice.logprobs.content[3].top_logprobs}
    assert alternatives == pytest.approx({"positive": 0.7, "negative": 0.2, "mixed": 0.1})
    assert completion.usage.prompt_tokens == render(SPEC, "  Good. ").tokens()
    assert completion.usage.completion_tokens == len(choice.logprobs.content)
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_it_gives_no_logprobs_unless_asked_or_when_switched_off(simulator: Simulator, answers: Path) -> None:
    with client_of(simulator) as client:
        assert ask(client, "Good.").choices[0].logprobs is None
    with Simulator(Options(answers=answers, without=frozenset({"logprobs"}))) as silent, client_of(silent) as client:
        assert ask(client, "Good.", logprobs=True, top_logprobs=5).choices[0].logprobs is None


def test_it_honours_the_labels_that_the_prompt_offers(simulator: Simulator) -> None:
    with client_of(simulator) as client:
        assert label_of(ask(client, "Good.", ["positive", "negative"])) == "positive"
        assert label_of(ask(client, "Good.", ["negative", "mixed_feelings"])) == NONE_OF_THESE


def test_it_obeys_nothing_that_stands_in_a_text(simulator: Simulator) -> None:
    with client_of(simulator) as client:
        assert label_of(ask(client, str(ROWS[2]["text"]))) == "negative"


def test_it_answers_any_other_text_the_same_way_again(simulator: Simulator) -> None:
    with client_of(simulator) as client:
        text = "Never seen \u2028 \x00 é"
        first, second = (ask(client, text, logprobs=True, top_logprobs=5) for _ in range(2))
    assert label_of(first) in SPEC.labels
    assert first.choices == second.choices
    assert simulator.ledger["unknown"] == 2


def test_it_says_everywhere_that_it_is_a_simulation(simulator: Simulator) -> None:
    with client_of(simulator) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-5",
            messages=render(SPEC, "Bad.").messages,  # type: ignore[arg-type]
            response_format=render(SPEC, "Bad.").response_format,  # type: ignore[call-overload]
        )
        models = client.models.list().data
        with pytest.raises(openai.NotFoundError, match="simulation") as caught:
            client.embeddings.create(model="m", input="x")
    completion = raw.parse()
    assert completion.model == "simulation/gpt-5"
    assert completion.system_fingerprint.startswith("simulation-")
    assert raw.headers["x-datashunt-simulation"] == "true"
    assert raw.headers["server"] == "datashunt-simulation"
    assert [model.owned_by for model in models] == ["simulation"]
    assert caught.value.response.headers["x-datashunt-simulation"] == "true"


def test_limits_throttle_with_the_headers_of_the_protocol(answers: Path) -> None:
    with Simulator(Options(answers=answers, rpm=1, tpm=10_000)) as simulator, client_of(simulator) as client:
        served = ask(client, "Good.")
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client, "Bad.")
        headers = caught.value.response.headers
    assert 0 < float(headers["retry-after"]) <= 60
    assert 0 < int(headers["retry-after-ms"]) <= 60_000
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-remaining-tokens"] == str(10_000 - served.usage.total_tokens)
    assert {"x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"} <= set(headers)
    assert caught.value.code == "rate_limit_exceeded"
    assert simulator.ledger["throttled"] == 1


def test_the_limit_frees_up_when_its_window_has_passed(answers: Path) -> None:
    options = Options(answers=answers, rpm=1, window_s=0.2)
    with Simulator(options) as simulator, client_of(simulator, max_retries=9) as client:
        assert [label_of(ask(client, "Good.")) for _ in range(3)] == ["positive"] * 3


def test_the_ledger_counts_to_the_token_what_clients_were_told(simulator: Simulator) -> None:
    with client_of(simulator) as client, ThreadPoolExecutor(8) as pool:
        texts = [str(row["text"]) for row in ROWS] * 10
        replies = list(pool.map(lambda text: ask(client, text), texts))
        served = client.get("/../simulator/ledger", cast_to=object)
    assert served == simulator.ledger
    prompt = sum(reply.usage.prompt_tokens for reply in replies)
    completion = sum(reply.usage.completion_tokens for reply in replies)
    counts = {
        "requests": 30,
        "served": 30,
        "throttled": 0,
        "failed": 0,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "peak_requests": 30,
        "peak_tokens": prompt + completion,
    }
    assert simulator.ledger == {
        "simulation": True,
        "window_s": 60.0,
        **counts,
        "endpoints": {"chat": counts},
        "models": {"small-llm": counts},
        "faults": {},
        "unknown": 0,
        "items": {"r1": 10, "r2": 10, "r3": 10},
    }


def test_a_reply_takes_its_latency(answers: Path) -> None:
    with Simulator(Options(answers=answers, latency_ms=50)) as simulator, client_of(simulator) as client:
        started = time.monotonic()
        assert label_of(ask(client, "Bad.")) == "negative"
        assert time.monotonic() - started >= 0.05


def test_hundreds_of_requests_can_wait_for_their_replies_at_once(answers: Path) -> None:
    together = 400
    options = Options(answers=answers, latency_ms=600_000)
    with Simulator(options) as simulator, ExitStack() as stack:
        for _ in range(together):
            stack.enter_context(connection_to(simulator)).sendall(request_for("Bad."))
        # No reply can have gone yet, so what is counted is under way.
        wait_until_served(simulator, together)


def test_a_hook_can_hold_a_reply_until_it_is_released(answers: Path) -> None:
    release = threading.Event()

    def hold(request: Request) -> None:
        if parse_chat(request).item == "Good.":
            release.wait(30)

    with (
        Simulator(Options(answers=answers), on_request=hold) as simulator,
        ThreadPoolExecutor(1) as pool,
        client_of(simulator) as client,
    ):
        held = pool.submit(ask, client, "Good.")
        assert label_of(ask(client, "Bad.")) == "negative"
        assert not held.done()
        release.set()
        assert label_of(held.result(30)) == "positive"


def test_a_hook_can_answer_instead_and_the_ledger_books_it(answers: Path) -> None:
    script = [
        lambda _: throttled(0.5),
        lambda _: error(500, "down", kind="server_error"),
        lambda request: completion_of(parse_chat(request), "outside"),
        lambda _: None,
    ]

    def hook(request: Request) -> Response | None:
        return script.pop(0)(request)

    with Simulator(Options(answers=answers), on_request=hook) as simulator, client_of(simulator) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client, "Good.")
        assert caught.value.response.headers["retry-after"] == "0.5"
        with pytest.raises(openai.InternalServerError):
            ask(client, "Good.")
        outside = ask(client, "Good.")
        assert label_of(outside) == "outside"
        usual = ask(client, "Good.")
    ledger = simulator.ledger
    assert (ledger["requests"], ledger["served"], ledger["throttled"], ledger["failed"]) == (4, 2, 1, 1)
    assert ledger["prompt_tokens"] == outside.usage.prompt_tokens + usual.usage.prompt_tokens
    assert ledger["items"] == {"r1": 1}


def test_an_error_in_a_hook_becomes_a_500(answers: Path) -> None:
    def broken(_: Request) -> None:
        raise ZeroDivisionError

    with (
        Simulator(Options(answers=answers), on_request=broken) as simulator,
        client_of(simulator) as client,
        pytest.raises(openai.InternalServerError, match="ZeroDivisionError"),
    ):
        ask(client, "Good.")


def test_several_requests_in_one_write_are_answered_in_order(simulator: Simulator) -> None:
    with connection_to(simulator) as raw:
        raw.sendall(
            b"GET /healthz HTTP/1.1\r\n\r\nPUT /healthz HTTP/1.1\r\n\r\n"
            b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    assert re.findall(rb"HTTP/1\.1 (\d+) ", received) == [b"200", b"405", b"404"]


def test_bytes_that_are_no_request_get_a_400_and_the_connection_ends(simulator: Simulator) -> None:
    with connection_to(simulator) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in received


def test_a_client_that_leaves_before_its_reply_is_booked_all_the_same(answers: Path) -> None:
    arrived, release = threading.Event(), threading.Event()

    def hold(request: Request) -> None:
        if parse_chat(request).item == "Good.":
            arrived.set()
            release.wait(30)

    with Simulator(Options(answers=answers), on_request=hold) as simulator, client_of(simulator) as client:
        with connection_to(simulator) as leaving:
            leaving.sendall(request_for("Good."))
            assert arrived.wait(30)
        release.set()
        assert label_of(ask(client, "Bad.")) == "negative"
        wait_until_served(simulator, 2)
    assert simulator.ledger["items"] == {"r1": 1, "r2": 1}


def test_a_stopping_server_still_sends_the_reply_that_is_under_way(answers: Path) -> None:
    arrived, release = threading.Event(), threading.Event()

    def hold(_: Request) -> None:
        arrived.set()
        release.wait(30)

    def release_when_closed(idle: socket.socket) -> None:
        idle.recv(1)
        release.set()

    with ThreadPoolExecutor(2) as pool:
        with Simulator(Options(answers=answers), on_request=hold) as simulator:
            client = client_of(simulator)
            idle = connection_to(simulator)
            reply = pool.submit(ask, client, "Good.")
            assert arrived.wait(30)
            # Idle connections end first: the server is stopping when the reply is released.
            closed = pool.submit(release_when_closed, idle)
        with client, idle:
            closed.result(30)
            assert label_of(reply.result(30)) == "positive"


def test_a_port_that_is_taken_is_an_error_that_names_it(simulator: Simulator, answers: Path) -> None:
    port = port_of(simulator)
    with pytest.raises(UsageError, match=f":{port}"):
        Simulator(Options(answers=answers, port=port)).__enter__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_foreground_server_announces_itself_and_ends_on_a_signal(answers: Path, number: int) -> None:
    code = "import pathlib, sys; from datashunt.simulator import Options, run; run(Options(pathlib.Path(sys.argv[1])))"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(answers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("simulation of an LLM at http://127.0.0.1:")
        with openai.OpenAI(base_url=line.split()[5], api_key="any", max_retries=0) as client:
            assert label_of(ask(client, "Bad.")) == "negative"
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
