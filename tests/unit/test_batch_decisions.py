"""Which asks a batch may have, what its lines say, and what its end means for the requests that have none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from datashunt.classifier import LLMSpec, parse
from datashunt.errors import (
    LLMError,
    LLMNotAsked,
    LLMNotFound,
    LLMRejected,
    LLMThrottled,
    LLMUnauthorized,
    LLMUnavailable,
    LLMUnusable,
    SpecError,
)
from datashunt.items import BatchState
from datashunt.llm import LLM, Batches
from datashunt.llm.batches import ENDED, Line
from datashunt.pipeline.ending import EMPTY, LATE, LOST, REFUSED, how_it_ended, keeps_out, what_is_missing
from datashunt.prompts import render
from datashunt.store.batches import ClaimedBatch

DOCUMENT: dict[str, Any] = {"name": "reviews", "labels": ["good", "bad"], "instruction": "What is it?"}
PROMPT = render(parse(DOCUMENT), "a text that nobody may quote")
BODY = {
    "model": "m-1",
    "choices": [{"message": {"content": '{"label": "good"}'}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}


@pytest.fixture
def api() -> Iterator[Batches]:
    llm = LLM("http://127.0.0.1:9/v1", SecretStr("any"))
    yield Batches(llm, 1.0)
    llm.close()


def ended(state: BatchState, ended_as: str, error: str | None = None) -> ClaimedBatch:
    return ClaimedBatch(
        1, 1, 1, uuid4(), uuid4(), state, 0, "file", "batch", (), ended_as, error, created_at=0, age_s=0, running_s=0
    )


# the file of the classifier


@pytest.mark.parametrize(
    ("written", "beyond_s"),
    [
        ({}, 90_000.0),
        ({"batch_window_s": 60}, 60.0),
        ({"batch": "off"}, None),
        ({"batch": False}, None),
        ({"api": "decisions"}, None),
        ({"api": "systemone"}, None),
    ],
)
def test_how_far_away_a_deadline_must_be(written: dict[str, Any], beyond_s: float | None) -> None:
    assert LLMSpec(**written).batch_beyond_s == beyond_s


def test_with_only_every_deadline_is_far_enough_away() -> None:
    beyond_s = LLMSpec(batch="only").batch_beyond_s
    assert beyond_s is not None
    assert beyond_s < 0


@pytest.mark.parametrize("api", ["decisions", "systemone"])
def test_batches_and_nothing_else_need_chat(api: str) -> None:
    with pytest.raises(SpecError, match="api chat or auto"):
        parse({**DOCUMENT, "llm": {"batch": "only", "api": api}})


# lines


def line(**fields: Any) -> Line:
    return Line.of(json.dumps({"custom_id": "5", "response": None, "error": None, **fields}).encode())


def test_a_line_is_read_as_a_live_reply_is(api: Batches) -> None:
    reply = api.reply_of(line(response={"status_code": 200, "body": BODY}), PROMPT, "m")
    assert (reply.label, reply.model, reply.usage.total, reply.latency_ms) == ("good", "m-1", 10, None)


@pytest.mark.parametrize(
    ("status", "body", "kind", "error"),
    [
        (200, {"choices": []}, "no_choices", LLMUnusable),
        (404, {}, "not_found", LLMNotFound),
        (200, None, "invalid_body", LLMUnusable),
        (429, {"error": {"message": "slow down"}}, "throttled", LLMThrottled),
        (500, None, "server_error", LLMUnavailable),
        (401, {}, "unauthorized", LLMUnauthorized),
        (400, {"error": {"message": "?", "code": "context_length_exceeded"}}, "context_too_long", LLMRejected),
        (400, {"error": {"message": "a text that nobody may quote"}}, "rejected", LLMRejected),
        (400, {"error": {"message": "?", "param": "logprobs"}}, "refused_parameter", LLMUnavailable),
    ],
)
def test_an_error_line_is_the_error_of_a_live_call(
    api: Batches, status: int, body: Any, kind: str, error: type[LLMError]
) -> None:
    with pytest.raises(error) as caught:
        api.reply_of(line(response={"status_code": status, "body": body}), PROMPT, "m")
    assert caught.value.kind == kind
    assert "nobody may quote" not in str(caught.value)


def test_a_part_that_was_refused_is_not_asked_for_again(api: Batches) -> None:
    assert b'"logprobs"' in api.request_line("1", PROMPT, "m", 0)
    with pytest.raises(LLMUnavailable):
        api.reply_of(
            line(response={"status_code": 400, "body": {"error": {"message": "?", "param": "logprobs"}}}), PROMPT, "m"
        )
    assert b'"logprobs"' not in api.request_line("1", PROMPT, "m", 0)


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled"])
def test_a_request_that_was_never_executed_was_not_asked(api: Batches, code: str) -> None:
    with pytest.raises(LLMNotAsked):
        api.reply_of(line(error={"code": code}), PROMPT, "m")


def test_a_request_that_could_not_be_executed_has_failed(api: Batches) -> None:
    with pytest.raises(LLMUnavailable) as caught:
        api.reply_of(line(error={"code": "overloaded"}), PROMPT, "m")
    assert not caught.value.may_be_billed


NAMES = st.sampled_from(["custom_id", "response", "error", "body", "status_code", "code"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
)


@given(st.one_of(st.binary(max_size=20), JSON.map(lambda value: json.dumps(value).encode())))
def test_no_line_is_too_strange_to_be_read(raw: bytes) -> None:
    found = Line.of(raw)
    assert isinstance(found.custom_id, str)
    assert found.status is None or isinstance(found.status, int)


# the end


@pytest.mark.parametrize(
    ("status", "state"),
    [("completed", "completed"), ("expired", "expired"), ("cancelled", "expired"), ("failed", "failed")],
)
def test_every_end_of_the_api_is_one_of_ours(status: str, state: str) -> None:
    assert status in ENDED
    assert how_it_ended(status) == state


@pytest.mark.parametrize(
    ("state", "ended_as", "only", "error"),
    [
        (BatchState.COMPLETED, "completed", False, LLMUnavailable),
        (BatchState.EXPIRED, "expired", False, LLMNotAsked),
        (BatchState.EXPIRED, "cancelled", False, LLMNotAsked),
        (BatchState.FAILED, "failed", False, LLMNotAsked),
        (BatchState.FAILED, "failed", True, LLMUnavailable),
        (BatchState.FAILED, REFUSED, False, LLMNotAsked),
        (BatchState.FAILED, LATE, True, LLMNotAsked),
        (BatchState.FAILED, LOST, False, LLMUnavailable),
    ],
)
def test_a_request_without_a_line_is_billed_only_if_it_may_have_been_served(
    state: BatchState, ended_as: str, only: bool, error: type[LLMError]
) -> None:
    batch = ended(state, ended_as)
    missing = what_is_missing(batch, lost=False, only=only)
    assert type(missing) is error
    served = state is BatchState.COMPLETED or ended_as == LOST
    assert getattr(missing, "may_be_billed", False) is served
    lost = what_is_missing(batch, lost=True, only=only)
    assert isinstance(lost, LLMUnavailable)
    assert lost.may_be_billed


def test_an_account_with_too_much_in_batches_waits() -> None:
    batch = ended(BatchState.FAILED, "failed", "token_limit_exceeded")
    assert isinstance(what_is_missing(batch, lost=False, only=False), LLMThrottled)
    assert not keeps_out(batch)


@pytest.mark.parametrize(
    ("state", "ended_as", "out"),
    [
        (BatchState.COMPLETED, "completed", False),
        (BatchState.EXPIRED, "expired", False),
        (BatchState.FAILED, "failed", True),
        (BatchState.FAILED, REFUSED, True),
        (BatchState.FAILED, LATE, True),
        (BatchState.FAILED, LOST, False),
        (BatchState.FAILED, EMPTY, False),
    ],
)
def test_a_batch_that_failed_as_a_whole_is_not_tried_again(state: BatchState, ended_as: str, out: bool) -> None:
    assert keeps_out(ended(state, ended_as)) is out
