"""Past traffic of the bundle that serves: its scores, the audited answers among them, and what calls cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, text

from datashunt.items import Role
from datashunt.store.classifiers import Bundle, Registered


@dataclass(frozen=True, slots=True)
class Audited:
    """An audited item of the window.

    Attributes:
        id: the producer's.
        confidence, said: the small model's, and its label.
        answer: the LLM's label; None for an audit that ended without one.
        propensity: chance with which it was to be audited.
    """

    id: str
    confidence: float
    said: str
    answer: str | None
    role: Role
    propensity: float


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of the window to the LLM in force.

    Attributes:
        calls, asks: requests, and the asks that they were for.
        usd: what they cost; what was reserved for those under way or unknown.
        counted: those of which the endpoint counted tokens. tokens_in, tokens_out: of these.
    """

    calls: int
    asks: int
    usd: float
    counted: int
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Window:
    """What one bundle did in the last days.

    Attributes:
        confidence: (n,) of all its scores.
        days: from the first of them, or the window's begin if that is later, until now.
        threshold: that its newest score was decided at; None without scores.
        audits: oldest first. open: audits that wait for their answer.
    """

    confidence: NDArray[np.float64]
    days: float
    threshold: float | None
    audits: tuple[Audited, ...]
    open: int
    calls: Calls


_SCORES = text(
    "SELECT confidence FROM scores WHERE bundle_id = :bundle AND created_at >= now() - make_interval(days => :days)"
)
_SPAN = text("""
    SELECT coalesce(extract(epoch FROM now() - min(created_at)) / 86400, 0) AS days,
           (SELECT threshold FROM scores WHERE bundle_id = :bundle ORDER BY id DESC LIMIT 1) AS threshold
      FROM scores WHERE bundle_id = :bundle AND created_at >= now() - make_interval(days => :days)
""")
_AUDITS = text("""
    SELECT i.key, s.confidence, s.label AS said, a.label AS answer, k.role, k.propensity, k.state
      FROM asks k JOIN scores s ON s.id = k.score_id AND s.item_id = k.item_id JOIN items i ON i.id = k.item_id
      LEFT JOIN answers a ON a.ask_id = k.id AND a.item_id = k.item_id
     WHERE k.classifier_id = :classifier AND k.propensity IS NOT NULL AND s.bundle_id = :bundle
       AND s.created_at >= now() - make_interval(days => :days)
       AND (a.id IS NULL AND k.state IN ('waiting', 'calling', 'dead')
            OR a.requested_model = :model AND a.prompt_hash = :prompt)
     ORDER BY k.id
""")
_CALLS = text("""
    SELECT count(*) AS calls, count(DISTINCT ask_id) AS asks, coalesce(sum(coalesce(cost_usd, reserved_usd)), 0) AS usd,
           count(*) FILTER (WHERE prompt_tokens IS NOT NULL AND completion_tokens IS NOT NULL) AS counted,
           coalesce(sum(prompt_tokens), 0) AS tokens_in, coalesce(sum(completion_tokens), 0) AS tokens_out
      FROM calls WHERE classifier_id = :classifier AND model = :model
       AND created_at >= now() - make_interval(days => :days)
""")


def window(tx: Connection, known: Registered, bundle: Bundle, days: int) -> Window:
    """What this bundle did in the last days; answers of another LLM or prompt than those in force do not count."""
    values = {
        "classifier": known.id,
        "bundle": bundle.id,
        "days": days,
        "model": known.spec.llm.model,
        "prompt": known.prompt_hash,
    }
    scores = tx.execute(_SCORES, values, execution_options={"yield_per": 10_000})
    confidence = np.fromiter((row.confidence for row in scores), dtype=np.float64)
    span = tx.execute(_SPAN, values).one()
    rows = tx.execute(_AUDITS, values).all()
    ended = [row for row in rows if row.answer is not None or row.state == "dead"]
    return Window(
        confidence=confidence,
        days=float(span.days),
        threshold=None if span.threshold is None else _plain(span.threshold),
        audits=tuple(
            Audited(row.key, row.confidence, row.said, row.answer, Role(row.role), _plain(row.propensity))
            for row in ended
        ),
        open=len(rows) - len(ended),
        calls=_called(tx.execute(_CALLS, values).one()),
    )


def _plain(stored: float) -> float:
    """The number that was stored as a real."""
    return round(stored, 6)


def _called(row: Row[Any]) -> Calls:
    return Calls(row.calls, row.asks, float(row.usd), row.counted, row.tokens_in, row.tokens_out)
