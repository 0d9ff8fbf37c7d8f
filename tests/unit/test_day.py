from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.day import SLOTS, counted, day_at, expected_after, slot_of

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "Africa/Cairo"]
moments = st.integers(0, 1_300_000_000).map(lambda s: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=s))
fractions = st.floats(0, 1)
counts = st.lists(st.integers(0, 10_000), min_size=SLOTS, max_size=SLOTS)


@given(moments, st.sampled_from(ZONES))
def test_every_moment_lies_in_its_day_and_the_next_day_begins_where_it_ends(moment: datetime, zone: str) -> None:
    day = day_at(moment, zone)
    assert day.begins <= moment < day.ends
    assert timedelta(hours=22) < day.ends - day.begins < timedelta(hours=26)
    assert 0 <= day.fraction(moment) < 1
    assert 0 < day.left_s(moment) <= 26 * 3600
    tomorrow = day_at(day.ends, zone)
    assert tomorrow.begins == day.ends
    assert tomorrow.date > day.date


def test_a_day_is_that_of_the_zone_and_as_long_as_its_clock_says() -> None:
    late = datetime(2025, 3, 29, 23, 30, tzinfo=UTC)
    day = day_at(late, "Europe/Berlin")  # half past midnight of the day on which the clock is put forward
    assert day.date.isoformat() == "2025-03-30"
    assert day.ends - day.begins == timedelta(hours=23)
    assert day.left_s(late) == 22.5 * 3600
    assert day_at(late, "UTC").date.isoformat() == "2025-03-29"


def test_the_moment_may_be_given_in_any_zone() -> None:
    moment = datetime(2025, 6, 1, 22, 30, tzinfo=UTC)
    assert day_at(moment, "Asia/Kolkata") == day_at(moment.astimezone(), "Asia/Kolkata")


@given(fractions, st.integers(0, 1_000))
def test_arrivals_are_counted_in_the_slot_of_their_time(fraction: float, items: int) -> None:
    found = counted((), fraction, items)
    assert sum(found) == items
    assert found[slot_of(fraction)] == items
    assert counted(found, fraction, 1)[slot_of(fraction)] == items + 1
    assert sum(found) == items  # what was given is not changed


@given(counts, counts, fractions)
def test_what_is_expected_is_a_number_of_items(arrivals: list[int], profile: list[int], fraction: float) -> None:
    expected = expected_after(arrivals, profile, fraction)
    assert np.isfinite(expected)
    assert expected >= 0
    assert expected_after(arrivals, profile, 1.0) == 0


def test_nothing_is_expected_of_a_day_that_nobody_knows_anything_of() -> None:
    assert expected_after((), (), 0.0) == 0
    assert expected_after((), (), 0.7) == 0


def test_an_even_day_goes_on_as_it_began() -> None:
    arrivals = [100] * 48 + [0] * 48
    assert expected_after(arrivals, (), 0.5) == pytest.approx(4_800, rel=0.01)


def test_a_new_rate_is_believed_within_hours() -> None:
    arrivals = [100] * 48 + [300] * 8 + [0] * 40
    assert expected_after(arrivals, (), 56 / 96) == pytest.approx(12_000, rel=0.2)


def test_an_earlier_day_gives_the_shape_and_today_the_size() -> None:
    profile = [100] * 48 + [300] * 48
    assert expected_after((), profile, 0.0) == pytest.approx(sum(profile), rel=0.01)
    today = [200] * 48 + [0] * 48
    assert expected_after(today, profile, 0.5) == pytest.approx(600 * 48, rel=0.12)


def test_a_first_quarter_of_an_hour_is_not_taken_for_a_whole_days_rate() -> None:
    assert expected_after(counted((), 1e-6, 50), (), 1e-6) < 50 * SLOTS * 1.01
