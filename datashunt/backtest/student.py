"""The small model of a backtest: which bundle serves, how the next one is distilled, and what it may promise."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datashunt import certificate, prompts, shunt
from datashunt.backtest.ledger import Decision, Ledger, Trained
from datashunt.backtest.options import Options
from datashunt.backtest.recording import Recorded
from datashunt.classifier import Spec
from datashunt.items import Reason, Role
from datashunt.pipeline import lesson as lessons
from datashunt.pipeline import pruning
from datashunt.pipeline.distil import MOST_REPLAYED
from datashunt.pipeline.lesson import Lesson
from datashunt.pipeline.pruning import Calibration
from datashunt.settings import Settings
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.distillations import StoredAnswer

if TYPE_CHECKING:
    from datashunt.small import SmallModel

FINGERPRINT = "recorded"
_NOTHING = float("inf")


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
        self._loaded: dict[int, SmallModel] = {}

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

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Calibrated probabilities (n, k) of the incumbent; with two gates, of the first bundle where that is sure.

        Raises:
            LookupError: no bundle serves.
        """
        serving = self._serving
        probabilities = self._model(serving[-1]).probabilities(texts)
        if self._options.gates == 2 and len(serving) > 1:
            original = self.first_opinion(texts)
            sure = original.max(axis=1) >= self._spec.policy.threshold
            probabilities = np.where(sure[:, None], original, probabilities).astype(np.float32)
        return probabilities

    def first_opinion(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities (n, k) of the first bundle that served."""
        return self._model(self._serving[0]).probabilities(texts).astype(np.float64)

    def features(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Pooled features (n, d) of the incumbent."""
        return self._model(self._serving[-1]).features(texts).astype(np.float64)

    def certified_threshold(self) -> float:
        """The threshold that the incumbent is certified for; above 1, so that nothing is kept, while there is none."""
        one = self._incumbent
        found = one.certificate if one else None
        return float(found["threshold"]) if found else _NOTHING

    @property
    def _serving(self) -> list[Trained]:
        return [one for one in self._ledger.trained if one.state == "promoted"]

    @property
    def _incumbent(self) -> Trained | None:
        return self._serving[-1] if self._serving else None

    def _model(self, one: Trained) -> SmallModel:
        if one.number not in self._loaded:
            keep = {self._serving[0].number} if self._serving else set()
            self._loaded = {number: model for number, model in self._loaded.items() if number in keep}
            self._loaded[one.number] = self._load(self._folder / one.folder)
        return self._loaded[one.number]

    def _load(self, folder: Path) -> SmallModel:
        from datashunt.small import SmallModel

        settings = self._settings
        return SmallModel.load(folder, device=settings.device, precision=settings.precision, threads=settings.threads)

    # learning

    def distil(self, progress: Callable[[str, float], None]) -> Trained:
        """Run one distillation, to its verdict and its certificate.

        Raises:
            ModelError: there is nothing to learn from, or training diverged.
        """
        started = time.monotonic()
        number, decided = len(self._ledger.trained) + 1, len(self._ledger.decisions)
        incumbent = self._incumbent
        lesson = lessons.prepare(
            self._spec,
            [self._stored(decision) for decision in self._ledger.decisions if decision.answer is not None],
            self._replay(incumbent),
            None if incumbent is None else self._model(incumbent),
            learned_up_to=incumbent.up_to if incumbent else 0,
            seed=self._options.seed * 1_000 + number,
            changes=self._options.plan,
        )
        folder = self._folder / "bundles" / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        challenger = lessons.teach(lesson, self._settings, folder, progress)
        model = self._load(folder)
        judgement = lessons.judge(lesson, challenger, model)
        wins = judgement.verdict.promote
        certified = self._certificate(model) if wins and self._options.alpha is not None else None
        # With a target, a bundle that is certified serves on until a certified one follows.
        promoted = wins and (
            self._options.alpha is None or certified is not None or self.certified_threshold() == _NOTHING
        )
        cut = self._cut(model, lesson, certified)
        stays = None if promoted else incumbent
        stays_cut = None if stays is None else self._cut(self._model(stays), lesson, stays.certificate)
        verdict = judgement.verdict.to_json()
        if wins and not promoted:
            verdict["reason"] = f"has no certificate, unlike the bundle that serves; {verdict['reason']}"
        return Trained(
            number=number,
            at_item=decided,
            up_to=decided,
            state="promoted" if promoted else "rejected",
            folder=str(folder.relative_to(self._folder)),
            recipe=challenger.recipe,
            prune_cut=cut.cut if cut else None,
            threshold=self._spec.policy.threshold,
            verdict=verdict,
            counts={str(role): n for role, n in lesson.answers.counts.items()},
            seconds=time.monotonic() - started,
            certificate=certified,
            evaluation=pruning.noted(judgement.evaluation, cut),
            recut=None if stays_cut is None else asdict(stays_cut),
        )

    def _cut(self, model: SmallModel, lesson: Lesson, certified: dict[str, Any] | None) -> Calibration | None:
        """How prompts of what this bundle escalates are pruned, at the threshold that it would serve at."""
        spec = self._spec
        known = Registered(0, spec.name, 1, spec, prompts.prompt_hash(spec), self._key, None)
        threshold = spec.policy.threshold
        if self._options.alpha is not None:
            threshold = certified["threshold"] if certified else _NOTHING
        return pruning.calibrate(known, model, lesson.answers.fit, threshold)

    def _stored(self, decision: Decision) -> StoredAnswer:
        return StoredAnswer(
            id=decision.position + 1,
            item_id=decision.position,
            text=self._stream[decision.position].text,
            label=decision.answer or "",
            probabilities=None,
            role=Role(decision.role),
            fingerprint=FINGERPRINT,
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

    def _certificate(self, model: SmallModel) -> dict[str, Any] | None:
        """What this bundle may promise of items like those drawn so far, paid from the δ of the whole run.

        Thresholds come from `fit` answers, the test from `judge` answers, and of both only those drawn at the
        policy's own rate, which was the same all the time.
        """
        delta = certificate.Ledger(self._options.delta, len(self._ledger.trained)).next
        fit, judge = self._drawn(model, Role.FIT), self._drawn(model, Role.JUDGE)
        if not len(fit) or not len(judge):
            return None
        alpha = self._options.alpha
        assert alpha is not None  # noqa: S101 - for mypy: the caller asked
        targets = [certificate.OfKept(alpha)]
        candidates = certificate.thresholds(targets, fit, judged=len(judge), delta=delta)
        found = certificate.certify(targets, candidates, judge, delta=delta)
        if isinstance(found, certificate.NotYet):
            return None
        return {
            "threshold": found.threshold,
            "alpha": alpha,
            "delta": found.delta,
            "n": found.findings[0].n,
            "k": found.findings[0].k,
            "method": found.method,
        }

    def _drawn(self, model: SmallModel, role: Role) -> certificate.Answers:
        rate, names = self._spec.policy.audit_rate, self._spec.label_names
        drawn = [
            (self._stream[decision.position].text, decision.answer)
            for decision in self._ledger.decisions
            if decision.answer is not None and decision.role == role and shunt.audit(self._key, decision.id, rate)
        ]
        probabilities = model.probabilities([text for text, _ in drawn])
        return certificate.Answers(
            confidence=probabilities.max(axis=1),
            said=probabilities.argmax(axis=1),
            truth=np.array([names.index(label) for _, label in drawn], dtype=np.intp),
        )
