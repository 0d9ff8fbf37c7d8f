"""The LLM lane: claim an ask, wait for the quota, book the call, send it, store whatever it brought.

No transaction is open across an LLM call. A paid reply is always stored; a wait is a row, not a thread, unless
it is shorter than claiming the row again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from datashunt import llm
from datashunt.errors import BrokerError, LLMError, LLMRejected, LLMStopped, SpecError, StoreError, UsageError
from datashunt.items import Reply, Wake
from datashunt.pipeline import budget, settle
from datashunt.pipeline.budget import Clock
from datashunt.pipeline.call import Call, put_to
from datashunt.pipeline.line import MAX_SLOT_WAIT_S, Line, Recovered
from datashunt.pipeline.models import Directory
from datashunt.pipeline.trouble import after, bill_of, pause_of, verdict_of
from datashunt.quota import ALONE, STOPPED_S, Health, Limits, Open, Quota, Refused, Slot, Verdict
from datashunt.settings import Settings
from datashunt.store import Connection, Store, asks, budgets, claims, reuse, sweeps
from datashunt.telemetry import event

TURN_S = 5.0
"""How long a message keeps its thread; then others, such as submissions, have their turn."""
HOLD_S = 10.0
"""How much longer than its deadline a call counts as under way if nobody says that it ended."""
NO_QUOTA_WAIT_S = 5.0
"""How long an ask waits when the quota's store cannot be reached: without it nobody may send."""
NOT_PUT_WAIT_S = 30.0
"""How long an ask waits that this worker makes no question of, for instance without the libraries of `llm.redact`."""
IN_FLIGHT_WAIT_S = 1.0
"""How long an ask waits for the answer to an equal one that is being paid for."""
STORE_PATIENCE_S = 600.0
"""How long a paid reply is held in memory while PostgreSQL cannot be reached."""


