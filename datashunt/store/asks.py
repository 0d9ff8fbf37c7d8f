"""What becomes of a claimed ask: its call is booked before it is sent and settled after, its answer is stored.

Money is never forgotten: a call is settled whatever happened to the lease. Only what changes an ask or an item
is guarded, and a late reply that finds its ask without an answer finishes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, text

from datashunt.items import ClaimedAsk, Reply, Usage
from datashunt.store import budgets
from datashunt.store.engine import row


def hold(tx: Connection, *asks: ClaimedAsk) -> None:
    """Lock the rows of all asks that a transaction changes: everybody locks rows of days after those of asks."""
    tx.execute(
        text("SELECT FROM asks WHERE id = ANY(:asks) ORDER BY id FOR UPDATE"), {"asks": [ask.row for ask in asks]}
    )


_BOOK = text(
    "SELECT book_call(:ask, :token, :lease_s, :classifier, :model, :prompt_hash, :reuse_key, :tokens, :usd, :beside_s)"
    " AS call"
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
    beside_s: float | None,
) -> int | None:
    """Write the call down just before it is sent, and renew the lease.

    What was reserved for the ask on a day's budget is the call's from now on. It is one round trip: a function of the
    database (migration 0010) takes the lock of `reuse.alone`, looks as `reuse.look` does, and books.

    Args:
        tx: a transaction; one statement is enough.
        ask: what was claimed.
        token: of its lease.
        model: which is asked.
        prompt_hash: of the classifier's prompt.
        reuse_key: of the question.
        reserved_tokens: what the call may use.
        reserved_usd: what it may cost.
        lease_s: how long the lease lasts from now on.
        beside_s: how long another call with this key may be under way; None: the answer to an equal ask will not do.

    Returns:
        The row of the call; None when the lease is lost, or an equal ask was answered, or is being answered.
    """
    booked = row(
        tx,
        _BOOK,
        {
            "ask": ask.row,
            "token": token,
            "lease_s": lease_s,
            "classifier": ask.classifier_row,
            "model": model,
            "prompt_hash": prompt_hash,
            "reuse_key": reuse_key,
            "tokens": reserved_tokens,
            "usd": reserved_usd,
            "beside_s": beside_s,
        },
    )
    call: int | None = booked.call
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


_SETTLED = """
    call_before AS (
        SELECT id, state, cost_usd FROM calls WHERE id = :call AND item_id = :item AND state IN ('sent', 'unknown')
           FOR UPDATE),
    settled AS (
        UPDATE calls SET state = :state, cost_usd = coalesce(:cost, reserved_usd), prompt_tokens = :prompt,
                         cached_tokens = :cached, completion_tokens = :completion, response_model = :model,
                         fingerprint = :fingerprint, latency_ms = :latency, http_status = :status,
                         error_kind = :kind, error = :error, votes = :votes, settled_at = now()
          FROM call_before WHERE calls.id = call_before.id AND calls.item_id = :item
     RETURNING calls.*, call_before.state AS was, coalesce(call_before.cost_usd, 0) AS was_usd)"""
_SETTLE_ALONE = text(
    f"WITH {_SETTLED}, {budgets.RETURNED}, {budgets.booked(calls=True, returned=True)} SELECT count(*) FROM settled"  # noqa: S608
)


def settle_call(tx: Connection, call: int, item: int, bill: Bill) -> None:
    """Book what a call cost, also on its day's budget: what failed is free, and its ask may use it once more.

    A call that tick had given up as unknown is set right by its late reply.
    """
    tx.execute(_SETTLE_ALONE, _of_bill(call, item, bill))


def _of_bill(call: int, item: int, bill: Bill) -> dict[str, object]:
    usage = bill.usage
    return {
        "call": call,
        "item": item,
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
    }


_ANSWER = """
    before AS (SELECT id, budget_day_id, reserved FROM asks WHERE id = :ask FOR UPDATE),
    closed AS (
        UPDATE asks SET state = 'answered', lease_token = NULL, lease_until = NULL, budget_day_id = NULL,
                        reserved = NULL
          FROM before WHERE asks.id = before.id AND state NOT IN ('answered', 'forgotten')
     RETURNING asks.*, before.budget_day_id AS day, before.reserved AS amount),
    letters AS (
        UPDATE dead_letters SET replayed_at = now() FROM closed WHERE ask_id = closed.id AND replayed_at IS NULL),
    answer AS (
        INSERT INTO answers (ask_id, call_id, item_id, classifier_id, spec_version, labels_hash, prompt_hash,
                             label, probabilities, probability_source, role, propensity, had_prior,
                             requested_model, llm_model, fingerprint, reuse_key, reused_from, fallback)
        SELECT id, :call, item_id, classifier_id, :spec_version, :labels_hash, :prompt_hash, :label,
               CAST(:probabilities AS real[]), :source, role, propensity, :had_prior, :requested_model,
               :model, :fingerprint, :reuse_key, :reused_from, :fallback
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
          FROM decided WHERE items.id = decided.item_id)"""
_CLOSED = "SELECT count(*) AS closed FROM closed"
_PAID = text(f"WITH {_SETTLED}, {_ANSWER}, {budgets.booked(calls=True, closed='closed')} {_CLOSED}")
_REUSED = text(f"WITH {_ANSWER}, {budgets.booked(closed='closed')} {_CLOSED}")


def store_answer(
    tx: Connection,
    ask: ClaimedAsk,
    call: int,
    reply: Reply,
    bill: Bill | None,
    *,
    labels: Sequence[str],
    labels_hash: str,
    spec_version: int,
    prompt_hash: str,
    requested_model: str,
    reuse_key: bytes,
    reused_from: int | None = None,
    fallback: bool = False,
) -> bool:
    """Settle the call, close the ask with its answer, and its item if that waits for it, in one statement.

    `bill` is None for an answer that was paid for already: `reused_from` is the answer that this one repeats, `call`
    then the call that was paid for that one. Returns False when the ask was answered before. What was given up
    meanwhile comes back: its answer is paid for.
    """
    vector = None
    confidence = None
    if reply.probabilities is not None:
        vector = [reply.probabilities.get(label) for label in labels]
        confidence = reply.probabilities[reply.label]
    ended = row(
        tx,
        _REUSED if bill is None else _PAID,
        {
            **({} if bill is None else _of_bill(call, ask.item_row, bill)),
            "call": call,
            "ask": ask.row,
            "spec_version": spec_version,
            "labels_hash": labels_hash,
            "prompt_hash": prompt_hash,
            "label": reply.label,
            "probabilities": vector,
            "confidence": confidence,
            "source": reply.source,
            "had_prior": ask.prior is not None,
            "requested_model": requested_model,
            "model": reply.model,
            "fingerprint": reply.fingerprint,
            "reuse_key": reuse_key,
            "reused_from": reused_from,
            "fallback": fallback,
        },
    )
    return bool(ended.closed == 1)


_PUT_BACK = text(
    "UPDATE asks SET state = 'waiting', lease_token = NULL, lease_until = NULL,"
    " not_before = now() + make_interval(secs => :wait_s),"
    " attempts = CASE WHEN :next THEN 0 ELSE attempts + :failed END,"
    " misses = CASE WHEN :next THEN 0 ELSE misses + :missed END,"
    " fallback = CASE WHEN :next THEN :model + 1 ELSE fallback END,"
    " keep_chars = CASE WHEN :next THEN NULL ELSE coalesce(:keep_chars, keep_chars) END,"
    " announced_at = CASE WHEN :awaited THEN now() + make_interval(secs => :wait_s) ELSE announced_at END,"
    " offered = CASE WHEN :missed = 1 THEN NULL ELSE offered END,"
    " prior = CASE WHEN :missed = 1 THEN NULL ELSE prior END"
    " WHERE id = :ask AND lease_token = :token AND state = 'calling'"
)


def put_back(
    tx: Connection,
    ask: ClaimedAsk,
    token: UUID,
    *,
    wait_s: float,
    failed: bool = False,
    missed: bool = False,
    awaited: bool = False,
    keep_chars: int | None = None,
    after_model: int | None = None,
) -> bool:
    """Let the ask wait, as a row.

    Args:
        tx: a transaction.
        ask: what was claimed.
        token: of its lease; without it nothing is changed, and False returned.
        wait_s: seconds before it is due again.
        failed: it uses up an attempt.
        missed: it is opened to all labels.
        awaited: a thread that works already will come for it: no message of its own when it is due.
        keep_chars: how many characters of the text are shown from now on, if not all.
        after_model: it is put to the model after this one, as if it was new.
    """
    moved = tx.execute(
        _PUT_BACK,
        {
            "ask": ask.row,
            "token": token,
            "wait_s": wait_s,
            "failed": int(failed),
            "missed": int(missed),
            "awaited": awaited,
            "keep_chars": keep_chars,
            "next": after_model is not None,
            "model": after_model or 0,
        },
    )
    return moved.rowcount == 1


_STAMP = 'YYYY-MM-DD"T"HH24:MI:SS"Z"'
_BURY = text(f"""
    WITH before AS (SELECT id, budget_day_id, reserved FROM asks WHERE id = :ask FOR UPDATE),
    buried AS (
        UPDATE asks SET state = 'dead', lease_token = NULL, lease_until = NULL, budget_day_id = NULL,
                        reserved = NULL
          FROM before WHERE asks.id = before.id AND lease_token = :token AND state = 'calling'
     RETURNING asks.*, before.budget_day_id AS day, before.reserved AS amount),
    {budgets.booked(closed="buried")},
    lost AS (
        UPDATE items SET state = 'dead' FROM buried
         WHERE items.id = buried.item_id AND buried.reason = 'escalation' AND items.state = 'asked')
    INSERT INTO dead_letters (classifier_id, item_id, ask_id, reason, detail)
    SELECT classifier_id, item_id, id, :reason,
           concat_ws('; calls: ', CAST(:detail AS text), (
               SELECT string_agg(concat_ws(' ', to_char(created_at AT TIME ZONE 'UTC', :stamp), model,
                                           coalesce(error_kind, state)), ', ' ORDER BY calls.id)
                 FROM calls WHERE calls.ask_id = buried.id AND calls.item_id = buried.item_id))
      FROM buried
