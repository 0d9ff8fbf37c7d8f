"""The product's own decisions over a recorded stream, item by item, with no broker and no database.

Scoring, deciding, auditing, distilling, judging and certifying are the modules that serve. An item's recorded
answer is looked up only after it was decided that the item is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datashunt import llm, shunt
from datashunt.backtest import asking, spending
from datashunt.backtest.ledger import Decision, Ledger
from datashunt.backtest.options import Options, draw_key, ordered, targeted
from datashunt.backtest.recording import Recorded, Recording
from datashunt.backtest.student import Student
from datashunt.classifier import Spec, digest
from datashunt.items import FEWEST_JUDGES, ClaimedItem, Role
from datashunt.pipeline.ruling import cold_start, decide
from datashunt.policy import TargetPolicy
from datashunt.settings import Settings
from datashunt.store.classifiers import Registered
from datashunt.store.scores import Scored

Progress = Callable[[int, int, str], None]
"""Called with items decided, calls made and what is being done."""


class Engine:
    """One backtest: `run` decides every item that is not decided yet."""

    def __init__(self, spec: Spec, recording: Recording, options: Options, settings: Settings, folder: Path) -> None:
        """Open the run's folder, or go on where it stopped.

        Raises:
            UsageError: the folder holds another run, or a damaged one.
        """
        self._spec, self._options = targeted(spec, options), options
        self._stream = ordered(recording.items, options)
        self._key = draw_key(options.seed)
        machine = [settings.device, settings.precision, settings.threads]
        identity = digest([self._spec.document(), recording.fingerprint, len(self._stream), repr(options), machine])
        self.ledger = Ledger(folder, identity)
        self._student = Student(self._spec, options, settings, folder, self.ledger, self._stream, self._key)
        self._answered: dict[str, str] = {}
        for decision in self.ledger.decisions:
            self._remember(decision)

    @property
    def stream(self) -> Sequence[Recorded]:
        """The items in the order in which they are decided."""
        return self._stream

    def run(self, progress: Progress) -> None:
        """Decide the rest of the stream.

        Raises:
            ModelError: the base cannot be loaded.
        """
        self._prove()  # the run was killed between a batch and what it made due
        if self._due():
            self._distil(progress)
        for start in range(len(self.ledger.decisions), len(self._stream), self._options.batch):
            batch = self._stream[start : start + self._options.batch]
            progress(start, self.ledger.calls, "classifying")
            self.ledger.commit(self._decide(batch, start))
            self._prove()
            if self._due():
                self._distil(progress)
        progress(len(self._stream), self.ledger.calls, "done")

    def _distil(self, progress: Progress) -> None:
        decided, calls = len(self.ledger.decisions), self.ledger.calls
        trained = self._student.distil(lambda stage, _: progress(decided, calls, f"distilling: {stage}"))
        self.ledger.commit([], [trained])
        self._prove()
        self._student.tidy()

    def _prove(self) -> None:
        if isinstance(self._spec.policy, TargetPolicy):
            self._student.prove()
            self.ledger.commit([])

    # one batch

    def _decide(self, batch: Sequence[Recorded], start: int) -> list[Decision]:
        known = self._known(start, len(batch))
        spoke: Sequence[int | None] = [None] * len(batch)
        claimed = [ClaimedItem(start + n, item.id, item.text) for n, item in enumerate(batch)]
        if known.incumbent is None:
            scored = [cold_start(known, item) for item in claimed]
        else:
            probabilities, spoke = self._student.opinion([item.text for item in batch])
            scored = decide(known, claimed, probabilities)
            if self._options.max_calls is not None:
                scored = self._within_quota(scored, batch, probabilities, start)
        left = self._calls_left()
        decisions = []
        for one, item, bundle in zip(scored, batch, spoke, strict=True):
            decision = self._settle(one, item, bundle, left)
            left -= decision.calls
            self._remember(decision)
            decisions.append(decision)
        return decisions

    def _known(self, start: int, size: int) -> Registered:
        """The classifier as it stands for this batch; its audit rate is set before a text is seen."""
        known = self._student.known(self._student.bundle())
        if self._options.max_calls is None or known.incumbent is None:
            return known
        policy = self._spec.policy
        rate = self._budget(start).audit_rate(policy.audit_rate, size)
        spec = self._spec.model_copy(update={"policy": policy.model_copy(update={"audit_rate": rate})})
        return replace(known, spec=spec)

    def _within_quota(
        self, scored: Sequence[Scored], batch: Sequence[Recorded], probabilities: NDArray[np.float32], start: int
    ) -> list[Scored]:
        """The same decisions, but what is most worth a question is asked, as many as this batch may ask.

        An item whose answer is there already, given to an equal text, takes it and no place of the others; the second
        of two equal texts follows the first.
        """
        urgency = asking.RULES[self._options.asking](self._evidence(batch, probabilities))
        audited = np.array([one.propensity is not None for one in scored])
        first: dict[str, int] = {}
        for n, (one, item) in enumerate(zip(scored, batch, strict=True)):
            if self._reuses(one) and item.text not in self._answered:
                first.setdefault(item.text, n)
        pays = np.array([not self._reuses(one) or first.get(batch[n].text) == n for n, one in enumerate(scored)])
        limit = spending.threshold_for(urgency[pays], audited[pays], self._budget(start).quota(len(batch)))
        known = [item.text in self._answered and self._reuses(one) for one, item in zip(scored, batch, strict=True)]
        return [replace(one, keep=bool(u <= limit) and not k) for one, u, k in zip(scored, urgency, known, strict=True)]

    def _evidence(self, batch: Sequence[Recorded], probabilities: NDArray[np.float32]) -> asking.Batch:
        texts = [item.text for item in batch]
        rule = self._options.asking
        return asking.Batch(
            probabilities=probabilities.astype(np.float64),
            committee=self._student.first_opinion(texts) if rule == "disagreement" else np.empty((0, 0)),
            features=self._student.features(texts) if rule == "diversity" else np.empty((0, 0)),
            draws=np.array([shunt.uniform(self._key, item.id, b"random") for item in batch]),
        )

    def _settle(self, scored: Scored, item: Recorded, bundle: int | None, calls_left: int) -> Decision:
        """What becomes of one item; only here its recorded answer is looked at, and only if it is asked.

        A pruned question may take a second call, so the last one offers all labels. With no call left, what a bundle
        says is kept.
        """
        offered = None if scored.offered is None or calls_left < 2 else tuple(scored.offered)
        known_answer = self._answered.get(item.text) if self._reuses(scored) else None
        asked = scored.reason is not None and (calls_left > 0 or known_answer is not None)
        answer = (known_answer or item.teacher) if asked else None
        fell_back = asked and offered is not None and answer is not None and answer not in offered
        calls = 0 if known_answer is not None or not asked else 1 + int(fell_back)
        kept = scored.keep or (not asked and not scored.held and scored.label is not None)
        label = scored.label if kept else answer
        return Decision(
            position=scored.row,
            id=item.id,
            label=label,
            source=None if label is None else "small" if kept else "llm",
            confidence=scored.confidence if kept else None,
            bundle=bundle,
            small_label=scored.label,
            small_confidence=scored.confidence,
            reason=str(scored.reason) if asked else None,
            role=str(scored.role),
            audited=asked and scored.propensity is not None,
            offered=offered,
            answer=answer,
            calls=calls,
            cost_usd=self._price(item, offered, fell_back) if calls else 0.0,
            propensity=scored.propensity if asked else None,
        )

    def _reuses(self, scored: Scored) -> bool:
        """Whether an earlier answer to the same text will do: with few calls, and never for a held-out answer."""
        return self._options.max_calls is not None and self._options.reuse and scored.role is Role.TRAIN

    def _remember(self, decision: Decision) -> None:
        if decision.answer is not None and decision.role == Role.TRAIN:
            self._answered.setdefault(self._stream[decision.position].text, decision.answer)

    def _price(self, item: Recorded, offered: Sequence[str] | None, fell_back: bool) -> float:
        paid = llm.estimate(self._spec, item.text, offered)
        return float(paid + llm.estimate(self._spec, item.text) if fell_back else paid)

    # what is left, and what is due

    def _calls_left(self) -> int:
        limit = self._options.max_calls
        return 2 * len(self._stream) if limit is None else limit - self.ledger.calls

    def _budget(self, start: int) -> spending.Budget:
        fast = max(0, self._fast_calls - self.ledger.calls)
        return spending.Budget(self._calls_left(), len(self._stream) - start, fast)

    @property
    def _fast_calls(self) -> int:
        return spending.fast_calls(self._options.max_calls or 0, len(self._spec.labels), self._options.learning)

    def _due(self) -> bool:
        """As tick decides it: enough new answers to learn from, and enough to judge by; and somebody left to serve."""
        if len(self.ledger.decisions) == len(self._stream):
            return False
        needed = self._spec.distil.min_new_answers
        if self._options.max_calls is not None:
            fast_ended = self.ledger.calls_before < self._fast_calls <= self.ledger.calls
            needed = spending.new_answers_due(needed, self.ledger.learned, fast_ended=fast_ended)
        needed = max(needed, self._student.unproven)  # a successor would begin the proof anew
        return self.ledger.new_answers >= needed and self.ledger.judges >= FEWEST_JUDGES
