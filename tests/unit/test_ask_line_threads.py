"""Who stays in line: the last thread of a process does not go while slots are only a moment away."""

from __future__ import annotations

import time
from typing import Any

import pytest

from datashunt.pipeline import line
from datashunt.pipeline.line import Line, Place
from datashunt.quota import Refused, Slot


class Refusing:
    """A quota that says this to everybody."""

    def __init__(self, found: Refused | Slot) -> None:
        self.found = found

    def acquire(self, *_: Any, **__: Any) -> Refused | Slot:
        return self.found

    def begin(self, *_: Any) -> None:
        return None


class Known:
    """A classifier, as far as a place in line needs it."""

    class spec:
        class llm:
            rpm = tpm = concurrency = None
            all_models = ("m",)


def refused(found: Refused | Slot) -> Line:
    nobody: Any = None
    made, known, quota = Line(nobody, nobody, nobody), Known(), Refusing(found)
    place: Any = Place(known, "key")  # type: ignore[arg-type]
    made.wait(quota, place, 1, hold_s=1.0, stop=lambda: False)  # type: ignore[arg-type]
    return made


def never() -> bool:
    return False


def test_the_last_thread_waits_where_others_have_slots() -> None:
    one = refused(Refused(0.0, others_wait=True))
    before = time.monotonic()
    with one.present():
        assert one.stays(before + 60.0, never)
    assert time.monotonic() >= before + line.SHUT_S / 2


def test_a_thread_that_is_not_the_last_one_goes() -> None:
    one = refused(Refused(0.0, others_wait=True))
    with one.present(), one.present():
        assert not one.stays(time.monotonic() + 60.0, never)


@pytest.mark.parametrize("found", [Refused(5.0), Slot("s", 0.0)])
def test_where_nobody_else_waits_a_row_wakes_the_lane(found: Refused | Slot) -> None:
    one = refused(found)
    with one.present():
        assert not one.stays(time.monotonic() + 60.0, never)


def test_it_does_not_wait_beyond_its_turn_nor_when_it_shall_end() -> None:
    one = refused(Refused(30.0, others_wait=True))
    before = time.monotonic()
    with one.present():
        assert one.stays(before, never)
        assert one.stays(before + 60.0, lambda: True)
    assert time.monotonic() < before + 10.0


def test_whether_the_quota_makes_wait_is_what_it_last_said() -> None:
    place: Any = Place(Known(), "key")  # type: ignore[arg-type]
    assert refused(Slot("s", 0.0)).is_free(place)
    assert not refused(Refused(5.0)).is_free(place)
