"""Does the drift guard keep quiet while nothing changes, and how late is it when something does? Simulated lives.

Calm lives count false alarms; one method is wrong on purpose and has to be found out. In the other lives the stream
changes at item 5,000, at once or slowly, and the ladder is climbed as the service does; or it changes with the hours of
the day (benchmarks/rhythm.py).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import ks_2samp

from benchmarks import command, rhythm, streams_that_change
from benchmarks.figures import refreshed
from benchmarks.rhythm import RhythmRow
from benchmarks.streams_that_change import Change, Pool
from datashunt.certificate import upper_bound
from datashunt.drift import FALSE_ALARM, AuditGuard, Evidence, Rung, ScoreGuard, climb, raised
from datashunt.drift.scores import REFERENCE
from datashunt.errors import DatashuntError

BEGIN = "<!-- figures: written by `python -m benchmarks.drift --full --docs docs/benchmarks.md` -->"
ALPHA, SEEN = 0.05, 0.03
"""What was promised of the kept, and what share of them disagrees before the change."""

AUDIT_RATE = 0.05
CALM_ITEMS, CALM_AUDITS = 6_000, 1_000
CHANGES_AT, LONGEST, BLOCK = 5_000, 20_000, 50
ALARM = -math.log(FALSE_ALARM)

Calm = Callable[[Pool, int, int], bool]
"""Whether this method gives an alarm in a calm life of these items, of so many labels, with this seed."""


def of_scores(items: Pool, labels: int, seed: int) -> bool:
    """The guard without labels."""
    return ScoreGuard.start(labels, seed=seed).update(items.confidence, items.said).evidence >= ALARM


def of_audits(items: Pool, labels: int, seed: int) -> bool:  # noqa: ARG001
    """The guard with labels, where exactly α of the kept disagree."""
    missed = np.random.default_rng((seed, 1)).random(CALM_AUDITS) < ALPHA
    return AuditGuard.start(ALPHA).update(missed).evidence >= ALARM


def of_tests(items: Pool, labels: int, seed: int) -> bool:  # noqa: ARG001
    """Wrong: Kolmogorov-Smirnov at 1 % of each thousand items against the first thousand."""
    parts = items.confidence.reshape(-1, REFERENCE)
    return any(ks_2samp(parts[0], part).pvalue < FALSE_ALARM for part in parts[1:])


@dataclass(frozen=True, slots=True)
class CalmRow:
    """So many lives, and in how many there was an alarm."""

    name: str
    lives: int
    alarms: int
    holds: bool

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the share of lives with an alarm."""
        return 1.0 - upper_bound(self.lives - self.alarms, self.lives, 0.025), upper_bound(
            self.alarms, self.lives, 0.025
        )

    @property
    def as_it_should(self) -> bool:
        """Quiet: not surely above what is stated. To be found out: surely above."""
        return (self.interval[0] <= FALSE_ALARM) is self.holds

    def cells(self) -> tuple[str, ...]:
        """Name, lives, share with an alarm and its interval, expected, verdict."""
        low, high = self.interval
        return (
            self.name,
            f"{self.lives:,}",
            f"{self.alarms / self.lives:.1%} ({low:.1%} to {high:.1%})",
            f"{'≤' if self.holds else '>'} {FALSE_ALARM:.0%}",
            "reached" if self.as_it_should else "missed",
        )


@dataclass(frozen=True, slots=True)
class Delays:
    """Items from the change until the first rung, until suspension, and until the audits alone would have suspended.

    `inf`: not within LONGEST. `early`: the first rung was climbed before the change.
    """

    alarm: float
    suspended: float
    audits: float
    early: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """A stream, how it changes, and over how many items: 0 at once; the share of new items rises to `share`."""

    name: str
    change: Change
    share: float
    over: int

    def shares(self, positions: NDArray[np.intp]) -> NDArray[np.float64]:
        """(n,) of new items at these positions."""
        since = positions - CHANGES_AT
        rising = np.clip(since / self.over, 0.0, 1.0) if self.over else (since >= 0).astype(np.float64)
        return self.share * rising

    def items(self, rng: np.random.Generator, first: int, n: int) -> Pool:
        """The next n items from this position on."""
        new = rng.random(n) < self.shares(first + np.arange(n))
        before, after = self.change.before, self.change.after
        old = before.at(rng.integers(len(before.wrong), size=n))
        late = after.at(rng.integers(len(after.wrong), size=n))
        pairs = zip((late.confidence, late.said, late.wrong), (old.confidence, old.said, old.wrong), strict=True)
        return Pool(*(np.where(new, ours, theirs) for ours, theirs in pairs))


