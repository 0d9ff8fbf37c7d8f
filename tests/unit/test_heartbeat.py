"""The heartbeat of a distillation: when it writes, what it bears, and what ends the work."""

from __future__ import annotations

import threading

import pytest

from datashunt.errors import StoreError
from datashunt.pipeline import heartbeat
from datashunt.pipeline.heartbeat import Heartbeat, LeaseLost, Stopped


class Lease:
    """Stands in for the row: keeps what was written, and may be lost or out of reach."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.ours = True
        self.away = False
        self.written = threading.Semaphore(0)

    def __call__(self, stage: str, _: float) -> bool:
        self.stages.append(stage)
        self.written.release()
        if self.away:
            raise StoreError("PostgreSQL cannot be used")
        return self.ours


@pytest.fixture
def lease() -> Lease:
    return Lease()


def beating(lease: Lease, lease_s: float = 60.0) -> Heartbeat:
    return Heartbeat(7, lease, lambda: False, lease_s=lease_s)


@pytest.mark.parametrize(
    ("beat_s", "written"), [(3_600.0, ["read", "absorb", "read"]), (0.0, ["read", "read", "absorb", "absorb", "read"])]
)
def test_it_writes_once_a_beat_at_most_and_when_a_stage_begins(
    lease: Lease, monkeypatch: pytest.MonkeyPatch, beat_s: float, written: list[str]
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", beat_s)
    with beating(lease) as beat:
        for stage in ("read", "read", "absorb", "absorb", "read"):
            beat(stage, 0.5)
    assert lease.stages == written


def test_a_worker_that_shall_end_stops(lease: Lease) -> None:
    with Heartbeat(7, lease, lambda: True, lease_s=60.0) as beat, pytest.raises(Stopped):
        beat("read", 0.0)
    assert lease.stages == []


def test_a_database_that_is_away_is_borne_until_the_lease_has_ended(lease: Lease) -> None:
    lease.away = True
    with beating(lease) as beat:
        beat("read", 0.0)
    with beating(lease, lease_s=0.0) as beat, pytest.raises(StoreError):
        beat("read", 0.0)


def test_what_the_thread_finds_out_is_raised_by_the_next_report(lease: Lease) -> None:
    with beating(lease, lease_s=0.04) as beat:
        beat("publish", 0.0)
        lease.ours = False
        beat._thread.join(20)
        with pytest.raises(LeaseLost):
            beat("commit", 0.0)


def test_the_thread_renews_the_lease_of_a_step_that_reports_nothing(lease: Lease) -> None:
    with beating(lease, lease_s=0.04) as beat:
        beat("load", 0.0)
        for _ in range(4):
            assert lease.written.acquire(timeout=20)
    assert set(lease.stages) == {"load"}


@pytest.mark.parametrize(("stage", "longest_s"), [("absorb", 3_600.0), ("load", -1.0)])
def test_the_thread_leaves_alone_what_reports_by_itself_and_what_hangs(
    lease: Lease, monkeypatch: pytest.MonkeyPatch, stage: str, longest_s: float
) -> None:
    looked = threading.Semaphore(0)
    monkeypatch.setattr(heartbeat, "UNATTENDED", _Looked({"load"}, looked))
    monkeypatch.setattr(heartbeat, "UNATTENDED_S", longest_s)
    with beating(lease, lease_s=0.04) as beat:
        beat(stage, 0.0)
        for _ in range(4):
            assert looked.acquire(timeout=20)
    assert lease.stages == [stage]


def test_the_thread_ends_at_once(lease: Lease) -> None:
    with beating(lease, lease_s=3_600.0) as beat:
        pass
    assert not beat._thread.is_alive()


class _Looked(frozenset[str]):
    """Says when the thread has looked."""

    looked: threading.Semaphore

    def __new__(cls, stages: set[str], looked: threading.Semaphore) -> _Looked:
        made = super().__new__(cls, stages)
        made.looked = looked
        return made

    def __contains__(self, stage: object) -> bool:
        self.looked.release()
        return super().__contains__(stage)
