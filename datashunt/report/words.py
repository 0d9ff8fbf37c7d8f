"""The figures of a report in words, as the picture and the page show them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from datashunt.report.figures import Report


@dataclass(frozen=True, slots=True)
class About:
    """What a report speaks of, in words a reader sees.

    Attributes:
        classifier: its name. data: where the items came from.
        llm: name of the LLM. simulated: True if none was called; then money is counted at that LLM's prices.
        recorded: True if its answers were recorded before, and none was called.
    """

    classifier: str
    data: str
    llm: str
    simulated: bool
    recorded: bool = False

    @property
    def answered_by(self) -> str:
        """Who answered, and whether that is a simulation or a record."""
        if self.recorded:
            return f"LLM: recorded answers of {self.llm}"
        return f"LLM: simulated, at the prices of {self.llm}" if self.simulated else f"LLM: {self.llm}"


def headline(report: Report) -> str:
    """One sentence: how the LLM's share moved."""
    tenths = [share for share in report["llm_share_by_tenth"] if share is not None]
    if not tenths:
        return "No items"
    return f"The LLM is asked about {tenths[0]:.0%} of the first tenth, {tenths[-1]:.0%} of the last"


def subline(report: Report) -> str:
    """One line of figures: items, accuracy, cost."""
    return _joined([f"{report['items']:,} items", *_accuracy(report), _cost(report)])


def backtest_subline(report: Report) -> str:
    """One line of figures: items, calls, items without an outcome, agreement, accuracy, cost where prices are known."""
    parts = [f"{report['items']:,} items", f"{report['llm_calls']:,} calls"]
    unlabelled = report["held"] + report["dead"]
    if unlabelled:
        parts.append(f"{unlabelled:,} without a label")
    if report["agreement"] is not None:
        parts.append(f"agreement {percent(report['agreement'])}")
    costs = [_cost(report)] if report["cost_if_all_llm_usd"] else []
    return _joined([*parts, *_accuracy(report), *costs])


def _accuracy(report: Report) -> list[str]:
    if report["accuracy"] is None:
        return []
    alone = report["llm_accuracy"]
    against = "" if alone is None else f" (the LLM alone: {percent(alone)})"
    return [f"accuracy {percent(report['accuracy'])}{against}"]


def _cost(report: Report) -> str:
    return f"cost {usd(report['cost_usd'])} (all asked: {usd(report['cost_if_all_llm_usd'])})"


def _joined(parts: list[str]) -> str:
    return "  ·  ".join(parts)


def origin(about: About) -> str:
    """One line: which classifier, which items, who answered."""
    return _joined([f"Classifier {about.classifier}", about.data, about.answered_by])


def percent(share: float | None) -> str:
    """A fraction as people read it; `n/a` for None."""
    return "n/a" if share is None else f"{share:.1%}"


def usd(amount: float) -> str:
    """Dollars with at least two significant digits."""
    if amount >= 0.095 or amount == 0:
        return f"${amount:,.2f}"
    return f"${float(f'{amount:.2g}'):.10f}".rstrip("0")
