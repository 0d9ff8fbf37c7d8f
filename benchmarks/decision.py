"""The cost of a decision: policy, pruning and audit of one item, as the score lane makes it in batches of 64.

Every item escalates and is pruned, hard and soft, which is the dearest it can be. No model, no database. Time of the
processor, so that other programs on the machine do not count.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from statistics import median

import numpy as np

from benchmarks import command
from benchmarks.figures import Measure, Result
from datashunt import classifier, prompts, prune
from datashunt.items import ClaimedItem
from datashunt.pipeline.pruning import Calibration
from datashunt.pipeline.ruling import decide
from datashunt.store.classifiers import Bundle, Registered

BATCH = 64
LABELS = (7, 77)
ROUNDS = 9
TARGET_US = 20.0


def benchmark(full: bool) -> Result:
    """Nine rounds of 500 batches, or of 50."""
    began = time.monotonic()
    found = {labels: _microseconds(labels, 500 if full else 50) for labels in LABELS}
    return Result("decision", full, time.monotonic() - began, _measures(found))


def _measures(found: dict[int, list[float]]) -> list[Measure]:
    """`found`: labels → microseconds an item of each round."""
    named = [
        Measure(f"us_{labels}", f"a decision, {labels} labels, median of rounds", median(times), "µs", TARGET_US, True)
        for labels, times in found.items()
    ]
    worst = [
        Measure(f"us_{labels}_worst", f"the same, {labels} labels, the worst round", max(times), "µs")
        for labels, times in found.items()
    ]
    return [*named, *worst]


def _microseconds(labels: int, batches: int) -> list[float]:
    """What an item takes, of each round."""
    rng = np.random.default_rng(1)
    known = registered(labels)
    batch = [ClaimedItem(n, f"item-{n}", "text") for n in range(BATCH)]  # as in a worker, which holds one at a time
    vectors = rng.dirichlet([0.3] * labels, (batches, BATCH)).astype(np.float32)
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for probabilities in vectors:
            decide(known, batch, probabilities)
        rounds.append((time.process_time() - started) / (batches * BATCH) * 1e6)
    return rounds


def registered(labels: int) -> Registered:
    """A classifier that keeps nothing, with a bundle whose cut holds."""
    spec = classifier.parse(
        {
            "name": "decision",
            "labels": [f"label {n}" for n in range(labels)],
            "instruction": "Which is it?",
            "policy": {"threshold": 1.0},
            "prompt": {"pruning": "both"},
        }
    )
    prompt_hash = prompts.prompt_hash(spec)
    coverage = spec.prompt.coverage
    cut = Calibration(0.01, prune.needed(coverage), 0, 0, spec.policy.threshold, coverage, prompt_hash)
    bundle = Bundle(
        id=1,
        version=1,
        state="promoted",
        uri="memory://",
        content_hash="0",
        labels=spec.label_names,
        labels_hash=spec.labels_hash,
        spec_version=1,
        recipe="head",
        prune_cut=cut.cut,
        evaluation={"pruning": cut.to_json()},
        parent_id=None,
        created_at=datetime(2031, 5, 5, tzinfo=UTC),
    )
    return Registered(1, spec.name, 1, spec, prompt_hash, b"k" * 32, bundle)


if __name__ == "__main__":
    command.main(benchmark, __doc__)
