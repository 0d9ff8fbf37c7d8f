"""The product's own decisions over a recorded stream, item by item, with no broker and no database.

Scoring, deciding, auditing, distilling, judging and certifying are the modules that serve. An item's recorded
answer is looked up only after it was decided that the item is asked.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datashunt import llm, prompts, shunt
from datashunt.backtest import spending
from datashunt.backtest.ledger import Decision, Ledger, Trained
from datashunt.backtest.recording import Recorded, Recording
from datashunt.classifier import Spec, digest
from datashunt.items import FEWEST_JUDGES, ClaimedItem, Reason, Role
from datashunt.pipeline import lesson as lessons
from datashunt.pipeline.score import cold_start, decide
from datashunt.settings import Settings
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.distillations import StoredAnswer
from datashunt.store.scores import CLAIM_LIMIT, Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datashunt.small import SmallModel

Progress = Callable[[int, int, str], None]
"""Called with items decided, calls made and what is being done."""
MOST_REPLAYED = 2_000


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes:
        order: `file`, or `random` by the seed.
        seed: of the order, the audit draws and the training.
        max_calls: spend at most so many calls over the whole stream; None: the policy of the file decides.
        front: how much earlier than evenly they are spent.
        gates: 1, or 2: the first bundle that served keeps what it is sure of before the incumbent is asked.
        batch: items of one decision, at most those of one claim.
    """

    order: str = "random"
    seed: int = 0
    max_calls: int | None = None
    front: float = spending.FRONT
    gates: int = 1
    batch: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= CLAIM_LIMIT:
            raise ValueError(f"expected a batch of 1 to {CLAIM_LIMIT} items, found {self.batch}")


