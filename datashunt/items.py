"""The things that travel through the lanes, and their states. Pure data; imports errors and classifier only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any


class ItemState(StrEnum):
    """Where an item is. `done`, `dead` and `forgotten` are final; `held` waits for a person."""

    QUEUED = "queued"
    SCORING = "scoring"
    ASKED = "asked"
    HELD = "held"
    DONE = "done"
    DEAD = "dead"
    FORGOTTEN = "forgotten"


class AskState(StrEnum):
    """Where an ask is. `withdrawn`: nobody asks any more, since a person gave the label or the item is run again.

    A reply that comes all the same is kept; not where it is `forgotten`, as its item is.
    """

    WAITING = "waiting"
    CALLING = "calling"
    ANSWERED = "answered"
    DEAD = "dead"
    WITHDRAWN = "withdrawn"
    FORGOTTEN = "forgotten"


class BatchState(StrEnum):
    """Where a batch is.

    Its calls are being booked and its file made, the file is at the endpoint, the batch is. Then how it ended there:
    whole, before its end (it expired or was cancelled), or with nothing. `harvested`: all that it brought is stored.
    """

    BUILDING = "building"
    UPLOADED = "uploaded"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    EXPIRED = "expired"
    FAILED = "failed"
    HARVESTED = "harvested"


class Source(StrEnum):
    """Whom an outcome is from."""

    SMALL = "small"
    LLM = "llm"
    HUMAN = "human"


class Reason(StrEnum):
    """Why an item is asked: its outcome waits for the answer, or only our knowledge does."""

    ESCALATION = "escalation"
    AUDIT = "audit"


class Role(StrEnum):
    """What an answer is for, for life: `fit` and `judge` answers are never trained on."""

    TRAIN = "train"
    FIT = "fit"
    JUDGE = "judge"

    @property
    def may_fall_back(self) -> bool:
        """Whether another model than the first may give it: what judges or calibrates speaks of the first alone."""
        return self is Role.TRAIN


class ProbabilitySource(StrEnum):
    """Where the label probabilities of an answer come from.

    `decision`: the server's own, over the options; `logprobs`: of the tokens of the label; `samples`: shares of
    several answers; `none`: there are none.
    """

    DECISION = "decision"
    LOGPROBS = "logprobs"
    SAMPLES = "samples"
    NONE = "none"


FEWEST_JUDGES = 30
"""Judge answers that a verdict takes: of all labels together for any verdict, and of one label for its own."""


@dataclass(frozen=True, slots=True)
class Item:
    """One text to classify. `id` is the producer's own; with the classifier it names the item.

    Attributes:
        meta: kept beside the text.
        deadline: when its outcome is wanted: seconds from when it is accepted, or a moment with its time zone. What
            can wait is asked at a lower price; what is late is still asked.
        priority: what has a lower one is scored and asked first, as with `nice`; −100 to 100.
    """

    id: str
    text: str
    meta: Mapping[str, Any] | None = None
    deadline: float | datetime | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one entry of a submission was not accepted. `position` counts from 0 within the submission."""

    position: int
    id: str | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a submission. Accepted means committed.

    Attributes:
        accepted: new items.
        known: entries that were there already, with the same text.
        refused: entries that were not taken, each with its reason.
        error: why the call was refused as a whole; nothing of it was stored. None: it was not.
        ids_since: ids of items that ended by then may have been removed by their age, as of now: whoever submits one
            again submits a new item. None: no id of this classifier went, or the call was refused.
    """

    submission_id: str
    classifier: str
    accepted: int
    known: int
    refused: tuple[Refusal, ...] = ()
    error: str | None = None
    ids_since: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """The receipt as it travels over the broker."""
        return {
            "submission_id": self.submission_id,
            "classifier": self.classifier,
            "accepted": self.accepted,
            "known": self.known,
            "refused": [
                {"position": r.position, "id": r.id, "reason": r.reason, "detail": r.detail} for r in self.refused
            ],
            "error": self.error,
            "ids_since": None if self.ids_since is None else self.ids_since.astimezone(UTC).isoformat(),
        }


def readable(max_tokens: int) -> int:
    """Characters at a text's beginning that a small model of so many tokens gets to see.

    A token has four or five. The same for all up to 512 tokens, so that a bundle reads the same, whatever its
    classifier's file says by now.
    """
    return 64 * max(512, max_tokens)


@dataclass(frozen=True, slots=True)
class ClaimedItem:
    """An item under a lease, ready to be scored. `row` is the database's id, `id` the producer's.

    `text`: what is `readable` of it; all of it where a budget in USD has to know what its prompt costs.
    `classifier_row`: the database's id of its classifier; 0 without a database.
    """

    row: int
    id: str
    text: str
    classifier_row: int = 0


@dataclass(frozen=True, slots=True)
class ClaimedAsk:
    """An ask under a lease.

    Attributes:
        row, item_row, classifier_row: the database's ids; `item_id`: the producer's.
        candidates: labels offered, or None for all of them.
        prior: the small model's probabilities that the LLM is told, or None.
        attempts: calls that failed before this one. misses: paid replies that named no offered label.
        fallback: which of the classifier's models is asked, 0 the first. keep_chars: how many characters of the
            text are shown, None for all.
        text: of the item; empty if it was removed.
        reserved: whether its next call has its place in a day's budget.
    """

    row: int
    item_row: int
    classifier_row: int
    item_id: str
    text: str
    reason: Reason
    role: Role
    candidates: tuple[str, ...] | None
    prior: Mapping[str, float] | None
    attempts: int
    misses: int
    fallback: int = 0
    keep_chars: int | None = None
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the endpoint counted them. `cached` is the part of `prompt` at a lower price."""

    prompt: int
    completion: int
    cached: int = 0

    @property
    def total(self) -> int:
        """What counts against a tokens-per-minute limit."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits per minute that the endpoint names in its reply; None: it does not."""

    rpm: int | None = None
    tpm: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What one paid call brought.

    Attributes:
        label: one of the candidates, or NONE_OF_THESE.
        probabilities: over the candidates, sum 1, or None where the server gives none.
        source: where the probabilities come from.
        model: the model that the *response* names. fingerprint: its system fingerprint; of an API that has none
            the API's name, so that a change of API is seen as a change of the LLM; or "".
        latency_ms: wall clock of the request; None for one of a batch.
        votes: every label that the reply names, where it gives no probabilities; each is a sample.
        limits: what the response's headers say of them.
    """

    label: str
    probabilities: Mapping[str, float] | None
    source: ProbabilitySource
    model: str
    fingerprint: str
    usage: Usage
    latency_ms: float | None
    votes: tuple[str, ...] = ()
    limits: RateLimits = RateLimits()


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome as a consumer reads it. The cursor names its place in the stream of outcomes.

    `by`: who gave the label, where its source is human.
    """

    id: str
    label: str
    confidence: float | None
    source: Source
    probabilities: Mapping[str, float] | None
    bundle: int | None
    llm_model: str | None
    cost_usd: Decimal
    created_at: datetime
    done_at: datetime
    cursor: str
    by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as its JSON line."""
        return {
            "id": self.id,
            "label": self.label,
            "confidence": self.confidence,
            "source": self.source,
            "by": self.by,
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "bundle": self.bundle,
            "llm_model": self.llm_model,
            "cost_usd": float(self.cost_usd),
            "created_at": self.created_at.isoformat(),
            "done_at": self.done_at.isoformat(),
            "cursor": self.cursor,
        }


@dataclass(frozen=True, slots=True)
class Wake:
    """A message to publish: there is work of this classifier in this lane. Ids are rows of the database."""

    lane: str
    classifier: str
    ids: tuple[int, ...] = field(default=())
