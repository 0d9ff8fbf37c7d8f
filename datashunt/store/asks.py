"""The LLM lane's rows: claim an ask, book a call before it is sent, settle it after, store what it brought.

Money is never forgotten: a call is settled whatever happened to the lease. Only what changes an ask or an item
is guarded, and a late reply that finds its ask without an answer finishes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from datashunt.items import ClaimedAsk, Reason, Reply, Role, Usage


def for_a_batch(beyond_s: str) -> str:
    """The SQL condition on a row of `asks` that it goes into a batch; NULL where no ask does.

    Args:
        beyond_s: an SQL expression, the classifier's `llm.batch_beyond_s`.
    """
    return f"({beyond_s} < 0 OR asks.batchable AND asks.deadline > now() + make_interval(secs => {beyond_s}))"


def columns_of(asks: str) -> str:
    """What `claimed_ask` reads of such a row. Not all of it: the driver cannot read an `announced_at` of -infinity."""
    names = ("id", "item_id", "spec_version", "reason", "role", "offered", "prior", "attempts", "misses")
    return ", ".join(f"{asks}.{name}" for name in names)


_CLAIM = text(f"""
    WITH picked AS (
        SELECT id FROM asks
         WHERE id = ANY(:rows) AND classifier_id = :classifier AND state = 'waiting' AND not_before <= now()
           AND {for_a_batch("CAST(:batch_beyond_s AS float)")} IS NOT TRUE
         ORDER BY deadline, id LIMIT 1 FOR UPDATE SKIP LOCKED),
    claimed AS (
        UPDATE asks SET state = 'calling', lease_token = :token,
                        lease_until = now() + make_interval(secs => :lease_s)
          FROM picked WHERE asks.id = picked.id
     RETURNING asks.*)
    SELECT {columns_of("claimed")}, items.key, texts.text, specs.labels_hash
      FROM claimed
      JOIN items ON items.id = claimed.item_id
      JOIN texts ON texts.item_id = claimed.item_id
      JOIN specs ON specs.classifier_id = claimed.classifier_id AND specs.version = claimed.spec_version
""")  # noqa: S608 - our own words


def claim(
    tx: Connection,
    classifier_id: int,
    rows: Sequence[int],
    token: UUID,
    *,
    lease_s: float,
    labels_hash: str,
    batch_beyond_s: float | None = None,
) -> ClaimedAsk | None:
    """Lease the first of these asks that is due and not for a batch, the earliest deadline first, or None.

    Labels and prior of other labels are dropped.
    """
    row = tx.execute(
        _CLAIM,
        {
            "rows": list(rows),
            "classifier": classifier_id,
            "token": token,
            "lease_s": lease_s,
            "batch_beyond_s": batch_beyond_s,
        },
    ).one_or_none()
    return None if row is None else claimed_ask(row, labels_hash)


def claimed_ask(row: Any, labels_hash: str) -> ClaimedAsk:
    """The ask of a row of `asks` with the item's `key` and `text` and the `labels_hash` that it was made under."""
    same_labels = row.labels_hash == labels_hash
    return ClaimedAsk(
        row=row.id,
        item_row=row.item_id,
        item_id=row.key,
        text=row.text,
        reason=Reason(row.reason),
        role=Role(row.role),
        candidates=tuple(row.offered) if row.offered is not None and same_labels else None,
        prior=row.prior if same_labels else None,
        attempts=row.attempts,
        misses=row.misses,
    )


