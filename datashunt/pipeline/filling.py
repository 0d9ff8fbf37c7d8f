"""Which asks go into a batch, and the file that they make. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from datashunt.errors import SpecError
from datashunt.items import ClaimedAsk
from datashunt.llm import Batches
from datashunt.llm.batches import MAX_BYTES, MAX_REQUESTS
from datashunt.pipeline import budget, settle
from datashunt.pipeline.call import Call, put_to
from datashunt.pipeline.line import Place
from datashunt.store import Connection, Store, asks, batches, budgets, reuse
from datashunt.store.batches import Booking, ClaimedBatch
from datashunt.store.classifiers import Registered

CHUNK = 500
"""Asks that one transaction takes."""


def call_of(tx: Connection, known: Registered, batch: ClaimedBatch, ask: ClaimedAsk) -> Call:
    """The request about an ask: always the same one, as long as the batch has it."""
    call = put_to(Place(known, key=""), ask, batch.key, 0)
    share = Decimal(1) - Decimal(str(known.spec.llm.batch_discount))
    votes = () if known.spec.llm.samples < 2 else reuse.votes(tx, ask.row, call.reuse_key)
    return replace(call, share=share, votes=votes)


class Filler:
    """Fills batches and makes their files."""

    def __init__(self, store: Store, api: Batches) -> None:
        self._store = store
        self._api = api

    def fill(self, batch: ClaimedBatch, known: Registered, *, lease_s: float) -> None:
        """Take asks and book their calls, until none is left or the file is full.

        An ask for which today's budget has no place waits, and so does each that needs one if nobody knows the price.
        One whose question was answered before ends at once. One whose question is under way comes along without a call
        of its own: when the batch ends, the answer is there.
        """
        try:
            self._fill(batch, known, lease_s)
        except SpecError as error:  # nothing of the last chunk was taken
            budget.tell_of_no_price(known, error)
            budget.put_off(self._store, known, budget.PRICE_WAIT_S)

    def _fill(self, batch: ClaimedBatch, known: Registered, lease_s: float) -> None:
        size, count, more = 0, 0, True
        while more and count < MAX_REQUESTS:
            waits: list[float] = []
            with self._store.begin() as tx:
                if not batches.renew(tx, batch, lease_s=lease_s):
                    return
                taken = batches.take(tx, batch, known, most=min(CHUNK, MAX_REQUESTS - count))
                calls = self._to_pay(tx, [call_of(tx, known, batch, ask) for ask in taken if ask.text])
                fitting: list[Call] = []
                for call in calls:
                    size += len(self._line(call))
                    if size > MAX_BYTES and count + len(fitting) > 0:
                        asks.put_back(tx, call.ask, batch.key, wait_s=0)
                    elif (wait_s := self._wait_s(tx, call)) is None:
                        fitting.append(call)
                    else:
                        waits.append(wait_s)
                batches.book(tx, batch, known, [_booking(call) for call in fitting])
                for ask in taken:  # last, since rows of days are locked last
                    settle.lacks_text(tx, ask, batch.key)
                count += len(fitting)
                more = bool(taken) and size <= MAX_BYTES
            if waits:
                budget.put_off(self._store, known, min(waits))

    def _wait_s(self, tx: Connection, call: Call) -> float | None:
        """None where the day's budget has a place for the call; else its ask waits so long for the next day."""
        return None if budget.is_secured(call.known, call.ask) else budget.secure(tx, call, budgets.now)

    def _to_pay(self, tx: Connection, calls: Sequence[Call]) -> Iterator[Call]:
        """Those that have to be paid for."""
        keys = [call.reuse_key for call in calls if call.may_reuse]
        reuse.alone(tx, *keys)
        paid = reuse.paid(tx, calls[0].known.id, keys) if keys else reuse.Paid(frozenset(), frozenset())
        under_way = set(paid.under_way)
        for call in calls:
            answer = self._answered(tx, call) if call.may_reuse and call.reuse_key in paid.answered else None
            if answer is not None:
                settle.answer_again(tx, call, answer)
            elif not (call.may_reuse and call.reuse_key in under_way):
                under_way.add(call.reuse_key)
                yield call

    def _answered(self, tx: Connection, call: Call) -> reuse.Stored | None:
        names = call.known.spec.label_names
        return reuse.look(tx, call.known.id, call.reuse_key, call.ask.row, names, deadline_s=0.0).answer

    def file_of(self, batch: ClaimedBatch, known: Registered) -> bytes:
        """The file of a batch's requests: the same each time, as long as no more is known of what the LLM refuses."""
        lines: list[bytes] = []
        after = 0
        while True:
            with self._store.begin() as tx:
                found = batches.open_ones(tx, batch, known.spec.labels_hash, after=after, most=CHUNK)
                lines += [self._line(call_of(tx, known, batch, one.ask)) for one in found.values()]
            if not found:
                return b"".join(lines)
            after = max(found)

    def _line(self, call: Call) -> bytes:
        return self._api.request_line(str(call.ask.row), call.prompt, call.model, call.samples)


def _booking(call: Call) -> Booking:
    return Booking(call.ask, call.reuse_key, call.tokens, call.reserved_usd)
