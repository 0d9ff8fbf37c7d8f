"""From the previous release to this one, with its real workers: schema first or workers first, nothing stands still."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from datashunt.store import Store, migrate, schema
from tests.acceptance import previous
from tests.acceptance.conftest import System, until
from tests.acceptance.previous import Previous
from tests.tiny import tiny_base
from tests.words import LABELS, WORDS

LANES = ("score", "llm", "distil", "beat")


def item(number: int) -> dict[str, str]:
    """Two of three tell their tone, and are kept when that is learned; of the others the LLM is asked for ever."""
    telling = WORDS[number % 3][number // 3 % 4] if number // 3 % 3 else "this"
    return {"id": f"u{number}", "text": f"the camera is really {telling} and it was {number}"}


def items(start: int, count: int) -> list[dict[str, str]]:
    return [item(number) for number in range(start, start + count)]


@pytest.fixture
def known() -> list[tuple[str, str, str]]:
    """What the simulated LLM answers."""
    return [(item(number)["id"], item(number)["text"], LABELS[number % 3]) for number in range(4_000)]


@pytest.fixture
def before(tmp_path: Path) -> Previous:
    return previous.unpack(tmp_path / "previous")


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """The test says who migrates it, and how far."""
    return empty_database_url


@pytest.fixture
def logins() -> Mapping[str, Callable[[str], str]]:
    """All have the rights of the owner: what roles may do is tested elsewhere, on the schema of one release."""
    return {role: lambda url: url for role in ("producer", "worker", "reader")}


@pytest.fixture
def at_previous(system: System, before: Previous, tmp_path: Path) -> System:
    """Its database as the previous release made it, with a classifier that learns fast."""
    before.run(system.settings, "db", "upgrade")
    file = tmp_path / "tone.yaml"  # JSON is YAML
    document = {
        "name": "tone",
        "labels": list(LABELS),
        "instruction": "Tell the tone.",
        "policy": {"threshold": 0.6, "audit_rate": 0.2},
        "distil": {"every_s": 0.5, "min_new_answers": 30},
        "small_model": {"base": tiny_base(tmp_path / "base")},
        "llm": {"model": "teacher", "api": "chat", "input_price": "1", "output_price": "2"},
    }
    file.write_text(json.dumps(document))
    before.run(system.settings, "classifier", "apply", str(file))
    return system


def flow(system: System) -> None:
    """Items go through all lanes from now on: asked, learned from, and kept by the small model."""
    items_before = int(system.one("SELECT coalesce(max(id), 0) FROM items"))
    lessons_before = int(
        system.one("SELECT coalesce(max(id), 0) FROM distillations WHERE state NOT IN ('due', 'running')")
    )
    sent = int(system.one("SELECT count(*) FROM items"))

    def all_lanes() -> bool:
        nonlocal sent
        if system.one("SELECT count(*) FROM items WHERE state <> 'done'") == 0:
            system.client.submit("tone", items(sent, 40))
            sent += 40
        return bool(
            system.one(
                "SELECT EXISTS (SELECT FROM items WHERE source = 'small' AND id > :item)"
                " AND EXISTS (SELECT FROM items WHERE source = 'llm' AND id > :item)"
                " AND EXISTS (SELECT FROM distillations WHERE state IN ('promoted', 'rejected') AND id > :lesson)",
                item=items_before,
                lesson=lessons_before,
            )
        )

    until(all_lanes, "items that are asked, learned from and kept", timeout_s=250)


def more(system: System) -> None:
    """Forty items that nobody waits for."""
    system.client.submit("tone", items(int(system.one("SELECT count(*) FROM items")), 40))


def settled(system: System) -> None:
    """Everything is finished, once, and paid once."""
    until(lambda: system.one("SELECT count(*) FROM items WHERE state <> 'done'") == 0, "all items to be done")
    until(lambda: system.one("SELECT count(*) FROM asks WHERE state <> 'answered'") == 0, "the audits")
    system.assert_sound(int(system.one("SELECT count(*) FROM items")))
    assert system.simulator.ledger["served"] == system.one("SELECT count(*) FROM calls")


def end(*workers: subprocess.Popen[bytes]) -> None:
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(timeout=60) for worker in workers] == [0] * len(workers)


def upgrade(system: System, to: str = "head") -> tuple[str | None, str | None]:
    """As `datashunt db upgrade` does it, under a usual limit of idleness: that of this system's workers is short."""
    assert system.settings.database_url is not None
    with closing(Store(system.settings.database_url, pool_size=1)) as store:
        return migrate.upgrade(store, to)


def revision(system: System) -> str | None:
    with system.store.begin() as tx:
        return schema.revision(tx)


@pytest.mark.timeout(700)  # six workers that load torch, on a busy machine
def test_schema_first_the_previous_workers_go_on_until_new_ones_take_over(
    at_previous: System, before: Previous
) -> None:
    system = at_previous
    assert revision(system) == before.head
    old = [system.start(lane, release=before.folder) for lane in LANES]
    system.client.submit("tone", items(0, 80))
    until(lambda: system.done() > 0, "workers of the previous release at work")
    assert upgrade(system) == (before.head, migrate.head())
    flow(system)
    assert [worker.poll() for worker in old] == [None] * len(old)
    for lane in LANES:
        system.start(lane)
    until(lambda: system.one("SELECT count(*) FROM workers") == 6, "workers of both releases")
    more(system)
    end(*old)
    flow(system)
    settled(system)


@pytest.mark.timeout(700)  # six workers that load torch, on a busy machine
def test_workers_first_the_new_ones_go_on_while_and_after_the_schema_is_migrated(
    at_previous: System, before: Previous
) -> None:
    system = at_previous
    new = [system.start(lane) for lane in LANES]
    flow(system)
    assert revision(system) == before.head
    more(system)
    upgrade(system)
    more(system)
    settled(system)
    end(*new)


def test_the_oldest_schema_that_is_worked_on_is_the_previous_release_s(before: Previous) -> None:
    assert before.head == schema.OLDEST


def test_a_worker_refuses_a_schema_of_a_release_before_the_previous_one(system: System) -> None:
    upgrade(system, "0013")
    worker = system.start("score")
    assert worker.wait(timeout=60) == 2
    said = system.log("score", -1)
    assert f"the database is at 0013, this release needs {schema.OLDEST} or newer: run `datashunt db upgrade`" in said
    assert "Traceback" not in said


def test_a_worker_that_began_without_a_database_refuses_its_schema_as_soon_as_it_can_be_asked(
    system: System, server_urls: tuple[str, str]
) -> None:
    upgrade(system, "0013")
    name = sql.Identifier(str(system.store.engine.url.database))
    system.store.close()
    with psycopg.connect(server_urls[0], autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        worker = system.start("score")
        until(lambda: "schema_unknown" in system.log("score", -1), "a worker that has asked in vain")
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    assert worker.wait(timeout=60) == 2
    assert "the database is at 0013" in system.log("score", -1)
