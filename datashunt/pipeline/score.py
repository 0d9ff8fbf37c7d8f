"""The score lane: claim a batch, score it, keep or escalate each item, write it all down at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import numpy as np

from datashunt import prune, shunt
from datashunt.errors import ModelError
from datashunt.items import ClaimedItem, Wake
from datashunt.pipeline import budget, promise, pruning
from datashunt.pipeline.budget import Clock
from datashunt.pipeline.models import Directory, Models
from datashunt.pipeline.promise import Stand
from datashunt.policy import BudgetPolicy
from datashunt.settings import Settings
from datashunt.store import Store, budgets, dead, scores
from datashunt.store.classifiers import Registered
from datashunt.store.scores import Scored, Settled
from datashunt.telemetry import event

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datashunt.small import SmallModel


LINGER_S = 0.5
"""How long a run goes on with a backlog beyond its own rows: claims and writes hide behind the model meanwhile."""
AHEAD_SHARE = 0.125
"""A batch is claimed ahead while the last one took less of the lease: it waits for one before its own turn comes."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Items under a lease of ours."""

    items: list[ClaimedItem]
    token: UUID

    @property
    def full(self) -> bool:
        """Whether there may be more."""
        return len(self.items) == scores.CLAIM_LIMIT


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What was decided about a batch, less its items that could not be scored, and by whom."""

    known: Registered
    items: list[ClaimedItem]
    scored: list[Scored]
    model_s: float


class Scorer:
    """Scores what is queued. One for each process: torch shares its threads badly."""

    def __init__(
        self, store: Store, directory: Directory, models: Models, settings: Settings, clock: Clock = budgets.now
    ) -> None:
        self._store = store
        self._directory = directory
        self._models = models
        self._settings = settings
        self._clock = clock
        self._beside = ThreadPoolExecutor(2, thread_name_prefix="score")
        self._last_s = float("inf")

    def run(self, classifier: str, rows: Sequence[int], *, stop: Callable[[], bool] = lambda: False) -> Iterator[Wake]:
        """Score the backlog, oldest first, until none of these rows is queued; yields what to publish.

        While there is more than one batch, the next one is claimed and the last one written beside the model, also for
        a moment beyond these rows. Each batch is committed before its wake-up is yielded. What this call claimed and
        did not finish is handed back, also when the caller stops early. Before each batch `stop` is asked; what is left
        then stands still, and tick finds it.

        Raises:
            UnknownClassifier, BundleError, ModelError, StoreError: nothing is lost; tick comes again.
        """
        until = time.monotonic() + LINGER_S
        held: set[UUID] = set()
        ahead: Future[_Batch] | None = None
        writing: Future[Wake | None] | None = None
        try:
            batch = self._first(classifier, rows, held, stop)
            while batch is not None:
                quick = self._last_s < AHEAD_SHARE * self._settings.score_lease_s and time.monotonic() < until
                ahead = self._beside.submit(self._claim, classifier, None, held) if batch.full and quick else None
                verdict = self._score(classifier, batch)
                if writing is not None:
                    yield from _wakes(writing.result())
                writing = self._beside.submit(self._write, verdict, batch.token, held)
                batch = ahead.result() if ahead is not None else None
                ahead = None
                if batch is None or not batch.items or stop():
                    wake, writing = writing.result(), None
                    yield from _wakes(wake)
                    if batch is None or not batch.items:
                        batch = self._first(classifier, rows, held, stop)
                    else:
                        return
        finally:
            flying: list[Future[Any]] = [one for one in (ahead, writing) if one is not None]
            wait(flying)
            self._release(held)

    def _first(self, classifier: str, rows: Sequence[int], held: set[UUID], stop: Callable[[], bool]) -> _Batch | None:
        """A batch, if any of these rows is queued; not before its model is there."""
        if stop():
            return None
        self._serving(classifier)
        batch = self._claim(classifier, rows, held)
        return batch if batch.items else None

    def _serving(self, classifier: str) -> tuple[Registered, SmallModel | None]:
        known = self._directory.get(classifier)
        return known, self._models.get(known.incumbent) if known.incumbent else None

    def _claim(self, classifier: str, rows: Sequence[int] | None, held: set[UUID]) -> _Batch:
        """The next batch, if any of these rows is queued; None: whatever there is."""
        token, known = uuid4(), self._directory.get(classifier)
        held.add(token)
        with self._store.single() as tx:
            items = scores.claim(tx, known.id, token, lease_s=self._settings.score_lease_s, rows=rows)
        if not items:
            held.discard(token)
        return _Batch(items, token)

    def _release(self, tokens: Iterable[UUID]) -> None:
        for token in tokens:
            with self._store.begin() as tx:
                scores.release(tx, token)

    def _score(self, classifier: str, batch: _Batch) -> _Verdict:
        started = time.perf_counter()
        known, model = self._serving(classifier)
        items = batch.items
        if model is None:
            scored = [cold_start(known, item) for item in items]
        else:
            items, probabilities = self._probabilities(model, items, batch.token)
            scored = decide(known, items, probabilities, draft=isinstance(known.spec.policy, BudgetPolicy))
        self._last_s = time.perf_counter() - started
        return _Verdict(known, items, scored, self._last_s)

    def _write(self, verdict: _Verdict, token: UUID, held: set[UUID]) -> Wake | None:
        known = verdict.known
        settled = self._settle(known, verdict.items, verdict.scored, token)
        held.discard(token)
        event(
            "scored",
            classifier=known.name,
            items=settled.moved,
            lost=len(verdict.scored) - settled.moved,
            asks=len(settled.asks),
            bundle=known.incumbent.version if known.incumbent else None,
            model_ms=round(verdict.model_s * 1e3, 1),
        )
        return Wake("llm", known.name, settled.asks) if settled.asks else None

    def _settle(self, known: Registered, batch: Sequence[ClaimedItem], scored: list[Scored], token: UUID) -> Settled:
        """Write the batch down; with a budget, after its share of it is known."""
        policy = known.spec.policy
        bundle = known.incumbent.id if known.incumbent else None
        amounts = budget.amounts_of(known, policy, batch, scored) if isinstance(policy, BudgetPolicy) else []
        # without a budget it is one statement
        with self._store.begin() if isinstance(policy, BudgetPolicy) else self._store.single() as tx:
            share = None
            if isinstance(policy, BudgetPolicy) and batch:
                share = budget.allot(tx, known, policy, scored, amounts, self._clock)
            settled = scores.settle(
                tx,
                known.id,
                token,
                share.scored if share else scored,
                spec_version=known.version,
                bundle_id=bundle,
                threshold=share.threshold if share else promise.stand(known).threshold,
                budget_day=share.day.id if share else None,
                wait_s=share.wait_s if share else 0.0,
            )
            if share:
                share.book(tx, settled, bundle)
        return settled

    def _probabilities(
        self, model: SmallModel, batch: list[ClaimedItem], token: UUID
    ) -> tuple[list[ClaimedItem], NDArray[np.float32]]:
        """Probabilities of the batch, less the items that the model cannot score: those are buried."""
        try:
            return batch, self._forward(model, [item.text for item in batch])
        except (RuntimeError, ValueError, IndexError, ModelError) as error:
            event("batch_failed", items=len(batch), error=type(error).__name__)
        scored: list[tuple[ClaimedItem, NDArray[np.float32]]] = []
        for item in batch:
            try:
                scored.append((item, self._forward(model, [item.text])[0]))
            except (RuntimeError, ValueError, IndexError, ModelError) as error:
                with self._store.begin() as tx:
                    detail = f"the small model cannot score it: {type(error).__name__}"
                    dead.bury_item(tx, item.row, token, reason="model_error", detail=detail)
        if not scored:
            return [], np.zeros((0, len(model.labels)), dtype=np.float32)
        return [item for item, _ in scored], np.stack([vector for _, vector in scored])

    def _forward(self, model: SmallModel, texts: list[str]) -> NDArray[np.float32]:
        return model.probabilities(texts, batch_tokens=self._settings.score_batch_tokens)


def _wakes(wake: Wake | None) -> list[Wake]:
    return [] if wake is None else [wake]


def cold_start(known: Registered, item: ClaimedItem) -> Scored:
    """No bundle serves: everything is asked, over all labels; a fifth of the answers is held out."""
    rate = max(shunt.COLD_START_AUDIT_RATE, known.spec.policy.audit_rate)
    audited = shunt.audit(known.draw_key, item.id, rate)
    return Scored(
        row=item.row,
        keep=False,
        label=None,
        confidence=None,
        probabilities=None,
        role=shunt.role(known.draw_key, item.id, audited),
        propensity=rate if audited else None,
        offered=None,
        prior=None,
    )


def decide(
    known: Registered, batch: Sequence[ClaimedItem], probabilities: NDArray[np.float32], *, draft: bool = False
) -> list[Scored]:
    """Keep, escalate or audit each item of a batch, and prune the prompts of those that are asked.

    Args:
        known: the classifier, its policy and its incumbent.
        batch: n claimed items.
        probabilities: (n, k), rows in the order of `batch`, columns in label order.
        draft: every item as it is if it escalates, whatever its confidence: a budget decides later.
    """
    names, stand = known.spec.label_names, promise.stand(known)
    indices, confidences, kept = shunt.decide(probabilities, stand.threshold, stand.never)
    if draft:
        kept = np.zeros_like(kept)
    held = ~kept & stand.holds
    # a model that broke down says nan: nothing that a prompt could be pruned by, nor told
    prunable = np.flatnonzero(~kept & ~held & np.isfinite(confidences))
    offers, priors = _pruned(known, stand, probabilities[prunable])
    places = {row: place for place, row in enumerate(prunable.tolist())}
    labels, sure, keeps, vectors = indices.tolist(), confidences.tolist(), kept.tolist(), probabilities.tolist()
    holds, rates = held.tolist(), stand.rates(probabilities)
    scored = []
    for row, (item, rate) in enumerate(zip(batch, rates, strict=True)):
        audited = shunt.audit(known.draw_key, item.id, rate)
        place = None if audited else places.get(row)
        scored.append(
            Scored(
                row=item.row,
                keep=keeps[row],
                label=names[labels[row]],
                confidence=sure[row],
                probabilities=vectors[row],
                role=shunt.role(known.draw_key, item.id, audited),
                propensity=rate if audited else None,
                offered=None if place is None else offers[place],
                prior=None if place is None else priors[place],
                held=holds[row],
            )
        )
    return scored


def _pruned(
    known: Registered, stand: Stand, probabilities: NDArray[np.float32]
) -> tuple[Sequence[tuple[str, ...] | None], Sequence[dict[str, float] | None]]:
    """What the prompts of n items offer, in the labels' order, and what they tell; None: all labels, and nothing."""
    names, nothing = known.spec.label_names, [None] * len(probabilities)
    cut = pruning.cut_of(known, stand.threshold)
    priors = prune.priors(probabilities, names) if known.spec.prompt.soft else nothing
    if cut is None:
        return nothing, priors
    sets = prune.offered(probabilities, cut).tolist()
    return [None if all(row) else tuple(compress(names, row)) for row in sets], priors
