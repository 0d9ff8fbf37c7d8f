"""A bound on what is queued: submissions are refused or wait, and nothing of them is stored before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lanes import NAME, World
from typer.testing import CliRunner

from datashunt import Client
from datashunt.cli import app
from datashunt.errors import QueueFull, UsageError
from datashunt.items import Item
from datashunt.pipeline import bound


@pytest.fixture(autouse=True)
def _counted_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "COUNT_EVERY_S", 0.0)


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with Client(world.settings.model_copy(update={"max_queued": 3})) as made:
        yield made


def items(*numbers: int) -> list[Item]:
    return [Item(f"i{n}", f"text {n}") for n in numbers]


def finish(world: World) -> None:
    world.change("UPDATE items SET state = 'dead' WHERE state = 'queued'")


def test_a_submission_is_taken_whole_while_fewer_items_are_queued_than_may_be(client: Client, world: World) -> None:
    assert client.submit(NAME, items(1, 2)).accepted == 2
    assert client.submit(NAME, items(3, 4, 5)).accepted == 3
    with pytest.raises(QueueFull, match=r"^3 items of sentiment are queued, .*nothing was stored$"):
        client.submit(NAME, items(6), submission_id="six")
    assert world.one("SELECT count(*) FROM items") == 5
    assert client.receipt("six") is None
    finish(world)
    assert client.submit(NAME, items(6), submission_id="six").accepted == 1


def test_a_submission_that_is_sent_again_gets_its_receipt_at_the_bound(client: Client) -> None:
    first = client.submit(NAME, items(1, 2, 3), submission_id="a")
    assert client.submit(NAME, items(1, 2, 3), submission_id="a") == first


def test_the_bound_is_of_each_classifier(client: Client, world: World) -> None:
    world.apply(name="other")
    client.submit(NAME, items(1, 2, 3))
    assert client.submit("other", items(1)).accepted == 1


def test_without_a_bound_nothing_is_counted(world: World) -> None:
    with Client(world.settings) as free:
        assert free.submit(NAME, items(*range(50))).accepted == 50
        assert free.submit(NAME, iter(items(50))).accepted == 1


def test_a_submission_that_waits_is_stored_when_workers_have_caught_up(client: Client, world: World) -> None:
    client.submit(NAME, items(1, 2, 3))
    taken: list[int] = []

    def submit() -> None:
        taken.append(client.submit(NAME, iter(items(4)), at_bound="wait").accepted)

    waiting = threading.Thread(target=submit)
    waiting.start()
    waiting.join(0.2)
    assert taken == []
    finish(world)
    waiting.join(60)
    assert taken == [1]


def test_between_two_counts_a_process_adds_what_it_stores(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound, "COUNT_EVERY_S", 3600.0)
    client.submit(NAME, items(1))
    client.submit(NAME, items(2, 3))
    finish(world)
    with pytest.raises(QueueFull):
        client.submit(NAME, items(4))


def test_another_word_is_an_error(client: Client) -> None:
    with pytest.raises(UsageError, match="at_bound: expected refuse or wait, found 'drop'"):
        client.submit(NAME, items(1), at_bound="drop")  # type: ignore[arg-type]


def test_the_command_refuses_with_a_code_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("database_url", "broker_url"):
        monkeypatch.setenv(f"DATASHUNT_{name.upper()}", getattr(world.settings, name).get_secret_value())
    monkeypatch.setenv("DATASHUNT_MAX_QUEUED", "1")
    for number in (1, 2):
        (tmp_path / f"{number}.csv").write_text(f"id,text\ni{number},text\n")
    run = CliRunner().invoke
    assert run(app, ["submit", NAME, str(tmp_path / "1.csv")]).exit_code == 0
    full = run(app, ["submit", NAME, str(tmp_path / "2.csv")])
    assert isinstance(full.exception, QueueFull)
    assert full.exception.exit_code == 4
    wrong = run(app, ["submit", NAME, str(tmp_path / "2.csv"), "--at-bound", "drop"])
    assert "expected refuse or wait, found 'drop'" in str(wrong.exception)
    monkeypatch.setattr(time, "sleep", lambda _: finish(world))
    assert run(app, ["submit", NAME, str(tmp_path / "2.csv"), "--at-bound", "wait"]).exit_code == 0
