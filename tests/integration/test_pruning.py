"""Hard pruning on a real database: calibrated anew, reported, and shown."""

from __future__ import annotations

from typing import Any

import pytest
from lanes import LABELS, FakeLLM, FakeModel, World, reply

from datashunt.classifier import NONE_OF_THESE
from datashunt.cli import status as command
from datashunt.items import Item, Usage
from datashunt.pipeline import pruning
from datashunt.prompts import Prompt, render
from datashunt.store import offers

HARD = {"pruning": "hard", "coverage": 0.9}
MODEL: Any = FakeModel()


def audited(world: World, texts: list[str], role: str, answer: str, *, serving: bool = True) -> None:
    """Score these texts, give all of them one role, and let the LLM give all of them one answer."""
    started = world.one("SELECT coalesce(max(id), 0) FROM asks")
    world.score(*[Item(f"{role}-{started}-{n}", text) for n, text in enumerate(texts)])
    assert (world.known().incumbent is not None) == serving
    world.change(
        "UPDATE asks SET role = :role, propensity = 0.5, offered = NULL, prior = NULL WHERE id > :started",
        role=role,
        started=started,
    )
    world.ask(FakeLLM([reply(answer)]))


def report(world: World, threshold: float = 0.9) -> pruning.Report:
    with world.store.begin() as tx:
        found = pruning.report(tx, world.known(), threshold)
    assert found is not None
    return found


def test_the_serving_bundle_is_calibrated_for_another_threshold(world: World) -> None:
    world.apply(prompt=HARD)
    world.bundle()
    doubtful = [f"negative 0.{70 + n}" for n in range(12)]
    audited(world, doubtful, "fit", "positive")
    audited(world, ["neutral 0.5"] * 12, "judge", "positive")
    found = pruning.recalibrate(world.store, world.known(), MODEL, 0.75)
    assert found is not None
    assert (found.answers, found.missing, found.cut) == (5, 5, None)
    found = pruning.recalibrate(world.store, world.known(), MODEL, 0.9)
    assert found is not None
    known = world.known()
    assert known.incumbent is not None
    assert (known.incumbent.prune_cut, found.cut) == pytest.approx((0.095, 0.095))
    assert known.incumbent.evaluation["judge"]["n"] == 40
    assert pruning.cut_of(known, 0.9) == pytest.approx(0.095)
    assert pruning.cut_of(known, 0.75) is None


def test_only_answers_of_the_llm_and_prompt_in_force_calibrate(world: World) -> None:
    world.apply(prompt=HARD)
    world.bundle()
    audited(world, ["negative 0.7"] * 12, "fit", "negative")
    world.apply(prompt=HARD, instruction="Say it in other words.")
    found = pruning.recalibrate(world.store, world.known(), MODEL, 0.9)
    assert found is not None
    assert (found.answers, found.up_to) == (0, 0)
    assert report(world).missing == 10


def test_what_does_not_prune_or_does_not_serve_is_left_alone(world: World) -> None:
    world.apply(prompt=HARD)
    assert pruning.recalibrate(world.store, world.known(), MODEL, 0.9) is None
    world.apply(prompt={"pruning": "soft"})
    world.bundle()
    assert pruning.recalibrate(world.store, world.known(), MODEL, 0.9) is None
    with world.store.begin() as tx:
        assert pruning.report(tx, world.known(), 0.9) is None


def test_a_change_of_the_threshold_in_the_file_ends_pruning_until_it_is_calibrated(world: World) -> None:
    world.apply(prompt=HARD)
    world.bundle(prune_cut=0.3)
    world.score(Item("before", "negative 0.6"))
    world.apply(prompt=HARD, policy={"threshold": 0.8})
    world.score(Item("after", "negative 0.6"))
    assert world.rows("SELECT offered FROM asks ORDER BY id") == [(["negative", "neutral"],), (None,)]


def test_coverage_is_that_of_audited_items_that_escalate_under_the_serving_bundle(world: World) -> None:
    world.apply(prompt=HARD)
    world.bundle(prune_cut=0.3)  # before the one that serves
    audited(world, ["negative 0.6"], "judge", "negative")
    world.bundle(prune_cut=0.3)
    audited(world, ["negative 0.6"] * 3, "judge", "negative")
    audited(world, ["negative 0.6", "positive 0.95"], "judge", "positive")
    found = report(world)
    assert (found.active, found.covered, found.audited) == (True, 3, 4)
    with world.store.begin() as tx:
        newest = offers.references(tx, world.known(), threshold=0.9)
    assert [one.label for one in newest] == ["positive", "negative", "negative", "negative"]
    assert newest[0].probabilities == pytest.approx((0.6, 0.2, 0.2))


def test_tokens_are_those_of_all_calls_of_pruned_asks(world: World) -> None:
    world.apply(prompt=HARD)
    world.bundle(prune_cut=0.3)
    world.score("negative 0.6 a", "negative 0.6 b", "negative 0.31 of all")
    llm = FakeLLM([_pruned])
    assert world.ask(llm) == 4
    assert [prompt.candidates for prompt in llm.prompts] == [
        ("negative", "neutral"), LABELS, ("negative", "neutral"), LABELS
    ]  # fmt: skip
    with world.store.begin() as tx:
        seen = {one.calls: one for one in offers.asked(tx, world.known())}
    assert {calls: (one.offered, one.tokens, one.last) for calls, one in seen.items()} == {
        1: (("negative", "neutral"), 50, 50),
        2: (None, 150, 100),
    }
    found = report(world)
    assert (found.asks, found.fell_back, found.tokens) == (2, 1, 200)
    spec = world.known().spec
    spared = render(spec, "x").tokens() - render(spec, "x", candidates=LABELS[:2]).tokens()
    assert found.tokens_full == (50 + spared) + 100


def _pruned(prompt: Prompt) -> Any:
    """A prompt over all labels has 100 tokens, a pruned one 50; of text a no label on offer is right."""
    if prompt.allow_none:
        none = ' a"' in prompt.data
        return reply(NONE_OF_THESE if none else "neutral", usage=Usage(50, 5))
    return reply("positive", usage=Usage(100, 5))


def line(world: World) -> str:
    with world.store.begin() as tx:
        state = command._status(tx, world.known(), world.settings)["pruning"]
    return command._pruning(state)


def test_status_says_what_is_missing_and_then_what_is_covered(world: World) -> None:
    world.apply(prompt=HARD)
    assert line(world) == "pruning: 10 more fit answers to escalated items are missing; no label is left out"
    world.bundle()
    audited(world, ["negative 0.7"] * 3, "fit", "negative")
    assert line(world).startswith("pruning: 7 more fit answers")
    audited(world, ["negative 0.7"] * 7, "fit", "negative")
    assert line(world) == "pruning: no label is left out until the next distillation"
    pruning.recalibrate(world.store, world.known(), MODEL, 0.9)
    assert line(world) == "pruning: no audited item has escalated yet; target 0.9"
    audited(world, ["negative 0.7"] * 2, "judge", "negative")
    said = "pruning: 100.0% of 2 audited items that escalate are covered (95 %: 15.8% to 100.0%), target 0.9"
    assert line(world) == said
    world.ask(FakeLLM([_pruned]), world.score("negative 0.6"))
    assert line(world).startswith(f"{said}; 1 pruned, of which 0 asked again over all labels: ")


def test_status_of_what_does_not_prune_has_no_such_line(world: World) -> None:
    with world.store.begin() as tx:
        assert command._status(tx, world.known(), world.settings)["pruning"] is None
