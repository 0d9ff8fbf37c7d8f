"""The proofs: which bundle is on trial, what its judge answers say so far, and what follows from it.

Judge answers are read in the order of their asks up to the first that still waits, so that neither what an answer says
nor how long it takes decides when it counts. What they prove is computed between two transactions: the first writes
them down, the second what follows, if nothing has changed meanwhile. Theory: docs/certificates.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datashunt import certificate, drift
from datashunt.certificate import Certificate
from datashunt.drift import Rung
from datashunt.items import Role
from datashunt.pipeline import promise, proof, pruning, substitutes
from datashunt.pipeline.models import Models
from datashunt.policy import TargetPolicy
from datashunt.settings import Settings
from datashunt.store import Connection, Store, bundles, certificates, classifiers, distillations, guards, trials
from datashunt.store.certificates import Granted
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.trials import Judged, Trial, TrialAnswer
from datashunt.telemetry import event

MOST_READ = 2_000
"""Judge answers that one look reads; the next one goes on."""
MOST_COUNTED = 100_000
"""Items that escalated, of which one look counts who answered."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a look is at: it counts only if both are still the same when it is over."""

    trial: Trial
    standing: Granted | None

    @classmethod
    def of(cls, tx: Connection, bundle: Bundle) -> _Taken | None:
        """None without a trial under way."""
        trial = trials.open_trial(tx, bundle.id)
        return None if trial is None else cls(trial, certificates.standing(tx, bundle.id))


@dataclass(frozen=True, slots=True)
class _Look:
    """What came of a look: what is proven, or in words what lacks, and the answers that say so.

    `serving`: how sure the incumbent is of each ask, if it is another bundle.
    """

    found: Certificate | None
    what: str | None
    answers: Sequence[TrialAnswer]
    serving: Mapping[int, float]


