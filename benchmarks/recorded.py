"""Recorded streams with gold labels, for benchmarks of quality. Their folder is DATASHUNT_STREAMS."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from datashunt import classifier
from datashunt.backtest import recording
from datashunt.backtest.options import Options, ordered
from datashunt.backtest.recording import Recording
from datashunt.classifier import Spec
from datashunt.errors import UsageError

FOLDER = Path("../shared/data")
"""Where the streams lie unless DATASHUNT_STREAMS says otherwise."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream: its file, its columns, and the classifier that a user would write for it."""

    name: str
    file: str
    teacher: str
    labels: tuple[str, ...]
    instruction: str

    def spec(self) -> Spec:
        """The classifier, all defaults."""
        return classifier.parse({"name": self.name, "labels": list(self.labels), "instruction": self.instruction})

    def read(self) -> Recording:
        """The whole recording.

        Raises:
            UsageError: the file is not there.
        """
        path = Path(os.environ.get("DATASHUNT_STREAMS", FOLDER)) / self.file
        if not path.exists():
            raise UsageError(f"{path} is not there: set DATASHUNT_STREAMS to the folder that holds {self.file}")
        return recording.read(
            path, self.labels, id_column="id", text_column="text", teacher_column=self.teacher, gold_column="gold"
        )


STREAMS = {
    one.name: one
    for one in (
        Stream(
            "isear",
            "isear.csv.gz",
            "gpt35",
            ("joy", "fear", "anger", "sadness", "disgust", "shame", "guilt"),
            "Which emotion does the writer of this report describe?",
        ),
        Stream(
            "headlines",
            "headlines.csv.gz",
            "gold",
            ("up", "down", "none", "neutral"),
            "What does this headline say about the direction of the gold price?",
        ),
    )
}


def beginning(whole: Recording, seed: int, items: int | None) -> Recording:
    """The first items of the shuffled stream, in that order; all of them for None."""
    shuffled = ordered(whole.items, Options(order="random", seed=seed))
    return replace(whole, items=tuple(shuffled[:items]), fingerprint=f"{whole.fingerprint}-{seed}-{items}")
