"""What `benchmarks.quality` runs: the streams with the defaults, a plain cascade, and one change at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEAD_ONLY: dict[str, Any] = {"recipes": ("head",), "replay_share": 0.0, "meanings": ()}
PUBLISHED = (1_200, 1_500, 2_700)
"""Calls for which accuracy on ISEAR is published: Online Cascade Learning (ICML 2024), table 1."""
ABLATION_ITEMS, ABLATION_CALLS = 2_000, 700
"""Enough for three lessons: with 400 calls a single one was given, and what it is compared with never served."""


@dataclass(frozen=True, slots=True)
class Case:
    """One backtest.

    `options`: fields of `backtest.options.Options`; `threshold`: of a fixed policy; `base`: the encoder.
    """

    group: str
    name: str
    stream: str
    seed: int = 0
    items: int | None = None
    threshold: float | None = None
    base: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names the case in the results, and its folder."""
        return f"{self.group}.{self.stream}.{self.name}.{self.seed}".replace(" ", "-")


def defaults(seeds: range) -> Iterator[Case]:
    """Both streams with the defaults, and what a plain cascade needs for about as much agreement on HEADLINES."""
    for seed in seeds:
        for calls in PUBLISHED:
            yield _limited("isear", calls, seed)
        yield _limited("headlines", 1_900, seed)
        for threshold in (0.7, 0.8):
            yield _plain_cascade(threshold, seed)


def agreements(seeds: range) -> Iterator[Case]:
    """The same for 98 % agreement."""
    for seed in seeds:
        yield _limited("headlines", 2_900, seed)
        for threshold in (0.9, 0.95):
            yield _plain_cascade(threshold, seed)


def larger(base: str, seeds: range) -> Iterator[Case]:
    """ISEAR with another encoder, of the size of the one that the published figures were made with."""
    for seed in seeds:
        for calls in PUBLISHED:
            encoder = f"encoder {Path(base).name}"
            yield Case(encoder, f"{calls} calls", "isear", seed, base=base, options={"max_calls": calls})


def _limited(stream: str, calls: int, seed: int) -> Case:
    return Case("defaults", f"{calls} calls", stream, seed, options={"max_calls": calls})


def _plain_cascade(threshold: float, seed: int) -> Case:
    plan = {"plan": HEAD_ONLY}
    return Case("plain cascade", f"{threshold}", "headlines", seed, threshold=threshold, options=plan)


CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "as it is": {"the defaults": {}},
    "stages": {
        "stage 1 only": {"plan": {"replay_share": 0.0}},
        # Training goes on only from `full`: with any other incumbent this would be both stages again.
        "full, stage 2 only after the first bundle": {"plan": {"recipes": ("full",), "warm": True, "warm_epochs": 0}},
    },
    "serving": {"two gates": {"gates": 2}},
    "loss": {
        "cross-entropy": {"plan": {"smoothing": 0.0}},
        "generalised, q = 0.3": {"plan": {"smoothing": 0.0, "robustness": 0.3}},
        "generalised, q = 0.7": {"plan": {"smoothing": 0.0, "robustness": 0.7}},
        "symmetric": {"plan": {"smoothing": 0.0, "reverse": 1.0}},
    },
    "words of the labels": {"unread": {"plan": {"meanings": ()}}},
    "moved texts": {
        "none, four passes": {"plan": {"adversarial": 0.0, "epochs": 4}},
        "a tenth": {"plan": {"adversarial": 0.1}},
    },
    "recipe": {
        "head": {"plan": {"recipes": ("head",)}},
        "blend": {"plan": {"recipes": ("blend",)}},
        "full": {"plan": {"recipes": ("full",)}},
    },
    "asking": {
        "margin": {"asking": "margin"},
        "entropy": {"asking": "entropy"},
        "disagreement": {"asking": "disagreement"},
        "diversity": {"asking": "diversity"},
        "at random": {"asking": "random"},
        "equal texts asked again": {"reuse": False},
    },
    "spending": {"evenly": {"learning": 0}},
}


def ablations(seeds: range) -> Iterator[Case]:
    """Both streams' beginnings with one thing changed at a time."""
    for group, changes in CHANGES.items():
        for name, options in changes.items():
            for seed in seeds:
                yield Case(
                    group,
                    name,
                    "isear",
                    seed,
                    items=ABLATION_ITEMS,
                    options={"max_calls": ABLATION_CALLS, **options},
                )
