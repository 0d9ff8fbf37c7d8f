"""The distil lane: learn from the answers, judge the challenger, and switch to it if it wins.

A distillation is a lease with a heartbeat; what is learned and how it is judged is `lesson`'s.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from datashunt import certificate
from datashunt.errors import DatashuntError
from datashunt.pipeline import lesson as lessons
from datashunt.pipeline.lesson import DELTA, Judgement, Lesson
from datashunt.pipeline.models import Models
from datashunt.registry import Registry
from datashunt.settings import Settings
from datashunt.store import Connection, Store, bundles, classifiers, distillations
from datashunt.store.classifiers import Bundle, Registered
from datashunt.telemetry import event

if TYPE_CHECKING:
    from datashunt.small import SmallModel

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
        incumbent = self._models.get(run.known.incumbent) if run.known.incumbent else None
        lesson = lessons.prepare(run.known.spec, stored, replay, incumbent, learned_up_to=learned_up_to, seed=run.row)
        challenger = lessons.teach(lesson, self._settings, workdir / "bundle", self._heartbeat(run))
        judgement = lessons.judge(lesson, challenger, self._load(challenger.folder))
        uri, content_hash = self._registry.publish(challenger.folder, f"{run.known.name}/{run.row}-{run.token.hex[:8]}")
        with self._store.begin() as tx:
            bundle = bundles.add(
                tx,
                run.known,
                uri=uri,
                content_hash=content_hash,
                recipe=challenger.recipe,
                prune_cut=judgement.prune_cut,
                evaluation=judgement.evaluation,
            )
            state = self._switch(tx, run, bundle, lesson, judgement)
            if not distillations.finish(
                tx,
                run.row,
                run.token,
                state=state,
                up_to_answer=max(answer.id for answer in stored),
                counts=lesson.answers.counts,
                bundle_id=bundle.id,
                verdict=judgement.verdict.to_json(),
            ):
                raise LeaseLost(f"distillation {run.row} was taken over")
        return state

    def _load(self, folder: Path) -> SmallModel:
        from datashunt.small import SmallModel

        settings = self._settings
        return SmallModel.load(folder, device=settings.device, precision=settings.precision, threads=settings.threads)

    def _heartbeat(self, run: _Run) -> Callable[[str, float], None]:
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

    def _switch(self, tx: Connection, run: _Run, bundle: Bundle, lesson: Lesson, judgement: Judgement) -> str:
        """Promote a winner by compare-and-set, and certify it; returns the state of the distillation."""
        known = run.known
        bundles.spend(tx, known.id, "verdict", DELTA, bundle.id)
        if not judgement.verdict.promote:
            bundles.reject(tx, bundle.id)
            return "rejected"
        against = known.incumbent.id if known.incumbent else None
        if not bundles.promote(tx, known.id, bundle.id, judged_against=against, cause="distillation"):
            return "overtaken"
        if classifiers.current(tx, known.name).version != known.version:
            return "promoted"  # the file changed meanwhile: a certificate would speak of what no longer holds
        threshold = known.spec.policy.threshold
        kept = judgement.probabilities.max(axis=1) >= threshold
        n = int(kept.sum())
        k = int((judgement.probabilities.argmax(axis=1)[kept] != judgement.labels[kept]).sum())
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
            fingerprints=[answer.fingerprint for answer in lesson.answers.judge],
        )
        return "promoted"

    def _finish(self, run: _Run, *, state: str, error: str) -> None:
        with self._store.begin() as tx:
            distillations.finish(tx, run.row, run.token, state=state, error=error)
