"""The producers' and consumers' API. Every call returns after its commit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

from datashunt import settings as settings_module
from datashunt.bootstrap import Runtime
from datashunt.errors import BrokerError, QueueFull, UsageError
from datashunt.items import Item, ItemState, Receipt, Refusal, Result
from datashunt.pipeline.bound import COUNT_EVERY_S
from datashunt.pipeline.submit import fault_of_id
from datashunt.settings import Settings
from datashunt.store import classifiers, results
from datashunt.store import forget as forgetting
from datashunt.store.forget import Forgotten
from datashunt.telemetry import event

PAGE = 1_000
FINAL = {ItemState.DONE, ItemState.DEAD, ItemState.HELD, ItemState.FORGOTTEN}


class Client:
    """Submits items and reads outcomes. Safe to share between threads.

    Example:
        >>> with Client() as client:                                    # doctest: +SKIP
        ...     client.submit("tickets", [{"id": "4711", "text": "my invoice is wrong"}])
        ...     client.wait("tickets", ["4711"], timeout_s=30)
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Connects lazily, to the servers of `settings` or of the DATASHUNT_* environment.

        Raises:
            SettingsError: a setting is wrong.
        """
        self._runtime = Runtime(settings or settings_module.load())

    def submit(
        self,
        classifier: str,
        items: Iterable[Item | Mapping[str, Any] | Refusal],
        *,
        submission_id: str | None = None,
        at_bound: Literal["refuse", "wait"] | None = None,
    ) -> Receipt:
        """Store items to be classified, and wake the workers. Accepted means committed.

        Sending an item again (same id, same text) is accepted and changes nothing.

        Args:
            classifier: name of an applied classifier.
            items: `Item`s, or mappings with `id`, `text` and perhaps `meta`, `deadline` and `priority`; other keys are
                not kept. A deadline is a number of seconds from now, a datetime with its time zone, or one as ISO 8601.
                Lower priorities come first, −100 to 100.
            submission_id: names this call; give it to make the receipt readable again. Default: a new one.
            at_bound: what to do while as many items are queued as DATASHUNT_MAX_QUEUED allows: refuse the call, or wait
                until fewer are, however long that takes. Default: DATASHUNT_AT_BOUND.

        Raises:
            QueueFull: refused at the bound; nothing was stored.
            UnknownClassifier: nothing was stored.
            SubmissionError: the submission id was used for other items, or can be none.
            UsageError: `items` is no list of items, or `at_bound` is wrong; nothing was stored.
            SettingsError, StoreError: nothing was stored.
        """
        if isinstance(items, Mapping | str | bytes | Item | Refusal) or not isinstance(items, Iterable):
            raise UsageError(f"items: expected a list of items, found one {type(items).__name__}")
        publisher = self._runtime.publisher  # a setting that is missing is told before anything is stored
        how = at_bound or self._runtime.settings.at_bound
        if how not in {"refuse", "wait"}:
            raise UsageError(f"at_bound: expected refuse or wait, found {how!r}")
        entries = items if how == "refuse" else list(items)  # they may be read more than once
        submission = submission_id or str(uuid4())
        while True:
            try:
                receipt, wakes = self._runtime.intake.submit(classifier, entries, submission)
                break
            except QueueFull:
                if how == "refuse":
                    raise
                time.sleep(COUNT_EVERY_S)
        try:
            publisher.publish(wakes)
        except BrokerError as error:
            event("not_published", error=str(error))  # committed all the same: tick finds the rows
        return receipt

    def receipt(self, submission_id: str) -> Receipt | None:
        """What became of an earlier submission, or None if it was never stored.

        Raises:
            UsageError: it can be no id.
            SettingsError, StoreError: a server is not set or away.
        """
        (key,) = _listed([submission_id])
        stored = self._runtime.intake.receipt(key)
        return None if stored is None else stored.receipt

    def result(self, classifier: str, id: str) -> Result | None:
        """The current outcome of one item; None while it has none.

        Raises:
            UnknownClassifier, UsageError: there is no such classifier, or it can be no id.
            SettingsError, StoreError: a server is not set or away.
        """
        return self.results_of(classifier, [id]).get(id)

    def results_of(self, classifier: str, ids: Iterable[str]) -> dict[str, Result]:
        """The current outcomes of several items, by id, all as of one moment. Items that have none are left out.

        Raises:
            UnknownClassifier, UsageError: no such classifier, or `ids` is no list of ids.
            SettingsError, StoreError: a server is not set or away.
        """
        keys = _listed(ids)
        with self._runtime.store.begin() as tx:
            known = classifiers.id_of(tx, classifier)
            found = results.current(tx, known, keys)
        return {one.id: one for one in found}

    def results(self, classifier: str, after: str | None = None) -> Iterator[Result]:
        """All outcomes after a cursor, in an order in which none can appear before one already given.

        Args:
            classifier: its name.
            after: the `cursor` of the last result you have, or None for all.

        Raises:
            UnknownClassifier, UsageError: no such classifier, or the cursor is none of ours.
            SettingsError, StoreError: a server is not set or away.
        """
        cursor = after
        while True:
            with self._runtime.store.begin() as tx:
                known = classifiers.id_of(tx, classifier)
                page = results.stream(tx, known, cursor, PAGE)
            yield from page
            if len(page) < PAGE:
                return
            cursor = page[-1].cursor

    def wait(self, classifier: str, ids: Iterable[str], timeout_s: float) -> dict[str, str]:
        """Wait until each of these items is done, dead, held or forgotten; returns the state of each that exists.

        Raises:
            TimeoutError: some were still on their way after `timeout_s` seconds.
            UnknownClassifier, UsageError: no such classifier, or `ids` is no list of ids.
            SettingsError, StoreError: a server is not set or away.
        """
        keys = _listed(ids)
        deadline = time.monotonic() + timeout_s
        pause = 0.01
        with self._runtime.store.begin() as tx:
            known = classifiers.id_of(tx, classifier)
        while True:
            with self._runtime.store.begin() as tx:
                found = results.states(tx, known, keys)
            moving = [key for key, state in found.items() if state not in FINAL]
            if not moving:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(moving)} of {len(keys)} items of {classifier} are not done yet")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    def forget(self, classifier: str, ids: Iterable[str]) -> Forgotten:
        """Remove the texts of items and all that was said of them; keep what they cost. This cannot be undone.

        Raises:
            UnknownClassifier, UsageError: no such classifier or item, or `ids` is no list; nothing was forgotten.
            SettingsError, StoreError: a server is not set or away; nothing was forgotten.
        """
        keys = _listed(ids)
        with self._runtime.store.begin() as tx:
            return forgetting.forget(tx, classifiers.id_of(tx, classifier), classifier, keys)

    def close(self) -> None:
        """Give all connections back."""
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _listed(ids: Iterable[str]) -> list[str]:
    """The ids of a call, read once.

    Raises:
        UsageError: it is no list of ids, or one of them can be none.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise UsageError(f"ids: expected a list of ids, found one {type(ids).__name__}")
    keys = list(ids)
    for position, key in enumerate(keys):
        fault = fault_of_id(key)
        if fault is not None:
            where = f" (entry {position} of ids, from 0)" if len(keys) > 1 else ""
            raise UsageError(fault[1] + where)
    return keys
