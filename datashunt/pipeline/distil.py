"""The distil lane: learn from the answers, judge the challenger, and switch to it if it wins.

A distillation is a lease with a heartbeat; what is learned and how it is judged is `lesson`'s. What it has on disk is
in one folder of this host, `DATA_DIR/distil/CLASSIFIER-RUN`, until the run has ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from datashunt import certificate
from datashunt.errors import BundleError, DatashuntError, StoreError
from datashunt.items import FEWEST_JUDGES
from datashunt.pipeline import lesson as lessons
from datashunt.pipeline import promise, pruning
from datashunt.pipeline.heartbeat import Heartbeat, LeaseLost, Stopped
from datashunt.pipeline.lesson import DELTA, Judgement, Lesson
from datashunt.pipeline.memory import give_back
from datashunt.pipeline.models import Models
from datashunt.pipeline.pruning import Calibration
from datashunt.policy import TargetPolicy
from datashunt.registry import Registry
from datashunt.settings import Settings
from datashunt.store import Connection, Store, bundles, certificates, classifiers, distillations, forget
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.distillations import Claim
from datashunt.telemetry import event

if TYPE_CHECKING:
    from datashunt.distil import Challenger, Progress
    from datashunt.small import SmallModel

MOST_REPLAYED = 2_000
"""Texts on which the challenger is held to the incumbent: it bounds the cost of a distillation."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A claimed distillation, its folder, and whether this process was asked to end."""

    claim: Claim
    token: UUID
    known: Registered
    folder: Path
    stop: Callable[[], bool]

    @property
    def row(self) -> int:
        return self.claim.row

    @property
    def bundle(self) -> Path:
        """Where the challenger is written: another attempt's is never touched."""
        return self.folder / f"bundle-{self.token.hex[:8]}"

    @property
    def key(self) -> str:
        """Where challengers of this run are published, but for the end of the name, which is the attempt's."""
        return f"{self.known.name}/{self.row}-"


