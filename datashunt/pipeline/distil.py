"""The distil lane: learn from the answers, judge the challenger, and switch to it if it wins.

A distillation is a lease with a heartbeat. Training answers never evaluate: `fit` answers choose the recipe and
calibrate, `judge` answers decide about promotion and the certificate, and neither is trained on, nor is any
text equal to one of theirs.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import numpy as np

from datashunt import certificate, evaluate, prune
from datashunt.errors import DatashuntError, ModelError
from datashunt.items import Role
from datashunt.pipeline.models import Models
from datashunt.registry import Registry
from datashunt.settings import Settings
from datashunt.store import Connection, Store, bundles, classifiers, distillations
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.distillations import StoredAnswer
from datashunt.telemetry import event

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datashunt.distil import Challenger, Example
    from datashunt.small import SmallModel

FULL = "full"
"""The recipe after which training goes on from the incumbent instead of starting from the base."""
MARGIN = 0.01
DELTA = 0.10
COVERAGE = 0.99
MOST_REPLAYED = 2_000
"""Texts on which the challenger is held to the incumbent: it bounds the cost of a distillation."""


class LeaseLost(DatashuntError):
    """Another worker took this distillation over: stop, and touch nothing."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A claimed distillation."""

    row: int
    token: UUID
    known: Registered


@dataclass(frozen=True, slots=True)
class _Answers:
    """The stored answers, by role; no training text equals a held-out one."""

    train: list[StoredAnswer]
    fit: list[StoredAnswer]
    judge: list[StoredAnswer]

    @classmethod
    def part(cls, answers: Sequence[StoredAnswer]) -> _Answers:
        held_out = {answer.text for answer in answers if answer.role is not Role.TRAIN}
        return cls(
            train=[a for a in answers if a.role is Role.TRAIN and a.text not in held_out],
            fit=[a for a in answers if a.role is Role.FIT],
            judge=[a for a in answers if a.role is Role.JUDGE],
        )

    @property
    def counts(self) -> dict[Role, int]:
        return {Role.TRAIN: len(self.train), Role.FIT: len(self.fit), Role.JUDGE: len(self.judge)}


