"""The LLM lane: claim an ask, wait for the quota, book the call, send it, store whatever it brought.

No transaction is open across an LLM call. A paid reply is always stored; a wait is a row, not a thread, unless
it is shorter than claiming the row again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID, uuid4

from datashunt import llm, prompts
from datashunt.classifier import NONE_OF_THESE
from datashunt.errors import (
    BrokerError,
    LLMError,
    LLMRejected,
    LLMThrottled,
    LLMUnauthorized,
    LLMUnavailable,
    LLMUnusable,
    StoreError,
)
from datashunt.items import ClaimedAsk, Reason, Reply, Role, Wake
from datashunt.pipeline import budget
from datashunt.pipeline.budget import Clock
from datashunt.pipeline.line import MAX_SLOT_WAIT_S, Line, Place
from datashunt.pipeline.models import Directory
from datashunt.prompts import Prompt
from datashunt.quota import Limits, Quota, Refused, Slot
from datashunt.settings import Settings
from datashunt.store import Connection, Store, asks, budgets, reuse
from datashunt.store.asks import Bill
from datashunt.store.classifiers import Registered
from datashunt.telemetry import event

TURN_S = 5.0
"""How long a message keeps its thread; then others, such as submissions, have their turn."""
HOLD_S = 10.0
"""How much longer than its deadline a call counts as under way if nobody says that it ended."""
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
class _Call:
    """One call about to be made: everything that is decided before money is spent."""

    place: Place
    ask: ClaimedAsk
    token: UUID
    prompt: Prompt
    key: bytes
    votes: tuple[str, ...] = ()

    @property
    def known(self) -> Registered:
        return self.place.known

    @property
    def model(self) -> str:
        return self.known.spec.llm.model

    @property
    def samples(self) -> int:
        wanted = self.known.spec.llm.samples
        return 0 if wanted < 2 else max(1, wanted - len(self.votes))

    @property
    def tokens(self) -> int:
        return self.prompt.tokens() + max(1, self.samples) * self.prompt.max_tokens

    @property
    def may_reuse(self) -> bool:
        """Whether an answer to an equal ask will do: what the method measures with is always asked afresh."""
        return self.ask.reason is Reason.ESCALATION and self.ask.role is Role.TRAIN


@dataclass(frozen=True, slots=True)
class Served:
    """What came of one message: calls that were made, and what to publish."""

    calls: int
    wakes: list[Wake] = field(default_factory=list)


class Asker:
    """Asks the LLM. One for each process, shared by its threads."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        client: llm.LLM,
        quota: Quota | None,
        settings: Settings,
        clock: Clock = budgets.now,
    ) -> None:
        self._store = store
        self._directory = directory
        self._llm = client
        self._quota = quota
        self._settings = settings
        self._clock = clock
        self._line = Line(directory, client, quota)

    def run(self, classifier: str, rows: Sequence[int], *, stop: Callable[[], bool] = lambda: False) -> Served:
        """Ask what is due, of all classifiers in fair order, until nothing is, nobody may ask, or the turn is over.

        These asks are among it, and so is whatever came before them. Before each call `stop` is asked; what is
        left then stands still, and tick finds it.

        Args:
            classifier: whose asks the message announced.
            rows: the asks that it announced.
            stop: whether this worker shall end.

        Raises:
            StoreError, BrokerError: nothing is lost; tick comes again.
        """
        calls = 0
        until = time.monotonic() + TURN_S
        while not stop():
            call = self._claim()
            if call is None:
                return Served(calls)
            calls += 0 if self._free(call) else self._work(call, stop)
            if time.monotonic() > until:
                return Served(calls, [Wake("llm", classifier, tuple(rows[:1]))])
        return Served(calls)

    def _claim(self) -> _Call | None:
        """The next ask, under a lease, and the question to put."""
        places = {place.known.id: place for place in self._line.places()}
        if not places:
            return None
        token = uuid4()
        labels_hashes = {row: place.known.spec.labels_hash for row, place in places.items()}
        with self._store.single() as tx:
            ask = asks.claim(tx, labels_hashes, token, lease_s=self._settings.ask_lease_s)
            if ask is None:
                return None
            place = places[ask.classifier_row]
            spec = place.known.spec
            prompt = prompts.render(spec, ask.text, candidates=ask.candidates, prior=ask.prior)
            key = prompts.reuse_key(spec, ask.text, prompt)
            votes = reuse.votes(tx, ask.row, key) if spec.llm.samples > 1 else ()
            return _Call(place, ask, token, prompt, key, votes)

    def _free(self, call: _Call) -> bool:
        """Whether nothing has to be paid for, as far as can be seen without making others wait."""
        if not call.may_reuse:
            return False
        with self._store.single() as tx:
            return self._spared(tx, call)

    def _spared(self, tx: Connection, call: _Call) -> bool:
        """End the ask with the answer to an equal one, or let it wait for that; False when it has to be paid for."""
        deadline_s = self._settings.llm_deadline_s
        # In this order: what was in flight and is no more has left its answer.
        under_way = reuse.in_flight(tx, call.known.id, call.key, call.ask.row, deadline_s=deadline_s)
        known = reuse.find(tx, call.known.id, call.key, call.known.spec.label_names)
        if known is not None:
            self._store_answer(tx, call, known.call, known.reply, None, reused_from=known.row)
        elif under_way:
            asks.put_back(tx, call.ask, call.token, wait_s=IN_FLIGHT_WAIT_S)
        return known is not None or under_way

    def _work(self, call: _Call, stop: Callable[[], bool]) -> int:
        """One claimed ask: returns the number of calls sent, 0 or 1."""
        slot = None
        if self._quota is not None:
            slot = self._slot(self._quota, call, stop)
            if slot is None:
                return 0
        row = self._book(call)
        if row is None:
            self._settle_slot(call, slot, None)
            return 0
        self._send(call, row, slot)
        return 1

    def _slot(self, quota: Quota, call: _Call, stop: Callable[[], bool]) -> Slot | None:
        """Leave to send now, or None when the ask has to wait as a row or can never be sent."""
        hold_s = self._settings.llm_deadline_s + HOLD_S
        try:
            slot = self._line.wait(quota, call.place, call.tokens, hold_s=hold_s, stop=stop)
        except LLMRejected as error:
            with self._store.begin() as tx:
                asks.bury(tx, call.ask, call.token, reason=error.kind, detail=str(error))
            return None
        except BrokerError:
            self._put_back(call, wait_s=NO_QUOTA_WAIT_S)
            raise
        if isinstance(slot, Refused):
            # With others in line somebody comes back without a message; else this row is what wakes the lane.
            wait_s = 0.0 if slot.others_wait else max(0.0, slot.retry_after_s - MAX_SLOT_WAIT_S)
            self._put_back(call, wait_s=wait_s, awaited=slot.others_wait)
            return None
        return slot

    def _settle_slot(self, call: _Call, slot: Slot | None, tokens_used: int | None) -> None:
        if self._quota is None or slot is None:
            return
        try:
            self._quota.settle(call.place.key, slot, tokens_used)
        except BrokerError as error:
            event("quota_not_settled", error=str(error))  # the reservation counts for a minute, no longer

    def _book(self, call: _Call) -> int | None:
        """The row of the call; None: no lease any more, an answer came for free meanwhile, or no budget today."""
        secured = budget.is_secured(call.known, call.ask)
        if secured and not call.may_reuse:
            with self._store.single() as tx:
                return self._booked(tx, call)
        with self._store.begin() as tx:
            if call.may_reuse:
                reuse.alone(tx, call.key)
                if self._spared(tx, call):
                    return None
            if not secured and not budget.secure(
                tx, call.known, call.ask, call.token, call.prompt, self._clock, samples=max(1, call.samples)
            ):
                return None
            return self._booked(tx, call)

    def _booked(self, tx: Connection, call: _Call) -> int | None:
        return asks.book_call(
            tx,
            call.ask,
            call.token,
            model=call.model,
            prompt_hash=call.known.prompt_hash,
            reuse_key=call.key,
            reserved_tokens=call.tokens,
            reserved_usd=llm.reserve(call.model, call.prompt, call.known.spec.llm, max(1, call.samples)) or Decimal(0),
            lease_s=self._settings.ask_lease_s,
        )

    def _send(self, call: _Call, row: int, slot: Slot | None) -> None:
        """Send one booked call and settle it, its slot first: others wait for that."""
        spec = call.known.spec.llm
        deadline_s = self._settings.llm_deadline_s
        try:
            reply = self._llm.ask(call.prompt, call.model, deadline_s=deadline_s, api=spec.api, samples=call.samples)
        except LLMError as error:
            self._settle_error(call, row, slot, error)
            return
        self._settle_slot(call, slot, reply.usage.total)
        self._learn(call, reply)
        answer = llm.decided(reply, call.votes, spec.samples, call.prompt)
        bill = Bill(
            state="answered",
            cost_usd=llm.cost(call.model, reply.usage, call.known.spec.llm),
            usage=reply.usage,
            model=reply.model,
            fingerprint=reply.fingerprint,
            latency_ms=reply.latency_ms,
            error_kind="none_of_these" if answer is not None and answer.label == NONE_OF_THESE else None,
            votes=reply.votes,
        )
        if answer is None or answer.label == NONE_OF_THESE:
            self._persist(lambda tx: self._settle_open(tx, call, row, bill, missed=answer is not None))
        else:
            self._persist(lambda tx: self._store_answer(tx, call, row, answer, bill), single=True)

    def _learn(self, call: _Call, reply: Reply) -> None:
        """Let everybody know the limits that the endpoint named."""
        if self._quota is not None:
            try:
                self._quota.state(call.place.key, Limits(reply.limits.rpm, reply.limits.tpm))
            except BrokerError as error:
                event("limits_not_stored", error=str(error))  # the next reply names them again

    def _settle_open(self, tx: Connection, call: _Call, row: int, bill: Bill, *, missed: bool) -> None:
        """Settle a reply that brought no label, or not yet: more samples are needed."""
        asks.settle_call(tx, row, bill)
        asks.put_back(tx, call.ask, call.token, wait_s=0, missed=missed)

    def _store_answer(
        self, tx: Connection, call: _Call, row: int, reply: Reply, bill: Bill | None, *, reused_from: int | None = None
    ) -> None:
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
            reuse_key=call.key,
            reused_from=reused_from,
        )

    def _settle_error(self, call: _Call, row: int, slot: Slot | None, error: LLMError) -> None:
        bill = self._bill_of(call, error)
        used = 0 if bill.state == "failed" else call.tokens
        self._pause(call, error)
        self._settle_slot(call, slot, bill.usage.total if bill.usage else used)
        event("call_failed", classifier=call.known.name, ask=call.ask.row, kind=error.kind)

        def settle(tx: Connection) -> None:
            asks.settle_call(tx, row, bill)
            self._after(tx, call, error)

        self._persist(settle)

    def _bill_of(self, call: _Call, error: LLMError) -> Bill:
        """What a call cost that brought no answer; where nobody knows, what was reserved for it."""
        unusable = error if isinstance(error, LLMUnusable) else None
        usage = unusable.usage if unusable else None
        unknown = isinstance(error, LLMUnavailable) and error.may_be_billed
        free = unusable is None and not unknown
        return Bill(
            state="answered" if unusable else "unknown" if unknown else "failed",
            cost_usd=Decimal(0) if free else usage and llm.cost(call.model, usage, call.known.spec.llm),
            usage=usage,
            model=(unusable and unusable.model) or None,
            fingerprint=(unusable and unusable.fingerprint) or None,
            http_status=error.http_status,
            error_kind=error.kind,
            error=str(error)[:500],
        )

    def _pause(self, call: _Call, error: LLMError) -> None:
        """Let everybody wait who uses this model and key, if the endpoint said so."""
        wait_s = pause_of(error)
        if wait_s == 0:
            return
        self._line.shut(call.place.key, wait_s)
        if self._quota is not None:
            try:
                self._quota.pause(call.place.key, wait_s)
            except BrokerError as error_of_store:
                event("pause_not_stored", error=str(error_of_store))  # the other processes find out by themselves

    def _after(self, tx: Connection, call: _Call, error: LLMError) -> None:
        """What becomes of the ask: waits for others use up no attempt, failures do, refusals are final."""
        ask, token = call.ask, call.token
        if pause_of(error) > 0:
            asks.put_back(tx, ask, token, wait_s=pause_of(error))
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

    def _put_back(self, call: _Call, *, wait_s: float, awaited: bool = False) -> None:
        with self._store.begin() as tx:
            asks.put_back(tx, call.ask, call.token, wait_s=wait_s, awaited=awaited)

    def _persist(self, write: Callable[[Connection], None], *, single: bool = False) -> None:
        """Store what was paid for, however long PostgreSQL takes to come back. `single`: it is one statement."""
        begin = self._store.single if single else self._store.begin
        give_up = time.monotonic() + STORE_PATIENCE_S
        pause = 0.2
        while True:
            try:
                with begin() as tx:
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
