"""When an outcome is wanted and what comes first, as producers may write it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.items import Item, Refusal
from datashunt.pipeline.submit import MAX_DEADLINE_S, check, deadline_of, sort_out
from datashunt.store.intake import Entry

NOON = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (None, None),
        (60, 60.0),
        (0.5, 0.5),
        ("60", 60.0),
        (" 60.5 ", 60.5),
        ("2026-05-04T12:00:00+02:00", NOON),
        ("2026-05-04T10:00:00Z", NOON),
        (NOON.astimezone(timezone(timedelta(hours=-5))), NOON),
    ],
)
def test_a_deadline_is_seconds_or_a_moment(written: Any, meant: Any) -> None:
    assert deadline_of(written) == meant
    assert check(0, {"id": "a", "text": "x", "deadline": written}, 10) == check(0, Item("a", "x", None, meant), 10)


@pytest.mark.parametrize(
    "written",
    [
        *(0, -1, True, math.nan, math.inf, "inf", "", "tomorrow", "2026-05-04", "2026-05-04T12:00:00", [60], {}),
        *(NOON.replace(tzinfo=None), MAX_DEADLINE_S + 1, "0001-01-01T00:00:00+14:00"),
    ],
)
def test_what_is_no_deadline_is_refused_with_the_reason(written: Any) -> None:
    refused = check(3, {"id": "a", "text": "x", "deadline": written}, 10)
    assert isinstance(refused, Refusal)
    assert (refused.position, refused.id, refused.reason) == (3, "a", "bad_deadline")
    assert "expected" in refused.detail


@given(st.one_of(st.floats(), st.integers(), st.text(), st.datetimes(timezones=st.timezones())))
def test_every_deadline_is_taken_or_refused(written: Any) -> None:
    try:
        meant = deadline_of(written)
    except ValueError:
        return
    assert isinstance(meant, datetime) or 0 < meant <= MAX_DEADLINE_S  # type: ignore[operator]


@pytest.mark.parametrize("written", [0, -100, 100, 7])
def test_a_priority_is_a_small_number(written: int) -> None:
    checked = check(0, {"id": "a", "text": "x", "priority": written}, 10)
    assert checked == check(0, Item("a", "x", priority=written), 10)
    assert isinstance(checked, Entry)
    assert checked.item.priority == written


LONGEST = 10**5000
"""Python writes no number of so many digits."""


@pytest.mark.parametrize(
    "written",
    [101, -101, 1.0, True, "1", None, [1], *(pytest.param(n, id="long") for n in (LONGEST, -LONGEST, [LONGEST]))],
)
def test_what_is_no_priority_is_refused_with_the_reason(written: Any) -> None:
    refused = check(3, {"id": "a", "text": "x", "priority": written}, 10)
    assert isinstance(refused, Refusal)
    assert (refused.position, refused.id, refused.reason) == (3, "a", "bad_priority")
    assert "expected a priority of -100 (first) to 100, found" in refused.detail


def test_a_resend_with_another_priority_is_another_payload() -> None:
    payloads = {sort_out([Item("a", "x", priority=one)], 10)[2] for one in (0, 1, 2)}
    assert len(payloads) == 3


def test_a_resend_with_another_deadline_is_another_payload() -> None:
    payloads = [sort_out([Item("a", "x", None, deadline)], 10)[2] for deadline in (None, 60.0, 61.0, NOON)]
    assert len(set(payloads)) == 4