@dataclass(frozen=True, slots=True)
class Served:
    """What came of one message: calls that were made, and what to publish."""

    calls: int
    wakes: list[Wake] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Worked:
    """What came of one ask: calls that were made, and whether the endpoint was found to work again."""

    calls: int = 0
    recovered: bool = False


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
        with self._line.present():
            return self._turn(classifier, rows, stop)

    def _turn(self, classifier: str, rows: Sequence[int], stop: Callable[[], bool]) -> Served:
        calls = 0
        until = time.monotonic() + TURN_S
        while not stop():
            call = self._claim()
            if call is None:
                if not self._line.stays(until, stop):
                    return Served(calls)
                done = Worked()
            else:
                done = Worked() if self._free(call) else self._work(call, stop)
            calls += done.calls
            if done.recovered:
                return Served(calls, self._everybody())
            if time.monotonic() > until:
                return Served(calls, [Wake("llm", classifier, tuple(rows[:1]))])
        return Served(calls)

    def _claim(self) -> Call | None:
        """The next ask, under a lease, and the question to put."""
        places = {place.known.id: place for place in self._line.places()}
        if not places:
            return None
        token = uuid4()
        served = {row: place.known.spec for row, place in places.items()}
        with self._store.single() as tx:
            while (ask := claims.claim(tx, served, token, lease_s=self._settings.ask_lease_s)) is not None:
                if settle.lacks_text(tx, ask, token):
                    continue
                try:
                    call = put_to(places[ask.classifier_row], ask, token, 0)
                except UsageError as error:  # nor any other of its classifier, by this worker: the next one's turn
                    asks.put_back(tx, ask, token, wait_s=NOT_PUT_WAIT_S)
                    name = served.pop(ask.classifier_row).name
                    event("not_put", level=logging.ERROR, classifier=name, ask=ask.row, error=str(error))
                    continue
                return self._with_votes(tx, call if ask.fallback == 0 else self._put_to_another(call, ask.fallback))
        return None

    def _put_to_another(self, call: Call, model_no: int) -> Call:
        """The same question to another of the classifier's models, whose quota is its own."""
        model_no = min(model_no, len(call.known.spec.llm.all_models) - 1)  # the file may name fewer by now
        key = self._llm.quota_key(call.known.spec.llm.all_models[model_no])
        return put_to(replace(call.place, key=key, turn=ALONE), call.ask, call.token, model_no)

    def _with_votes(self, tx: Connection, call: Call) -> Call:
        if call.known.spec.llm.samples < 2:
            return call
        return replace(call, votes=reuse.votes(tx, call.ask.row, call.reuse_key))

    def _everybody(self) -> list[Wake]:
        """Messages for what is due now, so that all threads come back at once."""
        beyond_s = {one.id: one.spec.llm.batch_beyond_s for one in self._directory.everyone()}
        with self._store.begin() as tx:
            return sweeps.due_asks(tx, beyond_s)

    def _free(self, call: Call) -> bool:
        """Whether nothing has to be paid for, as far as can be seen without making others wait.

        Looked at only where the quota makes wait: booking looks again, and under a lock.
        """
        if not call.may_reuse or self._quota is None or self._line.is_free(call.place):
            return False
        with self._store.single() as tx:
            return self._spared(tx, call)

    def _spared(self, tx: Connection, call: Call) -> bool:
        """End the ask with the answer to an equal one, or let it wait for that; False when it has to be paid for."""
        deadline_s, known = self._settings.llm_deadline_s, call.known
        names = known.spec.label_names
        found = reuse.look(tx, known.id, call.reuse_key, call.ask.row, names, deadline_s=deadline_s)
        if found.answer is not None:
            settle.answer_again(tx, call, found.answer)
        elif found.under_way:
            asks.put_back(tx, call.ask, call.token, wait_s=IN_FLIGHT_WAIT_S)
        return found.answer is not None or found.under_way

    def _work(self, call: Call, stop: Callable[[], bool]) -> Worked:
        """One claimed ask."""
        slot = None
        if self._quota is not None:
            found = self._slot(self._quota, call, stop)
            if not isinstance(found, tuple):
                return found
            call, slot = found
        row = wait_s = None
        try:
            row, wait_s = self._book(call)
        except SpecError as error:
            wait_s = budget.PRICE_WAIT_S
            self._put_back(call, wait_s=wait_s)
            budget.tell_of_no_price(call.known, error)
        finally:
            if row is None:
                self._settle_slot(call, slot, None)
        if wait_s is not None:
            budget.put_off(self._store, call.known, wait_s, stop)
        return Worked() if row is None else Worked(1, recovered=self._send(call, row, slot))

    def _slot(self, quota: Quota, call: Call, stop: Callable[[], bool]) -> tuple[Call, Slot] | Worked:
        """Leave to send now, and to which model; or the ask waits as a row or can never be sent."""
        try:
            call, found = self._first_open(quota, call, stop)
        except LLMRejected as error:
            with self._store.begin() as tx:
                asks.bury(tx, call.ask, call.token, reason=error.kind, detail=str(error))
            return Worked()
        except BrokerError:
            self._put_back(call, wait_s=NO_QUOTA_WAIT_S)
            raise
        if isinstance(found, Slot):
            return call, found
        if isinstance(found, Refused):
            # With others in line somebody comes back without a message; else this row is what wakes the lane.
            wait_s = 0.0 if found.others_wait else max(0.0, found.retry_after_s - MAX_SLOT_WAIT_S)
            self._put_back(call, wait_s=wait_s, awaited=found.others_wait)
            return Worked()
        self._put_back(call, wait_s=0.0)
        return Worked(recovered=True)

    def _first_open(
        self, quota: Quota, call: Call, stop: Callable[[], bool]
    ) -> tuple[Call, Slot | Refused | Open | Recovered]:
        """The first of the models that may be asked whose endpoint does not fail, or what the last one says."""
        hold_s = self._settings.llm_deadline_s + HOLD_S
        while True:
            others = call.others
            found = self._line.wait(quota, call.place, call.tokens, hold_s=hold_s, stop=stop, outlast=not others)
            if not isinstance(found, Open):
                return call, found
            with self._store.single() as tx:
                call = self._with_votes(tx, self._put_to_another(call, others[0]))

    def _settle_slot(
        self, call: Call, slot: Slot | None, tokens_used: int | None, verdict: Verdict | None = None
    ) -> Health:
        if self._quota is None or slot is None:
            return Health()
        try:
            return self._quota.settle(call.place.key, slot, tokens_used, verdict)
        except BrokerError as error:
            event("quota_not_settled", error=str(error))  # the reservation counts for a minute, no longer
            return Health()

    def _book(self, call: Call) -> tuple[int | None, float | None]:
        """The row of the call; None: no lease any more, an answer came for free meanwhile, or no budget today.

        And where the budget has no place for it, how long all wait that need one.

        Raises:
            SpecError: nobody knows what it may cost.
        """
        if not budget.is_secured(call.known, call.ask):
            return self._book_and_secure(call)
        with self._store.single() as tx:
            row = self._booked(tx, call)
            if row is None and call.may_reuse:
                self._spared(tx, call)
            return row, None

    def _book_and_secure(self, call: Call) -> tuple[int | None, float | None]:
        """The same for one that has to find a place on its day's budget first: rows of days are locked last."""
        with self._store.begin() as tx:
            if call.may_reuse:
                reuse.alone(tx, call.reuse_key)
                if self._spared(tx, call):
                    return None, None
            wait_s = budget.secure(tx, call, self._clock)
            return (self._booked(tx, call) if wait_s is None else None), wait_s

    def _booked(self, tx: Connection, call: Call) -> int | None:
        return asks.book_call(
            tx,
            call.ask,
            call.token,
            model=call.model,
            prompt_hash=call.known.prompt_hash,
            reuse_key=call.reuse_key,
            reserved_tokens=call.tokens,
            reserved_usd=call.reserved_usd,
            lease_s=self._settings.ask_lease_s,
            beside_s=self._settings.llm_deadline_s if call.may_reuse else None,
        )

    def _send(self, call: Call, row: int, slot: Slot | None) -> bool:
        """Send one booked call and settle it, its slot first: others wait for that.

        Returns whether the endpoint was found to work again.
        """
        spec = call.known.spec.llm
        deadline_s = self._settings.llm_deadline_s
        try:
            reply = self._llm.ask(call.prompt, call.model, deadline_s=deadline_s, api=spec.api, samples=call.samples)
        except LLMError as error:
            return self._settle_error(call, row, slot, error)
        health = self._settle_slot(call, slot, reply.usage.total, "alive")
        self._tell(call, health)
        self._learn(call, reply)
        self._settle_reply(call, row, reply)
        return health.news

    def _settle_reply(self, call: Call, row: int, reply: Reply) -> None:
        answer = settle.answer_of(call, reply)
        self._persist(lambda tx: settle.write_reply(tx, call, row, reply, answer), single=settle.is_label(answer))

    def _learn(self, call: Call, reply: Reply) -> None:
        """Let everybody know the limits that the endpoint named."""
        if self._quota is not None:
            try:
                self._quota.state(call.place.key, Limits(reply.limits.rpm, reply.limits.tpm))
            except BrokerError as error:
                event("limits_not_stored", error=str(error))  # the next reply names them again

    def _settle_error(self, call: Call, row: int, slot: Slot | None, error: LLMError) -> bool:
        bill = bill_of(call, error)
        used = 0 if bill.state == "failed" else call.tokens
        self._pause(call, error)
        health = self._settle_slot(call, slot, bill.usage.total if bill.usage else used, verdict_of(error))
        event("call_failed", classifier=call.known.name, ask=call.ask.row, model=call.model, kind=error.kind)
        self._tell(call, health, error)
        step = after(
            error,
            call,
            endpoint_fails=health.open,
            max_attempts=self._settings.llm_max_attempts,
            jitter=random.random(),  # noqa: S311 - not a secret
        )

        self._persist(lambda tx: settle.write_error(tx, call, row, error, step))
        return health.news and not health.open

    def _tell(self, call: Call, health: Health, error: LLMError | None = None) -> None:
        """One alarm when an endpoint is given up for now, one word when it works again."""
        if not health.news:
            return
        if not health.open:
            self._line.reopen(call.place.key)
            event("llm_works_again", model=call.model)
        elif error is not None:
            what = str(error) if isinstance(error, LLMStopped) else "it fails for everybody, and is tried now and then"
            event("llm_given_up", level=logging.ERROR, model=call.model, kind=error.kind, what=what)

    def _pause(self, call: Call, error: LLMError) -> None:
        """Let everybody wait who uses this model and key, if the endpoint said so."""
        if isinstance(error, LLMStopped) and self._quota is None:
            self._line.shut(call.place.key, STOPPED_S)
            event("llm_given_up", level=logging.ERROR, model=call.model, kind=error.kind, what=str(error))
        wait_s = pause_of(error)
        if wait_s == 0:
            return
        self._line.shut(call.place.key, wait_s)
        if self._quota is not None:
            try:
                self._quota.pause(call.place.key, wait_s)
            except BrokerError as error_of_store:
                event("pause_not_stored", error=str(error_of_store))  # the other processes find out by themselves

    def _put_back(self, call: Call, *, wait_s: float, awaited: bool = False) -> None:
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
