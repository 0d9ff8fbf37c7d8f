"""What consumers read: a stream that skips nothing, the current outcome, states and counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal

import pytest
from lanes import NAME, PRICE, FakeLLM, World, reply
from sqlalchemy import Connection, text

from datashunt import Client
from datashunt.errors import UnknownClassifier, UsageError
from datashunt.items import Item, Result
from datashunt.store import cursors, migrate, results

KEEP, DOUBT = "positive 0.95", "negative 0.5"
PATIENCE_S = 30.0


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with Client(world.settings) as made:
        yield made


def until(read: Callable[[], list[Result]], count: int) -> list[Result]:
    """Read until so many are there: rows are given once no older transaction of the server is open."""
    give_up = time.monotonic() + PATIENCE_S
    while len(found := read()) < count and time.monotonic() < give_up:
        pass
    return found


@contextmanager
def another_transaction(world: World) -> Iterator[Connection]:
    """A transaction that has its number already, and is committed at the end of the block."""
    with world.store.begin() as tx:
        tx.execute(text("SELECT pg_current_xact_id()"))
        yield tx


def outcome(tx: Connection, key: str) -> None:
    tx.execute(
        text(
            "INSERT INTO outcomes (item_id, classifier_id, spec_version, label, source)"
            " SELECT id, classifier_id, 1, 'neutral', 'human' FROM items WHERE key = :key"
        ),
        {"key": key},
    )


def test_a_transaction_that_commits_late_appears_after_the_cursor(world: World, client: Client) -> None:
    world.submit(*[Item(key, DOUBT) for key in ("early", "late", "last")])
    with another_transaction(world) as late:
        outcome(late, "late")
        with world.store.begin() as tx:
            outcome(tx, "early")
        # `early` is committed, but `late` has the smaller number and may still come.
        assert list(client.results(NAME)) == []
    first = until(lambda: list(client.results(NAME)), 2)
    assert [one.id for one in first] == ["late", "early"]
    with world.store.begin() as tx:
        outcome(tx, "last")
    cursor = first[-1].cursor
    assert [one.id for one in until(lambda: list(client.results(NAME, cursor)), 1)] == ["last"]


def test_a_reader_beside_many_writers_misses_nothing_and_reads_nothing_twice(world: World, client: Client) -> None:
    keys = [f"k{n}" for n in range(60)]
    world.submit(*[Item(key, DOUBT) for key in keys])

    def write(mine: list[str]) -> None:
        for key in mine:
            with another_transaction(world) as tx:
                outcome(tx, key)

    seen: list[str] = []
    cursor: str | None = None
    give_up = time.monotonic() + PATIENCE_S
    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, keys[n::4]) for n in range(4)]
        while len(seen) < len(keys) and time.monotonic() < give_up:
            for one in client.results(NAME, cursor):
                seen.append(one.id)
                cursor = one.cursor
        for writer in writers:
            writer.result()
    assert sorted(seen) == sorted(keys)


def test_results_are_read_page_by_page(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datashunt.client.PAGE", 3)
    world.bundle()
    world.score(*[KEEP] * 7)
    found = until(lambda: list(client.results(NAME)), 7)
    assert sorted(one.id for one in found) == [f"i{n}" for n in range(7)]
    for n, one in enumerate(found):
        assert [later.id for later in client.results(NAME, one.cursor)] == [later.id for later in found[n + 1 :]]


def test_a_cursor_that_is_none_of_ours_is_refused(client: Client) -> None:
    for cursor in ("", "1", "1-2-3", "a-b", "-1-2", "1-", "9" * 40 + "-1", "¹-²"):
        with pytest.raises(UsageError, match="is no cursor"):
            list(client.results(NAME, cursor))


def test_a_result_says_everything_about_its_outcome(world: World, client: Client) -> None:
    world.bundle()
    world.score(KEEP, DOUBT)
    world.ask(FakeLLM([reply("neutral", probabilities={"negative": 0.2, "neutral": 0.7, "positive": 0.1})]))
    kept, asked = (client.result(NAME, key) for key in ("i0", "i1"))
    assert kept is not None
    assert (kept.label, kept.source, kept.bundle, kept.llm_model, kept.cost_usd) == ("positive", "small", 1, None, 0)
    assert kept.confidence == pytest.approx(0.95)
    assert kept.probabilities == pytest.approx({"negative": 0.025, "neutral": 0.025, "positive": 0.95})
    assert asked is not None
    assert (asked.label, asked.source, asked.bundle) == ("neutral", "llm", None)
    assert (asked.llm_model, asked.cost_usd) == ("teacher-1-2026", PRICE)
    assert asked.confidence == pytest.approx(0.7)
    assert asked.created_at <= asked.done_at
    assert set(asked.to_json()) == {
        *("id", "label", "confidence", "source", "by", "probabilities", "bundle", "llm_model", "cost_usd"),
        *("created_at", "done_at", "cursor"),
    }


def test_an_item_without_an_outcome_has_no_result(world: World, client: Client) -> None:
    world.score(DOUBT)
    assert client.result(NAME, "i0") is None
    assert client.result(NAME, "never seen") is None
    with pytest.raises(UnknownClassifier):
        client.result("nobody", "i0")


def test_the_outcomes_of_several_items_are_read_at_once(world: World, client: Client) -> None:
    world.bundle()
    world.score(KEEP, DOUBT, KEEP)
    found = client.results_of(NAME, (f"i{n}" for n in (2, 1, 0, 0, 9)))  # one is not finished, one unknown
    assert found == {key: client.result(NAME, key) for key in ("i0", "i2")}
    assert client.results_of(NAME, []) == {}
    with pytest.raises(UnknownClassifier):
        client.results_of("nobody", ["i0"])


def test_the_current_outcome_is_the_last_one_and_the_stream_has_both(world: World, client: Client) -> None:
    world.bundle()
    world.score(KEEP)
    world.change(
        "WITH o AS (INSERT INTO outcomes (item_id, classifier_id, spec_version, label, source)"
        " SELECT id, classifier_id, 1, 'neutral', 'human' FROM items RETURNING id)"
        " UPDATE items SET label = 'neutral', source = 'human', outcome_id = o.id FROM o"
    )
    current = client.result(NAME, "i0")
    assert current is not None
    assert (current.label, current.source) == ("neutral", "human")
    assert [one.label for one in until(lambda: list(client.results(NAME)), 2)] == ["positive", "neutral"]


def test_cost_counts_every_call_of_an_item(world: World, client: Client) -> None:
    world.score(DOUBT)
    world.ask(FakeLLM([reply("none of these"), reply()]))
    found = client.result(NAME, "i0")
    assert found is not None
    assert found.cost_usd == 2 * PRICE


def test_status_counts_by_state_and_source(world: World) -> None:
    world.apply(policy={"audit_rate": 0.0})
    world.bundle()
    world.score(KEEP, KEEP, DOUBT, DOUBT)
    world.ask_once(FakeLLM())
    world.submit(Item("new", KEEP))
    world.change("INSERT INTO dead_letters (classifier_id, item_id, reason, detail) SELECT classifier_id, id, 'x', ''"
                 " FROM items WHERE key = 'new'")  # fmt: skip
    with world.store.begin() as tx:
        found = results.status(tx, world.known().id)
    assert found["items"] == 5
    assert found["states"] == {"done": 3, "asked": 1, "queued": 1}
    assert found["sources"] == {"small": 2, "llm": 1}
    assert (found["backlog"], found["asked"], found["audited"], found["open_asks"]) == (2, 2, 0, 1)
    assert (found["llm_calls"], found["llm_share"], found["dead_letters"]) == (1, 2 / 5, 1)
    assert found["cost_usd"] == pytest.approx(float(PRICE))
    assert found["oldest_s"] >= 0
    assert found["certificate"] is None


def test_status_of_a_new_classifier_has_no_share(world: World) -> None:
    with world.store.begin() as tx:
        found = results.status(tx, world.known().id)
    assert (found["items"], found["states"], found["llm_share"], found["oldest_s"]) == (0, {}, None, None)
    assert found["cost_usd"] == Decimal(0)


def test_what_is_open_is_counted_by_state(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    world.score(KEEP, DOUBT)
    world.submit(*[Item(f"new {n}", KEEP) for n in range(3)])
    world.change("UPDATE items SET state = 'held' WHERE key = 'new 0'")
    with world.store.begin() as tx:
        found = results.still_open(tx, world.known().id)
    assert found == results.Open(queued=2, scoring=0, asked=1, held=1, audits=1)
    assert found.moving == 3


def test_wait_returns_the_state_of_each_item_that_exists(world: World, client: Client) -> None:
    world.bundle()
    world.score(KEEP)
    assert client.wait(NAME, ["i0", "never seen"], timeout_s=5) == {"i0": "done"}


def test_wait_ends_when_the_last_item_is_done(world: World, client: Client) -> None:
    world.score(DOUBT, DOUBT)
    with ThreadPoolExecutor(1) as pool:
        ids = (f"i{n}" for n in range(2))  # read once, however often their states are
        waiting = pool.submit(client.wait, NAME, ids, PATIENCE_S)
        world.ask(FakeLLM())
        assert waiting.result() == {"i0": "done", "i1": "done"}


def test_wait_says_how_many_are_not_done_in_time(world: World, client: Client) -> None:
    world.score(DOUBT, DOUBT)
    with pytest.raises(TimeoutError, match="2 of 2 items of sentiment are not done yet"):
        client.wait(NAME, ["i0", "i1"], timeout_s=0.0)


def test_a_receipt_can_be_read_again_by_its_submission(world: World, client: Client) -> None:
    given = client.submit(NAME, [{"id": "a", "text": "x"}, {"id": "b"}], submission_id="s1")
    assert client.receipt("s1") == given
    assert client.receipt("s2") is None


def test_outcomes_are_all_readable_when_no_older_transaction_is_open(world: World) -> None:
    def readable() -> bool:
        with world.store.begin() as tx:
            return results.all_readable(tx, world.known().id)

    assert readable()
    world.bundle()
    with another_transaction(world):
        world.score(KEEP)
        assert not readable()
    assert until_true(readable)


def until_true(condition: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + PATIENCE_S
    while not (held := condition()) and time.monotonic() < give_up:
        pass
    return held


def restored_elsewhere(world: World) -> None:
    """As a dump leaves it on a server that has given fewer numbers to transactions."""
    world.change("UPDATE outcomes SET xact = xact + 5000000000")


@pytest.mark.parametrize("times", [1, 2])
def test_outcomes_go_on_behind_those_of_a_restored_dump(world: World, client: Client, times: int) -> None:
    world.bundle()
    world.submit(Item("a", KEEP), Item("b", KEEP))
    score_all(world)
    for _ in range(times):
        restored_elsewhere(world)
        migrate.catch_up(world.admin)
    old = until(lambda: list(client.results(NAME)), 2)
    assert [one.id for one in old] == ["a", "b"]
    world.submit(Item("c", KEEP))
    score_all(world)
    newest, row = map(int, str(old[-1].cursor).split("-"))
    read_on = f"{newest + 50_000}-{row + 1_000}"  # there, before the server was lost
    assert [one.id for one in until(lambda: list(client.results(NAME, after=read_on)), 1)] == ["c"]
    new = until(lambda: list(client.results(NAME, after=old[-1].cursor)), 1)
    assert [one.id for one in new] == ["c"]
    assert [one.id for one in client.results(NAME)] == ["a", "b", "c"]
    assert old[-1].cursor != new[-1].cursor


def test_a_cursor_that_would_skip_outcomes_to_come_is_refused(world: World, client: Client) -> None:
    world.bundle()
    world.submit(Item("a", KEEP))
    score_all(world)
    (one,) = until(lambda: list(client.results(NAME)), 1)
    assert list(client.results(NAME, after=one.cursor)) == []
    xact, row = map(int, str(one.cursor).split("-"))
    with pytest.raises(UsageError, match="lies ahead of this database"):
        list(client.results(NAME, after=f"{xact + 50_000}-{row}"))  # of a server that had gone on
    restored_elsewhere(world)
    of_the_dump = world.one("SELECT xact || '-' || id FROM outcomes")
    with pytest.raises(UsageError, match="datashunt db upgrade"):
        list(client.results(NAME, after=of_the_dump))
    migrate.catch_up(world.admin)
    assert list(client.results(NAME, after=of_the_dump)) == []


def test_the_own_outcomes_of_a_server_are_none_of_another(world: World) -> None:
    with world.admin.begin() as tx:
        assert cursors.foreign(tx) is None
    world.bundle()
    world.submit(Item("a", KEEP))
    score_all(world)
    with world.admin.begin() as tx:
        assert cursors.foreign(tx) is None
        before = tx.execute(text(f"SELECT {cursors.ADDED}")).scalar_one()
        cursors.go_on(tx)
        assert tx.execute(text(f"SELECT {cursors.ADDED}")).scalar_one() == before == 0


def score_all(world: World) -> None:
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items WHERE state = 'queued'")]))