def book_call(
    tx: Connection,
    ask: ClaimedAsk,
    token: UUID,
    *,
    model: str,
    prompt_hash: str,
    reuse_key: bytes,
    reserved_tokens: int,
    reserved_usd: Decimal,
    lease_s: float,
) -> int | None:
    """Write the call down just before it is sent, and renew the lease; None when the lease is lost."""
    call: int | None = tx.execute(
        text(
            "WITH held AS (UPDATE asks SET lease_until = now() + make_interval(secs => :lease_s)"
            " WHERE id = :ask AND lease_token = :token AND state = 'calling' AND lease_until > now()"
            " RETURNING *)"
            " INSERT INTO calls (ask_id, item_id, classifier_id, attempt, model, prompt_hash, reuse_key,"
            " reserved_tokens, reserved_usd) SELECT id, item_id, classifier_id, attempts + misses + 1, :model,"
            " :prompt_hash, :reuse_key, :tokens, :usd FROM held RETURNING id"
        ),
        {
            "ask": ask.row,
            "token": token,
            "lease_s": lease_s,
            "model": model,
            "prompt_hash": prompt_hash,
            "reuse_key": reuse_key,
            "tokens": reserved_tokens,
            "usd": reserved_usd,
        },
    ).scalar_one_or_none()
    return call


@dataclass(frozen=True, slots=True)
class Bill:
    """How a call ended.

    Attributes:
        state: `answered`, `failed`, or `unknown` (sent, and nobody knows whether it was served).
        cost_usd: what it cost; None with `unknown` books the reserved cost.
        usage: tokens as the endpoint counted them, where it did.
        votes: the samples that it brought.
    """

    state: str
    cost_usd: Decimal | None
    usage: Usage | None = None
    model: str | None = None
    fingerprint: str | None = None
    latency_ms: float | None = None
    http_status: int | None = None
    error_kind: str | None = None
    error: str | None = None
    votes: Sequence[str] = ()


def settle_call(tx: Connection, call: int, bill: Bill) -> None:
    """Book what a call cost. A call that tick had given up as unknown is set right by its late reply."""
    usage = bill.usage
    tx.execute(
        text(
            "UPDATE calls SET state = :state, cost_usd = coalesce(:cost, reserved_usd),"
            " prompt_tokens = :prompt, cached_tokens = :cached, completion_tokens = :completion,"
            " response_model = :model, fingerprint = :fingerprint, latency_ms = :latency,"
            " http_status = :status, error_kind = :kind, error = :error, votes = :votes, settled_at = now()"
            " WHERE id = :call AND state IN ('sent', 'unknown')"
        ),
        {
            "call": call,
            "state": bill.state,
            "cost": bill.cost_usd,
            "prompt": usage and usage.prompt,
            "cached": usage and usage.cached,
            "completion": usage and usage.completion,
            "model": bill.model,
            "fingerprint": bill.fingerprint,
            "latency": bill.latency_ms,
            "status": bill.http_status,
            "kind": bill.error_kind,
            "error": bill.error,
            "votes": list(bill.votes) or None,
        },
    )


_ANSWER = text("""
    WITH closed AS (
        UPDATE asks SET state = 'answered', lease_token = NULL, lease_until = NULL
         WHERE id = :ask AND state <> 'answered'
     RETURNING *),
    letters AS (
        UPDATE dead_letters SET replayed_at = now() FROM closed WHERE ask_id = closed.id AND replayed_at IS NULL),
    answer AS (
        INSERT INTO answers (ask_id, call_id, item_id, classifier_id, spec_version, labels_hash, prompt_hash,
                             label, probabilities, probability_source, role, propensity, had_prior,
                             requested_model, llm_model, fingerprint, reuse_key, reused_from)
        SELECT id, :call, item_id, classifier_id, :spec_version, :labels_hash, :prompt_hash, :label,
               CAST(:probabilities AS real[]), :source, role, propensity, :had_prior, :requested_model,
               :llm_model, :fingerprint, :reuse_key, :reused_from
          FROM closed
     RETURNING id, item_id),
    waiting AS (
        SELECT items.id FROM items JOIN closed ON items.id = closed.item_id
         WHERE closed.reason = 'escalation' AND items.state IN ('asked', 'dead') FOR UPDATE OF items),
    decided AS (
        INSERT INTO outcomes (item_id, classifier_id, spec_version, label, source, confidence, probabilities,
                              score_id, answer_id)
        SELECT closed.item_id, closed.classifier_id, :spec_version, :label, 'llm', :confidence,
               CAST(:probabilities AS real[]), closed.score_id, answer.id
          FROM waiting JOIN closed ON closed.item_id = waiting.id JOIN answer ON answer.item_id = waiting.id
     RETURNING id, item_id),
    moved AS (
        UPDATE items SET state = 'done', label = :label, source = 'llm', outcome_id = decided.id, done_at = now()
          FROM decided WHERE items.id = decided.item_id)
    SELECT count(*) FROM closed
""")


