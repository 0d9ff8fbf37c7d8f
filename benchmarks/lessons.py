"""Lessons out of the life of a classifier: the n-th distillation of a sequence that gets as many new answers each time.

Nothing before it is trained: the incumbent is the packaged encoder with a head that it fitted once, said to be
fine-tuned, so that training may go on from it. Started as `python -m benchmarks.lessons NUMBER NEW ROUNDS THREADS`,
this is a process of its own that teaches one lesson so often and tells its seconds and its peak memory as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.texts import WORDS, texts
from datashunt import classifier
from datashunt.classifier import Spec
from datashunt.distil.plan import FULL
from datashunt.errors import DatashuntError
from datashunt.items import Role
from datashunt.pipeline import lesson as lessons
from datashunt.pipeline.lesson import Lesson
from datashunt.settings import Settings
from datashunt.small import SmallModel
from datashunt.store.distillations import StoredAnswer

LABELS = ("negative", "neutral", "positive")
ROLES = (Role.TRAIN,) * 8 + (Role.FIT, Role.JUDGE)
"""Of ten answers; a fifth is held out, as while every item is asked."""
REPLAYED = 2_000


@dataclass(frozen=True, slots=True)
class Taught:
    """What a process told that taught one lesson: seconds of each time, and its peak resident memory in bytes.

    `judged`: the same with loading the challenger and judging it.
    """

    seconds: tuple[float, ...]
    judged: tuple[float, ...]
    peak: int


def spec() -> Spec:
    """The classifier."""
    document = {"name": "lessons", "labels": list(LABELS), "instruction": "Choose.", "small_model": {"max_tokens": 128}}
    return classifier.parse(document, where="the benchmark's classifier")


def answers(count: int) -> list[StoredAnswer]:
    """So many answers, oldest first: the label depends on a few words, and one in ten is anybody's."""
    said = []
    for i, text in enumerate(texts(count, seed=1)):
        told = sum(WORDS.index(word) for word in text.rstrip(".").lower().split()[:6]) // 40 % len(LABELS)
        label = LABELS[i // 10 % len(LABELS) if i % 10 == 7 else told]
        said.append(StoredAnswer(i + 1, i + 1, text, label, None, ROLES[i % len(ROLES)], "fp"))
    return said


def incumbent(folder: Path, settings: Settings) -> SmallModel:
    """A bundle that knows something, and from which training goes on."""
    first = lessons.prepare(spec(), answers(300), [], None, learned_up_to=0, seed=1, changes={"recipes": ("head",)})
    lessons.teach(first, settings, folder, lambda *_: None)
    model = SmallModel.load(folder, device="cpu", threads=settings.threads)
    model.info = replace(model.info, recipe=FULL)
    return model


def lesson(number: int, new: int, model: SmallModel) -> Lesson:
    """The n-th of the sequence."""
    replay = texts(REPLAYED, seed=2)
    learned = (number - 1) * new
    return lessons.prepare(spec(), answers(number * new), replay, model, learned_up_to=learned, seed=number)


def taught(number: int, new: int, rounds: int, threads: int) -> Taught:
    """Teach the n-th lesson in a process of its own.

    Raises:
        DatashuntError: it failed; what it wrote is above.
    """
    command = [sys.executable, "-m", "benchmarks.lessons", *map(str, (number, new, rounds, threads))]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as workers/app.py does
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if ended.returncode:
        raise DatashuntError(f"lesson {number} ended with code {ended.returncode}: see what it wrote above")
    told = json.loads(ended.stdout)
    return Taught(tuple(told["seconds"]), tuple(told["judged"]), told["peak"])


def _main(arguments: Sequence[str]) -> None:
    number, new, rounds, threads = map(int, arguments)
    settings = Settings(device="cpu", threads=threads)
    seconds, judged = [], []
    with tempfile.TemporaryDirectory(prefix="datashunt-benchmark-") as place:
        model = incumbent(Path(place) / "incumbent", settings)
        for i in range(rounds):
            this, out = lesson(number, new, model), Path(place) / str(i)
            started = time.perf_counter()
            challenger = lessons.teach(this, settings, out, lambda *_: None, Path(place) / f"state-{i}")
            seconds.append(time.perf_counter() - started)
            lessons.judge(this, challenger, SmallModel.load(out, device="cpu", threads=threads))
            judged.append(time.perf_counter() - started)
    sys.stdout.write(json.dumps({"seconds": seconds, "judged": judged, "peak": _peak()}) + "\n")


def _peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the process that started this one
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    _main(sys.argv[1:])
