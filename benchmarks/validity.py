"""Does the promise hold? Simulated lives in which it is as hard as can be to keep, and methods that should break it.

Each life renews its certificate fifty times. A life is broken if any of its certificates ever names a threshold at
which a target does not hold. Every bundle just breaks the promise from some threshold on, by a two hundredth of what is
allowed: nothing is harder to tell from a promise that holds.
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

from benchmarks import command
from benchmarks.figures import refreshed
from benchmarks.lives import CELLS, LEVELS, RARE, Bundle, Counts, flat, hardest, rising, tallied
from datashunt.certificate import LabelAlpha, Ledger, MinRecall, OfAll, OfKept, Target, most_misses, upper_bound
from datashunt.certificate.betting import log_wealth, log_wealth_weighted
from datashunt.certificate.choice import proven
from datashunt.certificate.sequence import chance
from datashunt.certificate.targets import Tally

BEGIN = "<!-- figures: written by `python -m benchmarks.validity --full --docs docs/benchmarks.md` -->"
DELTA, RENEWALS = 0.1, 50
BATCHES = 8
RATE = 0.01
"""The least propensity of any item, where rates change."""

TOGETHER = 400
"""Lives lived at a time."""

Flags = NDArray[np.bool_]
Test = Callable[[np.random.Generator, "Setting", Bundle, int, float], Flags]
"""(lives, targets, t) which thresholds pass, of so many lives at this δ."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One kind of life and one way to certify in it.

    Attributes:
        name: what it is.
        targets: all that is promised.
        test: what passes.
        audits: judge answers of a bundle, and as many fit answers where the sequence needs them.
        curve: how bundles disagree. rare: share of the rare label.
        ledger: whether each renewal spends its part of δ, or all of it again.
        holds: whether the promise should be kept.
    """

    name: str
    targets: tuple[Target, ...]
    test: Test
    audits: int = 400
    curve: Callable[..., NDArray[np.float64]] = rising
    rare: float = 0.15
    ledger: bool = True
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """What became of the lives of a setting: how many of them were broken, and the share of renewals certified."""

    setting: Setting
    lives: int
    broken: int
    certified: float

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the share of broken lives."""
        return 1.0 - upper_bound(self.lives - self.broken, self.lives, 0.025), upper_bound(
            self.broken, self.lives, 0.025
        )

    @property
    def as_it_should(self) -> bool:
        """Kept: broken in a share ≤ δ of the lives. To be broken: surely in more."""
        return self.broken <= DELTA * self.lives if self.setting.holds else self.interval[0] > DELTA

    def cells(self) -> tuple[str, ...]:
        """Name, lives, certified, broken with its interval, verdict."""
        low, high = self.interval
        expected = f"≤ {DELTA:.0%}" if self.setting.holds else f"> {DELTA:.0%}"
        return (
            self.setting.name,
            f"{self.lives:,}",
            f"{self.certified:.0%}",
            f"{self.broken / self.lives:.1%} ({low:.1%} to {high:.1%})",
            expected,
            "reached" if self.as_it_should else "missed",
        )


def one_look(rng: np.random.Generator, setting: Setting, bundle: Bundle, lives: int, delta: float) -> Flags:
    """The exact test of all audits at once."""
    return _exact(setting, bundle.drawn(rng, setting.audits, lives), delta)


def any_look(rng: np.random.Generator, setting: Setting, bundle: Bundle, lives: int, delta: float) -> Flags:
    """Betting, looked at after each batch."""
    counts = _in_batches(rng, setting, bundle, lives)
    passes = []
    for target in setting.targets:
        scope, missed = tallied(target, counts)
        passes.append((log_wealth(missed, scope, target.allowed) >= -math.log(delta)).any(axis=1))
    return np.stack(passes, axis=1)


