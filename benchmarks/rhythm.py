"""What the drift guard makes of a stream whose mix of labels follows the hours of the day, and never gets worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.streams_that_change import Pool
from datashunt.drift import FALSE_ALARM, SUSPENSION, ScoreGuard

BLOCK = 50
DAY, DAYS = 2_000, 10
"""Items of one day, and days of a life, of a stream with a rhythm."""
HEADER = ("a day's rhythm", "lives", "alarm", "suspended", "alarm after", "each day shuffled")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A stream in which the share of the first label goes up and down each day, by `swing` of itself."""

    name: str
    pool: Pool
    labels: int
    swing: float

    def alarms(self, seed: int, *, shuffled: bool = False) -> tuple[float, float]:
        """Items until the scores' alarm, and until they suspend; `inf`: not in this life. Nothing gets worse in it.

        Args:
            seed: of the life.
            shuffled: whether the guard is given each day's items in random order.
        """
        rng = np.random.default_rng((seed, 11))
        often = self.pool.said == 0
        usual = float(often.mean())
        first, others = np.flatnonzero(often), np.flatnonzero(~often)
        guard, at = ScoreGuard.start(self.labels, seed=seed), [math.inf, math.inf]
        for day in range(DAYS):
            clock = 2.0 * np.pi * np.arange(DAY) / DAY
            mine = rng.random(DAY) < usual * (1.0 + self.swing * np.sin(clock))
            places = np.where(mine, rng.choice(first, DAY), rng.choice(others, DAY))
            items = self.pool.at(rng.permutation(places) if shuffled else places)
            for begin in range(0, DAY, BLOCK):
                part = items.at(np.arange(begin, begin + BLOCK))
                guard = guard.update(part.confidence, part.said)
                for place, chance in enumerate((FALSE_ALARM, SUSPENSION)):
                    if guard.evidence >= -math.log(chance):
                        at[place] = min(at[place], day * DAY + begin + BLOCK)
        return at[0], at[1]


@dataclass(frozen=True, slots=True)
class RhythmRow:
    """The lives of a stream with a rhythm: what its scores did in the order of time, and with each day shuffled."""

    rhythm: Rhythm
    lives: Sequence[tuple[float, float]]
    shuffled: Sequence[tuple[float, float]]

    def cells(self) -> tuple[str, ...]:
        """Name, lives, shares with an alarm and suspended, median items until the alarm, and the shares if shuffled."""
        parts = [
            (len(lives), [sum(math.isfinite(one[place]) for one in lives) for place in (0, 1)])
            for lives in (self.lives, self.shuffled)
        ]
        shares = [[f"{count / n:.0%}" for count in counts] for n, counts in parts]
        late = [one[0] for one in self.lives if math.isfinite(one[0])]
        return (
            self.rhythm.name,
            str(len(self.lives)),
            *shares[0],
            f"{np.median(late):,.0f}" if late else "–",
            " and ".join(shares[1]),
        )


def rhythms(pools: Sequence[tuple[str, Pool, int]]) -> list[Rhythm]:
    """Streams whose first label comes a tenth, a third or two thirds more often at noon, and less at midnight."""
    return [
        Rhythm(f"{name}, ± {swing:.0%}", pool, labels, swing)
        for name, pool, labels in pools
        for swing in (0.1, 0.33, 0.67)
    ]


def measured(one: Rhythm, lives: int) -> RhythmRow:
    """Live so many lives, in the order of time and with each day shuffled."""
    return RhythmRow(
        one, [one.alarms(seed) for seed in range(lives)], [one.alarms(seed, shuffled=True) for seed in range(lives)]
    )