""")  # noqa: S608 - the parts are constants of ours


def bury(tx: Connection, ask: ClaimedAsk, token: UUID, *, reason: str, detail: str) -> bool:
    """Give the ask up, and its item if that waited for it, with the reason; False when the lease was lost.

    The letter's detail goes on with all calls that were made for it: when, to which model, what became of it.
    """
    values = {"ask": ask.row, "token": token, "reason": reason, "detail": detail, "stamp": _STAMP}
    return tx.execute(_BURY, values).rowcount == 1


_WITHDRAW = text(f"""
    WITH before AS (
        SELECT id, budget_day_id, reserved FROM asks
         WHERE item_id = ANY(:items) AND state IN ('waiting', 'calling') AND (NOT :audits_stay OR role = 'train')
           FOR UPDATE),
    withdrawn AS (
        UPDATE asks SET state = 'withdrawn', lease_token = NULL, lease_until = NULL, budget_day_id = NULL,
                        reserved = NULL
          FROM before WHERE asks.id = before.id
     RETURNING before.budget_day_id AS day, before.reserved AS amount),
    {budgets.booked(closed="withdrawn")}
    SELECT count(*) FROM withdrawn
""")  # noqa: S608 - the parts are constants of ours


def withdraw(tx: Connection, items: Sequence[int], *, audits_stay: bool = False) -> None:
    """Take back the open asks of these items, and what is reserved for them; a call under way is paid for all the same.

    Args:
        tx: a transaction that has locked these asks.
        items: whose asks.
        audits_stay: only those that train are taken back, not those that judge or calibrate.
    """
    tx.execute(_WITHDRAW, {"items": list(items), "audits_stay": audits_stay})
