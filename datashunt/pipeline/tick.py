"""Periodic work as due rows: however many clocks tick, each thing is done once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from datashunt.errors import DatashuntError, StoreError
from datashunt.items import FEWEST_JUDGES, Wake
from datashunt.pipeline.models import served
from datashunt.pipeline.retention import Retention
from datashunt.policy import TargetPolicy
from datashunt.settings import Settings
from datashunt.store import Store, batches, distillations, partitions, sweeps
from datashunt.store.classifiers import Registered
from datashunt.store.engine import is_unreachable
from datashunt.telemetry import event

SWEEP_EVERY_S = 1.0
PARTITIONS_EVERY_S = 300.0
RETENTION_EVERY_S = 3_600.0
MOST_IDS = 100_000
"""Ids that one run of the periodic retention removes, of each classifier."""


def _tell(error: Exception) -> None:
    """A traceback only of faults of ours: what PostgreSQL says in one may quote an item."""
    if isinstance(error, DatashuntError):
        event("tick_failed", error=str(error))
    else:
        event("tick_failed", level=logging.ERROR, error=type(error).__name__, exc_info=error)


class Ticker:
    """Finds what stands still, what has expired and what is due."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._of_all = (self._sweep, self._batches)

    def run(self) -> list[Wake]:
        """Do what is due now; returns what to publish.

        What cannot be done keeps nothing else from being done, and nothing that was found from being published.

        Raises:
            Exception: the first one, where nothing was found; the next tick comes soon.
        """
        with self._store.begin() as tx:
            known = served(tx)
        parts: list[Callable[[], list[Wake]]] = [self._partitions, *(partial(part, known) for part in self._of_all)]
        parts += [partial(part, one) for part in (self._distil, self._certify) for one in known]
        wakes: list[Wake] = []
        failed: list[Exception] = []
        for part in parts:
            try:
                wakes += part()
            except Exception as error:  # noqa: BLE001 - raised or told below
                failed.append(error)
                if is_unreachable(error):
                    break
        if failed and not wakes:
            raise failed[0]
        for one in failed:
            _tell(one)
        return wakes

    def _sweep(self, known: Sequence[Registered]) -> list[Wake]:
        beyond_s = {one.id: one.spec.llm.batch_beyond_s for one in known}
        with self._store.begin() as tx:
            if not sweeps.take_due(tx, "sweep", every_s=SWEEP_EVERY_S):
                return []
            freed = sweeps.free_expired(
                tx,
                score_max_attempts=self._settings.score_max_attempts,
                llm_max_attempts=self._settings.llm_max_attempts,
                call_deadline_s=self._settings.ask_lease_s,
            )
            wakes = sweeps.standing_still(
                tx, beyond_s, still_s=self._settings.stand_still_s, ask_lease_s=self._settings.ask_lease_s
            )
        if freed.items or freed.asks or freed.calls or freed.distillations:
            event(
                "leases_expired",
                items=freed.items,
                asks=freed.asks,
                calls=freed.calls,
                distillations=freed.distillations,
            )
        again: Counter[tuple[str, str]] = Counter()
        for wake in wakes:
            again[wake.lane, wake.classifier] += len(wake.ids)
        for (lane, classifier), rows in again.items():
            event("published_again", lane=lane, classifier=classifier, rows=rows)
        return wakes

    def _partitions(self) -> list[Wake]:
        """Long before they are needed: it can wait until nobody is in the way."""
        with self._store.begin() as tx:
            if not partitions.there(tx) or not sweeps.take_due(tx, "partitions", every_s=PARTITIONS_EVERY_S):
                return []
        try:
            with self._store.begin() as tx:
                made = partitions.make(tx)
        except StoreError as error:
            event("partitions_not_made", error=str(error))
            return []
        if made:
            event("partitions_made", tables=made)
        return []

    def retain(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Remove what is old enough, if that is due. It may take minutes, for which no tick has to wait.

        Args:
            stop: whether this process shall end; the rest is left to the next run then.

        Raises:
            DatashuntError: nothing is lost; the next run comes in an hour.
        """
        retention = Retention(self._store, self._settings)
        with self._store.begin() as tx:
            if not retention.asked_for(served(tx)):
                return
            if not partitions.there(tx) or not sweeps.take_due(tx, "retention", every_s=RETENTION_EVERY_S):
                return
            allowed = partitions.own(tx)
        if not allowed:
            event("retention_not_allowed", do="run `datashunt retention --all` daily, as a login of datashunt_migrator")
            return
        try:
            removed = retention.run(tries=1, most_ids=MOST_IDS, stop=stop)
        except StoreError as error:
            event("retention_put_off", error=str(error))
            return
        dropped = [month.name for month in removed.months if month.dropped]
        if dropped or any(removed.ids.values()):
            event("retention", dropped=dropped, ids=removed.ids)

    def _batches(self, known: Sequence[Registered]) -> list[Wake]:
        with self._store.begin() as tx:
            if not sweeps.take_due(tx, "batches", every_s=SWEEP_EVERY_S):
                return []
            for one in known:
                if one.spec.llm.batch_beyond_s is not None:
                    batches.plan(tx, one, gather_s=self._settings.batch_gather_s)
            return batches.due(tx, still_s=self._settings.stand_still_s)

    def _distil(self, classifier: Registered) -> list[Wake]:
        with self._store.begin() as tx:
            if not sweeps.take_due(tx, f"distil:{classifier.id}", every_s=classifier.spec.distil.every_s):
                return []
            row = distillations.make_due(tx, classifier, judges=FEWEST_JUDGES)
        return [] if row is None else [Wake("distil", classifier.name, (row,))]

    def _certify(self, classifier: Registered) -> list[Wake]:
        """Proofs and label sets are looked at where there are any; the guards of what is proven, here."""
        policy = classifier.spec.policy
        target = isinstance(policy, TargetPolicy)
        if classifier.incumbent is None or not (target or classifier.spec.prompt.hard):
            return []
        from datashunt.pipeline import guard, promise, pruning  # scipy comes with them, and few workers need it

        with self._store.begin() as tx:
            if not sweeps.take_due(tx, f"certify:{classifier.id}", every_s=self._settings.certify_every_s):
                return []
            if not target and not pruning.is_due(classifier, promise.stand(classifier).threshold):
                return []
            wanted = guard.watch(tx, classifier, policy) if isinstance(policy, TargetPolicy) else False
            row = distillations.make_due(tx, classifier, judges=FEWEST_JUDGES, needed=1) if wanted else None
        wakes = [Wake("certify", classifier.name, (classifier.id,))]
        return wakes if row is None else [*wakes, Wake("distil", classifier.name, (row,))]
