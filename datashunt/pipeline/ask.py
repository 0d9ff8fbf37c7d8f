"""The LLM lane: claim an ask, wait for the quota, book the call, send it, store whatever it brought.

No transaction is open across an LLM call. A paid reply is always stored; a wait is a row, not a thread, unless
it is shorter than claiming the row again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import UUID, uuid4

from datashunt import llm, prompts
from datashunt.classifier import NONE_OF_THESE
from datashunt.errors import (
    BrokerError,
    LLMError,
    LLMNotAsked,
    LLMRejected,
    LLMThrottled,
    LLMUnauthorized,
    LLMUnavailable,
    LLMUnusable,
    StoreError,
)
from datashunt.items import ClaimedAsk, Reason, Reply, Role, Usage
from datashunt.pipeline.models import Directory
from datashunt.prompts import Prompt
from datashunt.quota import Limits, Quota, Refused, Slot
from datashunt.settings import Settings
from datashunt.store import Connection, Store, asks, reuse
from datashunt.store.asks import Bill
from datashunt.store.classifiers import Registered
from datashunt.telemetry import event

MAX_SLOT_WAIT_S = 2.0
"""Longest wait for a slot of the quota in a thread; a longer one is a row."""
NO_QUOTA_WAIT_S = 5.0
"""How long an ask waits when the quota's store cannot be reached: without it nobody may send."""
ALARM_PAUSE_S = 30.0
"""How long nobody asks after the endpoint refused the key."""
IN_FLIGHT_WAIT_S = 1.0
"""How long an ask waits for the answer to an equal one that is being paid for."""
MAX_MISSES = 2
"""Paid replies without a usable label before an ask is dead: one as offered, one over all labels."""
STORE_PATIENCE_S = 600.0
"""How long a paid reply is held in memory while PostgreSQL cannot be reached."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call about to be made: everything that is decided before money is spent.

    Attributes:
        key: the reuse key.
        votes: samples that were paid for already.
        share: what part of a live call's price it costs.
    """

    known: Registered
    ask: ClaimedAsk
    token: UUID
    prompt: Prompt
    key: bytes
    votes: tuple[str, ...] = ()
    share: Decimal = Decimal(1)

    @property
    def model(self) -> str:
        """Who is asked."""
        return self.known.spec.llm.model

    @property
    def samples(self) -> int:
        """How many answers are drawn; 0: the most likely one."""
        wanted = self.known.spec.llm.samples
        return 0 if wanted < 2 else max(1, wanted - len(self.votes))

    @property
    def tokens(self) -> int:
        """What it uses at most."""
        return self.prompt.tokens() + max(1, self.samples) * self.prompt.max_tokens

    @property
    def may_reuse(self) -> bool:
        """Whether an answer to an equal ask will do: what the method measures with is always asked afresh."""
        return self.ask.reason is Reason.ESCALATION and self.ask.role is Role.TRAIN

    @property
    def reserved_usd(self) -> Decimal:
        """What it costs at most; 0 when the price is unknown."""
        most = llm.reserve(self.model, self.prompt, self.known.spec.llm, max(1, self.samples))
        return (most or Decimal(0)) * self.share

    def cost(self, usage: Usage) -> Decimal | None:
        """USD for what it used; None when the price is unknown."""
        full = llm.cost(self.model, usage, self.known.spec.llm)
        return None if full is None else full * self.share


