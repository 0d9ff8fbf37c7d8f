"""How a batch ends, and what that means for requests that it brought no line of. Pure."""

from __future__ import annotations

from datashunt.errors import LLMError, LLMNotAsked, LLMThrottled, LLMUnavailable
from datashunt.items import BatchState
from datashunt.store.batches import ClaimedBatch

REFUSED, LOST, LATE, EMPTY = "refused", "lost", "late", "empty"
"""How a batch ends that the endpoint does not take, does not know any more or never ends, or did not take in time; or
that had nothing to ask."""
CROWDED_WAIT_S = 900.0
"""How long asks wait when the endpoint holds as many tokens of batches as it will."""
_CROWDED = "token_limit_exceeded"


def how_it_ended(status: str) -> BatchState:
    """The state of a batch that ended with this status of the Batches API (llm.batches.ENDED)."""
    known = {"completed": BatchState.COMPLETED, "expired": BatchState.EXPIRED, "cancelled": BatchState.EXPIRED}
    return known.get(status, BatchState.FAILED)


def keeps_out(batch: ClaimedBatch) -> bool:
    """Whether its asks shall not go into a batch again: that would end in the same way, or has cost too much time."""
    return batch.state is BatchState.FAILED and batch.ended_as not in {LOST, EMPTY} and not _crowded(batch)


def what_is_missing(batch: ClaimedBatch, *, lost: bool, only: bool) -> LLMError:
    """What became of a request without a line, as an error of its call.

    Args:
        batch: that it was in.
        lost: whether a result file could not be fetched.
        only: whether it can be asked in no other way than by a batch.
    """
    if lost or batch.ended_as == LOST or batch.state is BatchState.COMPLETED:
        return LLMUnavailable("the batch brought no word of this request", kind="no_reply", may_be_billed=True)
    if batch.state is BatchState.EXPIRED:
        return LLMNotAsked(f"the batch is {batch.ended_as}: it never came to this request", kind="batch_expired")
    if _crowded(batch):
        return LLMThrottled(
            "the LLM endpoint holds too many tokens of batches", retry_after_s=CROWDED_WAIT_S, kind="batch_limit"
        )
    if batch.ended_as == LATE:
        return LLMNotAsked("the batch could not be begun in time", kind="batch_late")
    # Asked live it may go well, so that no attempt is used up; in a batch it will hardly.
    failed = LLMUnavailable if only else LLMNotAsked
    return failed(f"the LLM endpoint refuses the batch: {batch.error or batch.ended_as}", kind="batch_refused")


def _crowded(batch: ClaimedBatch) -> bool:
    return _CROWDED in (batch.error or "")
