"""The trials of a run: which bundle is tried, on which judge answers, and what follows, as `pipeline.certify` does it.

The decisions are those of `pipeline.proof`. Everything follows from the ledger, so that a step done twice changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datashunt import certificate
from datashunt.backtest.ledger import Decision, Ledger, Trained, Tried
from datashunt.backtest.recording import Recorded
from datashunt.certificate import Certificate
from datashunt.items import Reason, Role
from datashunt.pipeline import promise, proof, pruning, substitutes
from datashunt.policy import TargetPolicy
from datashunt.store.classifiers import Registered
from datashunt.store.distillations import StoredAnswer
from datashunt.store.trials import Judged, Trial, TrialAnswer

LLM = "recorded"
WAITING, SERVING, LOST = "uncertified", "promoted", "rejected"


class Trials:
    """Begins the trials of a run that are due, and looks at those under way."""

    def __init__(
        self,
        known: Registered,
        ledger: Ledger,
        stream: Sequence[Recorded],
        probabilities: Callable[[int, list[str]], NDArray[np.floating]],
        stored: Callable[[Decision], StoredAnswer],
    ) -> None:
        """`probabilities`: (n, k) that the bundle of a number gives texts. `stored`: a decision's answer."""
        assert isinstance(known.spec.policy, TargetPolicy)  # noqa: S101 - for mypy: without a target there are no trials
        self._known, self._policy = known, known.spec.policy
        self._ledger, self._stream = ledger, stream
        self._probabilities, self._stored = probabilities, stored
        self._read: dict[int, list[TrialAnswer]] = {}

    def step(self) -> None:
        """What is due after a batch or a distillation."""
        newest = [one.number for one in self._ledger.trained if one.state in {SERVING, WAITING}]
        serving = [one.number for one in self._ledger.trained if one.state == SERVING][-1:]
        for place, one in enumerate(self._ledger.tried):
            if one.ended is None and one.bundle not in {*serving, *newest[-1:]}:
                self._ledger.tried[place] = replace(one, ended="another bundle serves, or a newer challenger won")
        for number in dict.fromkeys([*serving, *newest[-1:]]):
            under_way = self._open(number)
            if under_way is None:
                under_way = self._begin(number)
            if under_way is not None:
                self._look(under_way)

    @property
    def unproven(self) -> int:
        """Answers that the bundles have learned from of which nothing is proven and which are on trial; else 0."""
        open_ = [one.bundle for one in self._ledger.tried if one.ended is None and not one.granted]
        return max((self._ledger.trained[number - 1].counts[Role.TRAIN] for number in open_), default=0)

    def _open(self, number: int) -> int | None:
        places = [n for n, one in enumerate(self._ledger.tried) if one.bundle == number and one.ended is None]
        return places[-1] if places else None

    def _begin(self, number: int) -> int | None:
        if any(one.bundle == number for one in self._ledger.tried):
            return None  # it has had its trial
        ledger = self._ledger
        fit = [self._stored(one) for one in ledger.decisions if one.role == Role.FIT and one.answer is not None]
        delta = certificate.Ledger(self._policy.delta, len(ledger.tried)).next
        plan = proof.plan(self._known, self._policy, self._scored(number, [one.text for one in fit]), fit, delta)
        if plan is None:
            return None
        ledger.tried.append(Tried(number, len(ledger.decisions), delta, plan.thresholds, plan.planned, plan.cuts))
        return len(ledger.tried) - 1

    def _look(self, place: int) -> None:
        tried, ledger = self._ledger.tried[place], self._ledger
        one = ledger.trained[tried.bundle - 1]
        read = self._answers(place, tried)
        found, _, what = proof.look(self._known.spec, self._policy, self._trial(tried), read)
        if found is not None and one.state == WAITING:
            keeps, kept_now = proof.kept_by(found, read, *self._serving())
            if keeps < kept_now:
                found, what = None, f"it would keep {keeps:.1%}, and {kept_now:.1%} is kept now"
        if found is None:
            if one.state == WAITING and len(read) >= proof.PATIENCE * tried.planned:
                ledger.tried[place] = replace(tried, ended=f"it does not serve after {len(read)} answers: {what}")
                ledger.change(one.number, state=LOST, verdict={**one.verdict, "reason": f"no certificate: {what}"})
            return
        if one.state == WAITING:
            ledger.change(one.number, state=SERVING)
        if one.certificate is None or found.threshold < one.certificate["threshold"]:
            self._grant(place, tried, one, found)
        ledger.audit_rate = promise.proven_rate(self._policy, found.findings[0].k, found.findings[0].n)

    def _serving(self) -> tuple[dict[int, float], float]:
        """How sure the bundle that serves is of the asks that its trial has read, and from when on it keeps."""
        one = [one for one in self._ledger.trained if one.state == SERVING][-1]
        place = self._open(one.number)
        read = [] if place is None else self._answers(place, self._ledger.tried[place])
        certified = None if one.certificate is None else one.certificate["threshold"]
        return {answer.ask: answer.confidence for answer in read}, promise.stand(
            replace(self._known, certified=certified)
        ).threshold

    def _grant(self, place: int, tried: Tried, one: Trained, found: Certificate) -> None:
        first = found.findings[0]
        granted = {
            "threshold": found.threshold,
            "alpha": self._policy.alpha,
            "delta": tried.delta,
            "n": first.n,
            "k": first.k,
            "method": found.method,
            "at_item": len(self._ledger.decisions),
        }
        self._ledger.tried[place] = replace(tried, granted=(*tried.granted, granted))
        cut = substitutes.calibration(self._known, self._trial(tried), found.threshold) or self._calibrated(one, found)
        recut = {} if cut is None else {"evaluation": pruning.noted(one.evaluation, cut), "prune_cut": cut.cut}
        self._ledger.change(one.number, certificate=granted, **recut)
        for later in self._ledger.trained[one.number :]:
            self._ledger.change(later.number, recut=None)  # they were for the threshold before

    def _calibrated(self, one: Trained, found: Certificate) -> pruning.Calibration | None:
        if not self._known.spec.prompt.hard:
            return None
        answered = [d for d in self._ledger.decisions if d.role == Role.FIT and d.answer is not None]
        fit = [self._stored(decision) for decision in answered]
        scored = self._scored(one.number, [answer.text for answer in fit])
        return pruning.calibrate_scored(self._known, scored, fit, found.threshold)

    def _answers(self, place: int, tried: Tried) -> list[TrialAnswer]:
        """The judge answers to later items, in their order; one without an answer disagrees."""
        read = self._read.setdefault(place, [])
        after = read[-1].ask + 1 if read else tried.at_item
        new = [one for one in self._ledger.decisions[after:] if one.role == Role.JUDGE and one.reason is not None]
        scored = self._scored(tried.bundle, [self._stream[one.position].text for one in new])
        for one, row in zip(new, scored, strict=True):
            kept = one.reason == Reason.AUDIT
            asked = Judged(one.position, "", one.answer, LLM, one.propensity or 1.0, kept, None)
            read.append(proof.read(self._known.spec, self._policy, asked, row.astype(np.float64)))
        return read

    def _scored(self, number: int, texts: list[str]) -> NDArray[np.floating]:
        if not texts:
            return np.zeros((0, len(self._known.spec.labels)))
        return self._probabilities(number, texts)

    def _trial(self, tried: Tried) -> Trial:
        """As the store would give it. Nobody stands in for a recorded LLM, so that all that escalates is its own."""
        later = self._ledger.decisions[tried.at_item :]
        fields: dict[str, Any] = {
            "id": 0,
            "bundle_id": tried.bundle,
            "after_ask": tried.at_item,
            "n": 0,
            "missing": None,
        }
        return Trial(
            **fields,
            delta=tried.delta,
            thresholds=tuple(tried.thresholds),
            planned=tried.planned,
            note=None,
            created_at=datetime.fromtimestamp(0, UTC),
            cuts=tried.cuts,
            asked=sum(one.reason == Reason.ESCALATION for one in later),
        )
