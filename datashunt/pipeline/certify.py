"""The proofs: which bundle is on trial, what its judge answers say so far, and what follows from it.

Judge answers are read in the order of their asks up to the first that still waits, so that neither what an answer says
nor how long it takes decides when it counts. Theory: docs/certificates.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datashunt import certificate, drift
from datashunt.certificate import Answers, Certificate, Finding, NotYet
from datashunt.classifier import Spec
from datashunt.drift import Rung
from datashunt.items import Role
from datashunt.pipeline import promise, pruning
from datashunt.pipeline.models import Models
from datashunt.policy import TargetPolicy
from datashunt.settings import Settings
from datashunt.store import Connection, Store, bundles, certificates, classifiers, distillations, guards, trials
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.trials import Judged, Trial, TrialAnswer
from datashunt.telemetry import event

EVERY_ANSWER = 2**63 - 1
MOST_READ = 2_000
"""Judge answers that one look reads; the next one goes on."""
LEAST_PLANNED, FEWEST, POWER = 300, 25, 0.9
"""Judge answers that a trial is given at least; the fewest that its thresholds are chosen for."""
PATIENCE = 3
"""A challenger that has no certificate after so many times the planned answers gets none."""


class Certifier:
    """Looks at the judge answers of a classifier's trials. In a worker that can load bundles."""

    def __init__(self, store: Store, models: Models, settings: Settings) -> None:
        self._store = store
        self._models = models
        self._settings = settings

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
        if known.incumbent is not None and pruning.is_due(known, threshold):
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
        with self._store.begin() as tx:
            new = trials.judged(tx, known.id, trial, patience_s=self._settings.audit_deadline_s, most=MOST_READ)
        read = [self._read(known, policy, one) for one in self._scored(bundle, new)]
        with self._store.begin() as tx:
            trials.lock(tx, known.id)
            if trials.open_trial(tx, bundle.id) != trial:
                return  # it ended, or somebody else looked: tick comes again
            trials.add(tx, trial, read)
            self._look(tx, known, policy, bundle, trial, trials.answers(tx, trial))

    # beginning

    def _begin(self, known: Registered, policy: TargetPolicy, bundle: Bundle) -> Trial | None:
        with self._store.begin() as tx:
            spent = trials.renewals(tx, known.id)
            stored = distillations.answers(tx, known, up_to=EVERY_ANSWER)
        delta = certificate.Ledger(policy.delta, spent).next
        answers = [one for one in stored if one.role is Role.FIT]
        names = known.spec.label_names
        probabilities = self._probabilities(bundle, [one.text for one in answers])
        fit = _answers(probabilities, [names.index(one.label) for one in answers], policy, names)
        wanted = promise.targets(known.spec, policy)
        planned = max(LEAST_PLANNED, 2 * max(certificate.audits_needed(one.allowed, delta) for one in wanted))
        judged = certificate.soonest(wanted, fit, delta=delta, power=POWER, least=FEWEST, most=planned)
        tried = certificate.thresholds(wanted, fit, judged=judged, delta=delta)
        tried = tried[tried > 0.0]  # at 0, what is always asked would count as kept
        if not len(tried):
            return None
        with self._store.begin() as tx:
            trials.lock(tx, known.id)
            if trials.renewals(tx, known.id) != spent:
                return None  # another trial began meanwhile: this one has less to spend, and begins next time
            if classifiers.current(tx, known.name).version != known.version:
                return None  # the file changed meanwhile: this would be a trial of what nobody promises
            trial = trials.begin(
                tx, known, bundle.id, policy.promise, delta=delta, thresholds=tried.tolist(), planned=planned
            )
            bundles.spend(tx, known.id, "certificate", delta, bundle.id)
            certificates.tell(
                tx, known.id, "trial", f"bundle {bundle.version} is on trial: {len(tried)} thresholds, δ {delta:.3g}"
            )
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

    def _read(self, known: Registered, policy: TargetPolicy, scored: tuple[Judged, NDArray[np.float64]]) -> TrialAnswer:
        one, probabilities = scored
        names = known.spec.label_names
        truth = names.index(one.label) if one.label in names else -1
        row = _answers(probabilities[None, :], [truth], policy, names)
        return TrialAnswer(
            ask=one.ask,
            confidence=float(row.confidence[0]),
            said=int(row.said[0]),
            truth=truth,
            weight=min(1.0, policy.audit_rate / one.propensity) if policy.watched else 1.0,
            kept=one.kept,
            llm=one.llm,
        )

    # looking

    def _look(
        self,
        tx: Connection,
        known: Registered,
        policy: TargetPolicy,
        bundle: Bundle,
        trial: Trial,
        read: Sequence[TrialAnswer],
    ) -> None:
        found = look(promise.targets(known.spec, policy), trial, read)
        standing = certificates.standing(tx, bundle.id)
        others = set() if standing is None else trials.llms_since(tx, known.id, standing.granted_at)
        if standing is not None and (others := others - set(standing.fingerprints)):
            self._lose(tx, known, bundle, f"{trials.LLM_CHANGED}: responses name {', '.join(sorted(others))}")
            return
        missing = found.missing if isinstance(found, NotYet) else None
        trials.note(tx, trial, n=len(read), missing=missing, what=str(found) if missing is not None else None)
        if isinstance(found, Certificate):
            serving = known.incumbent is not None and known.incumbent.id == bundle.id
            if not serving and not self._takes_over(tx, known, bundle, found, read):
                return
            if standing is None or found.threshold < standing.threshold:
                self._grant(tx, known, policy, bundle, trial, found, read)
            first = found.findings[0]
            rate = promise.proven_rate(policy, first.k, first.n)
            watching = guards.rung(tx, trial.id) == Rung.WATCHING
            certificates.set_audit_rate(tx, known.id, drift.raised(policy.audit_rate) if watching else rate)
        elif bundle.state == "challenger" and len(read) >= PATIENCE * trial.planned:
            trials.end_of(tx, bundle.id, f"nothing was proven with {len(read)} answers")
            bundles.reject(tx, bundle.id)
            certificates.tell(tx, known.id, "trial", f"bundle {bundle.version} gets no certificate: {found}")

    def _takes_over(
        self, tx: Connection, known: Registered, bundle: Bundle, found: Certificate, read: Sequence[TrialAnswer]
    ) -> bool:
        """Whether a proven challenger would keep at least as much as is kept now; then it serves from now on."""
        keeps = float(np.mean([one.confidence >= found.threshold for one in read]))
        kept_now = float(np.mean([one.kept for one in read]))
        if keeps < kept_now:
            return False
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
            findings=[_in_json(one, known.spec) for one in found.findings],
        )
        certificates.tell(
            tx,
            known.id,
            "certificate",
            f"bundle {bundle.version} is certified from a confidence of {found.threshold:.4f} on: of {first.n} judge"
            f" answers in scope {first.k} disagree",
        )
        event("certified", classifier=known.name, bundle=bundle.version, threshold=round(found.threshold, 4))

    def _lose(self, tx: Connection, known: Registered, bundle: Bundle, why: str) -> None:
        lost = certificates.revoke(tx, known.id, why, bundle_id=bundle.id)
        trials.end(tx, known.id, trials.LLM_CHANGED)
        certificates.set_audit_rate(tx, known.id, None)
        if lost:
            certificates.tell(tx, known.id, "withdrawn", f"the certificate of bundle {bundle.version} is dead: {why}")
            event("certificate_withdrawn", classifier=known.name, bundle=bundle.version, why=why)