class Certifier:
    """Looks at the judge answers of a classifier's trials. In a worker that can load bundles."""

    def __init__(self, store: Store, models: Models, settings: Settings) -> None:
        self._store = store
        self._models = models
        self._settings = settings
        self._looked: dict[int, tuple[int, float]] = {}
        """Of each trial, how many answers the last look had, and what share others than the LLM answered."""

    def run(self, name: str) -> None:
        """Begin the trials that are due, look at those under way, and calibrate pruning for the threshold in force.

        Raises:
            UnknownClassifier, BundleError, ModelError, StoreError: nothing is lost; tick comes again.
            SpecError, CertificateError: the promise cannot be proven as the file has it.
        """
        with self._store.begin() as tx:
            known = classifiers.current(tx, name)
            wanted = trials.to_prove(tx, known) if isinstance(known.spec.policy, TargetPolicy) else []
        for bundle in wanted:
            self._prove(known, bundle)
        with self._store.begin() as tx:
            known = classifiers.current(tx, name)
        threshold = promise.stand(known).threshold
        fixed = known.certified is not None and promise.fixes_cuts(known.spec)  # it was written with the certificate
        if known.incumbent is not None and not fixed and pruning.is_due(known, threshold):
            pruning.recalibrate(self._store, known, self._models.get(known.incumbent), threshold)

    def _prove(self, known: Registered, bundle: Bundle) -> None:
        policy = known.spec.policy
        assert isinstance(policy, TargetPolicy)  # noqa: S101 - for mypy: run has asked
        with self._store.begin() as tx:
            trial = trials.open_trial(tx, bundle.id)
        if trial is None:
            trial = self._begin(known, policy, bundle)
        if trial is None:
            return
        patience_s = self._settings.audit_deadline_s
        with self._store.begin() as tx:
            new = trials.judged(tx, known, trial, patience_s=patience_s, most=MOST_READ)
        read = [proof.read(known.spec, policy, *one) for one in self._scored(bundle, new)]
        with self._store.begin() as tx:
            taken = self._take(tx, known, bundle, trial, read)
        if taken is None:
            return
        with self._store.begin() as tx:
            answers = trials.answers(tx, taken.trial)
            serves = known.incumbent is None or known.incumbent.id == bundle.id
            serving = {} if serves or known.incumbent is None else trials.confidences(tx, known.incumbent.id)
        found, missing, what = proof.look(known.spec, policy, taken.trial, answers)
        with self._store.begin() as tx:
            classifiers.lock(tx, known.id)
            now = classifiers.current(tx, known.name)
            if now.version != known.version or _Taken.of(tx, bundle) != taken:
                return  # somebody else looked, or it ended: tick comes again
            trials.note(tx, taken.trial, missing=missing, what=what)
            self._conclude(tx, now, policy, bundle, taken, _Look(found, what, answers, serving))
        self._looked[taken.trial.id] = len(answers), substitutes.share(known.spec, taken.trial)

    def _take(
        self, tx: Connection, known: Registered, bundle: Bundle, trial: Trial, read: Sequence[TrialAnswer]
    ) -> _Taken | None:
        """Write down what was read; returns what is to be looked at, None where there is nothing new, or no trial."""
        classifiers.lock(tx, known.id)
        if trials.open_trial(tx, bundle.id) != trial or classifiers.current(tx, known.name).version != known.version:
            return None  # it ended, or somebody else looked: tick comes again
        trials.add(tx, trial, read)
        if promise.others_stand_in(known.spec):
            patience_s = self._settings.audit_deadline_s
            trials.count_asked(tx, known.id, trial, patience_s=patience_s, most=MOST_COUNTED)
        taken = _Taken.of(tx, bundle)
        if taken is None:
            return None
        if taken.standing is not None:
            named = {one.llm for one in read if one.llm}  # none of another LLM joins a proof that stands
            named |= trials.llms_since(tx, known, taken.standing.granted_at)
            if others := named - set(taken.standing.fingerprints):
                self._lose(tx, known, bundle, f"{trials.LLM_CHANGED}: responses name {', '.join(sorted(others))}")
                return None
        n, share = self._looked.get(trial.id, (-1, 1.0))
        if proof.grown(taken.trial.n, n) or substitutes.share(known.spec, taken.trial) > share:
            return taken
        return None

    # beginning

    def _begin(self, known: Registered, policy: TargetPolicy, bundle: Bundle) -> Trial | None:
        with self._store.begin() as tx:
            spent = trials.renewals(tx, known.id)
            answers = distillations.answers(tx, known, role=Role.FIT)
        delta = certificate.Ledger(policy.delta, spent).next
        plan = proof.plan(known, policy, self._probabilities(bundle, [one.text for one in answers]), answers, delta)
        if plan is None:
            return None
        with self._store.begin() as tx:
            classifiers.lock(tx, known.id)
            if trials.renewals(tx, known.id) != spent:
                return None  # another trial began meanwhile: this one has less to spend, and begins next time
            if classifiers.current(tx, known.name).version != known.version:
                return None  # the file changed meanwhile: this would be a trial of what nobody promises
            trial = trials.begin(
                tx,
                known,
                bundle.id,
                known.spec.promise or {},
                delta=delta,
                thresholds=plan.thresholds,
                planned=plan.planned,
                cuts=plan.cuts,
            )
            bundles.spend(tx, known.id, "certificate", delta, bundle.id)
            what = f"bundle {bundle.version} is on trial: {len(plan.thresholds)} thresholds, δ {delta:.3g}"
            certificates.tell(tx, known.id, "trial", what)
        return trial

    # reading

    def _scored(self, bundle: Bundle, new: Sequence[Judged]) -> list[tuple[Judged, NDArray[np.float64]]]:
        """Each judge ask with the bundle's probabilities (k,): as they were stored, or scored now."""
        unknown = [one for one in new if one.probabilities is None]
        scored = iter(self._probabilities(bundle, [one.text for one in unknown]))
        return [
            (one, np.asarray(next(scored) if one.probabilities is None else one.probabilities, dtype=np.float64))
            for one in new
        ]

    def _probabilities(self, bundle: Bundle, texts: Sequence[str]) -> NDArray[np.float64]:
        if not texts:
            return np.zeros((0, len(bundle.labels)))
        return self._models.get(bundle).probabilities(list(texts)).astype(np.float64)

    # looking

    def _conclude(
        self, tx: Connection, known: Registered, policy: TargetPolicy, bundle: Bundle, taken: _Taken, look: _Look
    ) -> None:
        trial, standing, found, what = taken.trial, taken.standing, look.found, look.what
        if standing is not None and (found is None or found.threshold > standing.threshold):
            self._retract(tx, known, bundle, f"other models answered {trial.stood_in} of {trial.asked} that escalated")
            standing = None
        if found is not None and (known.incumbent is None or known.incumbent.id != bundle.id):
            keeps, kept_now = proof.kept_by(found, look.answers, look.serving, promise.stand(known).threshold)
            if keeps < kept_now:
                found, what = None, f"it would keep {keeps:.1%}, and {kept_now:.1%} is kept now"
            elif not self._takes_over(tx, known, bundle, keeps, kept_now):
                return
        if found is not None:
            if standing is None or found.threshold < standing.threshold:
                self._grant(tx, known, policy, bundle, trial, found, look.answers)
            first = found.findings[0]
            rate = promise.proven_rate(policy, first.k, first.n)
            watching = guards.rung(tx, trial.id) == Rung.WATCHING
            certificates.set_audit_rate(tx, known.id, drift.raised(policy.audit_rate) if watching else rate)
        elif bundle.state == "challenger" and len(look.answers) >= proof.PATIENCE * trial.planned:
            trials.end_of(tx, bundle.id, f"it does not serve after {len(look.answers)} answers: {what}")
            bundles.reject(tx, bundle.id)
            certificates.tell(tx, known.id, "trial", f"bundle {bundle.version} gets no certificate: {what}")

    def _takes_over(self, tx: Connection, known: Registered, bundle: Bundle, keeps: float, kept_now: float) -> bool:
        """A proven challenger that keeps at least as much as is kept now serves from now on."""
        against = known.incumbent.id if known.incumbent else None
        if not bundles.promote(tx, known.id, bundle.id, judged_against=against, cause="certificate"):
            return False
        certificates.tell(
            tx, known.id, "promoted", f"bundle {bundle.version} serves: it keeps {keeps:.1%}, so far {kept_now:.1%}"
        )
        return True

    def _grant(
        self,
        tx: Connection,
        known: Registered,
        policy: TargetPolicy,
        bundle: Bundle,
        trial: Trial,
        found: Certificate,
        read: Sequence[TrialAnswer],
    ) -> None:
        first = found.findings[0]
        seen = [proof.in_json(one, known.spec) for one in found.findings]
        certificates.grant(
            tx,
            known,
            bundle,
            trial_id=trial.id,
            threshold=found.threshold,
            alpha=policy.alpha,
            delta=policy.delta,
            n=first.n,
            k=first.k,
            method=found.method,
            fingerprints=[one.llm for one in read if one.llm],
            findings=[*seen, *substitutes.findings(known.spec, trial)],
        )
        calibration = substitutes.calibration(known, trial, found.threshold)
        if calibration is not None:
            pruning.write(tx, bundle.id, calibration)
        certificates.tell(
            tx,
            known.id,
            "certificate",
            f"bundle {bundle.version} is certified from a confidence of {found.threshold:.4f} on: of {first.n} judge"
            f" answers in scope {first.k} disagree",
        )
        event("certified", classifier=known.name, bundle=bundle.version, threshold=round(found.threshold, 4))

    def _retract(self, tx: Connection, known: Registered, bundle: Bundle, why: str) -> None:
        """What was proven no longer is, and the trial goes on."""
        certificates.revoke(tx, known.id, why, bundle_id=bundle.id)
        certificates.set_audit_rate(tx, known.id, None)
        certificates.tell(tx, known.id, "withdrawn", f"the certificate of bundle {bundle.version} is withdrawn: {why}")
        event("certificate_withdrawn", classifier=known.name, bundle=bundle.version, why=why)

    def _lose(self, tx: Connection, known: Registered, bundle: Bundle, why: str) -> None:
        lost = certificates.revoke(tx, known.id, why, bundle_id=bundle.id)
        trials.end(tx, known.id, trials.LLM_CHANGED)
        certificates.set_audit_rate(tx, known.id, None)
        if lost:
            certificates.tell(tx, known.id, "withdrawn", f"the certificate of bundle {bundle.version} is dead: {why}")
            event("certificate_withdrawn", classifier=known.name, bundle=bundle.version, why=why)
