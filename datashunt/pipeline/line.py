"""The line before the LLM: which classifier is served next, and when its request may be sent.

Short waits happen in the thread, long ones are rows. Somebody always waits for the next slot: who is first in line
stays in its thread for longer than the others may.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datashunt import llm
from datashunt.pipeline.models import Directory
from datashunt.quota import ALONE, Busy, Limits, Open, Quota, Refused, Slot, Turn
from datashunt.store.classifiers import Registered

MAX_SLOT_WAIT_S = 1.0
"""Longest wait for a slot in a thread. So many seconds of slots are given away ahead, enough that nobody idles."""
FIRST_WAIT_S = 15.0
"""The same for a thread that nobody is before, and for one that waits until fewer requests are under way."""
POLL_S = 0.01
"""How often that one thread of a process looks."""
SHUT_S = 0.05
"""How long a key is not asked for again at least after a refusal."""
SLICE_S = 0.2
"""How soon a waiting thread sees that it shall end, or that an endpoint works again."""
OUTLAST_S = 5.0
"""How long a thread waits for an endpoint that fails; then others, such as submissions, have their turn."""
ROW_S = 2.0
"""How long asks wait as rows at least while an endpoint fails."""


@dataclass(frozen=True, slots=True)
class Place:
    """One classifier's place in the line. `key`: whose quota its calls count against; "" in a batch."""

    known: Registered
    key: str
    turn: Turn = ALONE


@dataclass(frozen=True, slots=True)
class Recovered:
    """The endpoint works again; nothing was used up. Wake the others."""


