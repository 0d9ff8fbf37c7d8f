"""What this worker says of itself, every few seconds: that it lives, and when it last worked."""

from __future__ import annotations

import os
import socket
import time

from datashunt.errors import StoreError
from datashunt.pipeline import liveness
from datashunt.settings import Settings
from datashunt.store import Store, workers
from datashunt.store.workers import Sign
from datashunt.telemetry import event


class Pulse:
    """One for each worker. Forked processes have a copy, and write for themselves when they work."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._name = ""
        self._queues: tuple[str, ...] = ()
        self._taken = 0
        self._started = self._worked = time.monotonic()
        self._reported = -float("inf")

    def begin(self, name: str, queues: set[str]) -> None:
        """This process is the worker of that node name, and takes messages from these queues."""
        self._name, self._queues, self._pid = name, tuple(sorted(queues)), os.getpid()

    @property
    def has_begun(self) -> bool:
        """Whether this process is a worker; one that was refused is none."""
        return bool(self._name)

    def take(self) -> None:
        """A message was taken."""
        self._taken += 1
        self.step()

    def step(self) -> None:
        """A batch, a call or a training step begins."""
        self._worked = time.monotonic()

    @property
    def is_of_a_child(self) -> bool:
        """Whether this is a process that the worker forked, which has no ticking thread."""
        return os.getpid() != self._pid

    def report(self, store: Store, settings: Settings) -> None:
        """Write it down, if the last time was long enough ago. Not to be able to is only logged."""
        if not self.has_begun or time.monotonic() - self._reported < liveness.every_s(settings):
            return
        self._reported = time.monotonic()
        try:
            with store.single() as tx:
                if self.is_of_a_child:
                    workers.works(tx, self._name)
                else:
                    workers.report(tx, self._sign())
        except StoreError as error:
            event("not_reported", error=str(error))

    def end(self, store: Store) -> None:
        """This worker ends in good order."""
        if not self.has_begun or self.is_of_a_child:
            return
        try:
            with store.single() as tx:
                workers.gone(tx, self._sign())
        except StoreError as error:
            event("not_reported", error=str(error))

    def _sign(self) -> Sign:
        now = time.monotonic()
        return Sign(
            name=self._name,
            host=socket.gethostname(),
            pid=self._pid,
            queues=self._queues,
            taken=self._taken,
            up_s=now - self._started,
            idle_s=now - self._worked,
        )