def look(targets: Sequence[certificate.Target], trial: Trial, read: Sequence[TrialAnswer]) -> Certificate | NotYet:
    """What a trial's answers prove so far; looking is free, however often."""
    weights = np.array([one.weight for one in read])
    floor = certificate.LEAST_PROPENSITY
    answers = Answers(
        confidence=np.array([one.confidence for one in read], dtype=np.float64),
        said=np.array([one.said for one in read], dtype=np.intp),
        truth=np.array([one.truth for one in read], dtype=np.intp),
        # the weighted test wants propensities; only their ratio to the least one counts
        propensity=None if (weights == 1.0).all() else floor / weights,
    )
    return certificate.certify_anytime(targets, np.array(trial.thresholds), answers, delta=trial.delta, floor=floor)


def _in_json(finding: Finding, spec: Spec) -> dict[str, Any]:
    """What was seen of one target, as JSON values."""
    target = finding.target
    label = None if target.label is None else spec.label_names[target.label]
    what = promise.in_words(target, spec)
    return {"target": what, "label": label, "allowed": target.allowed, "n": finding.n, "k": finding.k}


def _answers(
    probabilities: NDArray[np.float64], truth: Sequence[int], policy: TargetPolicy, names: Sequence[str]
) -> Answers:
    """Answers beside what the bundle says; what is always asked has confidence 0, so that no threshold keeps it."""
    said = probabilities.argmax(axis=1)
    never = [names.index(name) for name in policy.always_ask]
    confidence = np.where(np.isin(said, never), 0.0, probabilities.max(axis=1, initial=0.0))
    # stored probabilities are rounded, and may exceed 1 by that
    return Answers(np.minimum(np.nan_to_num(confidence), 1.0), said, np.array(truth, dtype=np.intp))
