"""Coverage of hard pruning: over random splits, how often the LLM's own label is still offered, and what that saves.

A split calibrates temperature and cut on 1,000 answers, as a distillation does, and prunes the items of the rest that
escalate. What the product does is `p(label)`; APS and RAPS are what it could do instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import command, conformal
from benchmarks.figures import refreshed
from benchmarks.recorded import STREAMS
from benchmarks.scored import Opinions, opinions
from datashunt import classifier, prompts, prune
from datashunt.classifier import Spec
from datashunt.confidence import fit_temperature, softmax
from datashunt.errors import DatashuntError

BEGIN = "<!-- figures: written by `python -m benchmarks.coverage --full --docs docs/benchmarks.md` -->"
COVERAGES = (0.9, 0.95, 0.99)
CALIBRATED = 1_000
THRESHOLD = 0.9
PER_TRAINING = 40
ERRORS = 1.645
"""Standard errors by which the mean may fall short: one-sided, 5 %."""
DESCRIBED = "a sentence or two that say what belongs here, and what does not, " * 3

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Sets = Callable[[NDArray[np.float32], NDArray[np.intp], NDArray[np.float32], float], Flags]
"""Calibration probabilities and labels, probabilities of the items, coverage → (n, k) which labels are offered."""


def ours(fit: NDArray[np.float32], said: NDArray[np.intp], items: NDArray[np.float32], coverage: float) -> Flags:
    """What the product offers."""
    cut = prune.calibrate(fit, said, coverage)
    return np.ones(items.shape, dtype=np.bool_) if cut is None else prune.offered(items, cut)


def adaptive(
    penalty: float,
    fit: NDArray[np.float32],
    said: NDArray[np.intp],
    items: NDArray[np.float32],
    coverage: float,
) -> Flags:
    """What RAPS offers, with a penalty for each label after the second; APS for a penalty of 0."""
    return conformal.scores(items, penalty) <= conformal.calibrate(conformal.scores(fit, penalty), said, coverage)


METHODS: dict[str, Sets] = {"p(label)": ours, "APS": partial(adaptive, 0.0), "RAPS": partial(adaptive, 0.1)}
OURS = "p(label)"


@dataclass(frozen=True, slots=True)
class Prices:
    """Estimated tokens of prompts, by the product's own prompt and estimate.

    Attributes:
        spec: the classifier. texts: (n,) tokens of each item's part.
    """

    spec: Spec
    texts: NDArray[np.intp]

    @classmethod
    def of(cls, spec: Spec, texts: Sequence[str]) -> Prices:
        """Of these texts."""
        tokens = [prompts.count_tokens(prompts.render(spec, text).data) for text in texts]
        return cls(spec, np.array(tokens, dtype=np.intp))

    def share(self, rows: NDArray[np.intp], sets: Flags, fell_back: Flags) -> float:
        """Tokens for these items with these sets, second calls over all labels included, of those without pruning."""
        kinds, which = np.unique(sets, axis=0, return_inverse=True)
        pruned = np.array([self._labels(kind) for kind in kinds])[which.reshape(-1)] + self.texts[rows]
        full = self._labels(np.ones(sets.shape[1], dtype=np.bool_)) + self.texts[rows]
        return float((pruned.sum() + full[fell_back].sum()) / full.sum())

    def _labels(self, kind: Flags) -> int:
        names = [name for name, there in zip(self.spec.label_names, kind, strict=True) if there]
        prompt = prompts.render(self.spec, "", candidates=names)
        return prompt.tokens() - prompts.count_tokens(prompt.data)


@dataclass(frozen=True, slots=True)
class Split:
    """One split, one coverage, one method.

    Attributes:
        fit, items: answers calibrated on, and items that were pruned: those that escalate.
        covered: share of the items whose label is offered. doubtful: the same of the least sure third of them.
        size: labels offered, mean. tokens, tokens_described: as shares of those of full prompts.
    """

    fit: int
    items: int
    covered: float
    doubtful: float
    size: float
    tokens: float
    tokens_described: float


@dataclass(frozen=True, slots=True)
class Row:
    """One stream, coverage and method over all its splits."""

    stream: str
    coverage: float
    method: str
    splits: Sequence[Split]

    def mean(self, name: str) -> float:
        """Mean of one of a split's figures."""
        return float(np.mean([getattr(split, name) for split in self.splits]))

    @property
    def least(self) -> float:
        """The target less its sampling error: that of the items and that of the answers calibrated on."""
        one = np.array([1 / (split.fit + 2) + 1 / split.items for split in self.splits])
        spread = self.coverage * (1 - self.coverage) * one
        return self.coverage - ERRORS * float(np.sqrt(spread.sum())) / len(self.splits)

    @property
    def reached(self) -> bool:
        """Whether the promise is kept."""
        return self.mean("covered") >= self.least


