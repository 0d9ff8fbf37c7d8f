"""One distillation without its database: what there is to learn, how it is taught, and how it is judged.

The distil lane and the backtest share it. Training answers never evaluate: `fit` answers choose the recipe and
calibrate, `judge` answers decide about promotion and the certificate, and neither is trained on, nor is any
text equal to one of theirs, whatever its outer white space and its form of Unicode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datashunt import evaluate
from datashunt.classifier import Spec
from datashunt.errors import LessonError
from datashunt.evaluate import Verdict
from datashunt.items import Role
from datashunt.prompts import plain
from datashunt.settings import Settings
from datashunt.store.distillations import StoredAnswer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datashunt.distil import Challenger, Example, Progress
    from datashunt.small import SmallModel

FULL = "full"
"""The recipe of an incumbent from which training can go on."""
OPENING: Mapping[str, Any] = {"recipes": ("head",)}
"""What the first lesson of a classifier's labels changes of the plan, so that a bundle serves soon: of a few hundred
answers, within seconds. The whole lesson follows at once, as a challenger: until then every item would be asked about,
for minutes on a slow CPU."""
FRESH = 3_000
"""Training answers up to which every distillation starts from the base, which gives the better bundle; with more it
goes on from an incumbent that was fine-tuned over that base, so that its cost stays bounded."""
MARGIN = 0.01
DELTA = 0.10
CHUNK = 64
"""Texts that are judged between two reports of progress: seconds, however long they are."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The stored answers, by role; no training text equals a held-out one."""

    train: list[StoredAnswer]
    fit: list[StoredAnswer]
    judge: list[StoredAnswer]

    @classmethod
    def part(cls, answers: Sequence[StoredAnswer]) -> Answers:
        """Put each answer where its role belongs."""
        held_out = {plain(answer.text) for answer in answers if answer.role is not Role.TRAIN}
        return cls(
            train=[a for a in answers if a.role is Role.TRAIN and plain(a.text) not in held_out],
            fit=[a for a in answers if a.role is Role.FIT],
            judge=[a for a in answers if a.role is Role.JUDGE],
        )

    @property
    def counts(self) -> dict[Role, int]:
        """How many of each role."""
        return {Role.TRAIN: len(self.train), Role.FIT: len(self.fit), Role.JUDGE: len(self.judge)}


@dataclass(frozen=True, slots=True)
class Lesson:
    """Everything of one distillation: the answers, the texts to retain, and the bundle that serves now.

    Attributes:
        warm: training goes on from the incumbent; else it starts from the base.
        changes: fields of the plan that differ from the defaults.
        parent: content hash of the incumbent, for the card.
    """

    spec: Spec
    answers: Answers
    replay: list[str]
    incumbent: SmallModel | None
    seed: int
    warm: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A challenger before its judges.

    Attributes:
        verdict: whether it may serve.
        probabilities: (n, k) of the judge answers' texts. labels: (n,) what the LLM said of them.
        evaluation: for the card, on fit and judge answers.
    """

    verdict: Verdict
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    evaluation: dict[str, Any]


def prepare(
    spec: Spec,
    stored: Sequence[StoredAnswer],
    replay: Sequence[str],
    incumbent: SmallModel | None,
    *,
    learned_up_to: int,
    seed: int,
    changes: Mapping[str, Any] | None = None,
    parent: str | None = None,
) -> Lesson:
    """What this distillation learns from.

    Args:
        spec: the classifier.
        stored: all its answers, oldest first.
        replay: texts that the incumbent kept.
        incumbent: the bundle that serves, or None.
        learned_up_to: id of the newest answer that the incumbent could learn from.
        seed: of this run.
        changes: fields of the plan that differ from the defaults: of a first lesson, and for ablations.
        parent: content hash of the incumbent.
    """
    parted = Answers.part(stored)
    held_out = {plain(answer.text) for answer in (*parted.fit, *parted.judge)}
    warm = len(parted.train) > min(FRESH, spec.distil.max_answers) and _goes_on(incumbent, spec)
    train = increment(parted.train, learned_up_to if warm else 0, most=spec.distil.max_answers, seed=seed)
    return Lesson(
        spec=spec,
        answers=Answers(train, parted.fit, parted.judge),
        replay=[text for text in replay if plain(text) not in held_out],
        incumbent=incumbent,
        seed=seed,
        warm=warm,
        changes=changes or {},
        parent=parent,
    )


def _goes_on(incumbent: SmallModel | None, spec: Spec) -> bool:
    """Whether training can go on from it; else the base would get only a part of the answers."""
    return incumbent is not None and incumbent.info.recipe == FULL and incumbent.info.base == spec.small_model.base


def teach(
    lesson: Lesson, settings: Settings, out: Path, progress: Progress, checkpoint: Path | None = None
) -> Challenger:
    """Train and calibrate a challenger into the folder `out`.

    Args:
        lesson: what to learn from.
        settings: device, precision and threads.
        out: folder of the bundle.
        progress: called with stage and share done.
        checkpoint: folder where the training keeps its state, and goes on from the one it finds.

    Raises:
        LessonError: there is nothing to learn from, or training diverged.
        ModelError: the base cannot be loaded; or what `progress` raises.
    """
    from datashunt import distil

    spec = lesson.spec
    labels = spec.label_names
    plan = distil.Plan(
        labels=labels,
        labels_hash=spec.labels_hash,
        base=spec.small_model.base,
        max_tokens=spec.small_model.max_tokens,
        threshold=spec.policy.threshold,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        seed=lesson.seed,
        parent=lesson.parent,
        meanings=spec.meanings,
        warm=lesson.warm,
    )
    return distil.distil(
        replace(plan, **lesson.changes),
        [example(answer, labels) for answer in lesson.answers.train],
        [(answer.text, labels.index(answer.label)) for answer in lesson.answers.fit],
        lesson.replay,
        lesson.incumbent,
        out,
        progress,
        checkpoint,
    )


def silent(_stage: str, _share: float) -> None:
    """Nobody listens."""


def judge(lesson: Lesson, challenger: Challenger, model: SmallModel, progress: Progress = silent) -> Judgement:
    """Compare the challenger, loaded as `model`, with the incumbent on the judge answers.

    Raises:
        LessonError: there is no training answer; or what `progress` raises.
    """
    spec, answers = lesson.spec, lesson.answers
    labels, threshold = spec.label_names, spec.policy.threshold
    said = indices(answers.judge, labels)
    texts = [answer.text for answer in answers.judge]
    probabilities = scored(model, texts, progress, "judge")
    verdict = evaluate.judge(
        probabilities,
        None if lesson.incumbent is None else scored(lesson.incumbent, texts, progress, "judge incumbent"),
        said,
        labels,
        majority=majority(answers.train, labels),
        margin=MARGIN,
        delta=DELTA,
    )
    return Judgement(
        verdict=verdict,
        probabilities=probabilities,
        labels=said,
        evaluation={
            **challenger.evaluation,
            "judge": evaluate.evaluation(probabilities, said, labels, threshold),
        },
    )


def describe(challenger: Challenger, judgement: Judgement) -> None:
    """Write into the bundle's card what its judges say, before anybody gets it."""
    from datashunt import small

    small.describe(challenger.folder, replace(small.read_info(challenger.folder), evaluation=judgement.evaluation))


