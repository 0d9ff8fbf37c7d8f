"""What a promise costs: the share of items asked, audits included, ours beside BARGAIN's and hindsight's.

All see the same scores and the same recorded answers, and promise the same: of all items, at most α differ from what
the LLM says, with probability ≥ 0.9. What is asked is right. Hindsight knows all answers and takes the best threshold.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import bargain, command
from benchmarks.figures import refreshed
from benchmarks.scored import SCORED, Scored
from datashunt.certificate import (
    Answers,
    Certificate,
    Ledger,
    OfAll,
    batch_threshold,
    certify_anytime,
    plan_audits,
    plan_batch,
    thresholds,
)
from datashunt.errors import DatashuntError

BEGIN = "<!-- figures: written by `python -m benchmarks.power --full --docs docs/benchmarks.md` -->"
ALPHAS = (0.02, 0.05, 0.1)
DELTA = 0.1
RENEWAL = 20
MORE = 10

Flags = NDArray[np.bool_]
Runs = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One stream and α.

    Attributes:
        runs: method → (asked, differs) of each run.
    """

    stream: str
    alpha: float
    runs: Runs

    def asked(self, method: str) -> float:
        """Mean share asked."""
        return mean(asked for asked, _ in self.runs[method])

    def differs(self, method: str) -> float:
        """Mean share of all items whose outcome differs from what the LLM says."""
        return mean(differs for _, differs in self.runs[method])

    def above(self, method: str) -> float:
        """Share of runs in which more than α differ."""
        return mean(differs > self.alpha for _, differs in self.runs[method])


METHODS = ("hindsight", "BARGAIN", "one-shot", "20th renewal", "served, 20th")


def measured(name: str, alpha: float, seeds: range, draws: int) -> Row:
    """All methods on one stream, over seeds of the training and draws of the audits.

    Methods that take no time are drawn ten times as often: their means should not be chance.
    """
    runs: Runs = {method: [] for method in METHODS}
    later = Ledger(DELTA, RENEWAL - 1).next
    for seed in seeds:
        scored = _scored(name, seed)
        runs["hindsight"].append(_outcome(scored, hindsight(scored, alpha)))
        for draw in range(draws * MORE):
            number = seed * 1_000 + draw
            asks = {
                "one-shot": batch(scored, alpha, DELTA, number),
                "20th renewal": batch(scored, alpha, later, number),
            }
            if draw < draws:
                asks["BARGAIN"] = bargain.asked(scored, alpha=alpha, delta=DELTA, seed=number)
                asks["served, 20th"] = served(scored, alpha, later, number)
            for method, flags in asks.items():
                runs[method].append(_outcome(scored, flags))
    return Row(name, alpha, runs)


def batch(scored: Scored, alpha: float, delta: float, seed: int) -> Flags:
    """(n,): which items are asked so that at most alpha of these very items differ, as BARGAIN promises."""
    items = len(scored.confidence)
    plan = plan_batch(scored.fit_confidence, scored.fit_wrong, items=items, alpha=alpha, delta=delta)
    audited = np.random.default_rng(seed).random(items) < plan.rate
    lowest = batch_threshold(scored.confidence[audited], scored.wrong[audited], plan.misses)
    return audited | (scored.confidence < lowest)


def served(scored: Scored, alpha: float, delta: float, seed: int) -> Flags:
    """(n,): which items are asked with a certificate of a service: about items to come, looked at all the time."""
    items = len(scored.confidence)
    plan = plan_audits(scored.fit_confidence, scored.fit_wrong, items=items, alpha=alpha, delta=delta)
    audited = np.random.default_rng(seed).random(items) < plan.rate
    targets = [OfAll(alpha)]
    fit, judge = _answers(scored.fit_confidence, scored.fit_wrong), _answers(scored.confidence, scored.wrong, audited)
    tried = thresholds(targets, fit, judged=len(judge), delta=delta)
    found = certify_anytime(targets, tried, judge, delta=delta)
    lowest = found.threshold if isinstance(found, Certificate) else np.inf
    return audited | (scored.confidence < lowest)


