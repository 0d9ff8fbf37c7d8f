"""The backtest decides as the lanes do: same bundle, scores, answers, draw key and order in, same decisions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from lanes import LABELS, NAME, OUTSIDE, Answer, FakeLLM, FakeModels, World, reply
from numpy.typing import NDArray

from datashunt import prompts
from datashunt.backtest.engine import Engine
from datashunt.backtest.ledger import Decision, Trained
from datashunt.backtest.options import Options, draw_key
from datashunt.backtest.output import state
from datashunt.backtest.recording import Recorded, Recording
from datashunt.backtest.student import Student
from datashunt.classifier import NONE_OF_THESE, Spec
from datashunt.distil import Plan, distil
from datashunt.items import Item, ItemState
from datashunt.pipeline import pruning
from datashunt.pipeline.models import Models
from datashunt.pipeline.pruning import Calibration
from datashunt.prompts import Prompt
from datashunt.registry import Registry
from datashunt.settings import Settings
from datashunt.store import bundles, classifiers

SEED = 7
ITEMS = 400
CLOSE = 1e-4
CUT = 0.12
POLICY = {"threshold": 0.6, "audit_rate": 0.15}
NEVER = {"min_new_answers": 10**9}


@dataclass(frozen=True)
class Fate:
    """What became of an item, on either side."""

    state: str
    label: str | None
    source: str | None
    reason: str | None
    audited: bool
    role: str | None
    offered: tuple[str, ...] | None
    small_label: str | None


class Stored:
    """A small model whose probabilities were stored before: text → vector."""

    def __init__(self, vectors: dict[str, NDArray[np.float32]], labels: Sequence[str]) -> None:
        self._vectors, self.labels = vectors, tuple(labels)

    def probabilities(self, texts: Sequence[str], *, batch_tokens: int = 0) -> NDArray[np.float32]:
        return np.stack([self._vectors[text] for text in texts])


def recording(texts: Sequence[str], labels: Sequence[str]) -> Recording:
    """What the LLM said to each text: any label, or of each ninth nothing."""
    drawn = np.random.default_rng(5).integers(0, len(labels), len(texts))
    items = [
        Recorded(place + 1, f"i{place:04}", text, None if place % 9 == 0 else labels[drawn[place]], None)
        for place, text in enumerate(texts)
    ]
    return Recording(tuple(items), 0, (), "0" * 16)


def vectors(texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """A probability vector for each text: some sure, some not, and some exactly at the threshold."""
    rng = np.random.default_rng(11)
    made = rng.dirichlet([0.6] * len(LABELS), len(texts)).astype(np.float32)
    made[::20] = [POLICY["threshold"], 0.3, 0.1]
    return dict(zip(texts, made, strict=True))


def calibrated(spec: Spec) -> Calibration:
    return Calibration(CUT, 100, 0, 0, spec.policy.threshold, spec.prompt.coverage, prompts.prompt_hash(spec))


def incumbent(folder: str, spec: Spec) -> Trained:
    """A bundle that serves from the first item on."""
    return Trained(
        number=1,
        at_item=0,
        up_to=0,
        state="promoted",
        folder=folder,
        recipe="head",
        prune_cut=CUT,
        threshold=POLICY["threshold"],
        verdict={},
        counts={},
        seconds=0.0,
        certificate=None,
        evaluation=pruning.noted({}, calibrated(spec)),
    )


def backtest(
    spec: Spec, recorded: Recording, folder: Path, settings: Settings, serving: Trained | None
) -> list[Decision]:
    engine = Engine(spec, recorded, Options(order="file", seed=SEED), settings, folder)
    if serving is not None:
        engine.ledger.commit([], [serving])
    engine.run(lambda *_: None)
    engine.ledger.close()
    return engine.ledger.decisions


def expected(decision: Decision) -> Fate:
    asked = decision.reason is not None
    return Fate(
        state=str(state(decision)),
        label=decision.label,
        source=decision.source,
        reason=decision.reason,
        audited=decision.audited,
        role=decision.role if asked else None,
        offered=decision.offered if asked else None,
        small_label=decision.small_label,
    )


def llm(recorded: Recording) -> FakeLLM:
    """Answers as it did when it was recorded; where that label is not offered, it says so."""
    said = {item.text: item.teacher for item in recorded.items}

    def answer(prompt: Prompt) -> Answer:
        content = prompt.messages[-1]["content"]
        label = said[next(text for text in said if text in content)]
        if label is None:
            return OUTSIDE
        return reply(label if label in prompt.candidates else NONE_OF_THESE)

    return FakeLLM([answer])


def live(world: World, recorded: Recording, models: Any) -> dict[str, Fate]:
    """Submit the stream, score it and ask: the product itself, on PostgreSQL."""
    world.change("UPDATE classifiers SET draw_key = :key", key=draw_key(SEED))
    _, wakes = world.submit(*[Item(item.id, item.text) for item in recorded.items])
    rows = [row for wake in wakes for row in wake.ids]
    list(world.scorer(models).run(NAME, rows))
    asks = {ask.item_id: ask for ask in world.rows("SELECT item_id, reason, role, propensity, offered FROM asks")}
    world.ask(llm(recorded))
    found = world.rows(
        "SELECT i.id, i.key, i.state, i.label, i.source, s.label AS small_label"
        "  FROM items i LEFT JOIN scores s ON s.item_id = i.id"
    )
    return {row.key: _fate(row, asks.get(row.id)) for row in found}


def _fate(row: Any, ask: Any) -> Fate:
    return Fate(
        state=row.state,
        label=row.label,
        source=row.source,
        reason=ask and ask.reason,
        audited=ask is not None and ask.propensity is not None,
        role=ask and ask.role,
        offered=None if ask is None or ask.offered is None else tuple(ask.offered),
        small_label=row.small_label,
    )


@pytest.mark.parametrize("pruning", ["off", "hard"])
def test_stored_scores_and_answers_lead_to_the_same_decisions(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruning: str
) -> None:
    texts = [f"text number {place:04} of the stream" for place in range(ITEMS)]
    recorded, model = recording(texts, LABELS), Stored(vectors(texts), LABELS)
    spec = world.apply(policy=POLICY, prompt={"pruning": pruning}, distil=NEVER)
    world.bundle(prune_cut=CUT)
    monkeypatch.setattr(Student, "_model", lambda self, one: model)

    decisions = backtest(spec, recorded, tmp_path, world.settings, incumbent("nowhere", spec))
    assert {decision.id: expected(decision) for decision in decisions} == live(world, recorded, FakeModels(model))
    fell_back = [one for one in decisions if one.answer and one.offered and one.answer not in one.offered]
    assert bool(fell_back) == (pruning == "hard")
    _met_everything(decisions, pruned=pruning == "hard")
    answered = [decision for decision in decisions if decision.answer is not None]
    paid = world.one("SELECT count(*) FROM calls WHERE item_id IN (SELECT item_id FROM answers)")
    assert paid == sum(decision.calls for decision in answered)


def test_with_no_bundle_all_are_asked_for_the_same_roles(world: World, tmp_path: Path) -> None:
    recorded = recording([f"text number {place:04} of the stream" for place in range(ITEMS)], LABELS)
    spec = world.apply(policy=POLICY, distil=NEVER)
    decisions = backtest(spec, recorded, tmp_path, world.settings, None)
    assert {decision.id: expected(decision) for decision in decisions} == live(world, recorded, None)
    assert {decision.role for decision in decisions} == {"train", "fit", "judge"}


def test_a_real_bundle_in_fp32_decides_alike_but_for_ties(world: World, tmp_path: Path) -> None:
    settings = world.settings.model_copy(update={"precision": "fp32"})
    spec = world.apply(
        labels=list(tiny.LABELS),
        small_model={"base": tiny.tiny_base(tmp_path / "base"), "max_tokens": 32},
        policy=POLICY,
        prompt={"pruning": "hard"},
        distil=NEVER,
    )
    folder = tmp_path / "run" / "bundles" / "1"
    taught(spec, folder)
    written, _ = tiny.texts(ITEMS, seed=9)
    recorded = recording([f"{text} {place:04}" for place, text in enumerate(written)], tiny.LABELS)

    decisions = backtest(spec, recorded, tmp_path / "run", settings, incumbent("bundles/1", spec))
    registry = Registry(str(tmp_path / "models"), tmp_path / "cache")
    serve(world, registry, folder)
    found = live(world, recorded, Models(registry, settings))
    close = near_an_edge(world)
    assert len(close) < ITEMS / 10
    compared = [decision for decision in decisions if decision.id not in close]
    assert {one.id: expected(one) for one in compared} == {one.id: found[one.id] for one in compared}
    _met_everything(decisions, pruned=True)
    confidence = dict(world.rows("SELECT i.key, s.confidence FROM items i JOIN scores s ON s.item_id = i.id"))  # type: ignore[arg-type]
    for one in decisions:
        assert one.small_confidence == pytest.approx(confidence[one.id], abs=CLOSE)


def taught(spec: Spec, folder: Path) -> None:
    """A bundle that is sure of some texts and not of others."""
    plan = Plan(
        labels=spec.label_names,
        labels_hash=spec.labels_hash,
        base=spec.small_model.base,
        max_tokens=spec.small_model.max_tokens,
        threshold=spec.policy.threshold,
        device="cpu",
        precision="fp32",
        threads=1,
        seed=0,
    )
    train = [tiny.example(text, label) for text, label in zip(*tiny.texts(90, 1), strict=True)]
    fit = list(zip(*tiny.texts(60, 2), strict=True))
    distil(plan, train, fit, [], None, folder, lambda *_: None)


def serve(world: World, registry: Registry, folder: Path) -> None:
    """Publish the bundle and let it serve."""
    uri, content_hash = registry.publish(folder, "sentiment/1")
    with world.store.begin() as tx:
        known = classifiers.current(tx, NAME)
        evaluation = pruning.noted({"judge": {}}, calibrated(known.spec))
        made = bundles.add(
            tx, known, uri=uri, content_hash=content_hash, recipe="head", prune_cut=CUT, evaluation=evaluation
        )
        bundles.promote_by_hand(tx, known, made.version)


def near_an_edge(world: World) -> set[str]:
    """Items with a probability within 10⁻⁴ of the threshold or of the cut."""
    rows = world.rows("SELECT i.key, s.probabilities FROM items i JOIN scores s ON s.item_id = i.id")
    edges = np.array([POLICY["threshold"], CUT])
    return {row.key for row in rows if np.abs(np.array(row.probabilities)[:, None] - edges[None, :]).min() <= CLOSE}


def _met_everything(decisions: Sequence[Decision], *, pruned: bool) -> None:
    """The stream was no easy one: everything happened that can."""
    assert {state(decision) for decision in decisions} == {ItemState.DONE, ItemState.DEAD}
    assert {decision.source for decision in decisions} == {"small", "llm", None}
    assert {decision.reason for decision in decisions} == {"escalation", "audit", None}
    assert {decision.role for decision in decisions if decision.audited} == {"fit", "judge"}
    assert any(decision.reason == "audit" and decision.answer is None for decision in decisions)
    assert any(decision.offered is not None for decision in decisions) == pruned
