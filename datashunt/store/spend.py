"""What the calls cost, by day or model. Reads `calls`, and counts the answers that cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Connection, text

By = Literal["day", "model"]
_GROUPS: dict[By, tuple[str, str]] = {
    "day": ("(created_at AT TIME ZONE 'UTC')::date::text", "(created_at AT TIME ZONE 'UTC')::date::text"),
    "model": ("model", "requested_model"),
}


@dataclass(frozen=True, slots=True)
class Spent:
    """One classifier's calls of one day (UTC) or to one model.

    Attributes:
        tokens_in: cached ones included. tokens_cached, tokens_out: as the endpoint counted them.
        usd: what the calls cost; what was reserved for those that are under way or unknown.
        reused: asks that an answer ended which was paid before.
        unknown: calls that may have been served and billed though no reply came.
    """

    classifier: str
    group: str
    calls: int
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    usd: Decimal
    reused: int
    unknown: int

    def to_json(self, by: By) -> dict[str, Any]:
        """The row for programs."""
        row = {name: getattr(self, name) for name in self.__slots__ if name != "group"}
        return {"classifier": row.pop("classifier"), by: self.group, **row, "usd": float(self.usd)}


def spent(tx: Connection, by: By, classifier_id: int | None = None) -> list[Spent]:
    """What was spent on one classifier, or on each; by name, then by day or model."""
    of_calls, of_answers = _GROUPS[by]
    rows = tx.execute(
        text(
            f"WITH paid AS (SELECT classifier_id, {of_calls} AS part, count(*) AS calls,"  # noqa: S608 - our own words
            "     coalesce(sum(prompt_tokens), 0) AS tokens_in, coalesce(sum(cached_tokens), 0) AS tokens_cached,"
            "     coalesce(sum(completion_tokens), 0) AS tokens_out, sum(coalesce(cost_usd, reserved_usd)) AS usd,"
            "     count(*) FILTER (WHERE state = 'unknown') AS unknown FROM calls GROUP BY 1, 2),"
            f" free AS (SELECT classifier_id, {of_answers} AS part, count(*) AS reused FROM answers"
            "     WHERE reused_from IS NOT NULL GROUP BY 1, 2)"
            " SELECT classifiers.name, part, coalesce(calls, 0), coalesce(tokens_in, 0), coalesce(tokens_cached, 0),"
            "     coalesce(tokens_out, 0), coalesce(usd, 0), coalesce(reused, 0), coalesce(unknown, 0)"
            "   FROM paid FULL JOIN free USING (classifier_id, part)"
            "   JOIN classifiers ON classifiers.id = classifier_id"
            "  WHERE CAST(:classifier AS integer) IS NULL OR classifier_id = :classifier ORDER BY 1, 2"
        ),
        {"classifier": classifier_id},
    )
    return [Spent(*row) for row in rows]
