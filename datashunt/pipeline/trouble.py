"""What is done after a call that brought no answer. Pure; docs/llm.md has the same as a table."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from datashunt import prompts
from datashunt.errors import (
    LLMError,
    LLMNotAsked,
    LLMRejected,
    LLMStopped,
    LLMThrottled,
    LLMUnavailable,
    LLMUnusable,
)
from datashunt.pipeline.call import Call
from datashunt.quota import STOPPED_S, Verdict
from datashunt.store.asks import Bill

MAX_MISSES = 2
"""Paid replies without a usable label before an ask is dead: one as offered, one over all labels."""
GARBLED = {"invalid_body", "no_choices"}
"""Paid replies that are no answer of a model: what stands before it failed."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The ask waits as a row; the fields are those of `asks.put_back`."""

    wait_s: float = 0.0
    failed: bool = False
    missed: bool = False
    keep_chars: int | None = None
    after_model: int | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """The ask is given up."""

    reason: str
    detail: str


def after(error: LLMError, call: Call, *, endpoint_fails: bool, max_attempts: int, jitter: float) -> Retry | Dead:
    """What becomes of the ask: waits for others use up no attempt, failures do, refusals are final.

    Args:
        error: what the call brought.
        call: the call.
        endpoint_fails: others fail too: then it is not this ask's fault.
        max_attempts: failed calls before an ask is dead.
        jitter: drawn from [0, 1), for the wait.
    """
    wait_s = pause_of(error)
    if wait_s > 0 or isinstance(error, LLMNotAsked):
        return Retry(wait_s)
    again = _again(error, call, endpoint_fails=endpoint_fails, max_attempts=max_attempts, jitter=jitter)
    if again is not None:
        return again
    if call.others:
        return Retry(after_model=call.model_no)
    return Retry(STOPPED_S) if isinstance(error, LLMStopped) else Dead(error.kind, _detail(error, call))


def _again(error: LLMError, call: Call, *, endpoint_fails: bool, max_attempts: int, jitter: float) -> Retry | None:
    """Another call to the same model, where that may help."""
    ask = call.ask
    if failed(error) and endpoint_fails:
        return Retry()
    if failed(error) and ask.attempts + 1 < max_attempts:
        return Retry(backoff(ask.attempts, jitter), failed=True)
    if isinstance(error, LLMUnusable) and not failed(error) and ask.misses + 1 < MAX_MISSES:
        return Retry(missed=True)
    if isinstance(error, LLMRejected) and error.kind == "context_too_long" and ask.keep_chars is None:
        return Retry(keep_chars=prompts.keep_chars(ask.text, call.prompt, error.fits))
    return None


def _detail(error: LLMError, call: Call) -> str:
    ask = call.ask
    if failed(error):
        return f"after {ask.attempts + 1} failed calls: {error}"
    if isinstance(error, LLMUnusable):
        return f"{ask.misses + 1} replies named no label; the last: {error}"
    return str(error) if ask.keep_chars is None else f"{error}, though it was shortened to {ask.keep_chars} characters"


def failed(error: LLMError) -> bool:
    """Whether the endpoint failed, so that the same request may work later."""
    return isinstance(error, LLMUnavailable) or error.kind in GARBLED


def verdict_of(error: LLMError) -> Verdict:
    """What an error says of the endpoint."""
    if isinstance(error, LLMStopped):
        return "stopped"
    return "failed" if failed(error) else "alive"


def pause_of(error: LLMError) -> float:
    """Seconds for which the endpoint lets nobody ask with this key; 0 if it does not say so."""
    return max(error.retry_after_s, 0.05) if isinstance(error, LLMThrottled) else 0.0


def backoff(attempts: int, jitter: float) -> float:
    """Seconds to wait after that many failed calls: full jitter, 1 s doubling to at most 60 s."""
    return jitter * min(60.0, 2.0**attempts)


def bill_of(call: Call, error: LLMError) -> Bill:
    """What a call cost that brought no answer; where nobody knows, what was reserved for it."""
    unusable = error if isinstance(error, LLMUnusable) else None
    usage = unusable.usage if unusable else None
    unknown = isinstance(error, LLMUnavailable) and error.may_be_billed
    free = unusable is None and not unknown
    return Bill(
        state="answered" if unusable else "unknown" if unknown else "failed",
        cost_usd=Decimal(0) if free else usage and call.cost(usage),
        usage=usage,
        model=(unusable and unusable.model) or None,
        fingerprint=(unusable and unusable.fingerprint) or None,
        http_status=error.http_status,
        error_kind=error.kind,
        error=str(error)[:500],
    )
