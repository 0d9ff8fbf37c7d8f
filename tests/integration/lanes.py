"""What the integration tests share: one classifier on a real database, and stand-ins for the two models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, text

from datashunt import classifier, prompts
from datashunt.bootstrap import Runtime
from datashunt.classifier import Spec
from datashunt.errors import LLMError, LLMRejected, LLMThrottled, LLMUnavailable, LLMUnusable
from datashunt.items import Item, Receipt, Reply, Usage, Wake
from datashunt.pipeline import pruning
from datashunt.pipeline.ask import Asker
from datashunt.pipeline.models import HARMLESS, Directory
from datashunt.pipeline.pruning import Calibration
from datashunt.pipeline.score import Scorer
from datashunt.prompts import Prompt
from datashunt.quota import ALONE, Busy, Health, Limits, Open, Refused, Slot, Turn, Verdict, in_turn
from datashunt.store import Store, bundles, classifiers
from datashunt.store.classifiers import Bundle, Registered

NAME = "sentiment"
KEY = b"*" * 32
LABELS = ("negative", "neutral", "positive")
DOCUMENT: dict[str, Any] = {
    "name": NAME,
    "labels": list(LABELS),
    "instruction": "Say how the writer feels.",
    "llm": {"model": "teacher-1", "input_price": "1", "output_price": "2"},
    "policy": {"threshold": 0.9, "audit_rate": 0.0},
}
Answer = Reply | LLMError


class FakeModel:
    """Reads its opinion from the text: `positive 0.95 …` is positive with 0.95; the others share the rest."""

    def __init__(self, before: Callable[[Sequence[str]], None] = lambda texts: None) -> None:
        self.labels = LABELS
        self.batches: list[list[str]] = []
        self._before = before

    def probabilities(self, texts: Sequence[str], *, batch_tokens: int = 0) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        self._before(texts)
        vectors = [self._one(text) for text in texts]
        return np.stack(vectors) if vectors else np.zeros((0, len(LABELS)), dtype=np.float32)

    def _one(self, text: str) -> NDArray[np.float32]:
        label, confidence, *_ = f"{LABELS[0]} 0.5".split() if text == HARMLESS else text.split()
        vector = np.full(len(LABELS), (1 - float(confidence)) / (len(LABELS) - 1), dtype=np.float32)
        vector[LABELS.index(label)] = float(confidence)
        return vector


class FakeModels:
    """Hands out one model for each version of the bundle."""

    def __init__(self, *models: FakeModel) -> None:
        self._models = models

    def get(self, bundle: Bundle) -> FakeModel:
        return self._models[bundle.version - 1]

    def serving(self, known: Registered) -> FakeModel | None:
        return self.get(known.incumbent) if known.incumbent else None

    def alike(self, bundle: Bundle) -> frozenset[str]:
        return frozenset()

    def probabilities(self, parts: Any, *, batch_tokens: int = 0) -> list[NDArray[np.float32]]:
        return [model.probabilities(texts, batch_tokens=batch_tokens) for model, texts, _ in parts]


def choke_on_all(texts: Sequence[str]) -> None:
    """What a model does that can score nothing but the harmless text."""
    if list(texts) != [HARMLESS]:
        raise ValueError("too many tokens")


def reply(label: str = "positive", *, probabilities: dict[str, float] | None = None, **other: Any) -> Reply:
    """What a paid call of 100 + 10 tokens brings; it costs 0.00012 USD."""
    known = {"model": "teacher-1-2026", "fingerprint": "fp_1", "usage": Usage(100, 10), "latency_ms": 12.5}
    source = "none" if probabilities is None else "logprobs"
    return Reply(label, probabilities, source, **{**known, **other})


PRICE = Decimal("0.00012")
DOWN = LLMUnavailable("the LLM endpoint failed (503)", kind="server_error", http_status=503)
THROTTLED = LLMThrottled("wait 7 s", retry_after_s=7.0)
REJECTED = LLMRejected("the content filter refuses the item (400)", kind="content_filter", http_status=400)
OUTSIDE = LLMUnusable(
    "the LLM named a label that was not offered",
    kind="outside_candidates",
    http_status=200,
    usage=Usage(100, 10),
    model="teacher-1-2026",
    fingerprint="fp_1",
)


@dataclass
class FakeLLM:
    """Says what it was told to, in turn, the last thing for ever; an entry may be a function of the prompt."""

    answers: list[Answer | Callable[[Prompt], Answer]] = field(default_factory=lambda: [reply()])
    prompts: list[Prompt] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def quota_key(self, model: str) -> str:
        return f"key of {model}"

    def ask(self, prompt: Prompt, model: str, *, deadline_s: float, api: str = "chat", samples: int = 0) -> Reply:
        with self._lock:
            self.prompts.append(prompt)
            answer = self.answers[min(len(self.prompts), len(self.answers)) - 1]
        said = answer(prompt) if callable(answer) else answer
        if isinstance(said, LLMError):
            raise said
        return said


@dataclass
class FakeQuota:
    """Grants what it was told to, in turn, the last thing for ever; keeps what was settled and paused."""

    answers: list[Slot | Refused | Busy | Open | Exception] = field(default_factory=lambda: [Slot("slot", 0.0)])
    asked: list[tuple[str, int, Limits]] = field(default_factory=list)
    taken: list[Turn] = field(default_factory=list)
    settled: list[int | None] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    stated: list[Limits] = field(default_factory=list)
    late: list[Refused | None] = field(default_factory=list)
    verdicts: list[Verdict | None] = field(default_factory=list)
    health: Health = field(default_factory=Health)

    def acquire(
        self, key: str, tokens: int, limits: Limits, *, turn: Turn = ALONE, **_: float
    ) -> Slot | Refused | Busy | Open:
        self.asked.append((key, tokens, limits))
        self.taken.append(turn)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def begin(self, key: str, slot: Slot) -> Refused | None:
        return self.late.pop(0) if self.late else None

    def turns(self, key: str, weights: Mapping[int, float]) -> list[Turn]:
        return in_turn(weights, {turn.classifier: turn.begins + 1 / turn.weight for turn in self.taken}, 0.0)

    def state(self, key: str, limits: Limits) -> None:
        self.stated.append(limits)

    def settle(self, key: str, slot: Slot, tokens_used: int | None, verdict: Verdict | None = None) -> Health:
        self.settled.append(tokens_used)
        self.verdicts.append(verdict)
        return self.health

    def pause(self, key: str, seconds: float) -> None:
        self.paused.append(seconds)


class World:
    """One classifier, applied, and shorthands for what a test does with it.

    The lanes work on `store`, which may have a worker's rights only; people, and tests that look, on `admin`.
    """

    def __init__(self, runtime: Runtime, admin: Store | None = None) -> None:
        self.runtime = runtime
        self.store = runtime.store
        self.admin = admin or runtime.store
        self.settings = runtime.settings
        self.models = FakeModels(FakeModel(), FakeModel(), FakeModel())

    # what happens to it

    def apply(self, **changes: Any) -> Spec:
        """Apply the classifier; a change of a section is merged into it. What is drawn is the same in each run."""
        document = {**DOCUMENT, **{name: _merged(DOCUMENT.get(name), value) for name, value in changes.items()}}
        spec = classifier.parse(document)
        with self.admin.begin() as tx:
            if classifiers.apply(tx, spec, prompts.prompt_hash(spec)).created:
                values = {"key": KEY, "name": spec.name}
                tx.execute(text("UPDATE classifiers SET draw_key = :key WHERE name = :name"), values)
        return spec

    def submit(self, *entries: Any, submission: str | None = None, name: str = NAME) -> tuple[Receipt, list[Wake]]:
        """Submit entries; a plain text becomes an item with the id `i0`, `i1`, …"""
        items = [Item(f"i{n}", entry) if isinstance(entry, str) else entry for n, entry in enumerate(entries)]
        return self.runtime.intake.submit(name, items, submission or str(uuid4()))

    def line_up(self, count: int, *, due: str = "now()", name: str = NAME) -> None:
        """Put so many asks of all kinds behind those that wait; when they are due is an SQL expression."""
        self.change(
            "WITH made AS (INSERT INTO items (classifier_id, key, text_hash, state, submission_id)"
            "   SELECT id, gen_random_uuid()::text, '', 'asked', 'by hand' FROM classifiers, generate_series(1, :count)"
            "    WHERE name = :name RETURNING id, classifier_id),"
            " kept AS (INSERT INTO texts (item_id, text) SELECT id, 'negative 0.5 ' || id FROM made)"
            " INSERT INTO asks (item_id, classifier_id, spec_version, reason, role, propensity, priority, deadline,"
            "                   not_before)"
            " SELECT id, classifier_id, 1, CASE id % 2 WHEN 0 THEN 'audit' ELSE 'escalation' END,"
            "        CASE id % 2 WHEN 0 THEN 'fit' ELSE 'train' END, CASE id % 2 WHEN 0 THEN 0.5 END, id % 3,"
            f"        CASE id % 5 WHEN 0 THEN now() + make_interval(hours => (id % 7)::int) END, {due} FROM made",
            count=count,
            name=name,
        )

    def scorer(self, models: Any = None, *, max_age_s: float = 0.0) -> Scorer:
        """A score lane whose small models are stand-ins."""
        return Scorer(self.store, Directory(self.store, max_age_s), models or self.models, self.settings)

    def score(self, *texts: str, models: Any = None) -> list[int]:
        """Submit these texts and score them; returns the asks that were made."""
        _, wakes = self.submit(*texts)
        return [row for wake in self.scorer(models).run(NAME, wakes[0].ids) for row in wake.ids]

    def asker(self, llm: FakeLLM, quota: FakeQuota | None = None, **settings: Any) -> Asker:
        """An LLM lane whose LLM and quota are stand-ins."""
        changed = self.settings.model_copy(update=settings)
        directory = Directory(self.store, 0.0)
        return Asker(self.store, directory, llm, quota, changed)  # type: ignore[arg-type]

    def ask_once(self, llm: FakeLLM) -> None:
        """Make one call about the ask that is first in line."""
        self.asker(llm).run(NAME, [], stop=lambda: bool(llm.prompts))

    def ask(self, llm: FakeLLM, rows: Sequence[int] | None = None, quota: FakeQuota | None = None, **more: Any) -> int:
        """Ask these, or every ask there is; returns calls made."""
        if rows is None:
            rows = [row.id for row in self.rows("SELECT id FROM asks ORDER BY id")]
        asker, calls = self.asker(llm, quota, **more), 0
        while True:  # a turn ends after a few seconds
            served = asker.run(NAME, rows)
            calls += served.calls
            if not served.wakes:
                return calls

    def bundle(self, *, serve: bool = True, prune_cut: float | None = None) -> Bundle:
        """Write down a bundle, and let it serve; a cut is one for the classifier as it stands."""
        with self.admin.begin() as tx:
            known = classifiers.current(tx, NAME)
            evaluation = {"judge": {"agreement": 0.9, "coverage": 0.5, "n": 40}}
            threshold, coverage = known.spec.policy.threshold, known.spec.prompt.coverage
            cut = Calibration(prune_cut, 100, 0, 0, threshold, coverage, known.prompt_hash)
            made = bundles.add(
                tx,
                known,
                uri="memory://nowhere",
                content_hash=uuid4().hex,
                recipe="head",
                prune_cut=prune_cut,
                evaluation=evaluation if prune_cut is None else pruning.noted(evaluation, cut),
            )
            if serve:
                bundles.promote_by_hand(tx, known, made.version)
        return made

    # what can be seen of it

    def known(self) -> Registered:
        """The classifier as it stands."""
        with self.admin.begin() as tx:
            return classifiers.current(tx, NAME)

    def rows(self, statement: str, **values: Any) -> Sequence[Row[Any]]:
        """What a query finds."""
        with self.admin.begin() as tx:
            return tx.execute(text(statement), values).all()

    def one(self, statement: str, **values: Any) -> Any:
        """The one value that a query finds."""
        ((value,),) = self.rows(statement, **values)
        return value

    def change(self, statement: str, **values: Any) -> None:
        """Let time pass, or something go wrong, by hand."""
        with self.admin.begin() as tx:
            tx.execute(text(statement), values)

    def until_somebody_waits(self) -> None:
        """Until a transaction waits for what another one has locked."""
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        end = time.monotonic() + 60
        while self.one(waits) == 0:
            assert time.monotonic() < end
            time.sleep(0.02)

    def calls(self) -> Sequence[Row[Any]]:
        """Every call, oldest first."""
        return self.rows("SELECT * FROM calls ORDER BY id")

    def states(self, table: str = "items") -> dict[str, int]:
        """How many rows are in which state."""
        return dict(self.rows(f"SELECT state, count(*) FROM {table} GROUP BY state"))  # type: ignore[arg-type]


def _merged(default: Any, change: Any) -> Any:
    return {**default, **change} if isinstance(default, dict) and isinstance(change, dict) else change
