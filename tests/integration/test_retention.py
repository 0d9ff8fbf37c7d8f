"""Retention: months that nobody needs are dropped, ids go later, and all that is counted stays true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lanes import LABELS, NAME, FakeLLM, World, reply
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from datashunt import doctor
from datashunt.classifier import parse
from datashunt.cli import app
from datashunt.errors import SpecError, StoreError, UsageError
from datashunt.items import Item
from datashunt.pipeline.retention import Removed, Retention, fate
from datashunt.settings import Settings
from datashunt.store import classifiers, forget, invariants, partitions, people, results, spend, texts
from datashunt.store import retention as removal
from datashunt.store.partitions import A_MONTH, TABLES, Month
from datashunt.store.people import PersonLabel
from datashunt.store.retention import Share

SURE, UNSURE = "positive 0.99", "negative 0.4"


def turn_of_the_month(world: World) -> None:
    """Items from now on are those of the next month; what is there becomes a hundred days old."""
    world.change(
        "UPDATE items SET created_at = created_at - interval '100 days', done_at = done_at - interval '100 days'"
    )
    world.change("UPDATE submissions SET created_at = created_at - interval '100 days'")
    world.change(
        "SELECT setval(pg_get_serial_sequence('items', 'id'),"
        " (nextval(pg_get_serial_sequence('items', 'id')) / :month + 1) * :month)",
        month=A_MONTH,
    )


def retention(world: World, **of: Any) -> Retention:
    return Retention(world.store, world.settings.model_copy(update={"retention_days": 30, **of}))


def month_of_today(world: World) -> Month:
    with world.store.begin() as tx:
        now = partitions.reached(tx)
        return next(month for month in partitions.months(tx) if month.first <= now < month.end)


def said(world: World) -> dict[str, int]:
    return {table: world.one(f"SELECT count(*) FROM {table}") for table in TABLES}


def sound(world: World) -> None:
    with world.store.begin() as tx:
        found = [(one.name, broken.some) for one, broken in invariants.check(tx) if broken.count]
    assert found == [], "\n".join(f"{name}: {world.rows(f'SELECT * FROM {name}')}" for name in ("items", *TABLES))


def views(world: World) -> tuple[Any, ...]:
    with world.store.begin() as tx:
        status = results.status(tx, world.known().id)
        return status, spend.spent(tx, "day"), spend.spent(tx, "model")


@pytest.fixture
def used(world: World) -> World:
    """Last month three items: kept, asked, and one that repeats that answer."""
    for table in TABLES:
        world.change(f"DROP TABLE {table}_before")  # nothing came before there were partitions
    world.bundle()
    world.apply(policy={"mode": "budget", "calls_per_day": 100, "audit_rate": 0.0})
    submit(world, Item("kept", SURE), Item("asked", UNSURE), Item("again", UNSURE))
    turn_of_the_month(world)
    return world


def submit(world: World, *items: Item) -> None:
    world.submit(*items, submission=items[0].id)
    rows = [row.id for row in world.rows("SELECT id FROM items WHERE state = 'queued' ORDER BY id")]
    asks = [row for wake in world.scorer().run(NAME, rows) for row in wake.ids]
    world.ask(FakeLLM([reply("negative")]), asks)


def test_what_is_old_goes_with_its_partitions_and_the_views_stay_true(used: World) -> None:
    old = used.one("SELECT max(id) FROM items") // A_MONTH * A_MONTH
    submit(used, Item("new", SURE))
    before, month = views(used), month_of_today(used)
    (gone,) = retention(used).run().months
    assert gone.dropped
    assert [(part.classifier, part.items, part.kept) for part in gone.parts] == [(NAME, 3, "")]
    assert (said(used)["texts"], said(used)["outcomes"]) == (1, 1)
    assert used.one("SELECT min(item_id) FROM texts") == used.one("SELECT max(id) FROM items")
    with used.store.begin() as tx:
        assert all(one.first != old for one in partitions.months(tx))
    assert views(used) == before
    assert before[0]["states"] == {"done": 4}
    assert month.first > old
    sound(used)
    assert retention(used).run() == Removed((), {})


def test_only_said_what_would_go_changes_nothing(used: World) -> None:
    before = said(used)
    found = retention(used, idempotency_days=60).run(dry_run=True)
    assert [month.dropped for month in found.months] == [True]
    assert said(used) == before
    assert used.one("SELECT count(*) FROM removed_months") == 0


def test_what_is_younger_or_of_this_month_stays(used: World) -> None:
    submit(used, Item("new", SURE))
    before = said(used)
    (month,) = retention(used, retention_days=101).run().months
    assert not month.dropped
    assert "100.0 days ago, not 101" in month.parts[0].kept
    assert said(used) == before


@pytest.mark.parametrize(
    ("need", "why"),
    [
        ("UPDATE items SET state = 'held', outcome_id = NULL, label = NULL WHERE key = 'kept'", "on their way"),
        ("UPDATE asks SET state = 'waiting' WHERE id = (SELECT min(id) FROM asks)", "questions about them are open"),
        ("UPDATE calls SET state = 'sent', settled_at = NULL", "not settled"),
        (
            "INSERT INTO distillations (classifier_id, spec_version, state) SELECT id, spec_version, 'running'"
            " FROM classifiers",
            "a distillation learns",
        ),
        (
            "INSERT INTO samples (classifier_id, seed, size, population, kept, audit_rate, audited, propensity,"
            " up_to_outcome) SELECT id, 1, 1, 1, 1, 0, 0, 1, 1 FROM classifiers; INSERT INTO sampled_items"
            " SELECT (SELECT max(id) FROM samples), id, outcome_id, false FROM items WHERE key = 'kept'",
            "newest sample for people",
        ),
        (
            "UPDATE asks SET role = 'judge', propensity = 1 WHERE id = (SELECT min(id) FROM asks);"
            " INSERT INTO trials (classifier_id, bundle_id, promise, delta, thresholds, llm_model, prompt_hash,"
            " after_ask, planned) SELECT classifier_id, id, '{}', 0.1, '{0.9}', 'x', 'x', 0, 1 FROM bundles",
            "evidence of a certificate",
        ),
    ],
)
def test_what_is_needed_is_refused_with_the_reason(used: World, need: str, why: str) -> None:
    for statement in need.split(";"):
        used.change(statement)
    before = said(used)
    (month,) = retention(used).run().months
    assert not month.dropped
    assert why in month.parts[0].kept
    assert said(used) == before


def test_a_month_that_another_classifier_needs_loses_only_the_rows_of_one(used: World) -> None:
    other = parse({"name": "other", "labels": list(LABELS), "instruction": "x", "llm": {"model": "m"}})
    with used.store.begin() as tx:
        classifiers.apply(tx, other, "hash")
    used.change("SELECT setval(pg_get_serial_sequence('items', 'id'), (SELECT max(id) FROM items))")
    used.runtime.intake.submit("other", [Item("waits", SURE)], "other")
    turn_of_the_month(used)
    before = views(used)
    (month,) = retention(used).run().months
    assert not month.dropped
    assert {part.classifier: bool(part.kept) for part in month.parts} == {NAME: False, "other": True}
    assert said(used) == {"texts": 1, "scores": 0, "outcomes": 0, "calls": 0, "answers": 0}
    assert views(used)[1:] == before[1:]
    sound(used)
    (month,) = retention(used).run().months
    assert [part.classifier for part in month.parts] == ["other"]


def test_ids_go_after_their_days_and_come_back_as_new_items(used: World) -> None:
    before = views(used)
    stored = used.runtime.intake.receipt("kept")
    assert stored is not None
    assert stored.receipt.ids_since is None
    ended = used.one("SELECT max(done_at) FROM items")
    assert retention(used, idempotency_days=120).run().ids == {NAME: 0}
    assert used.one("SELECT count(*) FROM items") == 3
    assert retention(used, idempotency_days=90).run(dry_run=True).ids == {NAME: 3}
    assert retention(used, idempotency_days=90).run().ids == {NAME: 3}
    for table in ("items", "asks", "submissions"):
        assert used.one(f"SELECT count(*) FROM {table}") == 0
    after = views(used)
    assert after == ({**before[0], "oldest_s": None}, *before[1:])
    sound(used)
    receipt, _ = used.submit(Item("kept", "another text"), submission="again")
    assert (receipt.accepted, receipt.refused, receipt.ids_since) == (1, (), ended)
    assert used.submit(Item("kept", "another text"), submission="again") == (receipt, [])
    refusal = used.runtime.intake.refuse(NAME, "whole", "no")
    stored = used.runtime.intake.receipt("whole")
    assert stored is not None
    assert stored.receipt == refusal
    sound(used)


def test_before_its_migration_ids_go_and_receipts_say_nothing_of_it(used: World) -> None:
    used.change("DROP TABLE removed_ids")
    assert retention(used, idempotency_days=90).run().ids == {NAME: 3}
    receipt, _ = used.submit(Item("kept", SURE), submission="again")
    assert (receipt.accepted, receipt.ids_since) == (1, None)


def test_an_item_that_died_counts_from_its_death(used: World) -> None:
    used.change(
        "UPDATE items SET state = 'dead', label = NULL, source = NULL, outcome_id = NULL, done_at = NULL,"
        " created_at = created_at - interval '1 day'"
    )
    used.change(
        "INSERT INTO dead_letters (classifier_id, item_id, reason, detail, created_at)"
        " SELECT classifier_id, id, 'x', '', created_at + interval '1 hour' FROM items"
    )
    died = used.one("SELECT max(created_at) FROM dead_letters")
    assert retention(used, idempotency_days=90).run().ids == {NAME: 3}
    assert used.submit(Item("kept", SURE), submission="again")[0].ids_since == died


def test_receipts_count_what_was_removed_of_them(used: World) -> None:
    used.change("UPDATE items SET created_at = now() WHERE key = 'kept'")
    used.change("UPDATE items SET done_at = now() - interval '31 days' WHERE key = 'kept'")
    assert retention(used, retention_days=0, idempotency_days=30).run().ids == {NAME: 0}  # their texts are there
    used.change("UPDATE items SET created_at = now() - interval '31 days' WHERE key = 'kept'")
    assert retention(used, idempotency_days=90).run().ids == {NAME: 2}
    assert used.one("SELECT removed FROM submissions") == 2
    sound(used)


def test_a_person_may_still_label_what_was_removed_and_it_may_be_forgotten(used: World) -> None:
    retention(used).run()
    with used.store.begin() as tx:
        people.take(tx, used.known(), [PersonLabel(1, "kept", "neutral", "ann")])
    sound(used)
    with used.store.begin() as tx:
        assert partitions.strays(tx) == {}
        assert forget.forget(tx, used.known().id, NAME, ["kept"]).items == 1
    assert used.one("SELECT count(*) FROM outcomes") == 0
    sound(used)


def test_what_is_forgotten_keeps_its_id_and_lists_every_bundle_that_came_later(used: World) -> None:
    used.change(
        "INSERT INTO distillations (classifier_id, spec_version, state, bundle_id, finished_at)"
        " SELECT classifier_id, spec_version, 'promoted', id, now() FROM bundles"
    )
    retention(used).run()
    with used.store.begin() as tx:
        assert forget.forget(tx, used.known().id, NAME, ["kept"]).bundles == (1,)
    assert retention(used, idempotency_days=90).run().ids == {NAME: 2}
    receipt, _ = used.submit(Item("kept", SURE), submission="again")
    assert [one.reason for one in receipt.refused] == ["id_conflict"]
    assert used.one("SELECT bundles FROM forgotten") == [1]
    sound(used)


def test_a_month_in_use_is_left_alone_and_said_so(used: World) -> None:
    with used.store.begin() as other:
        other.execute(text("SELECT count(*) FROM texts"))
        with pytest.raises(StoreError, match="lock timeout"):
            retention(used).run(tries=1)
    assert retention(used).run().months[0].dropped


def test_nobody_holds_a_text_of_a_month_that_is_being_looked_at(used: World) -> None:
    rows = [row.item_id for row in used.rows("SELECT item_id FROM texts")]
    with used.store.begin() as looking, used.store.begin() as tx:
        month = next(one for one in partitions.months(looking) if one.first <= rows[0] < one.end)
        removal.hold(looking, month)
        tx.execute(text("SET LOCAL lock_timeout = '50ms'"))
        with pytest.raises(OperationalError, match="lock timeout"):
            texts.hold(tx, rows)
        tx.rollback()


def test_who_writes_into_a_month_of_which_nothing_goes_is_not_waited_for(used: World) -> None:
    with used.store.begin() as other:
        other.execute(text("UPDATE outcomes SET created_at = created_at"))
        (month,) = retention(used, retention_days=101).run(tries=1).months
    assert "not 101" in month.parts[0].kept


def test_what_comes_to_be_needed_before_its_month_is_held_stays(used: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hold, held = removal.hold, []

    def after_a_rerun(tx: Connection, month: Month) -> None:
        used.change("UPDATE items SET state = 'queued', outcome_id = NULL, label = NULL WHERE key = 'kept'")
        held.append(month.name)
        hold(tx, month)

    monkeypatch.setattr(removal, "hold", after_a_rerun)
    before = said(used)
    (month,) = retention(used).run().months
    assert held == [month.name]
    assert "on their way" in month.parts[0].kept
    assert said(used) == before


def test_whoever_shall_end_begins_nothing_more(used: World) -> None:
    before = said(used)
    assert retention(used, idempotency_days=90).run(stop=lambda: True) == Removed((), {NAME: 0})
    assert said(used) == before


def test_without_an_age_nothing_goes_and_it_says_what_to_set(used: World) -> None:
    with pytest.raises(UsageError, match=r"policy\.retention_days.*DATASHUNT_RETENTION_DAYS"):
        retention(used, retention_days=0).run()
    assert fate(Share(1, 1, 1e9, ()), NAME, 0).kept == "no retention is set for it"
    assert fate(Share(1, 1, 1e9, ()), NAME, None).kept == "this run is not about it"


def test_the_policy_says_for_its_classifier_and_a_file_without_it_is_as_before(used: World) -> None:
    plain = used.known().spec.document()
    assert "retention_days" not in plain["policy"]
    used.apply(policy={"retention_days": 30, "idempotency_days": 90})
    assert used.known().spec.policy.retention_days == 30
    found = Retention(used.store, used.settings).run(NAME)
    assert (found.months[0].dropped, found.ids) == (True, {NAME: 3})
    with pytest.raises(SpecError, match="ids go last"):
        used.apply(policy={"retention_days": 30, "idempotency_days": 20})


def test_what_is_old_goes_once_an_hour_and_no_tick_waits_for_it(used: World, settings: Settings) -> None:
    from datashunt.pipeline.tick import Ticker

    Ticker(used.store, settings).retain()
    ticker = Ticker(used.store, settings.model_copy(update={"retention_days": 30}))
    ticker.run()
    assert said(used)["texts"] == 3
    ticker.retain()
    assert said(used)["texts"] == 0
    sound(used)
    submit(used, Item("new", SURE))
    turn_of_the_month(used)
    ticker.retain()
    assert said(used)["texts"] == 1


def test_partitions_are_made_ahead_and_take_what_found_none(world: World) -> None:
    today = month_of_today(world)
    with world.store.begin() as tx:
        assert partitions.make(tx) == 0
        ahead = [month for month in partitions.months(tx) if month.first > today.first]
    assert len(ahead) == partitions.AHEAD
    for part in ahead[0].parts:
        world.change(f"DROP TABLE {part}")
    world.change("SELECT setval(pg_get_serial_sequence('items', 'id'), :row)", row=ahead[0].first)
    world.submit(Item("early", SURE))
    with world.store.begin() as tx:
        assert partitions.strays(tx) == {"texts": 1}
    assert not next(one for one in doctor.examine(world.settings) if one.what == "partitions").ok
    with world.store.begin() as tx:
        assert partitions.make(tx) == 2 * len(TABLES)  # that one, and one more ahead of the row that was reached
        assert partitions.strays(tx) == {}
    assert world.one(f"SELECT count(*) FROM {ahead[0].parts[0]}") == 1
    world.bundle()
    list(world.scorer().run(NAME, [world.one("SELECT id FROM items")]))
    assert world.states() == {"done": 1}


def test_the_command_says_what_went_and_what_stays(used: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert used.settings.database_url is not None
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", used.settings.database_url.get_secret_value())
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "memory://")
    run = CliRunner().invoke
    assert run(app, ["retention"]).exit_code != 0
    monkeypatch.setenv("DATASHUNT_RETENTION_DAYS", "30")
    lines = run(app, ["retention", "--all", "--dry-run"]).output.splitlines()
    assert lines[0].endswith("sentiment: 3 items: would be removed")
    assert "would be dropped" in lines[1]
    assert ": dropped, " in run(app, ["retention", NAME]).output
    assert run(app, ["retention", "--all"]).output == "nothing is old enough\n"


def test_who_submits_is_told_up_to_when_ids_went(used: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert used.settings.database_url is not None
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", used.settings.database_url.get_secret_value())
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "memory://")
    file = tmp_path / "items.jsonl"
    file.write_text('{"id": "1", "text": "one"}\n')
    run = CliRunner().invoke
    assert run(app, ["submit", NAME, str(file)]).output == "1 accepted, 0 known already, 0 refused\n"
    used.change("INSERT INTO removed_ids SELECT id, '2026-05-04T10:00+02' FROM classifiers")
    assert run(app, ["submit", NAME, str(file)]).output == "0 accepted, 1 known already, 0 refused\n"
    file.write_text('{"id": "2", "text": "two"}\n')
    lines = run(app, ["submit", NAME, str(file)]).output.splitlines()
    assert (
        lines[1] == "ids of items that ended by 2026-05-04 08:00 UTC may have been removed: such an item is a new one"
    )
