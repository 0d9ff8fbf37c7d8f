"""The small model of a backtest: which bundle serves, how the next one is distilled, and what it may promise."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datashunt import prompts
from datashunt.backtest.ledger import Decision, Ledger, Trained
from datashunt.backtest.options import Options
from datashunt.backtest.recording import Recorded
from datashunt.backtest.trials import LOST, SERVING, WAITING, Trials
from datashunt.classifier import Spec
from datashunt.errors import LessonError
from datashunt.items import Reason, Role
from datashunt.pipeline import lesson as lessons
from datashunt.pipeline import promise, pruning
from datashunt.pipeline.distil import MOST_REPLAYED
from datashunt.pipeline.lesson import Lesson
from datashunt.pipeline.pruning import Calibration
from datashunt.policy import TargetPolicy
from datashunt.settings import Settings
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.distillations import StoredAnswer

if TYPE_CHECKING:
    from datashunt.small import SmallModel

FINGERPRINT = "recorded"
FAILED = "failed"


class Student:
    """Bundles of one run, made and loaded."""

    def __init__(
        self,
        spec: Spec,
        options: Options,
        settings: Settings,
        folder: Path,
        ledger: Ledger,
        stream: Sequence[Recorded],
        key: bytes,
    ) -> None:
        self._spec, self._options, self._settings = spec, options, settings
        self._folder, self._ledger, self._stream, self._key = folder, ledger, stream, key
        self._bundles, self._interrupted = folder / "bundles", folder / "lesson"
        self._loaded: dict[int, SmallModel] = {}
        self._trials: Trials | None = None
        if isinstance(spec.policy, TargetPolicy):
            self._trials = Trials(self.known(None), ledger, stream, self._scored, self._stored)

    # serving

    def bundle(self) -> Bundle | None:
        """The incumbent, as the lanes know it."""
        one = self._incumbent
        if one is None:
            return None
        cut, evaluation = one.prune_cut, one.evaluation
        for later in self._ledger.trained[one.number :]:
            if later.recut is not None:
                cut, evaluation = later.recut["cut"], {**evaluation, "pruning": later.recut}
        return Bundle(
            id=one.number,
            version=one.number,
            state=one.state,
            uri=one.folder,
            content_hash=one.folder,
            labels=self._spec.label_names,
            labels_hash=self._spec.labels_hash,
            spec_version=1,
            recipe=one.recipe,
            prune_cut=cut,
            evaluation=evaluation,
            parent_id=None,
            created_at=datetime.now(UTC),
        )

    def opinion(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[int]]:
        """Calibrated probabilities (n, k), and the number of the bundle that each row is of: the incumbent.

        With two gates the first bundle speaks where it is sure.

        Raises:
            LookupError: no bundle serves.
        """
        serving = self._serving
        probabilities = self._model(serving[-1]).probabilities(texts)
        spoke = np.full(len(texts), serving[-1].number)
        if self._options.gates == 2 and len(serving) > 1:
            original = self.first_opinion(texts)
            sure = original.max(axis=1) >= self._spec.policy.threshold
            probabilities = np.where(sure[:, None], original, probabilities).astype(np.float32)
            spoke[sure] = serving[0].number
        return probabilities, spoke.tolist()

    def first_opinion(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities (n, k) of the first bundle that served."""
        return self._model(self._serving[0]).probabilities(texts).astype(np.float64)

    def features(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Pooled features (n, d) of the incumbent."""
        return self._model(self._serving[-1]).features(texts).astype(np.float64)

    def known(self, bundle: Bundle | None) -> Registered:
        """The classifier as it stands, with this bundle."""
        spec, one = self._spec, self._incumbent
        certified = one.certificate["threshold"] if one is not None and one.certificate is not None else None
        rate = None if certified is None else self._ledger.audit_rate
        prompt = prompts.prompt_hash(spec)
        return Registered(0, spec.name, 1, spec, prompt, self._key, bundle, certified=certified, audit_rate=rate)

    def prove(self) -> None:
        """With a target: begin the trials that are due, and look at those under way."""
        if self._trials is not None:
            self._trials.step()

    @property
    def unproven(self) -> int:
        """Answers that a bundle on trial has learned from while nothing is proven of it; else 0."""
        return 0 if self._trials is None else self._trials.unproven

    @property
    def _serving(self) -> list[Trained]:
        return [one for one in self._ledger.trained if one.state == SERVING]

    @property
    def _incumbent(self) -> Trained | None:
        return self._serving[-1] if self._serving else None

    def _model(self, one: Trained) -> SmallModel:
        if one.number not in self._loaded:
            keep = {n.number for n in self._serving[:1] + self._ledger.trained[-1:]}
            keep |= {n.number for n in (self._incumbent,) if n is not None}
            self._loaded = {number: model for number, model in self._loaded.items() if number in keep}
            self._loaded[one.number] = self._load(self._folder / one.folder)
        return self._loaded[one.number]

    def _scored(self, number: int, texts: list[str]) -> NDArray[np.floating]:
        return self._model(self._ledger.trained[number - 1]).probabilities(texts)

    def _load(self, folder: Path) -> SmallModel:
        from datashunt.small import SmallModel

        settings = self._settings
        return SmallModel.load(folder, device=settings.device, precision=settings.precision, threads=settings.threads)

    # learning

    def distil(self, progress: Callable[[str, float], None]) -> Trained:
        """Run one distillation, to its verdict; it fails where there is nothing to learn from, or training diverged.

        Raises:
            ModelError: the base cannot be loaded.
        """
        started = time.monotonic()
        lesson = self._lesson()
        try:
            return self._taught(lesson, started, progress)
        except LessonError as error:
            number, decided = len(self._ledger.trained) + 1, len(self._ledger.decisions)
            return Trained(
                number=number,
                at_item=decided,
                up_to=decided,
                state=FAILED,
                folder="",
                recipe="",
                prune_cut=None,
                threshold=self._spec.policy.threshold,
                verdict={"reason": str(error)},
                counts=_counts(lesson),
                seconds=time.monotonic() - started,
                certificate=None,
                evaluation={},
            )

    def tidy(self) -> None:
        """Remove the bundles that nothing in the ledger needs any more, and the state of the lesson that has ended."""
        shutil.rmtree(self._interrupted, ignore_errors=True)
        needed = {one.number for one in self._serving[:1] + self._serving[-1:]}
        needed |= {one.number for one in self._ledger.trained if one.state == WAITING}
        needed |= {one.bundle for one in self._ledger.tried if one.ended is None}
        for folder in self._bundles.glob("*"):
            if folder.name not in map(str, needed):
                shutil.rmtree(folder, ignore_errors=True)

    def _lesson(self) -> Lesson:
        incumbent = self._incumbent
        return lessons.prepare(
            self._spec,
            [self._stored(decision) for decision in self._ledger.decisions if decision.answer is not None],
            self._replay(incumbent),
            None if incumbent is None else self._model(incumbent),
            learned_up_to=incumbent.up_to if incumbent else 0,
            seed=self._options.seed * 1_000 + len(self._ledger.trained) + 1,
            changes=self._options.plan,
            parent=None if incumbent is None else incumbent.folder,
        )

    def _taught(self, lesson: Lesson, started: float, progress: Callable[[str, float], None]) -> Trained:
        number, decided = len(self._ledger.trained) + 1, len(self._ledger.decisions)
        incumbent = self._incumbent
        folder = self._bundles / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        challenger = lessons.teach(lesson, self._settings, folder, progress, self._interrupted)
        model = self._load(folder)
        judgement = lessons.judge(lesson, challenger, model)
        lessons.describe(challenger, judgement)
        wins = judgement.verdict.promote
        # With a target, a bundle that is certified serves on until a certified one follows.
        waits = wins and self.known(None).certified is not None
        state = WAITING if waits else SERVING if wins else LOST
        cut = self._cut(model, lesson, None)
        stays = None if state == SERVING or self._fixed else incumbent
        stays_cut = None if stays is None else self._cut(self._model(stays), lesson, stays)
        if waits:
            for one in self._ledger.trained:
                if one.state == WAITING:  # the newest winner takes the place of one that waits
                    self._ledger.change(one.number, state=LOST)
        return Trained(
            number=number,
            at_item=decided,
            up_to=decided,
            state=state,
            folder=str(folder.relative_to(self._folder)),
            recipe=challenger.recipe,
            prune_cut=cut.cut if cut else None,
            threshold=self._spec.policy.threshold,
            verdict=judgement.verdict.to_json(),
            counts=_counts(lesson),
            seconds=time.monotonic() - started,
            certificate=None,
            evaluation=pruning.noted(judgement.evaluation, cut),
            recut=None if stays_cut is None else asdict(stays_cut),
        )

    @property
    def _fixed(self) -> bool:
        """Whether the cut of the bundle that serves is part of what is proven of it."""
        return promise.fixes_cuts(self._spec) and self.known(None).certified is not None

    def _cut(self, model: SmallModel, lesson: Lesson, serving: Trained | None) -> Calibration | None:
        """How prompts of what this bundle escalates are pruned, at the threshold that it would serve at."""
        certified = None if serving is None or serving.certificate is None else serving.certificate["threshold"]
        known = replace(self.known(None), certified=certified)
        return pruning.calibrate(known, model, lesson.answers.fit, promise.stand(known).threshold)

    def _stored(self, decision: Decision) -> StoredAnswer:
        return StoredAnswer(
            id=decision.position + 1,
            item_id=decision.position,
            text=self._stream[decision.position].text,
            label=decision.answer or "",
            probabilities=None,
            role=Role(decision.role),
            fingerprint=FINGERPRINT,
            propensity=decision.propensity,
        )

    def _replay(self, incumbent: Trained | None) -> list[str]:
        """Texts that the incumbent kept and nobody holds out, newest first."""
        if incumbent is None:
            return []
        kept = [
            self._stream[decision.position].text
            for decision in reversed(self._ledger.decisions)
            if decision.bundle == incumbent.number
            and decision.source == "small"
            and not (decision.reason == Reason.AUDIT and decision.role != Role.TRAIN)
        ]
        return kept[:MOST_REPLAYED]


def _counts(lesson: Lesson) -> dict[str, int]:
    return {str(role): n for role, n in lesson.answers.counts.items()}