def delays(setting: Setting, seed: int) -> Delays:
    """One life, as the service would live it: what is audited, and how often, follows the rung."""
    rng, threshold = np.random.default_rng(seed), setting.change.before.threshold(SEEN)
    scores, audits, rung = ScoreGuard.start(setting.change.labels, seed=seed), AuditGuard.start(ALPHA), Rung.CALM
    at: dict[str, float] = {}
    for position in range(0, CHANGES_AT + LONGEST, BLOCK):
        block = setting.items(rng, position, BLOCK)
        kept = block.confidence >= threshold
        audited = kept & (rng.random(BLOCK) < (AUDIT_RATE if rung is Rung.CALM else raised(AUDIT_RATE)))
        audits = audits.update(block.wrong[audited])
        if rung is not Rung.SUSPENDED:
            scores = scores.update(block.confidence, block.said)
        step = climb(rung, Evidence(scores.evidence, audits.evidence, audits.calm))
        if step.rung is not rung:
            audits = audits.anew()
            scores = scores if step.rung is not Rung.CALM else ScoreGuard.start(setting.change.labels, seed=seed + 1)
        rung = step.rung
        now = float(position + BLOCK - CHANGES_AT)
        if rung is not Rung.CALM:
            at.setdefault("alarm", now)
        if rung is Rung.SUSPENDED:
            at.setdefault("suspended", now)
        if audits.evidence >= ALARM:
            at.setdefault("audits", now)
        if len(at) == 3:
            break
    return Delays(*(at.get(name, math.inf) for name in ("alarm", "suspended", "audits")), at.get("alarm", 1.0) <= 0)


@dataclass(frozen=True, slots=True)
class DelayRow:
    """The lives of one setting, and the share of the kept that disagree after the change."""

    setting: Setting
    lives: Sequence[Delays]

    def cells(self) -> tuple[str, ...]:
        """Name, lives, and median and 90th percentile of each delay, of lives with no alarm before the change."""
        fair = [one for one in self.lives if not one.early]
        columns = ([getattr(one, name) for one in fair] for name in ("alarm", "suspended", "audits"))
        return (
            self.setting.name,
            f"{self._rate():.1%}",
            f"{len(fair):,}",
            *(f"{_number(np.median(values))} ({_number(_tenth(values))})" for values in columns),
        )

    def _rate(self) -> float:
        change, share = self.setting.change, self.setting.share
        threshold = change.before.threshold(SEEN)
        parts = [(change.before, 1.0 - share), (change.after, share)]
        kept = [weight * (pool.confidence >= threshold).mean() for pool, weight in parts]
        wrong = [weight * ((pool.confidence >= threshold) & pool.wrong).mean() for pool, weight in parts]
        return float(sum(wrong) / sum(kept))


def _tenth(values: Sequence[float]) -> float:
    """The 90th percentile, an observed one."""
    return float(np.quantile(values, 0.9, method="higher"))


def _number(items: float) -> str:
    return f"{items:,.0f}" if math.isfinite(items) else f"> {LONGEST:,}"


def calm(name: str, change: Change, method: Calm, lives: int, *, holds: bool = True) -> CalmRow:
    """Live so many lives without a change."""
    quiet = Setting(name, change, 0.0, 0)
    alarms = sum(
        method(quiet.items(np.random.default_rng((seed, 7)), 0, CALM_ITEMS), change.labels, seed)
        for seed in range(lives)
    )
    return CalmRow(name, lives, alarms, holds)


