"""The demo's outcomes on a real database, on which somebody still works."""

from __future__ import annotations

import importlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from lanes import NAME, FakeLLM, World
from sqlalchemy import text

from datashunt.client import Client
from datashunt.errors import DatashuntError

run: Any = importlib.import_module("datashunt.demo.run")  # the package has a function of this name


@pytest.fixture
def done(world: World) -> World:
    """Three items with their outcomes."""
    world.score("positive 0.5", "negative 0.5", "neutral 0.5")
    world.ask(FakeLLM())
    return world


def test_outcomes_that_an_older_transaction_hides_are_waited_for(done: World, tmp_path: Path) -> None:
    with done.store.begin() as older, Client(done.settings) as client:
        older.execute(text("SELECT pg_current_xact_id()"))
        done.score(*[f"positive 0.5 {n}" for n in range(5)])
        done.ask(FakeLLM())
        assert len(list(client.results(NAME))) < done.states()["done"]
        writing = threading.Thread(target=run._outcomes, args=(client, done.runtime, NAME, tmp_path / "out.jsonl"))
        writing.start()
        older.commit()
        writing.join(timeout=30)
        assert not writing.is_alive()
    keys = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(keys) == sorted(row.key for row in done.rows("SELECT key FROM items WHERE state = 'done'"))


def test_a_transaction_that_stays_open_is_not_waited_for_for_ever(
    done: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "HIDDEN_S", 0.0)
    with done.store.begin() as older, Client(done.settings) as client:
        older.execute(text("SELECT pg_current_xact_id()"))
        done.score(*[f"positive 0.5 {n}" for n in range(5)])
        done.ask(FakeLLM())
        with pytest.raises(DatashuntError, match="outcomes cannot be read"):
            run._outcomes(client, done.runtime, NAME, tmp_path / "out.jsonl")