def scored(model: SmallModel, texts: Sequence[str], progress: Progress, stage: str) -> NDArray[np.float32]:
    """Calibrated probabilities (n, k) of n texts."""
    parts = []
    for start in range(0, max(len(texts), 1), CHUNK):
        progress(stage, start / max(len(texts), 1))
        parts.append(model.probabilities(texts[start : start + CHUNK]))
    return np.concatenate(parts)


def indices(answers: Sequence[StoredAnswer], labels: Sequence[str]) -> NDArray[np.int64]:
    """Which label each of n answers gives: (n,)."""
    return np.array([labels.index(answer.label) for answer in answers], dtype=np.int64)


def increment(train: Sequence[StoredAnswer], learned_up_to: int, *, most: int, seed: int) -> list[StoredAnswer]:
    """The training answers of one lesson.

    From an incumbent: what is new, and old answers at random, as many as new ones and at least half of FRESH. Then a
    distillation costs by what is new, not by all that was ever answered, and still forgets little. From the base: all,
    or if those are more than `most`, the newest two thirds of it, and older ones at random.

    Args:
        train: training answers, oldest first.
        learned_up_to: id of the last answer that the incumbent could learn from; 0 to start from the base.
        most: largest lesson, of which at least a third is kept for old answers: the judges' are of all times.
        seed: another seed rehearses other old answers.
    """
    if not learned_up_to and len(train) > most:
        learned_up_to = train[-(most - most // 3) - 1].id
    old = [answer for answer in train if answer.id <= learned_up_to]
    new = [answer for answer in train if answer.id > learned_up_to]
    new = new[-max(most - len(old), most - most // 3) :]
    rehearsed = np.random.default_rng(seed).permutation(len(old))[: min(max(len(new), FRESH // 2), most - len(new))]
    return [old[index] for index in sorted(rehearsed)] + new


def example(answer: StoredAnswer, labels: Sequence[str]) -> Example:
    """A stored answer as a training example: soft where the LLM gave probabilities, one-hot where not."""
    from datashunt.distil import Example

    known = np.ones(len(labels), dtype=np.bool_)
    target = np.zeros(len(labels), dtype=np.float32)
    weight = 1.0
    if answer.probabilities is None:
        target[labels.index(answer.label)] = 1.0
    else:
        known = np.array([p is not None for p in answer.probabilities], dtype=np.bool_)
        target[:] = [p or 0.0 for p in answer.probabilities]
        weight = float(target.max())
    return Example(answer.text, target, weight, known)


def majority(train: Sequence[StoredAnswer], labels: Sequence[str]) -> int:
    """Index of the most frequent label among the training answers.

    Raises:
        LessonError: there are none.
    """
    if not train:
        raise LessonError("there is no answer to train on: every one is held out or of other labels")
    said = [labels.index(answer.label) for answer in train]
    return int(np.bincount(said, minlength=len(labels)).argmax())