CALM_HEADER = ("calm lives", "lives", "with an alarm (95 %)", "expected", "")
DELAY_HEADER = ("change", "kept that disagree then", "lives", "alarm after", "suspended after", "audits alone")


def markdown(quiet: Sequence[CalmRow], late: Sequence[DelayRow], daily: Sequence[RhythmRow]) -> str:
    """The tables of docs/benchmarks.md."""
    lines = [f"| {' | '.join(CALM_HEADER)} |", "|---|---:|---:|---:|---|"]
    lines += [f"| {' | '.join(row.cells())} |" for row in quiet]
    lines += ["", f"| {' | '.join(DELAY_HEADER)} |", "|---|---:|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(row.cells())} |" for row in late]
    lines += ["", f"| {' | '.join(rhythm.HEADER)} |", "|---|---:|---:|---:|---:|---:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in daily)])


def settings() -> list[Setting]:
    """All changes that are measured.

    Raises:
        UsageError: the recording is not there.
    """
    made, (balance, spoilt) = streams_that_change.synthetic(1), streams_that_change.recorded("headlines", 1)
    return [
        Setting("synthetic, 30 % new items at once", made, 0.3, 0),
        Setting("synthetic, all items new at once", made, 1.0, 0),
        Setting("synthetic, slowly: 0 to 100 % in 10,000 items", made, 1.0, 10_000),
        Setting("headlines, a third more of the rarest label at once", balance, 1 / 3, 0),
        Setting("headlines, half of the texts spoilt at once", spoilt, 0.5, 0),
        Setting("headlines, slowly: spoilt texts 0 to 100 % in 10,000", spoilt, 1.0, 10_000),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Live all lives and show what became of them; `--docs FILE` writes the tables of that page again."""
    parser = command.parser(__doc__)
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="write the tables in FILE, between their markers, again"
    )
    options = parser.parse_args(arguments)
    console = Console()
    try:
        changes = settings()
    except DatashuntError as error:
        sys.exit(f"benchmarks: {error}")
    made, headlines = changes[0].change, changes[-1].change
    lives, late_lives = (500, 60) if options.full else (60, 10)
    quiet: list[CalmRow] = []
    for name, change, method, holds in (
        ("scores, synthetic, 6,000 items", made, of_scores, True),
        ("scores, headlines, 6,000 items", headlines, of_scores, True),
        ("audits, exactly α disagree, 1,000 audits", made, of_audits, True),
        ("wrong: a test at 1 % of each thousand items", made, of_tests, False),
    ):
        started = time.monotonic()
        quiet.append(calm(name, change, method, lives, holds=holds))
        console.print(*quiet[-1].cells(), f"{time.monotonic() - started:.0f} s", sep="  ")
    late: list[DelayRow] = []
    for setting in changes:
        started = time.monotonic()
        late.append(DelayRow(setting, [delays(setting, seed) for seed in range(late_lives)]))
        console.print(*late[-1].cells(), f"{time.monotonic() - started:.0f} s", sep="  ")
    daily: list[RhythmRow] = []
    streams = [("synthetic", made.before, made.labels), ("headlines", headlines.before, headlines.labels)]
    for one in rhythm.rhythms(streams):
        started = time.monotonic()
        daily.append(rhythm.measured(one, late_lives))
        console.print(*daily[-1].cells(), f"{time.monotonic() - started:.0f} s", sep="  ")
    if options.json:
        rows = [dict(zip(CALM_HEADER[:-1], row.cells(), strict=False)) for row in quiet]
        rows += [dict(zip(DELAY_HEADER, row.cells(), strict=True)) for row in late]
        command.write(options.json, rows + [dict(zip(rhythm.HEADER, row.cells(), strict=True)) for row in daily])
    if options.docs:
        page = refreshed(options.docs.read_text(encoding="utf-8"), markdown(quiet, late, daily), BEGIN)
        options.docs.write_text(page, encoding="utf-8")
    if not all(row.as_it_should for row in quiet):
        sys.exit(1)


if __name__ == "__main__":
    main()
