"""A promise of all items, on a real database: what pruned prompts miss and what other models answer counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lanes import NAME, FakeLLM, World
from test_certify import PROMISE, certify, kinds, mixed, says, standing, texts
from test_command_line import Run, run

from datashunt.items import Item
from datashunt.pipeline import guard, pruning
from datashunt.policy import TargetPolicy

__all__ = ["run"]  # fixtures

OF_ALL: dict[str, Any] = {**PROMISE, "of": "all"}
HARD = {"pruning": "hard", "coverage": 0.8}


def work(world: World, items: list[Item], role: str = "judge") -> None:
    """Submit items, score them, give all asks one role, and let the LLM answer."""
    world.submit(*items)
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items")]))
    world.change(
        "UPDATE asks SET role = :role, offered = NULL, propensity = CASE WHEN :role <> 'train' THEN 1.0 END"
        " WHERE state = 'waiting'",
        role=role,
    )
    world.ask(FakeLLM([says]))


def begin(world: World, policy: dict[str, Any] | None = None, **fields: Any) -> World:
    """A bundle that serves, fit answers, and its trial."""
    world.apply(policy={**OF_ALL, **(policy or {})}, **fields)
    work(world, [*texts(20), *texts(10, "0.5", start=20)], role="fit")
    world.bundle()
    certify(world)
    assert world.one("SELECT count(*) FROM trials") == 1
    return world


def test_what_is_proven_is_served_with_the_cut_that_was_tried(world: World, run: Run) -> None:
    begin(world, prompt=HARD)
    tried = world.one("SELECT cuts FROM trials")
    work(world, mixed(60, start=200))
    certify(world)
    found = standing(world)
    assert found is not None
    place = world.one("SELECT thresholds FROM trials").index(found.threshold)
    known = world.known()
    assert pruning.cut_of(known, found.threshold) == pytest.approx(tried["cuts"][place])
    assert not pruning.is_due(known, found.threshold)
    assert world.one("SELECT count(*) FROM trial_answers WHERE reach > 1") > 0
    work(world, texts(30, "0.5", start=400), role="fit")  # more to calibrate on, and the same cut: it is what is proven
    certify(world)
    assert pruning.cut_of(world.known(), found.threshold) == pytest.approx(tried["cuts"][place])
    assert "or are asked without the label that the LLM would give" in run("certificate", NAME).out


def test_a_label_that_would_not_have_been_offered_is_a_miss(world: World) -> None:
    begin(world, prompt=HARD)
    # three labels of which two are offered: the third is the LLM's in every doubtful item
    world.change("UPDATE trials SET cuts = jsonb_set(cuts, '{cuts}', (SELECT jsonb_agg(0.9) FROM unnest(thresholds)))")
    work(world, texts(60, "0.5", start=200))
    certify(world)
    read = world.rows("SELECT reach FROM trial_answers")
    missed = sum(row.reach < 0.9 for row in read)
    assert 0 < missed < len(read)
    assert f"so far 60 of its items, {missed} of them miss" in world.one("SELECT note FROM trials")
    assert standing(world) is None


def test_the_guard_counts_them_too(world: World) -> None:
    begin(world, prompt=HARD)
    work(world, mixed(60, start=200))
    certify(world)
    assert watch(world) is False
    world.change("UPDATE bundles SET prune_cut = 0.9")
    work(world, texts(10, "0.5", start=500))
    certify(world)
    world.change("UPDATE trial_answers SET reach = 0.1 WHERE NOT kept")
    watch(world)
    misses = world.one("SELECT (audits ->> 'misses')::int FROM guards")
    assert misses == 10


def watch(world: World) -> bool:
    known = world.known()
    assert isinstance(known.spec.policy, TargetPolicy)
    with world.store.begin() as tx:
        return guard.watch(tx, known, known.spec.policy)


MODELS = {"llm": {"models": ["teacher-1", "teacher-2"], "input_price": "1", "output_price": "2"}}


def escalate(world: World, count: int, start: int, *, others: int = 0) -> None:
    """Answer so many doubtful items, some of them by another model."""
    work(world, texts(count, "0.5", start=start), role="train")
    world.change(
        "UPDATE answers SET fallback = true WHERE id IN (SELECT id FROM answers ORDER BY id DESC LIMIT :others)",
        others=others,
    )


def test_answers_of_other_models_are_counted_and_end_what_they_leave_no_room_for(world: World, run: Run) -> None:
    begin(world, **MODELS)
    work(world, mixed(60, start=200))
    certify(world)
    assert "not yet: other models answered 0 of 60 items that escalated" not in run("certificate", NAME).out
    found = standing(world)
    assert found is not None
    assert found.findings[1]["target"].endswith("of all are answered by another model")
    assert (found.findings[1]["n"], found.findings[1]["k"]) == (60, 0)
    assert found.findings[0]["allowed"] == pytest.approx(0.3 - found.findings[1]["allowed"])
    escalate(world, 30, 1_000, others=25)
    certify(world)
    assert world.rows("SELECT asked, stood_in FROM trials") == [(90, 25)]
    assert standing(world) is None
    assert kinds(world)[-1] == "withdrawn"
    assert world.known().certified is None
    assert "not yet: other models answered 25 of 90 items that escalated" in world.one("SELECT note FROM trials")
    document = json.loads(run("certificate", NAME, "--json").out)
    assert document["trials"][0]["missing"] > 0
    escalate(world, 400, 2_000)
    certify(world)
    assert standing(world) is not None


def test_what_still_waits_is_counted_later_and_what_waits_too_long_as_another_models(world: World) -> None:
    begin(world, **MODELS)
    work(world, texts(4, "0.5", start=100), role="train")
    world.change("UPDATE asks SET state = 'waiting' WHERE id = (SELECT max(id) - 1 FROM asks)")
    certify(world)
    assert world.rows("SELECT asked, stood_in FROM trials") == [(2, 0)]
    world.change("UPDATE asks SET created_at = now() - interval '3 days' WHERE state = 'waiting'")
    certify(world)
    assert world.rows("SELECT asked, stood_in FROM trials") == [(4, 1)]


def test_another_way_to_ask_ends_a_trial_of_all(world: World) -> None:
    begin(world, prompt=HARD)
    world.apply(policy={**OF_ALL}, prompt={**HARD, "coverage": 0.9})
    assert world.one("SELECT ended_why FROM trials") == "the LLM, the prompt or the promise changed"