class Asker:
    """Asks the LLM. One for each process, shared by its threads."""

    def __init__(
        self, store: Store, directory: Directory, client: llm.LLM, quota: Quota | None, settings: Settings
    ) -> None:
        self._store = store
        self._directory = directory
        self._llm = client
        self._quota = quota
        self._settings = settings

    def run(self, classifier: str, rows: Sequence[int], *, stop: Callable[[], bool] = lambda: False) -> int:
        """Work on these asks, each until it is answered, dead, or waits as a row; returns calls made.

        Before each call `stop` is asked; what is left then stands still, and tick finds it.

        Raises:
            UnknownClassifier, StoreError, BrokerError: nothing is lost; tick comes again.
        """
        calls = 0
        while not stop():
            known = self._directory.get(classifier)
            token = uuid4()
            ask = self._claim(known, rows, token)
            if ask is None:
                return calls
            call = self._prepared(known, ask, token)
            calls += 0 if call is None else self._work(call)
        return calls

    def _claim(self, known: Registered, rows: Sequence[int], token: UUID) -> ClaimedAsk | None:
        with self._store.begin() as tx:
            return asks.claim(
                tx,
                known.id,
                rows,
                token,
                lease_s=self._settings.ask_lease_s + MAX_SLOT_WAIT_S,
                labels_hash=known.spec.labels_hash,
                batch_beyond_s=known.spec.llm.batch_beyond_s,
            )

    def _prepared(self, known: Registered, ask: ClaimedAsk, token: UUID) -> Call | None:
        """What to send, or None when nothing has to be paid for."""
        prompt = prompts.render(known.spec, ask.text, candidates=ask.candidates, prior=ask.prior)
        call = Call(known, ask, token, prompt, prompts.reuse_key(known.spec, ask.text, prompt))
        with self._store.begin() as tx:
            if self._spared(tx, call):
                return None
            return call if known.spec.llm.samples < 2 else replace(call, votes=reuse.votes(tx, ask.row, call.key))

    def _spared(self, tx: Connection, call: Call) -> bool:
        """End the ask with the answer to an equal one, or let it wait for that; False when it has to be paid for."""
        if not call.may_reuse:
            return False
        deadline_s = self._settings.llm_deadline_s
        reuse.alone(tx, call.key)
        # In this order: what was in flight and is no more has left its answer.
        under_way = reuse.in_flight(tx, call.known.id, call.key, call.ask.row, deadline_s=deadline_s)
        again = self.answer_again(tx, call)
        if under_way and not again:
            asks.put_back(tx, call.ask, call.token, wait_s=IN_FLIGHT_WAIT_S)
        return again or under_way

    def answer_again(self, tx: Connection, call: Call) -> bool:
        """End the ask with the answer to an equal one; False when there is none."""
        known = reuse.find(tx, call.known.id, call.key, call.known.spec.label_names)
        if known is None:
            return False
        self._store_answer(tx, call, known.call, known.reply, reused_from=known.row)
        return True

    def _work(self, call: Call) -> int:
        """One claimed ask: returns the number of calls sent, 0 or 1."""
        if self._quota is None:
            return 0 if self._book_and_send(call) is None else 1
        key = self._llm.quota_key(call.model)
        slot = self._slot(self._quota, key, call)
        if slot is None:
            return 0
        time.sleep(slot.wait_s)
        used = self._book_and_send(call)
        try:
            self._quota.settle(key, slot, used or 0)
        except BrokerError as error:
            event("quota_not_settled", error=str(error))  # the reservation counts for a minute, no longer
        return 0 if used is None else 1

    def _slot(self, quota: Quota, key: str, call: Call) -> Slot | None:
        """A slot of the shared allowance, or None when the ask has to wait as a row or can never be sent."""
        spec = call.known.spec.llm
        try:
            slot = quota.acquire(key, call.tokens, Limits(spec.rpm, spec.tpm), max_wait_s=MAX_SLOT_WAIT_S)
        except LLMRejected as error:
            with self._store.begin() as tx:
                asks.bury(tx, call.ask, call.token, reason=error.kind, detail=str(error))
            return None
        except BrokerError:
            self._put_back(call, wait_s=NO_QUOTA_WAIT_S)
            raise
        if isinstance(slot, Refused):
            self._put_back(call, wait_s=slot.retry_after_s)
            return None
        return slot

    def _book_and_send(self, call: Call) -> int | None:
        """Tokens that the call used, or None when nothing was sent: the lease was lost, or an answer came for free."""
        row = self._book(call)
        return None if row is None else self._send(call, row)

    def _book(self, call: Call) -> int | None:
        with self._store.begin() as tx:
            if self._spared(tx, call):  # meanwhile, while it waited for the quota
                return None
            return asks.book_call(
                tx,
                call.ask,
                call.token,
                model=call.model,
                prompt_hash=call.known.prompt_hash,
                reuse_key=call.key,
                reserved_tokens=call.tokens,
                reserved_usd=call.reserved_usd,
                lease_s=self._settings.ask_lease_s,
            )

    def _send(self, call: Call, row: int) -> int:
        """Send one booked call and settle it; returns the tokens that it used."""
        spec = call.known.spec.llm
        deadline_s = self._settings.llm_deadline_s
        try:
            reply = self._llm.ask(call.prompt, call.model, deadline_s=deadline_s, api=spec.api, samples=call.samples)
        except LLMError as error:
            return self._settle_error(call, row, error)
        self._persist(lambda tx: self.take(tx, call, row, reply))
        return reply.usage.total

    def take(self, tx: Connection, call: Call, row: int, said: Reply | LLMError, *, stale: bool = False) -> None:
        """Settle a booked call with what it brought: its ask is answered, waits again, or is dead.

        Args:
            tx: a transaction.
            call: what was asked.
            row: of `calls`.
            said: what it brought.
            stale: the labels are others by now. A reply is paid all the same, and its ask waits again.
        """
        if isinstance(said, LLMError):
            asks.settle_call(tx, row, self._bill_of(call, said))
            self._after(tx, call, said)
        else:
            answer = None if stale else llm.decided(said, call.votes, call.known.spec.llm.samples, call.prompt)
            self._settle_reply(tx, call, row, said, answer)

    def _settle_reply(self, tx: Connection, call: Call, row: int, reply: Reply, answer: Reply | None) -> None:
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
        asks.settle_call(tx, row, bill)
        if answer is None:  # more samples are needed, or other labels
            asks.put_back(tx, call.ask, call.token, wait_s=0)
        elif answer.label == NONE_OF_THESE:
            asks.put_back(tx, call.ask, call.token, wait_s=0, missed=True)
        else:
            self._store_answer(tx, call, row, answer)

    def _store_answer(
        self, tx: Connection, call: Call, row: int, reply: Reply, *, reused_from: int | None = None
    ) -> None:
        spec = call.known.spec
        asks.store_answer(
            tx,
            call.ask,
            row,
            reply,
            labels=spec.label_names,
            labels_hash=spec.labels_hash,
            spec_version=call.known.version,
            prompt_hash=call.known.prompt_hash,
            requested_model=call.model,
            reuse_key=call.key,
            reused_from=reused_from,
        )

    def _settle_error(self, call: Call, row: int, error: LLMError) -> int:
        bill = self._bill_of(call, error)
        event("call_failed", classifier=call.known.name, ask=call.ask.row, kind=error.kind)
        self._persist(lambda tx: self.take(tx, call, row, error))
        self._pause(call, error)
        if bill.usage is not None:
            return bill.usage.total
        return 0 if bill.state == "failed" else call.tokens

    def _bill_of(self, call: Call, error: LLMError) -> Bill:
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

    def _pause(self, call: Call, error: LLMError) -> None:
        """Let everybody wait who uses this model and key, if the endpoint said so."""
        wait_s = pause_of(error)
        if self._quota is not None and wait_s > 0:
            self._quota.pause(self._llm.quota_key(call.model), wait_s)

    def _after(self, tx: Connection, call: Call, error: LLMError) -> None:
        """What becomes of the ask: waits for others use up no attempt, failures do, refusals are final."""
        ask, token = call.ask, call.token
        if pause_of(error) > 0:
            asks.put_back(tx, ask, token, wait_s=pause_of(error))
        elif isinstance(error, LLMNotAsked):
            asks.put_back(tx, ask, token, wait_s=0)
        elif isinstance(error, LLMUnusable):
            if ask.misses + 1 < MAX_MISSES:
                asks.put_back(tx, ask, token, wait_s=0, missed=True)
            else:
                detail = f"{ask.misses + 1} replies named no label; the last: {error}"
                asks.bury(tx, ask, token, reason=error.kind, detail=detail)
        elif isinstance(error, LLMRejected) or ask.attempts + 1 >= self._settings.llm_max_attempts:
            detail = f"after {ask.attempts + 1} failed calls: {error}"
            asks.bury(tx, ask, token, reason=error.kind, detail=detail)
        else:
            asks.put_back(tx, ask, token, wait_s=backoff(ask.attempts), failed=True)

    def _put_back(self, call: Call, *, wait_s: float) -> None:
        with self._store.begin() as tx:
            asks.put_back(tx, call.ask, call.token, wait_s=wait_s)

    def _persist(self, write: Callable[[Connection], None]) -> None:
        """Store what was paid for, however long PostgreSQL takes to come back."""
        give_up = time.monotonic() + STORE_PATIENCE_S
        pause = 0.2
        while True:
            try:
                with self._store.begin() as tx:
                    write(tx)
                return
            except StoreError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 5.0)


def pause_of(error: LLMError) -> float:
    """Seconds for which nobody shall ask with this key after this error; 0 when it concerns one ask only."""
    if isinstance(error, LLMThrottled):
        return max(error.retry_after_s, 0.05)
    return ALARM_PAUSE_S if isinstance(error, LLMUnauthorized) else 0.0


def backoff(attempts: int) -> float:
    """Seconds to wait after that many failed calls: full jitter, 1 s doubling to at most 60 s."""
    return random.uniform(0.0, min(60.0, 2.0**attempts))  # noqa: S311 - jitter, not a secret