class Engine:
    """One backtest: `run` decides every item that is not decided yet."""

    def __init__(self, spec: Spec, recording: Recording, options: Options, settings: Settings, folder: Path) -> None:
        """Open the run's folder, or go on where it stopped.

        Raises:
            UsageError: the folder holds another run.
        """
        self._spec, self._options, self._settings = spec, options, settings
        self._folder = folder
        self._stream = ordered(recording.items, options)
        self._key = draw_key(options.seed)
        self._prompt_hash = prompts.prompt_hash(spec)
        identity = digest([spec.document(), recording.fingerprint, len(self._stream), repr(options)])
        self.ledger = Ledger(folder, identity)
        self._loaded: dict[int, SmallModel] = {}

    @property
    def stream(self) -> Sequence[Recorded]:
        """The items in the order in which they are decided."""
        return self._stream

    def run(self, progress: Progress) -> None:
        """Decide the rest of the stream.

        Raises:
            ModelError: the base cannot be loaded, or training diverged.
        """
        for start in range(len(self.ledger.decisions), len(self._stream), self._options.batch):
            batch = self._stream[start : start + self._options.batch]
            progress(start, self._calls(), "classifying")
            self.ledger.commit(self._decide(batch, start))
            if self._due():
                self.ledger.commit([], [self._distil(progress)])
        progress(len(self._stream), self._calls(), "done")

    # one batch

    def _decide(self, batch: Sequence[Recorded], start: int) -> list[Decision]:
        known = self._known(start, len(batch))
        claimed = [ClaimedItem(start + n, item.id, item.text) for n, item in enumerate(batch)]
        if known.incumbent is None:
            scored = [cold_start(known, item) for item in claimed]
        else:
            probabilities = self._probabilities([item.text for item in batch])
            scored = decide(self._with_threshold(known, claimed, probabilities, start), claimed, probabilities)
        left = self._calls_left()
        decisions = []
        for one, item in zip(scored, batch, strict=True):
            decision = self._settle(one, item, known, left)
            left -= decision.calls
            decisions.append(decision)
        return decisions

    def _known(self, start: int, size: int) -> Registered:
        """The classifier as it stands for this batch; its audit rate is set before a text is seen."""
        spec = self._spec
        if self._options.max_calls is not None and self._incumbent is not None:
            rate = self._budget(start).audit_rate(spec.policy.audit_rate)
            spec = with_policy(spec, audit_rate=rate if self._calls_left() >= size * rate * 4 else 0.0)
        return Registered(0, spec.name, 1, spec, self._prompt_hash, self._key, self._bundle())

    def _with_threshold(
        self, known: Registered, batch: Sequence[ClaimedItem], probabilities: NDArray[np.float32], start: int
    ) -> Registered:
        """The same with the threshold that spends this batch's part of the calls, if they are limited."""
        if self._options.max_calls is None:
            return known
        rate = known.spec.policy.audit_rate
        audited = np.array([shunt.audit(self._key, item.id, rate) for item in batch])
        confidence = shunt.decide(probabilities, 0.0).confidence
        quota = self._budget(start).quota(len(batch), self._options.front)
        return replace(
            known, spec=with_policy(known.spec, threshold=spending.threshold_for(confidence, audited, quota))
        )

    def _settle(self, scored: Scored, item: Recorded, known: Registered, calls_left: int) -> Decision:
        """What becomes of one item; only here its recorded answer is looked at, and only if it is asked."""
        offered = None if scored.offered is None else tuple(scored.offered)
        asked = scored.reason is not None and calls_left > 0
        answer = item.teacher if asked else None
        fell_back = asked and offered is not None and answer not in offered
        label = scored.label if scored.keep else answer
        return Decision(
            position=scored.row,
            id=item.id,
            label=label,
            source=None if label is None else "small" if scored.keep else "llm",
            confidence=scored.confidence if scored.keep else None,
            bundle=known.incumbent.version if known.incumbent else None,
            small_label=scored.label,
            small_confidence=scored.confidence,
            reason=str(scored.reason) if asked else None,
            role=str(scored.role),
            audited=asked and scored.propensity is not None,
            offered=offered,
            answer=answer,
            calls=int(asked) + int(fell_back),
            cost_usd=self._price(item, offered, fell_back) if asked else 0.0,
        )

    def _price(self, item: Recorded, offered: Sequence[str] | None, fell_back: bool) -> float:
        paid = llm.estimate(self._spec, item.text, offered)
        return float(paid + llm.estimate(self._spec, item.text) if fell_back else paid)

    # spending

    def _calls(self) -> int:
        return sum(decision.calls for decision in self.ledger.decisions)

    def _calls_left(self) -> int:
        limit = self._options.max_calls
        return len(self._stream) * 2 if limit is None else limit - self._calls()

    def _budget(self, start: int) -> spending.Budget:
        return spending.Budget(self._calls_left(), len(self._stream) - start)

    # bundles

    @property
    def _incumbent(self) -> Trained | None:
        promoted = [one for one in self.ledger.trained if one.state == "promoted"]
        return promoted[-1] if promoted else None

    def _bundle(self) -> Bundle | None:
        one = self._incumbent
        if one is None:
            return None
        spec = self._spec
        return Bundle(
            id=one.number,
            version=one.number,
            state=one.state,
            uri=one.folder,
            content_hash=one.folder,
            labels=spec.label_names,
            labels_hash=spec.labels_hash,
            spec_version=1,
            recipe=one.recipe,
            prune_cut=one.prune_cut,
            evaluation={},
            parent_id=None,
            created_at=datetime.now(UTC),
        )

    def _model(self, one: Trained) -> SmallModel:
        from datashunt.small import SmallModel

        if one.number not in self._loaded:
            settings = self._settings
            self._loaded[one.number] = SmallModel.load(
                self._folder / one.folder,
                device=settings.device,
                precision=settings.precision,
                threads=settings.threads,
            )
        return self._loaded[one.number]

    def _probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        incumbent = self._incumbent
        assert incumbent is not None  # noqa: S101 - for mypy: the caller asked
        probabilities = self._model(incumbent).probabilities(texts)
        first = next(one for one in self.ledger.trained if one.state == "promoted")
        if self._options.gates == 2 and first.number != incumbent.number:
            original = self._model(first).probabilities(texts)
            sure = original.max(axis=1) >= self._spec.policy.threshold
            probabilities = np.where(sure[:, None], original, probabilities)
        return probabilities

    # distillation

    def _due(self) -> bool:
        """As tick decides it: enough new answers to learn from, and enough to judge by."""
        learned = self.ledger.trained[-1].up_to if self.ledger.trained else 0
        new = judges = 0
        for decision in self.ledger.decisions:
            if decision.answer is not None:
                new += decision.role == Role.TRAIN and decision.position >= learned
                judges += decision.role == Role.JUDGE
        return new >= self._spec.distil.min_new_answers and judges >= FEWEST_JUDGES

    def _distil(self, progress: Progress) -> Trained:
        from datashunt.small import SmallModel

        started = time.monotonic()
        number, decided = len(self.ledger.trained) + 1, len(self.ledger.decisions)
        incumbent = self._incumbent
        lesson = lessons.prepare(
            self._spec,
            list(self._answers()),
            self._replay(incumbent),
            None if incumbent is None else self._model(incumbent),
            learned_up_to=incumbent.up_to if incumbent else 0,
            seed=self._options.seed * 1000 + number,
        )
        folder = self._folder / "bundles" / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        calls = self._calls()
        challenger = lessons.teach(
            lesson, self._settings, folder, lambda stage, _: progress(decided, calls, f"distilling: {stage}")
        )
        settings = self._settings
        model = SmallModel.load(folder, device=settings.device, precision=settings.precision, threads=settings.threads)
        judgement = lessons.judge(lesson, challenger, model)
        return Trained(
            number=number,
            at_item=decided,
            up_to=decided,
            state="promoted" if judgement.verdict.promote else "rejected",
            folder=str(folder.relative_to(self._folder)),
            recipe=challenger.recipe,
            prune_cut=judgement.prune_cut,
            threshold=self._spec.policy.threshold,
            verdict=judgement.verdict.to_json(),
            counts={str(role): n for role, n in lesson.answers.counts.items()},
            seconds=time.monotonic() - started,
            certificate=None,
            ece=judgement.evaluation["judge"]["ece"],
        )

    def _answers(self) -> Iterator[StoredAnswer]:
        for decision in self.ledger.decisions:
            if decision.answer is not None:
                yield StoredAnswer(
                    id=decision.position + 1,
                    item_id=decision.position,
                    text=self._stream[decision.position].text,
                    label=decision.answer,
                    probabilities=None,
                    role=Role(decision.role),
                    fingerprint="recorded",
                )

    def _replay(self, incumbent: Trained | None) -> list[str]:
        """Texts that the incumbent kept and nobody holds out, newest first."""
        if incumbent is None:
            return []
        kept = [
            self._stream[decision.position].text
            for decision in reversed(self.ledger.decisions)
            if decision.bundle == incumbent.number
            and decision.source == "small"
            and not (decision.reason == Reason.AUDIT and decision.role != Role.TRAIN)
        ]
        return kept[:MOST_REPLAYED]


def ordered(items: Sequence[Recorded], options: Options) -> list[Recorded]:
    """The items in the order of the file, or shuffled by the seed."""
    if options.order == "file":
        return list(items)
    places = np.random.default_rng(options.seed).permutation(len(items))
    return [items[place] for place in places]


def draw_key(seed: int) -> bytes:
    """The key of the audit draws of this seed: 32 bytes."""
    return blake2b(f"backtest {seed}".encode(), digest_size=32).digest()


def with_policy(spec: Spec, **changes: float) -> Spec:
    """The same classifier with another threshold or audit rate."""
    return spec.model_copy(update={"policy": spec.policy.model_copy(update=changes)})
