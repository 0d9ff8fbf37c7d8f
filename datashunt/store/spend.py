"""What the calls cost, by day or model, also those that retention has removed; and the answers that cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Connection, text

from datashunt.store import partitions

By = Literal["day", "model"]
_DAY = "(created_at AT TIME ZONE 'UTC')::date::text"
_GROUPS: dict[By, tuple[str, str, str]] = {
    "day": (_DAY, _DAY, "day::text"),
    "model": ("model", "requested_model", "model"),
}
_COLUMNS = "calls, tokens_in, tokens_cached, tokens_out, usd, reused, unknown"


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
    of_calls, of_answers, of_past = _GROUPS[by]
    past = (
        f" UNION ALL SELECT classifier_id, {of_past}, {_COLUMNS} FROM past_calls"  # noqa: S608 - our own words
        if partitions.there(tx)
        else ""
    )
    rows = tx.execute(
        text(
            f"WITH each (classifier_id, part, {_COLUMNS}) AS ("  # noqa: S608 - our own words
            f"SELECT classifier_id, {of_calls}, count(*), coalesce(sum(prompt_tokens), 0),"
            "     coalesce(sum(cached_tokens), 0), coalesce(sum(completion_tokens), 0),"
            "     sum(coalesce(cost_usd, reserved_usd)), 0, count(*) FILTER (WHERE state = 'unknown')"
            "  FROM calls GROUP BY 1, 2"
            f" UNION ALL SELECT classifier_id, {of_answers}, 0, 0, 0, 0, 0, count(*), 0 FROM answers"
            f"  WHERE reused_from IS NOT NULL GROUP BY 1, 2{past})"
            " SELECT classifiers.name, part, sum(calls)::bigint, sum(tokens_in)::bigint, sum(tokens_cached)::bigint,"
            "     sum(tokens_out)::bigint, sum(usd), sum(reused)::bigint, sum(unknown)::bigint"
            "   FROM each JOIN classifiers ON classifiers.id = classifier_id"
            "  WHERE CAST(:classifier AS integer) IS NULL OR classifier_id = :classifier GROUP BY 1, 2 ORDER BY 1, 2"
        ),
        {"classifier": classifier_id},
    )
    return [Spent(*row) for row in rows]