class Line:
    """One for each process, shared by its threads. `quota` None: nobody limits anything."""

    def __init__(self, directory: Directory, client: llm.LLM, quota: Quota | None) -> None:
        self._directory = directory
        self._llm = client
        self._quota = quota
        self._shut: dict[str, float] = {}
        self._awaited: dict[str, float] = {}
        self._free: dict[str, bool] = {}
        self._threads = 0
        self._counting = threading.Lock()
        self._round = itertools.count()
        self._standing_by: dict[str, threading.Lock] = {}
        self._outlasting: dict[str, threading.Lock] = {}

    def places(self) -> list[Place]:
        """All classifiers that may be served now, the next one first: keys take turns, and so do those of one key.

        Raises:
            BrokerError: the quota's store cannot be reached.
        """
        keys: dict[str, list[Registered]] = {}
        for known in self._directory.everyone():
            if not self._waits(known):
                keys.setdefault(self._llm.quota_key(known.spec.llm.model), []).append(known)
        now = time.monotonic()
        usable = [key for key in keys if self._shut.get(key, now) <= now]
        first = next(self._round) % len(usable) if usable else 0
        return [place for key in usable[first:] + usable[:first] for place in self._of_key(key, keys[key])]

    def _waits(self, known: Registered) -> bool:
        """Whether a thread of this process waits already until the last model of a classifier works again."""
        lock = self._outlasting.get(self._llm.quota_key(known.spec.llm.all_models[-1]))
        return lock is not None and lock.locked()

    def _of_key(self, key: str, sharing: list[Registered]) -> list[Place]:
        if self._quota is None or len(sharing) == 1:
            return [Place(known, key) for known in sharing]
        known = {one.id: one for one in sharing}
        turns = self._quota.turns(key, {one.id: one.spec.llm.weight for one in sharing})
        return [Place(known[turn.classifier], key, turn) for turn in turns if turn.classifier is not None]

    @contextmanager
    def present(self) -> Iterator[None]:
        """A thread of this process works here; the last one may not go while slots are only a moment away."""
        with self._counting:
            self._threads += 1
        try:
            yield
        finally:
            with self._counting:
                self._threads -= 1

    def stays(self, until: float, stop: Callable[[], bool]) -> bool:
        """Wait until a key opens whose slots others wait for, if no other thread of this process is here.

        Whoever is refused goes, since others in line come back without a message. They come back to a key that is shut
        for a moment by those refusals: if all of them went, nobody would be left. False: this one may go.

        Args:
            until: when the thread's turn is over, monotonic; then the wait ends too.
            stop: whether the thread shall end.
        """
        opens = min((at for at in self._awaited.values() if at > time.monotonic()), default=None)
        if self._threads > 1 or opens is None:
            return False
        while (left := min(opens, until) - time.monotonic()) > 0 and not stop():
            time.sleep(min(left, SLICE_S))
        return True

    def shut(self, key: str, seconds: float) -> None:
        """This process asks nothing with this key before so many seconds have passed."""
        self._shut[key] = max(self._shut.get(key, 0.0), time.monotonic() + seconds)

    def reopen(self, key: str) -> None:
        """This process may ask with this key again: the endpoint works."""
        self._shut.pop(key, None)

    def is_free(self, place: Place) -> bool:
        """Whether nobody had to wait when this process last asked for a slot with this key."""
        return self._free.get(place.key, True)

    def wait(
        self,
        quota: Quota,
        place: Place,
        tokens: int,
        *,
        hold_s: float,
        stop: Callable[[], bool],
        outlast: bool = True,
    ) -> Slot | Refused | Open | Recovered:
        """Wait for leave to send one request now, or find out that the wait is too long for a thread.

        Args:
            quota: the shared allowance.
            place: who asks.
            tokens: estimate of prompt and reply together.
            hold_s: longest time that the request can take.
            stop: whether the thread shall end; then the slot is given back.
            outlast: whether to wait for an endpoint that fails; else `Open` says that it does.

        Raises:
            LLMRejected: the request alone exceeds the tokens of a minute.
            BrokerError: the store cannot be reached.
        """
        spec = place.known.spec.llm

        def acquire() -> Slot | Refused | Busy | Open:
            return quota.acquire(
                place.key,
                tokens,
                Limits(spec.rpm, spec.tpm, spec.concurrency),
                max_wait_s=MAX_SLOT_WAIT_S,
                first_wait_s=FIRST_WAIT_S,
                hold_s=hold_s,
                turn=place.turn,
            )

        while True:
            found = acquire()
            self._free[place.key] = isinstance(found, Slot) and found.wait_s == 0
            if isinstance(found, Busy):
                found = self._stand_by(place.key, acquire, stop)
            if isinstance(found, Open):
                return self._outlast(quota, place, found, acquire, stop) if outlast else found
            if isinstance(found, Slot):
                refused = self._sit_out(quota, place.key, found, stop)
                if refused is not None and refused.retry_after_s == 0 and not stop():
                    continue  # its time passed by while this process stood still
                found = refused or found
            if isinstance(found, Refused):
                self.shut(place.key, max(SHUT_S, found.retry_after_s - MAX_SLOT_WAIT_S))
                if found.others_wait:
                    self._awaited[place.key] = self._shut[place.key]
            return found

    def _sit_out(self, quota: Quota, key: str, slot: Slot, stop: Callable[[], bool]) -> Refused | None:
        """Wait until the slot's time; why it may not be used then, if so."""
        if slot.wait_s == 0:
            return None
        until = time.monotonic() + slot.wait_s
        while (left := until - time.monotonic()) > 0:
            if stop():
                quota.settle(key, slot, None)
                return Refused(0.0)
            time.sleep(min(left, SLICE_S))
        return quota.begin(key, slot)

    def _stand_by(
        self, key: str, acquire: Callable[[], Slot | Refused | Busy | Open], stop: Callable[[], bool]
    ) -> Slot | Refused | Open:
        """Let one thread of this process look until a request has ended; the others go: it will take the next."""
        alone = self._standing_by.setdefault(key, threading.Lock())
        if not alone.acquire(blocking=False):
            return Refused(0.0, others_wait=True)
        try:
            until = time.monotonic() + FIRST_WAIT_S
            while time.monotonic() < until and not stop():
                found = acquire()
                if not isinstance(found, Busy):
                    return found
                time.sleep(POLL_S)
        finally:
            alone.release()
        return Refused(0.0, others_wait=not stop())

    def _outlast(
        self,
        quota: Quota,
        place: Place,
        found: Open,
        acquire: Callable[[], Slot | Refused | Busy | Open],
        stop: Callable[[], bool],
    ) -> Slot | Refused | Recovered:
        """Let one thread of this process wait until the endpoint is tried again, or works; the others go."""
        key = place.key
        alone = self._outlasting.setdefault(key, threading.Lock())
        if found.retry_after_s > OUTLAST_S or not alone.acquire(blocking=False):
            wait_s = max(ROW_S, found.retry_after_s)
            if len(place.known.spec.llm.all_models) == 1:  # else other asks go to another model
                self.shut(key, wait_s - MAX_SLOT_WAIT_S)
            return Refused(wait_s)
        try:
            until = time.monotonic() + OUTLAST_S
            while time.monotonic() < until and not stop():
                time.sleep(SLICE_S)
                tried = acquire()
                if isinstance(tried, Slot) and tried.probe:
                    return self._sit_out(quota, key, tried, stop) or tried
                if not isinstance(tried, Open):
                    if isinstance(tried, Slot):
                        quota.settle(key, tried, None)
                    self.reopen(key)
                    return Recovered()
        finally:
            alone.release()
        return Refused(0.0)