def hindsight(scored: Scored, alpha: float) -> Flags:
    """(n,): which items are asked at the lowest threshold that keeps at most a share alpha of disagreements."""
    order = np.argsort(-scored.confidence, kind="stable")
    kept = int(np.searchsorted(scored.wrong[order].cumsum(), alpha * len(order), side="right"))
    asks = np.ones(len(order), dtype=bool)
    asks[order[:kept]] = False
    return asks


@cache
def _scored(name: str, seed: int) -> Scored:
    return SCORED[name](name, seed)


def _answers(confidence: NDArray[np.float64], wrong: Flags, drawn: Flags | None = None) -> Answers:
    """As answers of two labels: the small model always says the first."""
    if drawn is not None:
        confidence, wrong = confidence[drawn], wrong[drawn]
    return Answers(confidence, np.zeros(len(wrong), dtype=np.intp), wrong.astype(np.intp))


def _outcome(scored: Scored, asks: Flags) -> tuple[float, float]:
    return float(asks.mean()), float((~asks & scored.wrong).mean())


HEADER = (
    "stream", "α", "hindsight", "BARGAIN", "one-shot", "20th renewal", "served, 20th",
    "BARGAIN − one-shot", "one-shot − hindsight", "20th − one-shot",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table: asked of each method with, in brackets, what differs; then the three differences."""
    asked = {method: 100 * row.asked(method) for method in METHODS}
    figures = (f"{asked[method]:.1f} ({100 * row.differs(method):.1f})" for method in METHODS)
    return (
        row.stream,
        f"{100 * row.alpha:g}",
        *figures,
        f"{asked['BARGAIN'] - asked['one-shot']:.1f}",
        f"{asked['one-shot'] - asked['hindsight']:.1f}",
        f"{asked['20th renewal'] - asked['one-shot']:.1f}",
    )


def markdown(rows: Sequence[Row], seeds: int, draws: int) -> str:
    """The table of docs/benchmarks.md, and in how many runs too much differed."""
    above = (f"{method} {100 * mean(row.above(method) for row in rows):.0f} %" for method in METHODS[1:])
    lines = [
        f"Per cent of items asked, and in brackets per cent that differs from what the LLM says. Means of {seeds}"
        f" trainings, {draws} draws each, {draws * MORE} of one-shot and 20th renewal. More than α differed in these"
        f" shares of all runs: {', '.join(above)}.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|---|{'---:|' * (len(HEADER) - 1)}",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


def misses(row: Row) -> list[str]:
    """Which targets a line misses, in words."""
    asked = {method: 100 * row.asked(method) for method in METHODS}
    far = asked["BARGAIN"] - asked["hindsight"] >= 20
    wanted = {
        "one-shot is not below BARGAIN": asked["one-shot"] >= asked["BARGAIN"],
        "one-shot is less than 10 below BARGAIN": far and asked["BARGAIN"] - asked["one-shot"] < 10,
        "one-shot is more than 10 above hindsight": asked["one-shot"] - asked["hindsight"] > 10,
        "the 20th renewal is more than 8 above one-shot": asked["20th renewal"] - asked["one-shot"] > 8,
    }
    return [f"{row.stream}, α = {row.alpha:g}: {words}" for words, missed in wanted.items() if missed]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all, show it, and with `--docs FILE` write the table of that page again."""
    parser = command.parser(__doc__)
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the table in FILE, between its markers, again")
    options = parser.parse_args(arguments)
    seeds, draws = (5, 6) if options.full else (1, 2)
    console, rows = Console(), []
    try:
        bargain.require()
        for name in SCORED:
            for alpha in ALPHAS:
                rows.append(measured(name, alpha, range(seeds), draws))
                console.print(*cells(rows[-1]), sep="  ")
    except DatashuntError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        raise SystemExit(error.exit_code) from None
    for words in (words for row in rows for words in misses(row)):
        console.print(f"missed: {words}")
    if options.json:
        command.write(options.json, [dict(zip(HEADER, cells(row), strict=True)) for row in rows])
    if options.docs:
        page = refreshed(options.docs.read_text(encoding="utf-8"), markdown(rows, seeds, draws), BEGIN)
        options.docs.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
