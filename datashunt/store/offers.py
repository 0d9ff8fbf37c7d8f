"""What hard pruning is measured by: reference answers of items that escalate, and the tokens of pruned asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from datashunt.items import Role
from datashunt.store.classifiers import Registered

MOST = 10_000
"""Most rows that are read, newest first: it bounds the time that `status` takes."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference answer to an item that the serving bundle escalates. `probabilities`: of its score, by label.

    `propensity`: with which it was drawn.
    """

    answer: int
    role: Role
    label: str
    probabilities: tuple[float, ...]
    propensity: float = 1.0


_REFERENCES = text("""
    SELECT answers.id, answers.role, answers.label, scores.probabilities, answers.propensity
      FROM answers JOIN asks ON asks.id = answers.ask_id
      JOIN scores ON scores.id = asks.score_id AND scores.item_id = asks.item_id
     WHERE answers.classifier_id = :classifier AND answers.labels_hash = :labels AND answers.role IN ('fit', 'judge')
       AND answers.requested_model = :model AND answers.prompt_hash = :prompt
       AND scores.bundle_id = :bundle AND (scores.confidence < :threshold OR scores.label = ANY(:never))
     ORDER BY answers.id DESC LIMIT :most
""")


def references(
    tx: Connection, classifier: Registered, *, threshold: float, never: Sequence[str] = ()
) -> list[Reference]:
    """Reference answers to items that the serving bundle escalates, newest first.

    Args:
        tx: a transaction.
        classifier: whose bundle.
        threshold: below which an item escalates.
        never: labels that are never kept.
    """
    if classifier.incumbent is None:
        return []
    rows = tx.execute(
        _REFERENCES,
        {
            "classifier": classifier.id,
            "labels": classifier.spec.labels_hash,
            "model": classifier.spec.llm.model,
            "prompt": classifier.prompt_hash,
            "bundle": classifier.incumbent.id,
            "threshold": threshold,
            "never": list(never),
            "most": MOST,
        },
    )
    return [Reference(row.id, Role(row.role), row.label, tuple(row.probabilities), row.propensity) for row in rows]


@dataclass(frozen=True, slots=True)
class Asked:
    """An answered ask that was pruned, or that had a reply which named no label on offer.

    Attributes:
        offered: the labels; None once it was opened to all of them.
        probabilities: of its score.
        calls: that brought a reply. tokens: of their prompts together. last: of the last one's prompt.
    """

    offered: tuple[str, ...] | None
    probabilities: tuple[float, ...]
    calls: int
    tokens: int
    last: int


_ASKED = text("""
    WITH picked AS (
        SELECT asks.id, asks.item_id, asks.offered, scores.probabilities
          FROM asks JOIN scores ON scores.id = asks.score_id AND scores.item_id = asks.item_id
         WHERE asks.classifier_id = :classifier AND asks.reason = 'escalation' AND asks.role = 'train'
           AND asks.state = 'answered' AND (asks.offered IS NOT NULL OR asks.misses > 0)
           AND scores.bundle_id = :bundle
         ORDER BY asks.id DESC LIMIT :most)
    SELECT picked.offered, picked.probabilities, paid.calls, paid.tokens, paid.last
      FROM picked, LATERAL (
        SELECT count(*) AS calls, sum(prompt_tokens) AS tokens, (array_agg(prompt_tokens ORDER BY id DESC))[1] AS last
          FROM calls WHERE ask_id = picked.id AND item_id = picked.item_id AND prompt_tokens IS NOT NULL) AS paid
     WHERE paid.calls > 0
""")


def asked(tx: Connection, classifier: Registered) -> list[Asked]:
    """Answered asks of the serving bundle's escalated items that may have been pruned and were paid for."""
    if classifier.incumbent is None:
        return []
    rows = tx.execute(_ASKED, {"classifier": classifier.id, "bundle": classifier.incumbent.id, "most": MOST})
    return [
        Asked(
            offered=None if row.offered is None else tuple(row.offered),
            probabilities=tuple(row.probabilities),
            calls=row.calls,
            tokens=row.tokens,
            last=row.last,
        )
        for row in rows
    ]
