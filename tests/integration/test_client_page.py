"""docs/client.md: its modules run, and it names what there is."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django import conf
from django.test import RequestFactory
from fastapi.testclient import TestClient
from lanes import World

from datashunt import Client
from datashunt.items import Item, Receipt, Refusal, Result
from datashunt.pipeline import people, submit
from datashunt.settings import Settings
from datashunt.streams import Row

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text("utf-8")
MODULES = dict(re.findall(r"```python\n# (\w+)\.py.*?\n(.*?)```", PAGE, re.S))
NAME = "tickets"


@pytest.fixture
def modules(world: World, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's modules in a folder to import from, this test's servers in the environment, and the classifier."""
    assert settings.database_url is not None
    assert settings.broker_url is not None
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("DATASHUNT_BROKER_URL", settings.broker_url.get_secret_value())
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    world.apply(name=NAME)
    yield tmp_path
    if "tickets" in sys.modules:
        sys.modules["tickets"].client().close()
    for name in MODULES:
        sys.modules.pop(name, None)


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def decide(world: World, *keys: str, label: str = "positive") -> None:
    """A person's word is an outcome without any worker."""
    rows = [Row(line, key, label) for line, key in enumerate(keys, start=1)]
    assert all(not part.refused for part in people.label(world.store, NAME, rows, by="ann"))


def test_the_page_has_its_modules() -> None:
    assert MODULES.keys() == {"tickets", "api", "views", "consumer"}


@pytest.mark.parametrize("kind", [Item, Result, Refusal, Receipt])
def test_every_field_is_named(kind: Any) -> None:
    assert [f.name for f in dataclasses.fields(kind) if f"`{f.name}`" not in PAGE] == []


def test_every_call_is_named() -> None:
    calls = {name for name in vars(Client) if not name.startswith("_")}
    assert {name for name in calls if f"`{name}(" not in PAGE} == set()


def test_every_reason_of_a_refusal_is_named() -> None:
    source = Path(submit.__file__).read_text("utf-8")
    said = r'return (?:0, \()?"(\w+)", |(?:key|None|position), "(\w+)",|^\s+"(missing_field)",'
    reasons = set(re.findall(said, source, re.M))
    found = {name for names in reasons for name in names if name} | {"id_conflict"}
    row = next(line for line in PAGE.splitlines() if line.startswith("| `reason`"))
    assert set(re.findall(r"`(\w+)`", row)) - {"reason"} == found


@pytest.mark.usefixtures("modules")
def test_a_ticket_is_taken_and_has_its_team_when_it_is_decided(world: World) -> None:
    tickets = load("tickets")
    assert tickets.take("a", "my invoice is wrong") is None
    assert tickets.take("a", "something else") == "id 'a' is taken by another text"
    assert tickets.team("a") is None
    decide(world, "a")
    assert tickets.team("a") == "positive"
    assert tickets.client() is tickets.client()
    assert tickets._client_of(-1) is not tickets.client()


def test_a_consumer_goes_on_where_it_was(world: World, modules: Path) -> None:
    tickets, consumer = load("tickets"), load("consumer")
    path = modules / "labels.db"
    for key in "abc":
        tickets.take(key, f"text of {key}")
    decide(world, "a", "b")
    with sqlite3.connect(path) as db:
        assert consumer.consume(tickets.client(), NAME, db) == 2
        assert consumer.consume(tickets.client(), NAME, db) == 0
    decide(world, "c")
    decide(world, "a", label="negative")
    with sqlite3.connect(path) as db:  # another process
        assert consumer.consume(tickets.client(), NAME, db) == 2
        rows = db.execute("SELECT id, label, source FROM labels ORDER BY id").fetchall()
    assert rows == [("a", "negative", "human"), ("b", "positive", "human"), ("c", "positive", "human")]


@pytest.mark.usefixtures("modules")
def test_unknown_ids_are_left_out_of_a_wait_and_an_unfinished_item_is_a_timeout() -> None:
    tickets = load("tickets")
    tickets.take("a", "my invoice is wrong")
    assert tickets.client().wait(NAME, ["nobody"], 1) == {}
    with pytest.raises(TimeoutError, match="1 of 2 items of tickets are not done yet"):
        tickets.client().wait(NAME, ["a", "nobody"], 0)


@pytest.mark.usefixtures("modules")
def test_the_api_answers(world: World) -> None:
    web = TestClient(load("api").app)
    assert web.put("/tickets/a", json={"text": "my invoice is wrong"}).status_code == 202
    refused = web.put("/tickets/a", json={"text": "something else"})
    assert (refused.status_code, refused.json()["detail"]) == (422, "id 'a' is taken by another text")
    assert web.get("/tickets/a").json() == {"id": "a", "team": None}
    assert [web.get(f"/tickets/{id}").status_code for id in ("%00", "%20", "a" * 600)] == [422] * 3
    decide(world, "a")
    assert web.get("/tickets/a").json() == {"id": "a", "team": "positive"}


@pytest.mark.usefixtures("modules")
def test_the_view_answers() -> None:
    if not conf.settings.configured:
        conf.settings.configure(ALLOWED_HOSTS=["*"])
    requests, views = RequestFactory(), load("views")
    assert views.ticket(requests.post("/a", {"text": "my invoice is wrong"}), "a").status_code == 202
    assert views.ticket(requests.post("/a", {"text": "something else"}), "a").status_code == 422
    assert views.ticket(requests.get("/a"), "a").content == b'{"id": "a", "team": null}'