def weighted(rng: np.random.Generator, setting: Setting, bundle: Bundle, lives: int, delta: float) -> Flags:
    """Betting at rates that change: 4 %, then 1 %, then 2 %, of what may be the rare label twice as much."""
    often = np.where((CELLS.said == RARE) | (CELLS.confidence < 0.5), 2.0, 1.0)  # what may be the rare label
    odds = bundle.chance * often
    cells = rng.choice(len(odds), size=(setting.audits, lives), p=odds / odds.sum())
    rates = np.repeat([0.04, 0.01, 0.02], setting.audits // 3)
    weight = RATE / (rates[:, None] * often[cells])
    passes = []
    for target in setting.targets:
        scope, missed = (flags[cells].reshape(setting.audits, -1) for flags in target.tally(CELLS, LEVELS))
        wealth = log_wealth_weighted(Tally(scope, missed), np.repeat(weight, len(LEVELS), axis=1), target.allowed)
        passes.append((wealth >= -math.log(delta)).any(axis=0).reshape(lives, -1))
    return np.stack(passes, axis=1)


def peeking(rng: np.random.Generator, setting: Setting, bundle: Bundle, lives: int, delta: float) -> Flags:
    """Wrong: the exact test after each batch, as if each were the only one."""
    counts = _in_batches(rng, setting, bundle, lives)
    return np.any([_exact(setting, counts[:, batch], delta) for batch in range(BATCHES)], axis=0)


def no_bound(rng: np.random.Generator, setting: Setting, bundle: Bundle, lives: int, delta: float) -> Flags:  # noqa: ARG001
    """Wrong: what was seen is taken for what is."""
    counts = bundle.drawn(rng, setting.audits, lives)
    passes = []
    for target in setting.targets:
        scope, missed = tallied(target, counts)
        passes.append((scope > 0) & (missed <= target.allowed * scope))
    return np.stack(passes, axis=1)


def reused(rng: np.random.Generator, setting: Setting, bundle: Bundle, lives: int, delta: float) -> Flags:
    """Wrong: of ten challengers the one that wins on the judge answers is certified by the same answers."""
    counts = bundle.drawn(rng, setting.audits, lives, 10)
    disagreements = counts @ (CELLS.said != CELLS.truth)
    return _exact(setting, counts[np.arange(lives), disagreements.argmin(axis=1)], delta)


def _exact(setting: Setting, counts: Counts, delta: float) -> Flags:
    passes = []
    for target in setting.targets:
        scope, missed = tallied(target, counts)
        passes.append(missed <= most_misses(scope, target.allowed, delta))
    return np.stack(passes, axis=1)


def _in_batches(rng: np.random.Generator, setting: Setting, bundle: Bundle, lives: int) -> Counts:
    """(lives, batches, m), counts so far."""
    return bundle.drawn(rng, setting.audits // BATCHES, lives, BATCHES).cumsum(axis=1)


ALL, KEPT = (OfAll(0.05),), (OfKept(0.1),)
LABELS = (MinRecall(RARE, 0.9), LabelAlpha(RARE, 0.03), OfAll(0.2))
SETTINGS = (
    Setting("of all, one look", ALL, one_look),
    Setting("of kept, one look", KEPT, one_look, audits=1_600),
    Setting("of kept, flat noise of the teacher", KEPT, one_look, audits=1_600, curve=flat),
    Setting("of kept, batches, a look after each", KEPT, any_look, audits=1_600),
    Setting("of all, batches, a look after each", ALL, any_look, audits=1_600),
    Setting("a rare label's recall and alpha, and of all", LABELS, one_look, audits=4_800, rare=0.03),
    Setting("the same, batches, a look after each", LABELS, any_look, audits=4_800, rare=0.03),
    Setting("of all, changing rates, some items twice as often", ALL, weighted, audits=600),
    Setting("wrong: no bound", KEPT, no_bound, holds=False),
    Setting("wrong: no ledger", ALL, one_look, ledger=False, holds=False),
    Setting("wrong: exact test after each batch", ALL, peeking, audits=1_600, holds=False),
    Setting("wrong: judge answers that chose the bundle", ALL, reused, holds=False),
)


def lived(setting: Setting, lives: int) -> Row:
    """Live so many lives."""
    parts = [_lived(setting, TOGETHER, seed) for seed in range(lives // TOGETHER)]
    return Row(setting, lives, sum(one.broken for one in parts), float(np.mean([one.certified for one in parts])))


def _lived(setting: Setting, lives: int, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    broken, certified = np.zeros(lives, dtype=bool), 0
    ledger = Ledger(DELTA)
    for _ in range(RENEWALS):
        bundle = hardest(rng, setting.targets, setting.curve, setting.rare)
        delta = ledger.next if setting.ledger else DELTA
        passes = setting.test(rng, setting, bundle, lives, delta).all(axis=1)
        start = _starts(rng, setting, bundle, lives, delta)
        chosen = proven(passes | (np.arange(len(LEVELS)) < start[:, None]))
        granted = chosen > start
        broken |= granted & bundle.broken(setting.targets)[np.maximum(chosen - 1, 0)]
        certified += int(granted.sum())
        ledger = ledger.spend()
    return Row(setting, lives, int(broken.sum()), certified / (lives * RENEWALS))


def _starts(rng: np.random.Generator, setting: Setting, bundle: Bundle, lives: int, delta: float) -> Counts:
    """(lives,) where each sequence begins: what `certificate.thresholds` does, on counts."""
    counts = bundle.drawn(rng, setting.audits, lives)
    chances = np.ones((lives, len(LEVELS)))
    for target in setting.targets:
        if not target.monotone:
            scope, missed = tallied(target, counts)
            chances *= chance(
                scope, missed, seen=setting.audits, judged=setting.audits, allowed=target.allowed, delta=delta
            )
    return chances.argmax(axis=1)


HEADER = ("setting", "lives", "certified", "broken (95 %)", "expected", "")


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/benchmarks.md."""
    lines = [f"| {' | '.join(HEADER)} |", "|---|---:|---:|---:|---:|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Live all lives and show what became of them; `--docs FILE` writes the table of that page again."""
    parser = command.parser(__doc__)
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the table in FILE, between its markers, again")
    options = parser.parse_args(arguments)
    console, rows = Console(), []
    for setting in SETTINGS:
        started = time.monotonic()
        rows.append(lived(setting, 2_000 if options.full else TOGETHER))
        console.print(*rows[-1].cells(), f"{time.monotonic() - started:.0f} s", sep="  ")
    if options.json:
        command.write(options.json, [dict(zip((*HEADER[:-1], "verdict"), row.cells(), strict=True)) for row in rows])
    if options.docs:
        page = refreshed(options.docs.read_text(encoding="utf-8"), markdown(rows), BEGIN)
        options.docs.write_text(page, encoding="utf-8")
    if not all(row.as_it_should for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
