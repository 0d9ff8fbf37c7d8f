"""The LLM client against an endpoint that is a function: nothing is patched, nothing is sent."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from datashunt.classifier import NONE_OF_THESE
from datashunt.classifier import parse as parse_spec
from datashunt.errors import (
    LLMError,
    LLMNotFound,
    LLMRejected,
    LLMThrottled,
    LLMUnauthorized,
    LLMUnavailable,
    LLMUnusable,
    SettingsError,
)
from datashunt.items import Reply, Usage
from datashunt.llm import LLM
from datashunt.prompts import Prompt, render

SPEC = parse_spec({"name": "n", "labels": ["positive", "negative"], "instruction": "How does it feel?"})
TEXT = "the parcel of Mrs Rosenbaum arrived broken"
PROMPT = render(SPEC, TEXT)
Handler = Callable[[httpx2.Request], Any]
Connect = Callable[[Handler], LLM]


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[LLM] = []

    def make(handler: Handler) -> LLM:
        made.append(LLM("https://llm.example/v1", SecretStr("sk-secret"), transport=httpx2.MockTransport(handler)))
        return made[-1]

    yield make
    for llm in made:
        llm.close()


def ask(llm: LLM, prompt: Prompt = PROMPT) -> Reply:
    return llm.ask(prompt, "model-1", deadline_s=30)


def completion(content: str | None = '{"label":"positive"}', **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    body = {
        "id": "c",
        "object": "chat.completion",
        "model": "model-1-2026-01-01",
        "system_fingerprint": "fp_7",
        "choices": [choice],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 64},
        },
    }
    return {**body, **fields}


def choice(**fields: Any) -> list[dict[str, Any]]:
    return [{**completion()["choices"][0], **fields}]


def refusal(status: int, *, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Handler:
    body = {"error": {"message": message, "type": None, "param": None, "code": None, **error}}
    content = json.dumps(body).encode()  # with escapes: half a character goes over the wire, too
    return lambda request: httpx2.Response(status, content=content, headers=headers)


def test_one_request_asks_for_one_of_the_labels_and_brings_the_reply(connect: Connect) -> None:
    seen: list[dict[str, Any]] = []

    def endpoint(request: httpx2.Request) -> httpx2.Response:
        assert request.url == "https://llm.example/v1/chat/completions"
        assert request.headers["authorization"] == "Bearer sk-secret"
        seen.append(json.loads(request.content))
        return httpx2.Response(200, json=completion())

    reply = ask(connect(endpoint))
    assert (reply.label, reply.model, reply.fingerprint) == ("positive", "model-1-2026-01-01", "fp_7")
    assert reply.usage == Usage(prompt=120, completion=6, cached=64)
    assert (reply.probabilities, reply.source) == (None, "none")
    assert reply.latency_ms > 0
    (body,) = seen
    assert body["messages"] == [dict(message) for message in PROMPT.messages]
    assert body["response_format"] == PROMPT.response_format
    assert (body["temperature"], body["logprobs"], body["max_tokens"]) == (0, True, PROMPT.max_tokens)
    assert 2 <= body["top_logprobs"] <= 20


def test_log_probabilities_become_label_probabilities(connect: Connect) -> None:
    def token(text: str, p: float = 1.0, **others: float) -> dict[str, Any]:
        alternatives = {text: p, **others}
        return {
            "token": text,
            "logprob": math.log(p),
            "bytes": list(text.encode()),
            "top_logprobs": [{"token": t, "logprob": math.log(q)} for t, q in alternatives.items()],
        }

    logprobs = {"content": [token('{"label":"'), token("positive", 0.7, negative=0.3), token('"}')]}
    body = completion(choices=choice(logprobs=logprobs))
    reply = ask(connect(lambda request: httpx2.Response(200, json=body)))
    assert reply.source == "logprobs"
    assert reply.probabilities == pytest.approx({"positive": 0.7, "negative": 0.3})


@pytest.mark.parametrize("logprobs", [{}, {"content": None}, {"content": [{"token": "x"}]}, {"content": ["x"]}, 3])
def test_log_probabilities_in_no_known_form_are_done_without(connect: Connect, logprobs: Any) -> None:
    body = completion(choices=choice(logprobs=logprobs))
    assert ask(connect(lambda request: httpx2.Response(200, json=body))).source == "none"


def test_none_of_these_is_a_reply_when_it_was_offered(connect: Connect) -> None:
    spec = parse_spec({"name": "n", "labels": ["a", "b", "c"], "instruction": "i"})
    body = completion(json.dumps({"label": NONE_OF_THESE}))
    llm = connect(lambda request: httpx2.Response(200, json=body))
    assert ask(llm, render(spec, TEXT, candidates=["a", "b"])).label == NONE_OF_THESE


def test_a_server_that_reports_no_usage_is_taken_at_our_estimate(connect: Connect) -> None:
    usage = ask(connect(lambda request: httpx2.Response(200, json=completion(usage=None)))).usage
    assert usage == Usage(prompt=PROMPT.tokens(), completion=5)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (completion(None), "empty"),
        (completion("  "), "empty"),
        (completion(choices=[]), "no_choices"),
        (completion("positive"), "invalid_json"),
        (completion('{"label":"angry"}'), "outside_candidates"),
        (completion(choices=choice(message={"refusal": "I will not"})), "refusal"),
        (completion(choices=choice(finish_reason="content_filter")), "content_filter"),
        (completion(choices=choice(finish_reason="length", message={"content": '{"la'})), "length"),
        (completion(choices=choice(message=None)), "empty"),
    ],
)
def test_a_paid_reply_that_names_no_label_says_what_it_cost(connect: Connect, body: dict[str, Any], kind: str) -> None:
    with pytest.raises(LLMUnusable) as caught:
        ask(connect(lambda request: httpx2.Response(200, json=body)))
    error = caught.value
    assert (error.kind, error.http_status) == (kind, 200)
    assert error.usage == Usage(prompt=120, completion=6, cached=64)
    assert (error.model, error.fingerprint) == ("model-1-2026-01-01", "fp_7")


@pytest.mark.parametrize("content", [b"<html>", b"", b"[1]", b'{"error":{"message":"x"}}', b"[" * 100_000])
def test_a_reply_that_is_no_completion_is_unusable(connect: Connect, content: bytes) -> None:
    with pytest.raises(LLMUnusable) as caught:
        ask(connect(lambda request: httpx2.Response(200, content=content)))
    assert (caught.value.kind, caught.value.usage) == ("invalid_body", None)


@pytest.mark.parametrize(
    ("complaint", "missing"),
    [
        ({"param": "logprobs", "message": "Unsupported parameter."}, {"logprobs", "top_logprobs"}),
        ({"message": "logprobs are not supported by this server"}, {"logprobs", "top_logprobs"}),
        ({"message": "response_format type 'json_schema' is unknown"}, {"response_format"}),
        ({"param": "temperature", "message": "Only the default (1) is supported."}, {"temperature"}),
        ({"param": "max_tokens", "message": "Use 'max_completion_tokens' instead."}, {"max_tokens"}),
    ],
)
def test_what_a_server_refuses_is_left_out_at_once_and_from_then_on(
    connect: Connect, complaint: dict[str, str], missing: set[str]
) -> None:
    bodies: list[dict[str, Any]] = []

    def endpoint(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        refused = missing & bodies[-1].keys()
        return refusal(400, **complaint)(request) if refused else httpx2.Response(200, json=completion())

    llm = connect(endpoint)
    assert ask(llm).label == ask(llm).label == "positive"
    first, second, third = bodies
    assert first.keys() - second.keys() == missing
    assert third == second


def test_a_server_that_refuses_everything_is_not_asked_for_ever(connect: Connect) -> None:
    requests = []

    def endpoint(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        word = ["logprobs", "response_format", "temperature", "max_tokens"][(len(requests) - 1) % 4]
        return refusal(400, message=f"bad {word}")(request)

    with pytest.raises(LLMRejected):
        ask(connect(endpoint))
    assert len(requests) == 5


@pytest.mark.parametrize(
    ("answer", "error", "kind"),
    [
        (refusal(401), LLMUnauthorized, "unauthorized"),
        (refusal(403), LLMUnauthorized, "forbidden"),
        (refusal(402), LLMUnauthorized, "insufficient_quota"),
        (refusal(429, code="insufficient_quota"), LLMUnauthorized, "insufficient_quota"),
        (refusal(429), LLMThrottled, "throttled"),
        (refusal(400), LLMRejected, "rejected"),
        (refusal(400, code="context_length_exceeded"), LLMRejected, "context_too_long"),
        (refusal(400, message="maximum context length is 8; max_tokens"), LLMRejected, "context_too_long"),
        (refusal(400, code="content_filter"), LLMRejected, "content_filter"),
        (refusal(404), LLMNotFound, "not_found"),
        (refusal(413), LLMRejected, "context_too_long"),
        (refusal(422), LLMRejected, "rejected"),
        (refusal(408), LLMUnavailable, "server_error"),
        (refusal(409), LLMUnavailable, "server_error"),
        (refusal(500), LLMUnavailable, "server_error"),
        (refusal(503), LLMUnavailable, "server_error"),
        (lambda request: httpx2.Response(502, content=b"<html>bad gateway"), LLMUnavailable, "server_error"),
    ],
)
def test_every_refusal_becomes_the_error_that_says_what_to_do(
    connect: Connect, answer: Handler, error: type[Exception], kind: str
) -> None:
    with pytest.raises(error) as caught:
        ask(connect(answer))
    assert type(caught.value) is error
    assert caught.value.kind == kind  # type: ignore[attr-defined]


def raising(error: Exception) -> Handler:
    def endpoint(request: httpx2.Request) -> httpx2.Response:
        raise error

    return endpoint


@pytest.mark.parametrize(
    ("answer", "kind", "may_be_billed"),
    [
        (raising(httpx2.ConnectError("no")), "connection", False),
        (raising(httpx2.ConnectTimeout("no")), "connection", False),
        (raising(httpx2.ReadTimeout("no")), "timeout", True),
        (raising(httpx2.ReadError("no")), "connection", True),
        (raising(httpx2.RemoteProtocolError("cut")), "connection", True),
        (refusal(500), "server_error", False),
        (refusal(504), "server_error", True),
    ],
)
def test_a_call_without_a_reply_says_whether_it_may_be_billed(
    connect: Connect, answer: Handler, kind: str, may_be_billed: bool
) -> None:
    with pytest.raises(LLMUnavailable) as caught:
        ask(connect(answer))
    assert (caught.value.kind, caught.value.may_be_billed) == (kind, may_be_billed)


def test_the_deadline_ends_a_call_that_hangs(connect: Connect) -> None:
    async def endpoint(request: httpx2.Request) -> httpx2.Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(LLMUnavailable) as caught:
        connect(endpoint).ask(PROMPT, "model-1", deadline_s=0.05)
    assert (caught.value.kind, caught.value.may_be_billed) == ("timeout", True)


def test_nothing_is_tried_twice_in_secret(connect: Connect) -> None:
    requests = []

    def endpoint(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(500)

    with pytest.raises(LLMUnavailable):
        ask(connect(endpoint))
    assert len(requests) == 1


@pytest.mark.parametrize("quoted", [TEXT, f"cannot read {TEXT[10:30]!r}", json.dumps(TEXT)])
@pytest.mark.parametrize("status", [400, 500])
def test_an_error_never_quotes_the_item(connect: Connect, quoted: str, status: int) -> None:
    with pytest.raises((LLMRejected, LLMUnavailable)) as caught:
        ask(connect(refusal(status, message=quoted, code="bad_input")))
    assert str(caught.value).endswith(f"({status}: bad_input)")


def test_an_error_never_quotes_a_short_item_either(connect: Connect) -> None:
    with pytest.raises(LLMRejected) as caught:
        ask(connect(refusal(400, message="what is Rosi?")), render(SPEC, "Rosi"))
    assert "Rosi" not in str(caught.value)


def test_an_error_says_what_the_server_said_when_that_is_harmless(connect: Connect) -> None:
    with pytest.raises(LLMRejected, match="400: enum values must be unique"):
        ask(connect(refusal(400, message="enum values must be unique")))


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("said", ["no\0thing", "half a \ud83d", "\ud800"])
def test_what_a_server_says_can_be_stored(connect: Connect, said: str, status: int) -> None:
    for complaint in ({"message": said, "code": "x"}, {"message": TEXT, "code": said}):
        with pytest.raises((LLMRejected, LLMUnavailable)) as caught:
            ask(connect(refusal(status, **complaint)))
        str(caught.value).encode()
        assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "rejected"), (402, "insufficient_quota"), (403, "forbidden"), (429, "throttled")]
)
@pytest.mark.parametrize("odd", [{}, [], 7, {"a": []}, None])
def test_an_error_page_with_other_types_is_an_error_as_any(
    connect: Connect, status: int, kind: str, odd: object
) -> None:
    def page(request: httpx2.Request) -> httpx2.Response:
        error = {"message": odd, "type": odd, "code": odd, "param": odd}
        return httpx2.Response(status, json={"error": error}, request=request)

    with pytest.raises(LLMError) as caught:
        ask(connect(page))
    assert caught.value.kind == kind


def test_no_item_and_no_key_reach_the_log(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ask(connect(lambda request: httpx2.Response(200, json=completion())))
    with pytest.raises(LLMRejected):
        ask(connect(refusal(400, message=TEXT)))
    assert "Rosenbaum" not in caplog.text
    assert "sk-secret" not in caplog.text


def test_a_key_in_the_environment_alone_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    seen: list[httpx2.Headers] = []

    def endpoint(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers)
        return httpx2.Response(200, json=completion())

    llm = LLM("http://127.0.0.1:1/v1", None, transport=httpx2.MockTransport(endpoint))
    ask(llm)
    llm.close()
    assert "from-the-environment" not in str(seen[0].raw)


@pytest.mark.parametrize("address", ["", "llm.example/v1", "ftp://llm.example", "https://"])
def test_an_address_that_is_none_is_refused_by_the_name_of_its_setting(address: str) -> None:
    with pytest.raises(SettingsError, match="DATASHUNT_LLM_BASE_URL"):
        LLM(address, None)


@pytest.mark.parametrize("key", ["sk-1\n", "sk 1", "sk-ä"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="DATASHUNT_LLM_API_KEY") as caught:
        LLM("https://llm.example/v1", SecretStr(key))
    assert key not in str(caught.value)


def test_limits_are_counted_for_each_endpoint_key_and_model() -> None:
    def key(address: str, secret: str, model: str) -> str:
        return LLM(address, SecretStr(secret)).quota_key(model)

    same = {key("https://a.example/v1", "k", "m"), key("https://a.example/v1/", "k", "m")}
    assert len(same) == 1
    others = {
        key("https://b.example/v1", "k", "m"),
        key("https://a.example/v1", "l", "m"),
        key("https://a.example/v1", "k", "n"),
    }
    assert len(same | others) == 4
    assert "sk-secret" not in key("https://a.example/v1", "sk-secret", "m")


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ("This model's maximum context length is 1000 tokens. However, your messages resulted in 4000 tokens.", 0.25),
        ("maximum context length is 100 tokens, found 400", 0.25),
        ("maximum context length is 100 tokens", None),
        ("maximum context length is 400 tokens, found 100", None),
        (f"maximum context length is {'9' * 5_000} tokens, found {'9' * 5_001}", None),
    ],
)
def test_how_much_of_a_prompt_fits_is_read_from_what_the_endpoint_says(
    connect: Connect, said: str, fits: float | None
) -> None:
    with pytest.raises(LLMRejected) as caught:
        ask(connect(refusal(400, message=said)))
    assert caught.value.fits == fits
