"""What a distillation costs: against a bare PyTorch loop, as answers accumulate, and in memory.

Training and bare loop run in turn, from the same weights, over the very same batches, with the same threads and
precision. The tenth and the hundredth distillation are lessons of a sequence whose others are not trained.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import command, lessons
from benchmarks.figures import Measure, Result, cores
from benchmarks.lessons import Taught

if TYPE_CHECKING:
    from datashunt.small import SmallModel

OVERHEAD = 1.1
GROWTH = 2.0
TENTH, HUNDREDTH = 10, 100
SEED = 1


def benchmark(full: bool) -> Result:
    """Five trainings on 1,600 answers, and each lesson three times; or two on 240, and once."""
    answers, rounds, new, times = (2_000, 5, 200, 3) if full else (300, 2, 200, 1)
    started = time.monotonic()
    pairs = _pairs(answers, rounds)
    tenth = lessons.taught(TENTH, new, times, cores())
    hundredth = lessons.taught(HUNDREDTH, new, times, cores())
    return Result("distil", full, time.monotonic() - started, _measures(pairs, tenth, hundredth, new))


def _pairs(count: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of training and of the bare loop over its batches; a first round warms up and does not count."""
    import torch

    from datashunt.settings import Settings

    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        with tempfile.TemporaryDirectory(prefix="datashunt-benchmark-") as place:
            model = lessons.incumbent(Path(place) / "incumbent", Settings(device="cpu", threads=cores()))
            return [_pair(model, count, Path(place) / f"state-{i}") for i in range(rounds + 1)][1:]
    finally:
        torch.set_num_threads(before)


def _pair(model: SmallModel, count: int, state: Path) -> tuple[float, float]:
    import numpy as np
    import torch

    from benchmarks.bare import Recorder, bare_loop
    from benchmarks.texts import texts
    from datashunt.distil import Plan, corpus
    from datashunt.distil.checkpoint import Checkpoint
    from datashunt.distil.corpus import HeldOut, Replay
    from datashunt.distil.full import fine_tune
    from datashunt.pipeline.lesson import Answers, example
    from datashunt.small import probe, training_precision

    parted = Answers.part(lessons.answers(count))
    answers = corpus.answers([example(one, model.labels) for one in parted.train], model.tokenizer, len(model.labels))
    labels = [model.labels.index(one.label) for one in parted.fit]
    held_out = HeldOut(model.encode([one.text for one in parted.fit]), np.array(labels, dtype=np.intp))
    retained = texts(len(parted.train) // 4, seed=2)
    replay = Replay(model.encode(retained), torch.from_numpy(model.probabilities(retained)))
    plan = Plan(model.labels, model.info.labels_hash, model.info.base, model.info.max_tokens, 0.8, seed=SEED)

    ours, theirs = (copy.deepcopy(model.network).float() for _ in range(2))
    precision = training_precision(model.device, probe())
    recorder = Recorder(ours, model.device, precision, model.tokenizer.pad_token_id or 0)
    started = time.perf_counter()
    kept = Checkpoint(state, "benchmark")
    fine_tune(recorder, answers, held_out, replay, plan, lambda *_: None, epochs=plan.warm_epochs, checkpoint=kept)
    seconds = time.perf_counter() - started
    return seconds, bare_loop(recorder, theirs, answers, held_out, replay, plan.adversarial)


def _measures(pairs: Sequence[tuple[float, float]], tenth: Taught, hundredth: Taught, new: int) -> list[Measure]:
    ours, bare = (median(column) for column in zip(*pairs, strict=True))
    overhead = median(mine / plain for mine, plain in pairs)
    early, late = median(tenth.seconds), median(hundredth.seconds)
    return [
        Measure(
            "overhead",
            "training as a multiple of the bare loop, median of rounds",
            overhead,
            "",
            OVERHEAD,
            at_most=True,
        ),
        Measure("training_s", "training with its checkpoints", ours, "s"),
        Measure("bare_s", "bare loop", bare, "s"),
        Measure("rounds", "rounds", len(pairs)),
        Measure(
            "growth", "the hundredth distillation as a multiple of the tenth", late / early, "", GROWTH, at_most=True
        ),
        Measure("tenth_s", "the tenth distillation", early, "s"),
        Measure("hundredth_s", "the hundredth distillation", late, "s"),
        Measure(
            "growth_judged",
            "the same as a multiple, with judging",
            median(hundredth.judged) / median(tenth.judged),
        ),
        Measure("new", "new answers of each", new),
        Measure("tenth_mb", "peak memory of the process of the tenth", tenth.peak / 2**20, "MiB"),
        Measure("hundredth_mb", "peak memory of the process of the hundredth", hundredth.peak / 2**20, "MiB"),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
