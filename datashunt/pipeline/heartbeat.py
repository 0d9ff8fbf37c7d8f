"""The heartbeat of a distillation: it renews the lease, and stops work that is not ours or has to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from datashunt.errors import DatashuntError, StoreError
from datashunt.telemetry import event

BEAT_S = 1.0
UNATTENDED = frozenset({"fetch", "load", "publish"})
"""Stages in which one call may last long and report nothing: a thread renews the lease meanwhile."""
UNATTENDED_S = 3_600.0
"""For so long at most: what is not done by then is taken for hung."""


class LeaseLost(DatashuntError):
    """Another worker took this distillation over: stop, and touch nothing."""


class Stopped(DatashuntError):
    """This worker was asked to end."""


class Heartbeat:
    """A progress callback. Its thread lives from `with` to the end of the block.

    It writes once a second at most, and when another stage begins. A database that cannot be used is borne for as long
    as the lease lasts.
    """

    def __init__(
        self, run: int, renew: Callable[[str, float], bool], stop: Callable[[], bool], *, lease_s: float
    ) -> None:
        """The lease has just begun.

        Args:
            run: the distillation's id.
            renew: writes stage and share done, and renews the lease; False if it is lost.
            stop: whether this process shall end; to be asked is a sign of life.
            lease_s: how long a lease lasts.
        """
        self._run, self._renew, self._stop, self._lease_s = run, renew, stop, lease_s
        self._stage, self._progress = "", 0.0
        self._since = self._renewed = time.monotonic()
        self._written = -float("inf")
        self._lost: DatashuntError | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, stage: str, progress: float) -> None:
        """Report stage and share done.

        Raises:
            Stopped: this process shall end.
            LeaseLost: the run is another worker's now.
            StoreError: the lease could not be renewed for as long as it lasts.
        """
        if self._stop():
            raise Stopped(f"distillation {self._run} is left to another worker")
        with self._lock:
            if self._lost is not None:
                raise self._lost
            now = time.monotonic()
            if stage == self._stage and now - self._written < BEAT_S:
                return
            if stage != self._stage:
                self._since = now
            self._stage, self._progress = stage, progress
            self._beat()
        event("distilling", run=self._run, stage=stage, progress=round(progress, 3))

    def _beat(self) -> None:
        self._written = now = time.monotonic()
        try:
            if not self._renew(self._stage, self._progress):
                raise LeaseLost(f"distillation {self._run} was taken over")
        except StoreError as error:
            if now - self._renewed >= self._lease_s:
                raise
            event("not_renewed", run=self._run, error=str(error))
            return
        self._renewed = now

    def _go_on(self) -> None:
        while not self._ended.wait(self._lease_s / 4):
            with self._lock:
                if self._stage not in UNATTENDED or time.monotonic() - self._since > UNATTENDED_S:
                    continue
                self._stop()
                try:
                    self._beat()
                except (LeaseLost, StoreError) as error:
                    self._lost = error
                    return
