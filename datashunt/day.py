"""A day: its borders in a time zone, and how many items are still expected of it. Pure; imports nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

SLOTS = 96
"""Parts of a day in which arrivals are counted: a quarter of an hour each."""
HALF_LIFE_SLOTS = 4
"""Slots after which an arrival says half as much about the present rate."""
STEADY_ITEMS = 20.0
"""Items of the whole day's rate that are mixed into the present one, or an earlier day's slot, if that is more."""
PROFILE_SHARE = 0.95
"""Weight of an earlier day's shape; the rest is an even day, so that no slot is taken to be empty."""


@dataclass(frozen=True, slots=True)
class Day:
    """A calendar day of some time zone: 23 to 25 hours. `begins` and `ends` are in UTC."""

    date: date
    begins: datetime
    ends: datetime

    def fraction(self, moment: datetime) -> float:
        """How much of it is over, in [0, 1]."""
        return min(1.0, max(0.0, (moment - self.begins) / (self.ends - self.begins)))

    def left_s(self, moment: datetime) -> float:
        """Seconds until the next day begins."""
        return max(0.0, (self.ends - moment).total_seconds())


def day_at(moment: datetime, timezone: str) -> Day:
    """The day of this IANA time zone in which a moment lies; the moment has a zone of its own."""
    zone = ZoneInfo(timezone)
    today = moment.astimezone(zone).date()
    # in UTC: a difference on the zone's own clock would not see that it was put forward or back
    begins, ends = (datetime.combine(one, time(), zone).astimezone(UTC) for one in (today, today + timedelta(days=1)))
    return Day(today, begins, ends)


def slot_of(fraction: float) -> int:
    """The slot in which this fraction of a day lies."""
    return min(SLOTS - 1, int(fraction * SLOTS))


def counted(arrivals: Sequence[int], fraction: float, items: int) -> list[int]:
    """(SLOTS,) arrivals with these items added at this fraction of the day; empty counts as none so far."""
    found = list(arrivals) or [0] * SLOTS
    found[slot_of(fraction)] += items
    return found


def expected_after(arrivals: Sequence[int], profile: Sequence[int], fraction: float) -> float:
    """Items still expected after this moment: what is left of the profile, times the present rate.

    The present rate is that of the last hours, the younger the more weight, drawn towards that of the whole day
    where few items came. Without a profile a day is taken to be even.

    Args:
        arrivals: (SLOTS,) items of today so far, or empty.
        profile: (SLOTS,) items of an earlier day, or empty.
        fraction: how much of the day is over, in [0, 1].
    """
    came = np.asarray(arrivals or [0] * SLOTS, dtype=np.float64)
    slots = np.arange(SLOTS)
    over = np.clip(fraction * SLOTS - slots, 0.0, 1.0)
    age = slot_of(fraction) - slots
    weight = np.where(age >= 0, 0.5 ** (np.maximum(age, 0) / HALF_LIFE_SLOTS), 0.0)
    if any(profile):
        shape = PROFILE_SHARE * np.asarray(profile, dtype=np.float64) + (1 - PROFILE_SHARE) * np.mean(profile)
        steady = max(STEADY_ITEMS, float(shape.mean()))
        whole_day = (came.sum() + steady) / (float(shape @ over) + steady)
        seen = float(weight @ (shape * over))
    else:
        shape, steady = np.ones(SLOTS), STEADY_ITEMS
        whole_day = came.sum() / max(float(over.sum()), 1.0)  # a day's first slot counts as if it were over
        seen = max(float(weight @ over), 1.0)
    if whole_day <= 0:
        return 0.0
    rate = (float(weight @ came) + steady) / (seen + steady / whole_day)
    return float(rate * (shape @ (1 - over)))