class Distiller:
    """Runs two-stage confidence distillation, one at a time for each classifier."""

    def __init__(self, store: Store, models: Models, registry: Registry, settings: Settings) -> None:
        self._store = store
        self._models = models
        self._registry = registry
        self._settings = settings

    def run(self, classifier: str) -> str | None:
        """Run the due distillation; returns how it ended (`promoted`, `rejected`, …), None if none was due.

        Raises:
            UnknownClassifier, StoreError: nothing was changed; tick comes again.
        """
        with self._store.begin() as tx:
            known = classifiers.current(tx, classifier)
            token = uuid4()
            row = distillations.claim(tx, known, token, lease_s=self._settings.distil_lease_s)
        if row is None:
            return None
        run = _Run(row, token, known)
        workdir = Path(tempfile.mkdtemp(prefix="datashunt-distil-"))
        try:
            state = self._distil(run, workdir)
        except LeaseLost:
            state = "overtaken"
        except (DatashuntError, RuntimeError, ValueError, OSError) as error:
            event("distillation_failed", classifier=classifier, run=row, exc_info=True)
            self._finish(run, state="failed", error=f"{type(error).__name__}: {error}"[:1000])
            state = "failed"
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
        event("distilled", classifier=classifier, run=row, state=state)
        return state

    def _distil(self, run: _Run, workdir: Path) -> str:
        with self._store.begin() as tx:
            stored = distillations.answers(tx, run.known)
            replay = distillations.confident_texts(tx, run.known, MOST_REPLAYED)
            learned_up_to = distillations.learned_up_to(tx, run.known)
        parted = _Answers.part(stored)
        held_out = {answer.text for answer in (*parted.fit, *parted.judge)}
        incumbent = self._models.get(run.known.incumbent) if run.known.incumbent else None
        goes_on = incumbent is not None and incumbent.info.recipe == FULL
        lesson = increment(
            parted.train, learned_up_to if goes_on else 0, most=run.known.spec.distil.max_answers, seed=run.row
        )
        parted = replace(parted, train=lesson)
        challenger = self._train(
            run, parted, [text for text in replay if text not in held_out], incumbent, workdir / "bundle"
        )
        return self._judge(run, parted, challenger, incumbent, max(a.id for a in stored))

    def _train(
        self,
        run: _Run,
        parted: _Answers,
        replay: Sequence[str],
        incumbent: SmallModel | None,
        out: Path,
    ) -> Challenger:
        from datashunt import distil

        spec = run.known.spec
        labels = spec.label_names
        plan = distil.Plan(
            labels=labels,
            labels_hash=spec.labels_hash,
            base=spec.small_model.base,
            max_tokens=spec.small_model.max_tokens,
            threshold=spec.policy.threshold,
            device=self._settings.device,
            precision=self._settings.precision,
            threads=self._settings.threads,
        )
        return distil.distil(
            plan,
            [example(answer, labels) for answer in parted.train],
            [(answer.text, labels.index(answer.label)) for answer in parted.fit],
            replay,
            incumbent,
            out,
            self._heartbeat(run),
        )

    def _heartbeat(self, run: _Run) -> Any:
        """A progress callback that renews the lease at most once a second and stops work that is not ours."""
        last = 0.0

        def beat(stage: str, progress: float) -> None:
            nonlocal last
            if time.monotonic() - last < 1.0:
                return
            last = time.monotonic()
            with self._store.begin() as tx:
                ours = distillations.heartbeat(
                    tx,
                    run.row,
                    run.token,
                    lease_s=self._settings.distil_lease_s,
                    stage=stage,
                    progress=progress,
                )
            if not ours:
                raise LeaseLost(f"distillation {run.row} was taken over")
            event("distilling", run=run.row, stage=stage, progress=round(progress, 3))

        return beat

    def _judge(
        self,
        run: _Run,
        parted: _Answers,
        challenger: Challenger,
        incumbent: SmallModel | None,
        up_to_answer: int,
    ) -> str:
        from datashunt.small import SmallModel

        labels = run.known.spec.label_names
        threshold = run.known.spec.policy.threshold
        model = SmallModel.load(
            challenger.folder,
            device=self._settings.device,
            precision=self._settings.precision,
            threads=self._settings.threads,
        )
        judged = np.array([labels.index(answer.label) for answer in parted.judge], dtype=np.int64)
        texts = [answer.text for answer in parted.judge]
        theirs = model.probabilities(texts)
        verdict = evaluate.judge(
            theirs,
            None if incumbent is None else incumbent.probabilities(texts),
            judged,
            labels,
            majority=majority(parted.train, labels),
            margin=MARGIN,
            delta=DELTA,
        )
        evaluation = {
            **challenger.evaluation,
            "judge": evaluate.evaluation(theirs, judged, labels, threshold),
        }
        uri, content_hash = self._registry.publish(challenger.folder, f"{run.known.name}/{run.row}-{run.token.hex[:8]}")
        cut = self._prune_cut(run.known, model, parted.fit)
        with self._store.begin() as tx:
            bundle = bundles.add(
                tx,
                run.known,
                uri=uri,
                content_hash=content_hash,
                recipe=challenger.recipe,
                prune_cut=cut,
                evaluation=evaluation,
            )
            state = self._switch(tx, run, bundle, verdict.promote, theirs, judged, parted.judge)
            if not distillations.finish(
                tx,
                run.row,
                run.token,
                state=state,
                up_to_answer=up_to_answer,
                counts=parted.counts,
                bundle_id=bundle.id,
                verdict=verdict.to_json(),
            ):
                raise LeaseLost(f"distillation {run.row} was taken over")
        return state

    def _switch(
        self,
        tx: Connection,
        run: _Run,
        bundle: Bundle,
        wins: bool,
        probabilities: NDArray[np.float32],
        judged: NDArray[np.int64],
        answers: Sequence[StoredAnswer],
    ) -> str:
        """Promote a winner by compare-and-set, and certify it; returns the state of the distillation."""
        known = run.known
        bundles.spend(tx, known.id, "verdict", DELTA, bundle.id)
        if not wins:
            bundles.reject(tx, bundle.id)
            return "rejected"
        against = known.incumbent.id if known.incumbent else None
        if not bundles.promote(tx, known.id, bundle.id, judged_against=against, cause="distillation"):
            return "overtaken"
        if classifiers.current(tx, known.name).version != known.version:
            return "promoted"  # the file changed meanwhile: a certificate would speak of what no longer holds
        threshold = known.spec.policy.threshold
        kept = probabilities.max(axis=1) >= threshold
        n = int(kept.sum())
        k = int((probabilities.argmax(axis=1)[kept] != judged[kept]).sum())
        bundles.certify(
            tx,
            known,
            bundle,
            threshold=threshold,
            alpha=certificate.upper_bound(k, n, DELTA),
            delta=DELTA,
            n=n,
            k=k,
            method="clopper-pearson",
            fingerprints=[answer.fingerprint for answer in answers],
        )
        return "promoted"

    def _prune_cut(self, known: Registered, model: SmallModel, fit: Sequence[StoredAnswer]) -> float | None:
        """The cut of the conformal label set, from fit answers that this bundle escalates."""
        if not known.spec.prompt.hard or not fit:
            return None
        probabilities = model.probabilities([answer.text for answer in fit])
        escalated = probabilities.max(axis=1) < known.spec.policy.threshold
        labels = known.spec.label_names
        said = np.array([labels.index(answer.label) for answer in fit], dtype=np.int64)
        return prune.calibrate(probabilities[escalated], said[escalated], COVERAGE)

    def _finish(self, run: _Run, *, state: str, error: str) -> None:
        with self._store.begin() as tx:
            distillations.finish(tx, run.row, run.token, state=state, error=error)


def increment(train: Sequence[StoredAnswer], learned_up_to: int, *, most: int, seed: int) -> list[StoredAnswer]:
    """What training needs that goes on from the incumbent: what is new, and as many old answers at random.

    So a distillation costs by what is new, not by all that was ever answered. From the base all is new.

    Args:
        train: training answers, oldest first.
        learned_up_to: id of the last answer that the incumbent could learn from; 0 to start from the base.
        most: largest lesson. The newest answers come first, and at least a third is kept for old ones.
        seed: another seed rehearses other old answers.
    """
    old = [answer for answer in train if answer.id <= learned_up_to]
    new = [answer for answer in train if answer.id > learned_up_to]
    new = new[-max(most - len(old), most - most // 3) :]
    rehearsed = np.random.default_rng(seed).permutation(len(old))[: min(len(new), most - len(new))]
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
        ModelError: there are none.
    """
    if not train:
        raise ModelError("there is no answer to train on: every one is held out or of other labels")
    said = [labels.index(answer.label) for answer in train]
    return int(np.bincount(said, minlength=len(labels)).argmax())
