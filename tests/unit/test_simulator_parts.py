"""Tokens and log-probabilities, rate limits, options and bytes of the simulation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from datashunt.errors import UsageError
from datashunt.simulator import Options, Request, Response
from datashunt.simulator.answers import Answers, Known
from datashunt.simulator.endpoint import Endpoint
from datashunt.simulator.messages import Refused
from datashunt.simulator.tokens import pieces, speak, to_json
from datashunt.simulator.window import Window, duration
from datashunt.simulator.wire import MAX_BODY, MAX_HEAD, render, take

LABELS = st.text(max_size=40)
ANSWERS = Answers(("yes", "no"), "abc", {"t": Known("1", {"yes": 0.9, "no": 0.1})})


@settings(deadline=None)
@given(LABELS)
def test_the_pieces_of_a_label_are_its_json_spelling(label: str) -> None:
    assert "".join(pieces(label)) == json.dumps(label, ensure_ascii=False)[1:-1]


def test_short_labels_are_one_token_and_long_ones_share_their_beginning() -> None:
    assert pieces("positive") == ("positive",)
    assert pieces("card_payment_fee") == ("card", "_payment", "_fee")
    assert pieces("card_payment_wrong")[:2] == pieces("card_payment_fee")[:2]


@settings(deadline=None)
@given(st.dictionaries(LABELS, st.floats(0.01, 1), min_size=1, max_size=8), st.data())
def test_the_tokens_spell_the_reply_and_multiply_to_the_labels_probability(
    weights: dict[str, float], data: st.DataObject
) -> None:
    total = sum(weights.values())
    label = data.draw(st.sampled_from(sorted(weights)))
    tokens = speak(label, {other: weight / total for other, weight in weights.items()})
    assert json.loads("".join(token.text for token in tokens)) == {"label": label}
    joint = math.prod(dict(token.choices)[token.text] for token in tokens)
    assert joint == pytest.approx(weights[label] / total)
    for token in tokens:
        assert sum(p for _, p in token.choices) == pytest.approx(1)


def test_alternatives_are_conditional_on_the_tokens_before() -> None:
    tokens = speak("card_payment_fee", {"card_payment_fee": 0.3, "card_payment_wrong": 0.1, "other": 0.6})
    by_text = {token.text: dict(token.choices) for token in tokens}
    assert by_text["card"] == pytest.approx({"other": 0.6, "card": 0.4})
    assert by_text["_fee"] == pytest.approx({"_fee": 0.75, "_wrong": 0.25})


def test_a_label_that_begins_another_one_is_told_apart_at_its_end() -> None:
    tokens = speak("positive", {"positive": 0.2, "positive_mixed": 0.8})
    assert dict(tokens[-1].choices) == pytest.approx({'"}': 0.2, "_mixed": 0.8})


def test_only_as_many_alternatives_are_told_as_asked_for() -> None:
    token = speak("a", {"a": 0.2, "b": 0.5, "c": 0.3})[3]
    entry = to_json(token, 2)
    assert entry["token"] == "a"
    assert entry["bytes"] == [97]
    assert math.exp(entry["logprob"]) == pytest.approx(0.2)
    assert [top["token"] for top in entry["top_logprobs"]] == ["b", "c"]
    assert to_json(token, 0)["top_logprobs"] == []


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 12)), max_size=60),
    st.integers(1, 5) | st.none(),
    st.integers(1, 30) | st.none(),
)
def test_no_window_ever_holds_more_than_the_limits_and_the_wait_told_is_exact(
    steps: list[tuple[float, int]], rpm: int | None, tpm: int | None
) -> None:
    window, now, taken = Window(rpm, tpm, 60.0), 0.0, []
    for pause, tokens in steps:
        now += round(pause * 16) / 16  # sums of sixteenths are exact
        recent = [(at, n) for at, n in taken if now - at < 60.0]
        excess = window.take(now, tokens)
        request_fits = rpm is None or len(recent) < rpm
        tokens_fit = tpm is None or sum(n for _, n in recent) + tokens <= tpm
        assert (excess is None) == (request_fits and tokens_fit)
        if excess is None:
            taken.append((now, tokens))
        elif not excess.never:
            now += excess.retry_after_s
            assert window.take(now, tokens) is None
            taken.append((now, tokens))
        else:
            assert tpm is not None
            assert tokens > tpm


def test_headers_tell_limit_rest_and_reset() -> None:
    window = Window(10, 100, 60.0)
    window.take(0.0, 30)
    window.take(20.0, 5)
    assert window.headers(30.0) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "8",
        "x-ratelimit-reset-requests": "50s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "65",
        "x-ratelimit-reset-tokens": "50s",
    }
    assert window.headers(80.0)["x-ratelimit-remaining-tokens"] == "100"
    assert Window(None, None, 60.0).headers(0.0) == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0ms"), (0.35, "350ms"), (0.0001, "1ms"), (12.4, "12.4s"), (60.0, "1m0s")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"accuracy": 1.1}, "accuracy"),
        ({"accuracy": math.nan}, "accuracy"),
        ({"port": 70000}, "port"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"rpm": 0}, "rpm"),
        ({"tpm": 0}, "tpm"),
        ({"window_s": 0}, "window_s"),
        ({"max_choices": 1}, "max_choices"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"batch_delay_s": -1}, "batch_delay_s"),
        ({"batch_window_s": 0}, "batch_window_s"),
        ({"without": frozenset({"decisions", "decision", "chats"})}, "names out of chat, .*, found chats, decision$"),
        ({"sample": True, "accuracy": 0.9}, "sample and accuracy"),
    ],
)
def test_an_option_out_of_range_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Options(answers=Path("a.jsonl"), **wrong)


def test_requests_are_cut_off_the_stream_one_by_one_however_the_bytes_arrive() -> None:
    sent = b"POST /a?q=1 HTTP/1.1\r\nContent-Length: 3\r\nX-Y:  z \r\n\r\nabcGET /b HTTP/1.1\r\n\r\n"
    buffer, requests = bytearray(), []
    for byte in sent:
        buffer.append(byte)
        if (request := take(buffer)) is not None:
            requests.append(request)
    assert requests == [
        Request("POST", "/a", {"content-length": "3", "x-y": "z"}, b"abc", {"q": "1"}),
        Request("GET", "/b", {}, b""),
    ]
    assert not buffer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (b"GET / HTTP/1.1\r\n" + b"x" * MAX_HEAD, 431),
    ],
)
def test_bytes_that_become_no_request_are_refused(sent: bytes, status: int) -> None:
    with pytest.raises(Refused) as caught:
        take(bytearray(sent))
    assert caught.value.response.status == status


def test_a_reply_is_rendered_with_its_length_in_bytes() -> None:
    rendered = render(Response(200, {"é": 1}, {"X-A": "b"}), last=True)
    head, _, body = rendered.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: application/json",
        b"Content-Length: 8",
        b"X-A: b",
        b"Connection: close",
    ]
    assert json.loads(body) == {"é": 1}


def chat_body(**changes: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"label": {"type": "string", "enum": ["yes", "no"]}}}
    return {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Classify."},
            {"role": "user", "content": '{"item": "t"}'},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
    } | changes


def post(endpoint: Endpoint, body: object, headers: Mapping[str, str] | None = None) -> Response:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    authorized = {"authorization": "Bearer key"} if headers is None else headers
    return endpoint.handle(Request("POST", "/v1/chat/completions", authorized, sent))


def endpoint_with(now: list[float] | None = None, **options: Any) -> Endpoint:
    clock = now or [0.0]
    return Endpoint(Options(answers=Path("-"), **options), ANSWERS, lambda: clock[0])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (chat_body(model=""), "model"),
        (chat_body(messages=[]), "messages"),
        (chat_body(messages=[{"role": "user", "content": "plain text"}]), "messages"),
        (chat_body(messages=[{"role": "user", "content": '{"text": "t"}'}]), "messages"),
        (chat_body(response_format={"type": "json_object"}), "response_format"),
        (chat_body(stream=True), "stream"),
        (chat_body(n=2), "n"),
        (chat_body(top_logprobs=5), "top_logprobs"),
        (chat_body(logprobs=True, top_logprobs=21), "top_logprobs"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_its_parameter(body: object, param: str | None) -> None:
    endpoint = endpoint_with()
    response = post(endpoint, body)
    assert response.status == 400
    problem = response.body["error"]
    assert problem["type"] == "invalid_request_error"
    assert param is None or problem["param"].startswith(param)
    assert (endpoint.ledger.to_json()["failed"], endpoint.ledger.to_json()["prompt_tokens"]) == (1, 0)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer "}, {"authorization": "Basic key"}])
def test_a_request_without_a_key_is_unauthorized(headers: dict[str, str]) -> None:
    assert post(endpoint_with(), chat_body(), headers).status == 401


def test_only_the_key_that_was_set_is_let_in() -> None:
    endpoint = endpoint_with(api_key=SecretStr("secret"))
    assert post(endpoint, chat_body()).status == 401
    assert post(endpoint, chat_body(), {"authorization": "Bearer secret"}).status == 200


def test_a_reply_is_cut_after_max_tokens_and_charged_so() -> None:
    endpoint = endpoint_with()
    response = post(endpoint, chat_body(max_tokens=4))
    choice = response.body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('{"label":"yes', "length")
    assert response.body["usage"]["completion_tokens"] == 4
    whole = post(endpoint, chat_body(max_completion_tokens=5)).body["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == ('{"label":"yes"}', "stop")


def test_requests_over_the_limit_are_throttled_and_cost_nothing() -> None:
    now = [0.0]
    endpoint = endpoint_with(now, rpm=2)
    statuses = []
    for now[0] in (0.0, 10.0, 20.5, 59.9, 60.0, 69.9, 70.0):
        statuses.append(post(endpoint, chat_body()).status)
    assert statuses == [200, 200, 429, 429, 200, 429, 200]
    now[0] = 100.25
    throttled = post(endpoint, chat_body())
    assert throttled.headers["Retry-After"] == "19.75"
    assert throttled.headers["retry-after-ms"] == "19750"
    assert throttled.headers["x-ratelimit-remaining-requests"] == "0"
    ledger = endpoint.ledger.to_json()
    assert (ledger["requests"], ledger["served"], ledger["throttled"]) == (8, 4, 4)
    assert ledger["items"] == {"1": 4}


@given(st.lists(st.sampled_from([0.0, 59.5, 60.0]), max_size=9), st.lists(st.sampled_from([0.0, 0.5]), min_size=1))
def test_the_ledger_never_finds_more_than_the_limit_let_in(pauses: list[float], steps: list[float]) -> None:
    now, step = [0.0], cycle(steps)

    def clock() -> float:  # time goes by between any two looks at it
        now[0] += next(step)
        return now[0]

    endpoint = Endpoint(Options(answers=Path("-"), rpm=1), ANSWERS, clock)
    for pause in pauses:
        now[0] += pause
        post(endpoint, chat_body())
    assert endpoint.ledger.to_json()["peak_requests"] <= 1


def test_a_request_larger_than_the_token_limit_is_told_so() -> None:
    response = post(endpoint_with(tpm=5), chat_body())
    assert response.status == 429
    assert "too large" in response.body["error"]["message"]
    assert response.body["error"]["type"] == "tokens"
