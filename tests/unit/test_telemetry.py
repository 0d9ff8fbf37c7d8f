"""Events as JSON lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from datashunt import telemetry


@pytest.fixture
def lines() -> Iterator[Any]:
    """Everything that is logged through our formatter, decoded."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(telemetry.JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def test_an_event_is_one_line_with_its_fields(lines: Any) -> None:
    telemetry.event("scored", items=3, cost=Decimal("0.1"), classifier="ü")
    (line,) = lines()
    assert line.pop("at").endswith("Z")
    assert line == {"level": "info", "event": "scored", "items": 3, "cost": "0.1", "classifier": "ü"}


def test_an_error_brings_its_traceback_on_the_same_line(lines: Any) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        telemetry.event("failed", level=logging.ERROR, exc_info=True)
    (line,) = lines()
    assert (line["level"], line["event"]) == ("error", "failed")
    assert line["traceback"].splitlines()[-2:] == ["ValueError: two", "lines"]


def test_lines_of_others_name_their_logger(lines: Any) -> None:
    logging.getLogger("celery.worker").warning("%s tasks", 5)
    (line,) = lines()
    assert (line["logger"], line["event"], line["level"]) == ("celery.worker", "5 tasks", "warning")


def test_configuring_leaves_one_handler_and_silences_http(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.Logger("root of this test")
    noisy: dict[str, logging.Logger] = {}

    def of(name: str | None = None) -> logging.Logger:
        return root if name is None else noisy.setdefault(name, logging.Logger(name))

    monkeypatch.setattr(logging, "getLogger", of)
    for _ in range(2):
        telemetry.configure("DEBUG")
    assert len(root.handlers) == 1
    assert root.level == logging.DEBUG
    assert {logger.level for logger in noisy.values()} == {logging.WARNING}
    assert "openai" in noisy
