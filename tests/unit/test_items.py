"""The things that travel through the lanes: they do not change, and their JSON is the contract."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import CheckConstraint

from datashunt.items import (
    AskState,
    Item,
    ItemState,
    Reason,
    Receipt,
    Refusal,
    Result,
    Role,
    Source,
    Usage,
    Wake,
)
from datashunt.store.tables import Base


def test_a_receipt_travels_as_json() -> None:
    since = datetime(2026, 5, 4, tzinfo=UTC)
    receipt = Receipt("s1", "mood", 2, 1, (Refusal(3, None, "empty", "the text is empty"),), ids_since=since)
    assert json.loads(json.dumps(receipt.to_json())) == {
        "submission_id": "s1",
        "classifier": "mood",
        "accepted": 2,
        "known": 1,
        "refused": [{"position": 3, "id": None, "reason": "empty", "detail": "the text is empty"}],
        "error": None,
        "ids_since": "2026-05-04T00:00:00+00:00",
    }


def test_a_result_is_its_json_line() -> None:
    at = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    result = Result("a", "good", 0.5, Source.LLM, {"good": 0.5}, None, "m", Decimal("0.00012"), at, at, "7-1")
    assert json.loads(json.dumps(result.to_json())) == {
        "id": "a",
        "label": "good",
        "confidence": 0.5,
        "source": "llm",
        "by": None,
        "probabilities": {"good": 0.5},
        "bundle": None,
        "llm_model": "m",
        "cost_usd": 0.00012,
        "created_at": "2025-01-02T03:04:05+00:00",
        "done_at": "2025-01-02T03:04:05+00:00",
        "cursor": "7-1",
    }


def test_usage_counts_prompt_and_completion() -> None:
    assert Usage(prompt=100, completion=10, cached=90).total == 110


@pytest.mark.parametrize(
    ("thing", "field"),
    [(Item("a", "x"), "text"), (Wake("score", "mood", (1,)), "lane"), (Refusal(0, None, "empty", ""), "reason")],
)
def test_what_travels_does_not_change(thing: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(thing, field, "b")


def test_every_state_is_one_the_database_knows() -> None:
    allowed = {
        (table.name, word)
        for table in Base.metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
        for word in re.findall(r"'(\w+)'", str(check.sqltext))
    }
    for table, states in {"items": (*ItemState, *Source), "asks": (*AskState, *Reason, *Role)}.items():
        assert {(table, state.value) for state in states} <= allowed
