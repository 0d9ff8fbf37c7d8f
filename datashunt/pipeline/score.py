"""The score lane: claim a batch, score it, keep or escalate each item, write it all down at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import numpy as np

from datashunt.errors import BundleError, DatashuntError, ModelBroken, ModelError, ModelStarved
from datashunt.items import ClaimedItem, Wake, readable
from datashunt.pipeline import budget, promise
from datashunt.pipeline.budget import Clock
from datashunt.pipeline.memory import give_back
from datashunt.pipeline.models import HARMLESS, Directory, Models
from datashunt.pipeline.ruling import cold_start, decide
from datashunt.policy import BudgetPolicy
from datashunt.settings import Settings
from datashunt.store import Store, budgets, dead, scores
from datashunt.store.classifiers import Registered
from datashunt.store.scores import Ruling, Scored, Settled
from datashunt.telemetry import event

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datashunt.pipeline.models import Part
    from datashunt.small import SmallModel


GIVE_BACK_AFTER = 1_000
"""Items after which memory that is free goes back, in a millisecond or two: activations leave it in pieces."""
LINGER_S = 0.5
"""How long a run goes on with a backlog beyond its own rows: claims and writes hide behind the model meanwhile."""
TURN_S = 10.0
"""So long a message keeps its worker, and suspects that it names let others go first: a backlog may never end."""
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
class _Share:
    """A batch's items of one classifier, and what scores them; None: nothing serves yet."""

    known: Registered
    model: SmallModel | None
    items: list[ClaimedItem]

    @property
    def texts(self) -> list[str]:
        return [item.text for item in self.items]

    @property
    def threshold(self) -> float | None:
        """What its items are decided by; a budget finds that later."""
        return promise.stand(self.known).threshold if _settles_freely(self.known) else None


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What was decided about a batch's items of one classifier, less those that could not be scored, and by whom."""

    known: Registered
    items: list[ClaimedItem]
    scored: list[Scored]
    model_s: float

    @property
    def ruling(self) -> Ruling:
        """For the database, where no budget is shared out."""
        return self.ruled(self.scored, promise.stand(self.known).threshold)

    def ruled(self, scored: Sequence[Scored], threshold: float) -> Ruling:
        """The same with what a budget made of it."""
        known = self.known
        bundle = known.incumbent.id if known.incumbent else None
        return Ruling(known.id, scored, known.version, bundle, threshold)


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
        self._since_given_back = 0

    def run(self, classifier: str, rows: Sequence[int], *, stop: Callable[[], bool] = lambda: False) -> Iterator[Wake]:
        """Score the backlog, oldest first, until none of these rows is queued or the turn is over; yields messages.

        While there is more than one batch, the next one is claimed and the last one written beside the model, also for
        a moment beyond these rows. What room a batch has left goes to other classifiers whose heads are over the same
        encoder: one pass serves them all. Each batch is committed before its wake-ups are yielded. What this call
        claimed and did not finish is handed back, also when the caller stops early. Before each batch `stop` is asked;
        what is left then stands still, and tick finds it.

        Raises:
            UnknownClassifier, BundleError, ModelError, StoreError: nothing is lost; tick comes again.
            ModelBroken: the same, in another process: this one has to end.
        """
        until = time.monotonic() + LINGER_S
        turn, last = until + TURN_S, False
        held: set[UUID] = set()
        ahead: Future[_Batch] | None = None
        writing: Future[list[Wake]] | None = None
        try:
            batch = self._first(classifier, rows, held, stop, in_turn=False)
            while batch is not None:
                quick = self._last_s < AHEAD_SHARE * self._settings.score_lease_s and time.monotonic() < until
                ahead = self._beside.submit(self._claim, classifier, None, held) if batch.full and quick else None
                try:
                    verdicts = self._score(classifier, batch)
                except ModelStarved:
                    raise  # what is held is handed back below, and none of it is to blame
                except ModelBroken:
                    self._hand_back_counted(batch, held)
                    raise
                if writing is not None:
                    yield from writing.result()
                writing = self._beside.submit(self._write, verdicts, batch.token, held)
                batch = ahead.result() if ahead is not None else None
                ahead = None
                if batch is None or not batch.items or stop():
                    wakes, writing = writing.result(), None
                    yield from wakes
                    if batch is not None and batch.items:
                        return
                    if last:
                        yield Wake("score", classifier, tuple(rows))
                        return
                    last = time.monotonic() > turn
                    batch = self._first(classifier, rows, held, stop, in_turn=last)
        finally:
            flying: list[Future[Any]] = [one for one in (ahead, writing) if one is not None]
            wait(flying)
            self._release(held)

    def _first(
        self, classifier: str, rows: Sequence[int], held: set[UUID], stop: Callable[[], bool], *, in_turn: bool
    ) -> _Batch | None:
        """A batch, if any of these rows is queued; not before its model is there."""
        if stop():
            return None
        self._serving(classifier)
        batch = self._claim(classifier, rows, held, in_turn=in_turn)
        return batch if batch.items else None

    def _serving(self, classifier: str) -> tuple[Registered, SmallModel | None]:
        known = self._directory.get(classifier)
        return known, self._models.serving(known)

    def _claim(self, classifier: str, rows: Sequence[int] | None, held: set[UUID], *, in_turn: bool = False) -> _Batch:
        """The next batch, if any of these rows is queued; None: whatever there is."""
        token, known = uuid4(), self._directory.get(classifier)
        others = self._beside_which(known)
        held.add(token)
        with self._store.single() as tx:
            items = scores.claim(
                tx,
                known.id,
                token,
                lease_s=self._settings.score_lease_s,
                rows=rows,
                others=[one.id for one in others],
                in_turn=in_turn,
                characters=_characters([known, *others]),
            )
        if not items:
            held.discard(token)
        return _Batch(items, token)

    def _beside_which(self, known: Registered) -> list[Registered]:
        """Classifiers whose items may share a pass with those of this one.

        A budget settles each batch under a lock of its own, which nobody else is to wait for.
        """
        alike = self._models.alike(known.incumbent) if known.incumbent and _settles_freely(known) else frozenset()
        if not alike:
            return []
        everyone = self._directory.everyone()
        return [
            one
            for one in everyone
            if one.id != known.id and one.incumbent and one.incumbent.content_hash in alike and _settles_freely(one)
        ]

    def _release(self, tokens: Iterable[UUID]) -> None:
        for token in tokens:
            with self._store.begin() as tx:
                scores.release(tx, token)

    def _hand_back_counted(self, batch: _Batch, held: set[UUID]) -> None:
        """What broke a model may be one of these, which comes to be claimed alone, and last.

        An item that was alone is left to its lease, as if this process had died over it.
        """
        held.discard(batch.token)
        if len(batch.items) > 1:
            with self._store.begin() as tx:
                scores.release(tx, batch.token, counted=True)

    def _score(self, classifier: str, batch: _Batch) -> list[_Verdict]:
        started = time.perf_counter()
        shares = self._shares(classifier, batch)
        served = [share for share in shares if share.model is not None]
        decided = [
            (share.known, share.items, [cold_start(share.known, item) for item in share.items])
            for share in shares
            if share.model is None
        ]
        for share, (items, probabilities) in zip(served, self._probabilities(served, batch.token), strict=True):
            draft = isinstance(share.known.spec.policy, BudgetPolicy)
            decided.append((share.known, items, decide(share.known, items, probabilities, draft=draft)))
        self._last_s = time.perf_counter() - started
        self._since_given_back += len(batch.items)
        if self._since_given_back >= GIVE_BACK_AFTER:
            give_back()
            self._since_given_back = 0
        item_s = self._last_s / max(1, len(batch.items))
        return [_Verdict(known, items, scored, item_s * len(items)) for known, items, scored in decided]

    def _shares(self, classifier: str, batch: _Batch) -> list[_Share]:
        """The batch by classifiers, the message's own first; items whose model cannot be had now are handed back."""
        known, model = self._serving(classifier)
        parted: dict[int, list[ClaimedItem]] = {known.id: []}
        for item in batch.items:
            parted.setdefault(item.classifier_row, []).append(item)
        shares = [_Share(known, model, items)] if (items := parted.pop(known.id)) else []
        everyone = {one.id: one for one in self._directory.everyone()} if parted else {}
        for row, items in parted.items():
            try:
                shares.append(_Share(everyone[row], self._serving(everyone[row].name)[1], items))
            except (BundleError, ModelError) as error:  # its own message will say so
                event("not_shared", classifier=everyone[row].name, items=len(items), error=type(error).__name__)
                with self._store.begin() as tx:
                    scores.release(tx, batch.token, classifier_id=row)
        return shares

    def _write(self, verdicts: Sequence[_Verdict], token: UUID, held: set[UUID]) -> list[Wake]:
        free = [verdict for verdict in verdicts if _settles_freely(verdict.known)]
        written: dict[int, Settled] = {}
        if free:
            with self._store.single() as tx:  # one statement
                written |= scores.settle(tx, token, [verdict.ruling for verdict in free])
        for verdict in verdicts:
            if isinstance(policy := verdict.known.spec.policy, BudgetPolicy):
                written[verdict.known.id] = self._settle_on_budget(verdict, policy, token)
        held.discard(token)
        return [wake for verdict in verdicts if (wake := _told(verdict, written.get(verdict.known.id, Settled())))]

    def _settle_on_budget(self, verdict: _Verdict, policy: BudgetPolicy, token: UUID) -> Settled:
        """Write a batch down after its share of the day's budget is known."""
        known, nothing = verdict.known, Settled()
        amounts = budget.amounts_of(known, policy, verdict.items, verdict.scored)
        with self._store.begin() as tx:
            if not verdict.items:
                return nothing
            share = budget.allot(tx, known, policy, verdict.scored, amounts, self._clock)
            ruling = verdict.ruled(share.scored, share.threshold)
            found = scores.settle(tx, token, [ruling], budget_day=share.day.id, wait_s=share.wait_s)
            settled = found.get(known.id, nothing)
            share.book(tx, settled, ruling.bundle_id)
        return settled

    def _probabilities(
        self, shares: Sequence[_Share], token: UUID
    ) -> list[tuple[list[ClaimedItem], NDArray[np.float32]]]:
        """Items and probabilities of each share, less the items that its model cannot score: those are buried.

        Raises:
            ModelBroken: a model scores no other text either.
        """
        try:
            return [
                (share.items, found)
                for together in self._passes(shares)
                for share, found in zip(together, self._forward(together), strict=True)
            ]
        except Exception as error:  # noqa: BLE001 - tokenizers raise anything; else this batch would come first for ever
            _unless_of_the_text(error)
            items = sum(len(share.items) for share in shares)
            event("batch_failed", items=items, error=type(error).__name__)
        return [self._one_by_one(share, token) for share in shares]

    def _one_by_one(self, share: _Share, token: UUID) -> tuple[list[ClaimedItem], NDArray[np.float32]]:
        """As above. Items for which there was no memory are left to their lease: others may leave it some by then."""
        from datashunt import small

        scored: list[tuple[ClaimedItem, NDArray[np.float32]]] = []
        starved = 0
        for item in share.items:
            try:
                scored.append((item, self._forward([replace(share, items=[item])])[0][0]))
            except Exception as error:  # noqa: BLE001 - as above
                _unless_of_the_text(error)
                self._unless_of_the_model(share)
                if small.lacks_memory(error):
                    starved += 1
                    continue
                with self._store.begin() as tx:
                    detail = f"the small model cannot score it: {type(error).__name__}"
                    dead.bury_item(tx, item.row, token, reason="model_error", detail=detail)
        if starved:
            event("no_memory_for", level=logging.WARNING, classifier=share.known.name, items=starved)
        if starved == len(share.items) > 1:
            raise ModelStarved(
                f"there is no memory for any of {starved} items of {share.known.name}: what else uses it?"
            )
        if not scored:
            return [], np.zeros((0, len(share.known.spec.label_names)), dtype=np.float32)
        return [item for item, _ in scored], np.stack([vector for _, vector in scored])

    def _unless_of_the_model(self, share: _Share) -> None:
        """A model that cannot score a harmless text either is broken, or its device: no text is to blame."""
        try:
            self._forward([replace(share, items=[ClaimedItem(0, "", HARMLESS)])])
        except Exception as error:
            kind = type(error).__name__
            raise ModelBroken(f"the small model of {share.known.name} scores nothing any more ({kind})") from error

    def _passes(self, shares: Sequence[_Share]) -> list[list[_Share]]:
        """Which go through an encoder together, in their order: all, unless a bundle was exchanged meanwhile."""
        passes: list[list[_Share]] = []
        for share in shares:
            first = passes[-1][0].known.incumbent if passes else None
            own = share.known.incumbent
            if first and own and own.content_hash in self._models.alike(first):
                passes[-1].append(share)
            else:
                passes.append([share])
        return passes

    def _forward(self, shares: Sequence[_Share]) -> list[NDArray[np.float32]]:
        parts: list[Part] = [(one.model, one.texts, one.threshold) for one in shares if one.model is not None]
        return self._models.probabilities(parts, batch_tokens=self._settings.score_batch_tokens)


def _settles_freely(known: Registered) -> bool:
    return not isinstance(known.spec.policy, BudgetPolicy)


def _characters(served: Sequence[Registered]) -> int | None:
    """How much of each text is read; a budget in USD has to know what a prompt with all of it costs."""
    if any(isinstance(one.spec.policy, BudgetPolicy) and one.spec.policy.unit == "usd" for one in served):
        return None
    return readable(max(one.spec.small_model.max_tokens for one in served))


def _unless_of_the_text(error: Exception) -> None:
    """A failure of a bundle, the database or the host is no text's fault: raise it again, and nothing is buried."""
    if isinstance(error, DatashuntError | MemoryError | OSError) and not isinstance(error, ModelError):
        raise error


def _told(verdict: _Verdict, settled: Settled) -> Wake | None:
    """The event of what was written, and what to publish."""
    known = verdict.known
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
