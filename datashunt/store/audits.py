"""The audits of a while: what became of their items, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, text

from datashunt.quality import Audited

MOST = 50_000
"""Audits that are read at most, the newest ones."""

_AUDITED = text("""
    WITH trained AS (
        SELECT DISTINCT items.text_hash FROM answers JOIN items ON items.id = answers.item_id
         WHERE answers.classifier_id = :classifier AND answers.role = 'train')
    SELECT scores.label AS said, answers.label AS truth, asks.propensity,
           coalesce(scores.kept, false) AS kept, items.text_hash IN (SELECT text_hash FROM trained) AS seen
      FROM asks JOIN items ON items.id = asks.item_id
      LEFT JOIN answers ON answers.ask_id = asks.id AND answers.item_id = asks.item_id
      LEFT JOIN scores ON scores.id = asks.score_id AND scores.item_id = asks.item_id
     WHERE asks.classifier_id = :classifier AND asks.role = 'judge'
       AND asks.created_at > now() - make_interval(secs => :since_s)
       AND (answers.id IS NOT NULL OR asks.state = 'dead'
            OR asks.state <> 'withdrawn' AND asks.created_at < now() - make_interval(secs => :patience_s))
     ORDER BY asks.id DESC LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class Cost:
    """What auditing cost beyond what would have been asked anyway: `asks` of kept items, and their calls in USD."""

    asks: int
    usd: Decimal


def cost(tx: Connection, classifier_id: int, *, since_s: float) -> Cost:
    """What the audits of kept items cost in the last `since_s` seconds; a call without a bill at what was reserved."""
    row = tx.execute(
        text(
            "SELECT count(DISTINCT asks.id), coalesce(sum(coalesce(cost_usd, reserved_usd)), 0)"
            "  FROM asks"
            "  LEFT JOIN calls ON calls.ask_id = asks.id AND calls.item_id = asks.item_id"
            " WHERE asks.classifier_id = :classifier AND asks.reason = 'audit'"
            "   AND asks.created_at > now() - make_interval(secs => :since_s)"
        ),
        {"classifier": classifier_id, "since_s": since_s},
    ).one()
    return Cost(*row)


def recent(tx: Connection, classifier_id: int, *, since_s: float, patience_s: float) -> list[Audited]:
    """The judge answers of the last `since_s` seconds, and the audits that nobody answered within `patience_s`."""
    values = {"classifier": classifier_id, "since_s": since_s, "patience_s": patience_s, "most": MOST}
    return [
        Audited(said=row.said, truth=row.truth, kept=row.kept, propensity=row.propensity, seen=row.seen)
        for row in tx.execute(_AUDITED, values)
    ]
