"""What becomes of an ask after an error. Pure."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt import classifier
from datashunt.errors import (
    LLMError,
    LLMNotAsked,
    LLMNotFound,
    LLMRejected,
    LLMThrottled,
    LLMUnauthorized,
    LLMUnavailable,
    LLMUnusable,
)
from datashunt.items import ClaimedAsk, Reason, Role
from datashunt.pipeline.call import Call, put_to
from datashunt.pipeline.line import Place
from datashunt.pipeline.trouble import MAX_MISSES, Dead, Retry, after, verdict_of
from datashunt.store.classifiers import Registered

TEXT = "a text " * 40
DOWN = LLMUnavailable("the endpoint failed (503)", kind="server_error", http_status=503)
GARBLED = LLMUnusable("no JSON", kind="invalid_body", http_status=200)
REFUSAL = LLMUnusable("the LLM refused", kind="refusal", http_status=200)
FILTERED = LLMRejected("refused (400)", kind="content_filter", http_status=400)
TOO_LONG = LLMRejected("too long (400)", kind="context_too_long", http_status=400)
NO_KEY = LLMUnauthorized("refused (401)", kind="unauthorized", http_status=401)
NO_MODEL = LLMNotFound("no such model (404)", kind="not_found", http_status=404)
NOT_ASKED = LLMNotAsked("the batch is expired", kind="batch_expired")
WAIT = LLMThrottled("wait", retry_after_s=7.0)
ALL = [DOWN, GARBLED, REFUSAL, FILTERED, TOO_LONG, NO_KEY, NO_MODEL, NOT_ASKED, WAIT]
errors = st.sampled_from(ALL)


def call_of(*models: str, role: Role = Role.TRAIN, model_no: int = 0, **ask: Any) -> Call:
    spec = classifier.parse(
        {"name": "n", "labels": ["a", "b"], "instruction": "Say.", "llm": {"models": list(models or ("one",))}}
    )
    known = Registered(id=1, name="n", version=1, spec=spec, prompt_hash="", draw_key=b"", incumbent=None)
    values: dict[str, Any] = {"attempts": 0, "misses": 0, "candidates": None, "prior": None, **ask}
    claimed = ClaimedAsk(1, 1, 1, "i", TEXT, Reason.ESCALATION, role, **values)
    return put_to(Place(known, "key"), claimed, uuid4(), model_no)


def step(error: LLMError, call: Call, *, open_: bool = False, most: int = 6, jitter: float = 0.5) -> Retry | Dead:
    return after(error, call, endpoint_fails=open_, max_attempts=most, jitter=jitter)


@given(errors, st.integers(0, 5), st.integers(0, MAX_MISSES - 1), st.booleans(), st.floats(0, 1))
def test_an_attempt_is_used_up_by_a_failure_of_an_endpoint_that_works_for_others(
    error: LLMError, attempts: int, misses: int, open_: bool, jitter: float
) -> None:
    found = step(error, call_of(attempts=attempts, misses=misses), open_=open_, jitter=jitter)
    if isinstance(found, Retry) and found.failed:
        assert verdict_of(error) == "failed"
        assert not open_
        assert 0 <= found.wait_s <= 2.0**attempts


@given(errors, st.integers(0, 30), st.integers(0, 5), st.one_of(st.none(), st.integers(1, 100)))
def test_what_concerns_everybody_kills_no_ask(error: LLMError, attempts: int, misses: int, keep: int | None) -> None:
    call = call_of(attempts=attempts, misses=misses, keep_chars=keep)
    if verdict_of(error) != "alive" or isinstance(error, LLMThrottled):
        assert isinstance(step(error, call, open_=True), Retry)


@given(st.integers(0, 30), st.integers(0, 5))
def test_what_a_batch_did_not_come_to_is_asked_again_as_if_nothing_was(attempts: int, misses: int) -> None:
    assert step(NOT_ASKED, call_of("one", "two", attempts=attempts, misses=misses)) == Retry()


@pytest.mark.parametrize("error", [DOWN, GARBLED])
def test_the_last_attempt_is_the_end(error: LLMError) -> None:
    assert isinstance(step(error, call_of(attempts=4)), Retry)
    assert step(error, call_of(attempts=5)) == Dead(error.kind, f"after 6 failed calls: {error}")


def test_a_reply_without_a_label_is_put_once_more_over_all_labels() -> None:
    assert step(REFUSAL, call_of()) == Retry(missed=True)
    assert isinstance(step(REFUSAL, call_of(misses=MAX_MISSES - 1)), Dead)


def test_an_item_that_is_too_long_is_shortened_once() -> None:
    assert step(TOO_LONG, call_of()) == Retry(keep_chars=len(TEXT) // 2)
    assert isinstance(step(TOO_LONG, call_of(keep_chars=len(TEXT) // 2)), Dead)


@pytest.mark.parametrize(
    ("error", "state"),
    [(DOWN, {"attempts": 5}), (REFUSAL, {"misses": 1}), (FILTERED, {}), (TOO_LONG, {"keep_chars": 9}), (NO_MODEL, {})],
)
def test_the_next_model_takes_over_what_would_be_given_up(error: LLMError, state: dict[str, int]) -> None:
    assert step(error, call_of("one", "two", **state)) == Retry(after_model=0)
    assert step(error, call_of("one", "two", model_no=1, **state)) == step(error, call_of(**state))


@given(errors, st.sampled_from([Role.FIT, Role.JUDGE]), st.booleans())
def test_what_judges_or_calibrates_is_never_put_to_another_model(error: LLMError, role: Role, open_: bool) -> None:
    found = step(error, call_of("one", "two", role=role, attempts=9, misses=9, keep_chars=9), open_=open_)
    assert isinstance(found, Dead) or found.after_model is None