class Distiller:
    """Runs two-stage confidence distillation, one at a time for each classifier."""

    def __init__(self, store: Store, models: Models, registry: Registry, settings: Settings) -> None:
        self._store = store
        self._models = models
        self._registry = registry
        self._settings = settings

    def run(self, classifier: str, *, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Run the due distillation; returns how it ended, None if none was due.

        That is `promoted`, `rejected`, `overtaken` (by another promotion) or `failed`; or, with the run left to
        others, `lease_lost` or `stopped`.

        Args:
            classifier: its name.
            stop: whether this process shall end. The run is then due again at once, and whoever takes it on this
                host goes on from its checkpoint.

        Raises:
            UnknownClassifier, StoreError: what was done is on this host; tick comes again.
        """
        if stop():
            return None
        with self._store.begin() as tx:
            known = classifiers.current(tx, classifier)
            token = uuid4()
            claim = distillations.claim(tx, known, token, lease_s=self._settings.distil_lease_s)
        if claim is None:
            return None
        folder = self._settings.data_dir.absolute() / "distil" / f"{classifier}-{claim.row}"
        run = _Run(claim, token, known, folder, stop)
        try:
            state = self._attempt(run)
        finally:
            shutil.rmtree(run.bundle, ignore_errors=True)
            give_back()
        if state not in {"lease_lost", "stopped"}:
            shutil.rmtree(folder, ignore_errors=True)
        event("distilled", classifier=classifier, run=claim.row, state=state)
        return state

    def _attempt(self, run: _Run) -> str:
        try:
            self._clear(run)
            with self._heartbeat(run) as beat:
                return self._distil(run, beat)
        except LeaseLost:
            return "lease_lost"
        except Stopped:
            return "stopped" if self._hand_back(run) else "lease_lost"
        except StoreError:
            raise  # nothing is known to be wrong with the run: its lease runs out, and it is tried again
        except (DatashuntError, RuntimeError, ValueError, OSError) as error:
            event("distillation_failed", classifier=run.known.name, run=run.row, exc_info=True)
            told = f"{type(error).__name__}: {error}"[:1000]
            return "failed" if self._finish(run, state="failed", error=told) else "lease_lost"

    def _clear(self, run: _Run) -> None:
        """Remove what attempts left behind that were killed: bundles of this run, and all of runs that have ended."""
        for other in run.folder.parent.glob(f"{run.known.name}-*"):
            name, _, row = other.name.rpartition("-")
            if name == run.known.name and row.isdigit() and other != run.folder:
                shutil.rmtree(other, ignore_errors=True)
        for bundle in run.folder.glob("bundle-*"):
            shutil.rmtree(bundle, ignore_errors=True)
        if run.claim.attempts > 1:
            self._discard(run.key)

    def _discard(self, key: str) -> None:
        """Remove what was published and never committed; it only takes up space, so trouble is not passed on."""
        try:
            self._registry.discard(key)
        except BundleError as error:
            event("not_discarded", key=key, error=str(error))

    def _distil(self, run: _Run, beat: Progress) -> str:
        with self._store.begin() as tx:
            opening = _opens(tx, run.known)
            stored = distillations.answers(tx, run.known, up_to=run.claim.up_to_answer)
            replay = distillations.confident_texts(tx, run.known, MOST_REPLAYED, up_to=run.claim.up_to_score)
            learned_up_to = distillations.learned_up_to(tx, run.known)
        beat("fetch", 0.0)
        incumbent = self._models.serving(run.known)
        lesson = lessons.prepare(
            run.known.spec,
            stored,
            replay,
            incumbent,
            learned_up_to=learned_up_to,
            seed=run.row,
            changes=lessons.OPENING if opening else None,
            parent=run.known.incumbent.content_hash if run.known.incumbent else None,
        )
        if lesson.warm and run.known.incumbent:  # it goes on from the files, which nothing else has needed since
            self._registry.fetch(run.known.incumbent.uri, run.known.incumbent.content_hash)
        challenger = lessons.teach(lesson, self._settings, run.bundle, beat, run.folder)
        model = self._load(challenger.folder)
        judgement = lessons.judge(lesson, challenger, model, beat)
        lessons.describe(challenger, judgement)
        cuts = self._cuts(run, lesson, model, judgement, beat)
        key = f"{run.key}{run.token.hex[:8]}"
        beat("publish", 0.0)
        try:
            published = self._registry.publish(challenger.folder, key)
            newest = max(answer.id for answer in stored)
            return self._commit(run, lesson, challenger, judgement, cuts, published, newest, follow=opening)
        except (LeaseLost, BundleError):
            self._discard(key)
            raise

    def _commit(
        self,
        run: _Run,
        lesson: Lesson,
        challenger: Challenger,
        judgement: Judgement,
        cuts: tuple[Calibration | None, Calibration | None],
        published: tuple[str, str],
        learned_up_to: int,
        *,
        follow: bool,
    ) -> str:
        """Write down the published challenger, switch to it if it won, and end the run, all or nothing.

        `follow`: the next distillation is due at once, without new answers.
        """
        uri, content_hash = published
        cut, standing = cuts
        with self._store.begin() as tx:
            bundle = bundles.add(
                tx,
                run.known,
                uri=uri,
                content_hash=content_hash,
                recipe=challenger.recipe,
                prune_cut=cut.cut if cut else None,
                evaluation=pruning.noted(judgement.evaluation, cut),
            )
            if standing and run.known.incumbent:
                pruning.write(tx, run.known.incumbent.id, standing)
            state = self._switch(tx, run, bundle, lesson, judgement)
            if not distillations.finish(
                tx,
                run.row,
                run.token,
                state=state,
                up_to_answer=learned_up_to,
                counts=lesson.answers.counts,
                bundle_id=bundle.id,
                verdict=judgement.verdict.to_json(),
            ):
                raise LeaseLost(f"distillation {run.row} was taken over")
            forget.list_bundle(tx, run.row, bundle.version)
            if follow:
                now = classifiers.current(tx, run.known.name)  # its file may have changed meanwhile
                distillations.make_due(tx, now, judges=FEWEST_JUDGES, needed=0)
        return state

    def _cuts(
        self, run: _Run, lesson: Lesson, model: SmallModel, judgement: Judgement, beat: Progress
    ) -> tuple[Calibration | None, Calibration | None]:
        """How prompts are pruned from now on: by the challenger, and by the incumbent if that serves on."""
        known, fit = run.known, lesson.answers.fit
        unproven = promise.stand(replace(known, certified=None))
        fixed = known.certified is not None and promise.fixes_cuts(known.spec)  # its cut is part of what is proven
        stays = None if judgement.verdict.promote or fixed else lesson.incumbent
        return (
            pruning.calibrate(known, model, fit, unproven.threshold, beat),
            None if stays is None else pruning.calibrate(known, stays, fit, promise.stand(known).threshold, beat),
        )

    def _load(self, folder: Path) -> SmallModel:
        from datashunt.small import SmallModel

        settings = self._settings
        return SmallModel.load(folder, device=settings.device, precision=settings.precision, threads=settings.threads)

    def _heartbeat(self, run: _Run) -> Heartbeat:
        def renew(stage: str, progress: float) -> bool:
            lease_s = self._settings.distil_lease_s
            with self._store.begin() as tx:
                return distillations.heartbeat(tx, run.row, run.token, lease_s=lease_s, stage=stage, progress=progress)

        return Heartbeat(run.row, renew, run.stop, lease_s=self._settings.distil_lease_s)

    def _switch(self, tx: Connection, run: _Run, bundle: Bundle, lesson: Lesson, judgement: Judgement) -> str:
        """Promote a winner by compare-and-set, and say how it stands; returns the state of the distillation.

        With a target, a winner does not take over from a bundle that has a certificate before it has one itself.
        """
        known = run.known
        bundles.spend(tx, known.id, "verdict", DELTA, bundle.id)
        if not judgement.verdict.promote:
            bundles.reject(tx, bundle.id)
            return "rejected"
        now = classifiers.current(tx, known.name)
        against = known.incumbent.id if known.incumbent else None
        if now.certified is not None and isinstance(now.spec.policy, TargetPolicy):
            bundles.reject_waiting(tx, known.id, but=bundle.id)
            return "uncertified"
        if not bundles.promote(tx, known.id, bundle.id, judged_against=against, cause="distillation"):
            return "overtaken"
        if now.version != known.version or isinstance(known.spec.policy, TargetPolicy):
            return "promoted"  # the file changed meanwhile, or trials prove what is promised
        threshold = known.spec.policy.threshold
        kept = judgement.probabilities.max(axis=1) >= threshold
        n = int(kept.sum())
        k = int((judgement.probabilities.argmax(axis=1)[kept] != judgement.labels[kept]).sum())
        certificates.grant(
            tx,
            known,
            bundle,
            trial_id=None,
            threshold=threshold,
            alpha=certificate.upper_bound(k, n, DELTA),
            delta=DELTA,
            n=n,
            k=k,
            method="clopper-pearson, of the very answers that promoted it",
            fingerprints=[answer.fingerprint for answer in lesson.answers.judge],
        )
        bundles.spend(tx, known.id, "certificate", DELTA, bundle.id)
        return "promoted"

    def _finish(self, run: _Run, *, state: str, error: str) -> bool:
        with self._store.begin() as tx:
            return distillations.finish(tx, run.row, run.token, state=state, error=error)

    def _hand_back(self, run: _Run) -> bool:
        with self._store.begin() as tx:
            return distillations.hand_back(tx, run.row, run.token)


def _opens(tx: Connection, known: Registered) -> bool:
    """Whether this is the first lesson of these labels, and its bundle may be replaced at once.

    With a target a successor would begin the proof anew.
    """
    if known.incumbent is not None or isinstance(known.spec.policy, TargetPolicy):
        return False
    return not bundles.ever_made(tx, known)
