"""About how much any way of spending calls could reach on ISEAR with this encoder and training: learning is free.

For each number of calls, the recipe `full` learns as many answers to random items beforehand. Of items that it never
saw, the least sure are asked, as large a part as the calls are of all that the LLM answered; the rest is kept. A
stream has to learn from the calls that it spends, and asks about everything at first. It is no bound: answers that are
chosen may teach more than random ones.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.recorded import STREAMS, beginning
from datashunt import settings
from datashunt.backtest.recording import Recorded
from datashunt.classifier import Spec
from datashunt.distil import Example, Plan, distil
from datashunt.small import SmallModel

TARGETS = {1_200: 0.62, 1_500: 0.655, 2_700: 0.70}
UNSEEN = 2_500
SEED = 0


def benchmark(full: bool) -> Result:
    """All three numbers of calls, or a tenth of the fewest with 300 unseen items."""
    started = time.monotonic()
    stream = STREAMS["isear"]
    spec = stream.spec()
    items = [one for one in beginning(stream.read(), SEED, None).items if one.teacher is not None]
    learned = {one.text for one in items[: max(TARGETS)]}
    unseen = [one for one in (items[-UNSEEN:] if full else items[-300:]) if one.text not in learned]
    measures = [Measure("llm", "the LLM alone", _right(np.array([one.teacher for one in unseen]), unseen))]
    for calls, target in TARGETS.items() if full else [(120, 0.0)]:
        probabilities = _taught(spec, items[:calls], [one.text for one in unseen])
        found = asked_least_sure(probabilities, spec.label_names, unseen, calls / len(items))
        measures += [
            Measure(f"{calls}_accuracy", f"{calls:,} calls: accuracy", found[0], "", target or None),
            Measure(f"{calls}_kept", f"{calls:,} calls: accuracy of what is kept", found[1]),
            Measure(f"{calls}_llm", f"{calls:,} calls: that of the LLM on the same items", found[2]),
        ]
    return Result("limit", full, time.monotonic() - started, measures)


def asked_least_sure(
    probabilities: NDArray[np.float32], labels: Sequence[str], items: Sequence[Recorded], share: float
) -> tuple[float, float, float]:
    """Accuracy if the least sure share is asked; of what is kept, the small model's accuracy and the LLM's.

    Args:
        probabilities: (n, k) of n items.
        labels: k names.
        items: with their recorded answers and gold labels.
        share: of the items, to be asked.
    """
    said = np.array([one.teacher for one in items])
    own = np.array(labels)[probabilities.argmax(axis=1)]
    order = probabilities.max(axis=1).argsort(kind="stable")
    kept = np.sort(order[round(share * len(items)) :])
    outcomes = said.copy()
    outcomes[kept] = own[kept]
    of_kept = [items[i] for i in kept]
    return _right(outcomes, items), _right(own[kept], of_kept), _right(said[kept], of_kept)


def _right(said: NDArray[np.str_], items: Sequence[Recorded]) -> float:
    return float(np.mean([label == one.gold for label, one in zip(said, items, strict=True)]))


def _taught(spec: Spec, answers: Sequence[Recorded], texts: Sequence[str]) -> NDArray[np.float32]:
    """Probabilities of texts after `full` has learned these answers."""
    names, known = spec.label_names, settings.load()
    everything = np.ones(len(names), dtype=np.bool_)
    examples = [
        Example(one.text, np.array([name == one.teacher for name in names], dtype=np.float32), 1.0, everything)
        for one in answers
    ]
    plan = Plan(
        names,
        spec.labels_hash,
        spec.small_model.base,
        spec.small_model.max_tokens,
        spec.policy.threshold,
        device=known.device,
        precision=known.precision,
        threads=known.threads,
        meanings=spec.meanings,
        recipes=("full",),
    )
    with tempfile.TemporaryDirectory(prefix="datashunt-benchmark-") as place:
        made = distil(plan, examples, [], [], None, Path(place) / "bundle", lambda *_: None)
        model = SmallModel.load(made.folder, device=known.device, precision=known.precision, threads=known.threads)
        return model.probabilities(texts)


if __name__ == "__main__":
    command.main(benchmark, __doc__)