def measured(name: str, trainings: int, splits: int) -> list[Row]:
    """All coverages and methods on one stream, over so many trainings with so many splits each."""
    found: dict[tuple[float, str], list[Split]] = {(c, m): [] for c in COVERAGES for m in METHODS}
    plain = STREAMS[name].spec()
    document = plain.document() | {"labels": dict.fromkeys(plain.label_names, DESCRIBED)}
    for seed in range(trainings):
        known = opinions(name, seed)
        prices = [Prices.of(spec, known.texts) for spec in (plain, classifier.parse(document))]
        for draw in range(splits):
            _split(known, prices, np.random.default_rng([seed, draw]), found)
    return [Row(name, coverage, method, made) for (coverage, method), made in found.items()]


def _split(
    known: Opinions, prices: Sequence[Prices], rng: np.random.Generator, found: dict[tuple[float, str], list[Split]]
) -> None:
    order = rng.permutation(len(known.answers))
    fit, rest = order[:CALIBRATED], order[CALIBRATED:]
    probabilities = softmax(known.logits, fit_temperature(known.logits[fit], known.answers[fit]))
    escalates = probabilities.max(axis=1) < THRESHOLD
    fit, rest = fit[escalates[fit]], rest[escalates[rest]]
    doubtful = np.argsort(probabilities[rest].max(axis=1), kind="stable")[: len(rest) // 3]
    for (coverage, method), made in found.items():
        sets = METHODS[method](probabilities[fit], known.answers[fit], probabilities[rest], coverage)
        covered = sets[np.arange(len(rest)), known.answers[rest]]
        shares = (price.share(rest, sets, ~covered) for price in prices)
        made.append(
            Split(
                len(fit),
                len(rest),
                float(covered.mean()),
                float(covered[doubtful].mean()),
                float(sets.sum(axis=1).mean()),
                *shares,
            )
        )


HEADER = (
    "stream", "coverage", "score", "covered", "at least", "", "least sure third", "labels offered",
    "tokens", "tokens, described",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    return (
        row.stream,
        f"{row.coverage:.0%}",
        row.method,
        f"{row.mean('covered'):.2%}",
        f"{row.least:.2%}",
        "reached" if row.reached else "missed",
        f"{row.mean('doubtful'):.1%}",
        f"{row.mean('size'):.2f} of {len(STREAMS[row.stream].labels)}",
        f"{row.mean('tokens'):.1%}",
        f"{row.mean('tokens_described'):.1%}",
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/benchmarks.md."""
    counts = {row.stream: f"{row.mean('fit'):.0f} and {row.mean('items'):,.0f} ({row.stream})" for row in rows}
    lines = [
        f"Means of {len(rows[0].splits)} splits; of the items of a split {', '.join(counts.values())} escalate and are"
        " calibrated on or pruned.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|---|---:|---|---:|---:|---|{'---:|' * (len(HEADER) - 6)}",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all, show it, and with `--docs FILE` write the table of that page again."""
    parser = command.parser(__doc__)
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the table in FILE, between its markers, again")
    options = parser.parse_args(arguments)
    console, rows = Console(), []
    try:
        for name in STREAMS:
            rows += measured(name, 5 if options.full else 1, PER_TRAINING)
            for row in rows[-len(COVERAGES) * len(METHODS) :]:
                console.print(*cells(row), sep="  ")
    except DatashuntError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        raise SystemExit(error.exit_code) from None
    if options.json:
        command.write(options.json, [dict(zip(HEADER, cells(row), strict=True)) for row in rows])
    if options.docs:
        page = refreshed(options.docs.read_text(encoding="utf-8"), markdown(rows), BEGIN)
        options.docs.write_text(page, encoding="utf-8")
    if not all(row.reached for row in rows if row.method == OURS):
        sys.exit(1)


if __name__ == "__main__":
    main()
