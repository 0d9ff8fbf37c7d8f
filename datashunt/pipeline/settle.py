"""What a call brought, written down: its bill, and what becomes of its ask. Nothing is sent here."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from datashunt import llm
from datashunt.classifier import NONE_OF_THESE
from datashunt.errors import LLMError
from datashunt.items import ClaimedAsk, Reply
from datashunt.pipeline.call import Call
from datashunt.pipeline.trouble import Dead, Retry, bill_of
from datashunt.store import Connection, asks
from datashunt.store.asks import Bill
from datashunt.store.reuse import Stored


def answer_of(call: Call, reply: Reply) -> Reply | None:
    """What a reply decides, with the samples before it; None while more are needed."""
    return llm.decided(reply, call.votes, call.known.spec.llm.samples, call.prompt)


def is_label(answer: Reply | None) -> bool:
    """Whether an answer ends its ask; then one statement writes all of it."""
    return answer is not None and answer.label != NONE_OF_THESE


def write_reply(tx: Connection, call: Call, row: int, reply: Reply, answer: Reply | None) -> None:
    """Settle a call that brought a reply: its ask is answered, or waits again.

    Args:
        tx: a transaction.
        call: what was asked.
        row: of `calls`.
        reply: what was paid for.
        answer: what it decides; None where that is nothing yet, or nothing any more.
    """
    bill = Bill(
        state="answered",
        cost_usd=call.cost(reply.usage),
        usage=reply.usage,
        model=reply.model,
        fingerprint=reply.fingerprint,
        latency_ms=reply.latency_ms,
        error_kind="none_of_these" if answer is not None and answer.label == NONE_OF_THESE else None,
        votes=reply.votes,
    )
    if answer is None or answer.label == NONE_OF_THESE:
        asks.hold(tx, call.ask)
        asks.settle_call(tx, row, call.ask.item_row, bill)
        asks.put_back(tx, call.ask, call.token, wait_s=0, missed=answer is not None)
    else:
        write_answer(tx, call, row, answer, bill)


def write_error(tx: Connection, call: Call, row: int, error: LLMError, step: Retry | Dead) -> None:
    """Settle a call that brought none, and let its ask take this step."""
    asks.hold(tx, call.ask)
    asks.settle_call(tx, row, call.ask.item_row, bill_of(call, error))
    if isinstance(step, Dead):
        asks.bury(tx, call.ask, call.token, reason=step.reason, detail=step.detail)
    else:
        asks.put_back(tx, call.ask, call.token, **asdict(step))


def lacks_text(tx: Connection, ask: ClaimedAsk, token: UUID) -> bool:
    """Give the ask up, and say so, if the text of its item was removed: nobody can put the question any more."""
    if ask.text:
        return False
    asks.bury(tx, ask, token, reason="text_removed", detail="the text of its item was removed before it was asked")
    return True


def answer_again(tx: Connection, call: Call, stored: Stored) -> None:
    """End an ask with the answer to an equal one."""
    write_answer(tx, call, stored.call, stored.reply, None, reused_from=stored.row)


def write_answer(
    tx: Connection, call: Call, row: int, reply: Reply, bill: Bill | None, *, reused_from: int | None = None
) -> None:
    """End an ask with this answer; the arguments are those of `asks.store_answer`."""
    spec = call.known.spec
    asks.store_answer(
        tx,
        call.ask,
        row,
        reply,
        bill,
        labels=spec.label_names,
        labels_hash=spec.labels_hash,
        spec_version=call.known.version,
        prompt_hash=call.known.prompt_hash,
        requested_model=call.model,
        reuse_key=call.reuse_key,
        reused_from=reused_from,
        fallback=call.model_no > 0,
    )
