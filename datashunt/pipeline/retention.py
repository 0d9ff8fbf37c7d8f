"""Retention by age: months that nobody needs any more are dropped, and ids some time after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datashunt.errors import StoreError, UsageError
from datashunt.settings import Settings
from datashunt.store import Connection, Store, classifiers, partitions
from datashunt.store import retention as removal
from datashunt.store.classifiers import Registered
from datashunt.store.partitions import Month
from datashunt.store.retention import Share

DAY_S = 86_400.0
TRIES = 20
PAUSE_S = 0.25
NOT_YET = "the database has no partitions yet: run `datashunt db upgrade`"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one classifier's part of a month. `kept`: why it stays; empty: it goes."""

    classifier: str
    items: int
    kept: str


@dataclass(frozen=True, slots=True)
class MonthsFate:
    """What becomes of a month of `size` bytes. `dropped`: all of it goes at once."""

    name: str
    size: int
    dropped: bool
    parts: tuple[Fate, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """What a run removed, or would: months, and `ids` by classifier."""

    months: tuple[MonthsFate, ...]
    ids: dict[str, int]


def fate(share: Share, name: str, days: int | None) -> Fate:
    """Whether one classifier's part of a month may go after so many days; None: it is not asked about, 0: never."""
    quiet = share.quiet_s / DAY_S
    if days is None:
        return Fate(name, share.items, "this run is not about it")
    if days == 0:
        return Fate(name, share.items, "no retention is set for it")
    if quiet < days:
        return Fate(name, share.items, f"the last of them came or ended {quiet:.1f} days ago, not {days}")
    return Fate(name, share.items, "; ".join(share.needed))


class Retention:
    """Removes what is older than the settings and policies say."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def asked_for(self, known: Sequence[Registered]) -> bool:
        """Whether any of these classifiers has an age after which something goes."""
        return any(self._days(one) or self._id_days(one) for one in known)

    def run(
        self,
        name: str | None = None,
        *,
        dry_run: bool = False,
        tries: int = TRIES,
        most_ids: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Removed:
        """Remove what is old enough and what nobody needs.

        Args:
            name: of one classifier only; None: of all.
            dry_run: only say what would be removed.
            tries: how often to try to get the tables that others use.
            most_ids: about how many ids of each classifier to remove; None: all that are old enough.
            stop: whether to leave the rest to another run; asked before each transaction that may last.

        Raises:
            UnknownClassifier: there is none of this name.
            UsageError: no age is set, or the database is of an older release.
            StoreError: others use the tables for too long; what was removed before stays removed.
        """
        with self._store.begin() as tx:
            if not partitions.there(tx):
                raise UsageError(NOT_YET)
            known = classifiers.everyone(tx)
            about = known if name is None else [classifiers.current(tx, name)]
            months = [month for month in partitions.months(tx) if month.end <= partitions.reached(tx)]
        if not self.asked_for(about):
            whose = "no classifier has a" if name is None else f"{name} has no"
            raise UsageError(
                f"{whose} retention: set policy.retention_days or policy.idempotency_days in"
                " its file, or DATASHUNT_RETENTION_DAYS or DATASHUNT_IDEMPOTENCY_DAYS"
            )
        selected = {one.id for one in about}
        fates = [self._patiently(month, known, selected, dry_run, tries) for month in months if not stop()]
        ids = {one.name: self._ids(one, dry_run, most_ids, stop) for one in about if self._id_days(one)}
        return Removed(tuple(one for one in fates if one.parts or one.dropped), ids)

    def _patiently(
        self, month: Month, known: Sequence[Registered], selected: set[int], dry_run: bool, tries: int
    ) -> MonthsFate:
        for left in reversed(range(tries)):
            try:
                return self._month(month, known, selected, dry_run)
            except StoreError:
                if left == 0:
                    raise
            time.sleep(PAUSE_S)
        raise ValueError("tries: expected at least 1")

    def _month(self, month: Month, known: Sequence[Registered], selected: set[int], dry_run: bool) -> MonthsFate:
        """Its fate. Writers wait only for a month of which something goes: what came meanwhile is seen then."""
        with self._store.begin() as tx:
            found, gone = self._look(tx, month, known, selected)
        if dry_run or not (gone or found.dropped):
            return found
        with self._store.begin() as tx:
            removal.hold(tx, month)
            found, gone = self._look(tx, month, known, selected)
            if gone or found.dropped:
                removal.remove(tx, month, gone, whole=found.dropped)
        return found

    def _look(
        self, tx: Connection, month: Month, known: Sequence[Registered], selected: set[int]
    ) -> tuple[MonthsFate, list[int]]:
        """A month's fate, and the classifiers whose part of it goes."""
        shares = removal.shares(tx, month)
        by_id = {one.id: one for one in known}
        days = {one.id: self._days(one) if one.id in selected else None for one in known}
        parts = [fate(share, by_id[share.classifier].name, days[share.classifier]) for share in shares]
        gone = [share.classifier for share, part in zip(shares, parts, strict=True) if not part.kept]
        size = partitions.size(tx, month)
        # An empty month is no longer in use once a whole one has passed: somebody may just store into it.
        unused = not shares and month.end + partitions.A_MONTH <= partitions.reached(tx)
        dropped = unused or (bool(shares) and len(gone) == len(shares))
        return MonthsFate(month.name, size, dropped, tuple(parts)), gone

    def _ids(self, known: Registered, dry_run: bool, most: int | None, stop: Callable[[], bool]) -> int:
        days = self._id_days(known)
        if dry_run:
            with self._store.begin() as tx:
                return removal.old_ids(tx, known.id, days)
        removed = 0
        while not stop() and (most is None or removed < most):
            with self._store.begin() as tx:
                more = removal.remove_ids(tx, known.id, known.name, days)
            if more == 0:
                break
            removed += more
        return removed

    def _days(self, known: Registered) -> int:
        return known.spec.policy.retention_days or self._settings.retention_days

    def _id_days(self, known: Registered) -> int:
        return known.spec.policy.idempotency_days or self._settings.idempotency_days
