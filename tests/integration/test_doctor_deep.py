"""`datashunt doctor --deep`: a database that has lived is sound; each invariant is broken by hand and found."""

from __future__ import annotations

import pytest
from lanes import NAME, FakeLLM, World, reply
from sqlalchemy import text
from typer.testing import CliRunner

from datashunt import doctor
from datashunt.cli import app
from datashunt.items import Item
from datashunt.store import invariants, people
from datashunt.store.people import PersonLabel

FREE = "SET LOCAL session_replication_role = replica"  # no foreign keys, so that a row can go that others name


@pytest.fixture
def lived(world: World) -> World:
    """A database with small, LLM and human outcomes, audits, a dead letter, a rejected entry, and items under way."""
    world.apply(policy={"mode": "budget", "calls_per_day": 100})
    _, wakes = world.submit(*(f"positive 0.4 cold {n}" for n in range(6)))
    asked = [row for wake in world.scorer().run(NAME, wakes[0].ids) for row in wake.ids]
    world.ask(FakeLLM([reply(probabilities={"positive": 0.9, "neutral": 0.1, "negative": 0.0})]), asked)
    world.bundle()
    world.apply(policy={"audit_rate": 0.3})
    entries = [Item(f"w{n}", f"{'negative 0.95' if n % 2 else 'neutral 0.5'} warm {n}") for n in range(20)]
    _, wakes = world.submit(*entries, {"id": "bad", "text": ""})
    list(world.scorer().run(NAME, wakes[0].ids))
    world.submit(Item("later", "positive 0.99 waits"))
    with world.store.begin() as tx:
        people.take(tx, world.known(), [PersonLabel(1, "w0", "positive", "ann")])
        claimed = tx.execute(
            text(
                "UPDATE asks SET state = 'dead' WHERE id = (SELECT max(id) FROM asks WHERE state = 'waiting'"
                " AND reason = 'escalation') RETURNING item_id, id, classifier_id"
            )
        ).one()
        tx.execute(text("UPDATE items SET state = 'dead' WHERE id = :id"), {"id": claimed.item_id})
        tx.execute(
            text(
                "INSERT INTO dead_letters (classifier_id, item_id, ask_id, reason, detail) VALUES (:c, :i, :a, 'x', '')"
            ),
            {"c": claimed.classifier_id, "i": claimed.item_id, "a": claimed.id},
        )
    return world


def broken(world: World) -> dict[str, str]:
    return {found.what: found.detail for found in doctor.examine_data(world.settings) if not found.ok}


def test_a_database_that_has_lived_is_sound_and_all_kinds_of_rows_are_in_it(lived: World) -> None:
    assert broken(lived) == {}
    assert [found.what for found in doctor.examine_data(lived.settings)] == [one.name for one in invariants.ALL]
    assert set(lived.states()) >= {"queued", "asked", "done", "dead"}
    assert lived.one("SELECT count(DISTINCT source) FROM outcomes") == 3
    assert lived.one("SELECT count(*) FROM asks WHERE reason = 'audit'") > 0
    assert lived.one("SELECT sum(spent) FROM budget_days") > 0
    assert lived.one("SELECT count(*) FROM refusals") == 1