def store_answer(
    tx: Connection,
    ask: ClaimedAsk,
    call: int,
    reply: Reply,
    *,
    labels: Sequence[str],
    labels_hash: str,
    spec_version: int,
    prompt_hash: str,
    requested_model: str,
    reuse_key: bytes,
    reused_from: int | None = None,
) -> bool:
    """Close the ask with its answer, and its item if that waits for it; False when it was answered before.

    What was given up meanwhile comes back: its answer is paid for. `reused_from` is the answer that this one
    repeats, `call` then the call that was paid for that one.
    """
    vector = None
    confidence = None
    if reply.probabilities is not None:
        vector = [reply.probabilities.get(label) for label in labels]
        confidence = reply.probabilities[reply.label]
    closed: int = tx.execute(
        _ANSWER,
        {
            "ask": ask.row,
            "call": call,
            "spec_version": spec_version,
            "labels_hash": labels_hash,
            "prompt_hash": prompt_hash,
            "label": reply.label,
            "probabilities": vector,
            "confidence": confidence,
            "source": reply.source,
            "had_prior": ask.prior is not None,
            "requested_model": requested_model,
            "llm_model": reply.model,
            "fingerprint": reply.fingerprint,
            "reuse_key": reuse_key,
            "reused_from": reused_from,
        },
    ).scalar_one()
    return closed == 1


def put_back(
    tx: Connection, ask: ClaimedAsk, token: UUID, *, wait_s: float, failed: bool = False, missed: bool = False
) -> bool:
    """Let the ask wait, as a row. `failed` uses up an attempt, `missed` opens it to all labels."""
    moved = tx.execute(
        text(
            "UPDATE asks SET state = 'waiting', lease_token = NULL, lease_until = NULL,"
            " not_before = now() + make_interval(secs => :wait_s), attempts = attempts + :failed,"
            " misses = misses + :missed,"
            " offered = CASE WHEN :missed = 1 THEN NULL ELSE offered END,"
            " prior = CASE WHEN :missed = 1 THEN NULL ELSE prior END"
            " WHERE id = :ask AND lease_token = :token AND state = 'calling'"
        ),
        {"ask": ask.row, "token": token, "wait_s": wait_s, "failed": int(failed), "missed": int(missed)},
    )
    return moved.rowcount == 1


_BURY = text("""
    WITH buried AS (
        UPDATE asks SET state = 'dead', lease_token = NULL, lease_until = NULL
         WHERE id = :ask AND lease_token = :token AND state = 'calling'
     RETURNING *),
    lost AS (
        UPDATE items SET state = 'dead' FROM buried
         WHERE items.id = buried.item_id AND buried.reason = 'escalation' AND items.state = 'asked')
    INSERT INTO dead_letters (classifier_id, item_id, ask_id, reason, detail)
    SELECT classifier_id, item_id, id, :reason, :detail FROM buried
""")


def bury(tx: Connection, ask: ClaimedAsk, token: UUID, *, reason: str, detail: str) -> bool:
    """Give the ask up, and its item if that waited for it, with the reason; False when the lease was lost."""
    return tx.execute(_BURY, {"ask": ask.row, "token": token, "reason": reason, "detail": detail}).rowcount == 1
