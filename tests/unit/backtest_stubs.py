"""A backtest whose bundles are stand-ins: a text says what a bundle makes of it, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datashunt import classifier
from datashunt.backtest.recording import Recorded, Recording
from datashunt.backtest.student import Student
from datashunt.classifier import Spec
from datashunt.distil import Challenger
from datashunt.pipeline import lesson as lessons
from datashunt.settings import Settings

LABELS = ("x", "y")
SETTINGS = Settings(device="cpu", precision="fp32", threads=1)
Says = Callable[[str], tuple[str, float]]


def honest(text: str) -> tuple[str, float]:
    """The label and the confidence that the text names."""
    label, confidence, *_ = text.split()
    return label, float(confidence)


class Bundle:
    """Says of each text a label, with a confidence."""

    def __init__(self, says: Says = honest) -> None:
        self._says = says

    def probabilities(self, texts: Sequence[str], **_: Any) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), 2), dtype=np.float32)
        for row, (label, confidence) in zip(rows, map(self._says, texts), strict=True):
            row[:] = (confidence, 1 - confidence) if label == "x" else (1 - confidence, confidence)
        return rows

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), 2), dtype=np.float32)


class School:
    """Takes the place of training: the n-th distillation gives the n-th bundle. Remembers the lessons."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *says: Says) -> None:
        self.lessons: list[lessons.Lesson] = []
        self._says = says
        monkeypatch.setattr(lessons, "teach", self._teach)
        monkeypatch.setattr(lessons, "describe", lambda *_: None)
        monkeypatch.setattr(Student, "_load", lambda student, folder: self._bundle(int(folder.name)))

    def _teach(self, lesson: lessons.Lesson, settings: Settings, out: Path, *_: Any) -> Challenger:
        self.lessons.append(lesson)
        return Challenger(out, "head", 1.0, {})

    def _bundle(self, number: int) -> Bundle:
        return Bundle(self._says[min(number, len(self._says)) - 1] if self._says else honest)


def spec(*, threshold: float = 0.8, audit_rate: float = 0.2, min_new_answers: int = 100, pruning: str = "off") -> Spec:
    document = {
        "name": "stub",
        "labels": list(LABELS),
        "instruction": "Choose.",
        "policy": {"threshold": threshold, "audit_rate": audit_rate},
        "distil": {"min_new_answers": min_new_answers},
        "prompt": {"pruning": pruning},
    }
    return classifier.parse(document)


def items(n: int, *, seed: int = 0, wrong_below: float = 0.7) -> list[Recorded]:
    """n items of which the honest bundle says the teacher's label where it is sure, and another below."""
    rng = np.random.default_rng(seed)
    made = []
    for place in range(n):
        label, confidence = LABELS[rng.integers(2)], float(rng.uniform(0.5, 1.0))
        wrong = confidence < wrong_below and rng.random() < 0.5
        said = label if not wrong else LABELS[1 - LABELS.index(label)]
        made.append(Recorded(place + 1, f"i{place}", f"{label} {confidence:.4f} {place}", said, None))
    return made


def recording(made: Sequence[Recorded]) -> Recording:
    return Recording(tuple(made), 0, (), "0" * 16)