DONE = "(SELECT min(id) FROM items WHERE state = 'done' AND source = '{0}')"
A_SMALL, AN_LLM = DONE.format("small"), DONE.format("llm")
ASKED = "(SELECT min(id) FROM items WHERE state = 'asked')"
A_KEPT = "(SELECT min(id) FROM scores WHERE kept)"
BREAK = {
    "outcome": (
        f"UPDATE items SET label = 'positive' WHERE id = {A_SMALL}",
        f"UPDATE items SET outcome_id = -1 WHERE id = {A_SMALL}",
        f"UPDATE items SET source = 'human' WHERE id = {A_SMALL}",
        "INSERT INTO outcomes (item_id, classifier_id, spec_version, label, source, labelled_by)"
        f" SELECT id, classifier_id, 1, label, 'human', 'bob' FROM items WHERE id = {AN_LLM}",
    ),
    "unfinished": (f"UPDATE items SET label = 'positive' WHERE id = {ASKED}",),
    "outcome_twice": (
        "INSERT INTO outcomes (item_id, classifier_id, spec_version, label, source, bundle_id, score_id, answer_id)"
        " SELECT item_id, classifier_id, spec_version, label, source, bundle_id, score_id, answer_id FROM outcomes"
        f" WHERE item_id = {A_SMALL}",
        "INSERT INTO outcomes (item_id, classifier_id, spec_version, label, source, bundle_id, score_id, answer_id)"
        " SELECT item_id, classifier_id, spec_version, label, source, bundle_id, score_id, answer_id FROM outcomes"
        f" WHERE item_id = {AN_LLM}",
    ),
    "outcome_reason": (
        f"UPDATE outcomes SET score_id = NULL WHERE item_id = {A_SMALL}",
        f"UPDATE scores SET label = 'positive' WHERE item_id = {A_SMALL}",
        f"UPDATE outcomes SET answer_id = NULL WHERE item_id = {AN_LLM}",
        "UPDATE outcomes SET labelled_by = NULL WHERE source = 'human'",
        f"DELETE FROM items WHERE id = {AN_LLM}",
    ),
    "dead": ("DELETE FROM dead_letters", "UPDATE dead_letters SET replayed_at = now()"),
    "dead_letter": (
        "UPDATE asks SET state = 'withdrawn' WHERE state = 'dead'",
        "UPDATE dead_letters SET ask_id = NULL; UPDATE items SET state = 'queued' WHERE state = 'dead'",
    ),
    "item_lease": (
        f"UPDATE items SET state = 'scoring' WHERE id = {ASKED}",
        f"UPDATE items SET lease_token = gen_random_uuid() WHERE id = {A_SMALL}",
    ),
    "asked": (
        f"UPDATE asks SET state = 'withdrawn' WHERE item_id = {ASKED}",
        f"UPDATE items SET state = 'queued' WHERE id = {ASKED}",
    ),
    "text": (f"DELETE FROM texts WHERE item_id = {ASKED}",),
    "receipt": (
        "UPDATE submissions SET accepted = accepted + 1",
        "DELETE FROM refusals",
        "UPDATE submissions SET error = 'no'",
    ),
    "ask_lease": (
        "UPDATE asks SET lease_token = gen_random_uuid() WHERE state = 'answered'",
        "UPDATE asks SET state = 'calling' WHERE state = 'waiting'",
        "UPDATE asks SET state = 'calling', lease_token = gen_random_uuid() WHERE state = 'waiting'",
    ),
    "answer": (
        "DELETE FROM answers WHERE id = (SELECT min(id) FROM answers)",
        "UPDATE asks SET state = 'dead' WHERE id = (SELECT min(ask_id) FROM answers)",
        "UPDATE answers SET role = CASE role WHEN 'judge' THEN 'fit' ELSE 'judge' END",
    ),
    "paid_answer": (
        "UPDATE calls SET state = 'failed' WHERE id = (SELECT min(call_id) FROM answers)",
        "UPDATE answers SET call_id = (SELECT max(id) FROM calls) WHERE id = (SELECT min(id) FROM answers)",
    ),
    "reference": ("UPDATE answers SET had_prior = true WHERE role <> 'train'",),
    "call": (
        "UPDATE calls SET cost_usd = NULL",
        "UPDATE calls SET cost_usd = -1",
        "UPDATE calls SET item_id = item_id + 1",
    ),
    "budget": ("UPDATE budget_days SET spent = spent + 1", "UPDATE budget_days SET reserved = reserved + 1"),
    "score": (
        f"UPDATE scores SET probabilities = '{{1}}' WHERE id = {A_KEPT}",
        f"UPDATE scores SET label = 'other' WHERE id = {A_KEPT}",
        "INSERT INTO classifiers (name, spec_version, draw_key) VALUES ('two', 1, '');"
        " UPDATE bundles SET classifier_id = (SELECT id FROM classifiers WHERE name = 'two')",
    ),
    "kept": (
        "UPDATE scores SET kept = true WHERE NOT kept",
        f"UPDATE scores SET threshold = 0.99 WHERE id = {A_KEPT}",
    ),
    "incumbent": ("UPDATE bundles SET state = 'rejected'", "UPDATE bundles SET labels_hash = 'x'"),
    "distillation": (
        "INSERT INTO distillations (classifier_id, spec_version, state) SELECT id, 1, 'running' FROM classifiers",
        "INSERT INTO distillations (classifier_id, spec_version, state) SELECT id, 1, 'rejected' FROM classifiers",
    ),
    "certificate": (
        "INSERT INTO certificates (classifier_id, bundle_id, threshold, alpha, delta, n, k, method, llm_model,"
        " fingerprints, prompt_hash, labels_hash, bundle_hash)"
        " SELECT classifier_id, id, 0.9, 0.1, 0.1, 3, 4, 'm', 'm', '{}', '', '', '' FROM bundles",
    ),
}


@pytest.mark.parametrize(("name", "statement"), [(name, one) for name, all_ in BREAK.items() for one in all_])
def test_a_broken_invariant_is_named(lived: World, name: str, statement: str) -> None:
    with lived.store.begin() as tx:
        tx.execute(text(FREE))
        tx.execute(text("ALTER TABLE asks DROP CONSTRAINT ck_asks_budget"))
        for one in statement.split("; "):
            tx.execute(text(one.strip().removesuffix(";")))
    found = broken(lived)
    assert name in found
    assert found[name].startswith("broken ")


def test_on_a_budget_the_rank_decides_and_not_the_threshold(lived: World) -> None:
    lived.change(f"UPDATE scores SET threshold = 0.99 WHERE id = {A_KEPT}")
    assert list(broken(lived)) == ["kept"]
    lived.change("UPDATE specs SET document = jsonb_set(document, '{policy,mode}', '\"budget\"')")
    assert broken(lived) == {}


def test_each_invariant_has_a_test_that_breaks_it() -> None:
    assert list(BREAK) == [one.name for one in invariants.ALL]


def test_the_command_names_items_and_ends_with_1(lived: World, monkeypatch: pytest.MonkeyPatch) -> None:
    url = lived.settings.database_url
    assert url is not None
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", url.get_secret_value())
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "redis://127.0.0.1:9/0")  # nobody but PostgreSQL is asked
    sound = CliRunner().invoke(app, ["doctor", "--deep"])
    assert sound.exit_code == 0
    lived.change("UPDATE items SET label = 'positive' WHERE state = 'done' AND source = 'small'")
    told = CliRunner().invoke(app, ["doctor", "--deep"])
    assert told.exit_code == 1
    assert "outcome: broken 10 times" in told.output
    assert "Not so: sentiment/w1, " in told.output


def test_a_database_that_was_never_migrated_is_told_how(world: World, empty_database_url: str) -> None:
    settings = world.settings.model_copy(update={"database_url": type(world.settings.database_url)(empty_database_url)})
    (found,) = doctor.examine_data(settings)
    assert not found.ok
    assert "run `datashunt db upgrade`" in found.detail
