"""The distil lane on a real database: who judges, who serves afterwards, and what a lost lease leaves behind.

Training itself is a stand-in here; its own tests are elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lanes import LABELS, NAME, FakeLLM, FakeModel, FakeModels, World, reply

import datashunt.distil
import datashunt.small
from datashunt.distil import Challenger
from datashunt.errors import ModelError
from datashunt.items import Item
from datashunt.pipeline import distil as lane
from datashunt.pipeline import lesson
from datashunt.pipeline.distil import Distiller
from datashunt.prompts import Prompt
from datashunt.store import distillations

ITEMS = 120


class Wrong(FakeModel):
    """Is sure of the label after the right one."""

    def _one(self, text: str) -> Any:
        return super()._one(text)[[2, 0, 1]]


class Training:
    """Stands in for training: keeps what it was given, and lets something happen meanwhile."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.model: FakeModel = FakeModel()
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(
        self,
        plan: Any,
        train: Sequence[Any],
        fit: Sequence[Any],
        replay: Sequence[str],
        incumbent: Any,
        out: Path,
        progress: Callable[[str, float], None],
    ) -> Challenger:
        self.given = {"plan": plan, "train": train, "fit": fit, "replay": replay, "incumbent": incumbent}
        self.meanwhile()
        progress("absorb", 0.5)
        out.mkdir(parents=True)
        (out / "weights").write_text("weights")
        return Challenger(out, "head", 1.0, {"agreement": 0.9})


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    made = Training()
    monkeypatch.setattr(datashunt.distil, "distil", made)
    monkeypatch.setattr(datashunt.small.SmallModel, "load", lambda *_, **__: made.model)
    return made


@pytest.fixture
def due(world: World) -> World:
    """Answers to learn from, half of them held out, and a distillation that is due."""
    world.apply(distil={"min_new_answers": 1})
    world.submit(*[Item(f"i{n}", f"{LABELS[n % 3]} 0.95 number {n}") for n in range(ITEMS)])
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items")]))
    world.change(
        "UPDATE asks SET role = (ARRAY['train', 'judge', 'train', 'fit'])[1 + item_id % 4],"
        " propensity = CASE WHEN item_id % 2 = 1 THEN 0.5 END"
    )
    world.ask(FakeLLM([said]))
    make_due(world)
    return world


def said(prompt: Prompt) -> Any:
    """The LLM's answer: the first word of the item."""
    text: str = json.loads(prompt.messages[-1]["content"])["item"]
    return reply(text.split(maxsplit=1)[0])


def make_due(world: World) -> None:
    with world.store.begin() as tx:
        assert distillations.make_due(tx, world.known(), judges=0) is not None


def distil(world: World, incumbent: FakeModel | None = None) -> str | None:
    model = incumbent or FakeModel()
    model.info = SimpleNamespace(recipe="head")  # type: ignore[attr-defined]
    models: Any = FakeModels(*[model] * 5)
    return Distiller(world.store, models, world.runtime.registry, world.settings).run(NAME)


def run_row(world: World) -> Any:
    return world.rows("SELECT * FROM distillations ORDER BY id DESC LIMIT 1")[0]


def test_nothing_due_means_nothing_done(world: World, training: Training) -> None:
    assert distil(world) is None
    assert training.given == {}


def test_the_first_bundle_that_beats_the_majority_serves_and_is_certified(due: World, training: Training) -> None:
    assert distil(due) == "promoted"
    incumbent = due.known().incumbent
    assert incumbent is not None
    assert (incumbent.version, incumbent.state, incumbent.recipe, incumbent.parent_id) == (1, "promoted", "head", None)
    row = run_row(due)
    assert (row.state, row.bundle_id, row.n_train, row.n_fit, row.n_judge) == ("promoted", incumbent.id, 60, 30, 30)
    assert row.verdict["promote"] is True
    assert row.up_to_answer == due.one("SELECT max(id) FROM answers")
    certificate = due.rows("SELECT * FROM certificates")[0]
    assert (certificate.n, certificate.k, certificate.fingerprints) == (30, 0, ["fp_1"])
    assert certificate.alpha == pytest.approx(1 - 0.1 ** (1 / 30))
    assert [entry.kind for entry in due.rows("SELECT kind FROM delta_ledger ORDER BY id")] == ["verdict", "certificate"]
    assert due.runtime.registry.fetch(incumbent.uri, incumbent.content_hash).joinpath("weights").exists()


def test_held_out_answers_are_not_trained_on(due: World, training: Training) -> None:
    distil(due)
    texts = due.rows("SELECT role, text FROM texts JOIN answers USING (item_id)")
    assert {example.text for example in training.given["train"]} == {row.text for row in texts if row.role == "train"}
    assert {text for text, _ in training.given["fit"]} == {row.text for row in texts if row.role == "fit"}


def test_a_text_that_is_held_out_is_not_trained_on_under_another_id_either(due: World, training: Training) -> None:
    twin = due.one("SELECT text FROM texts JOIN answers USING (item_id) WHERE role = 'judge' LIMIT 1")
    other = due.one("SELECT item_id FROM answers WHERE role = 'train' LIMIT 1")
    due.change("UPDATE texts SET text = :text WHERE item_id = :item", text=twin, item=other)
    distil(due)
    assert twin not in {example.text for example in training.given["train"]}
    assert run_row(due).n_train == 59


def test_answers_of_another_prompt_train_but_do_not_judge(due: World, training: Training) -> None:
    due.apply(distil={"min_new_answers": 1}, instruction="Say it in other words.")
    distil(due)
    assert (len(training.given["train"]), len(training.given["fit"])) == (60, 0)
    assert run_row(due).n_judge == 0


def test_a_challenger_that_is_worse_is_rejected_and_kept_on_file(due: World, training: Training) -> None:
    training.model = Wrong()
    assert distil(due) == "rejected"
    assert due.known().incumbent is None
    assert due.rows("SELECT state FROM bundles") == [("rejected",)]
    assert due.one("SELECT count(*) FROM certificates") == 0
    assert [entry.kind for entry in due.rows("SELECT kind FROM delta_ledger")] == ["verdict"]
    assert run_row(due).verdict["promote"] is False


def test_a_challenger_is_judged_against_the_incumbent(due: World, training: Training) -> None:
    due.bundle()
    training.model = Wrong()
    assert distil(due) == "rejected"
    assert due.known().incumbent.version == 1  # type: ignore[union-attr]
    make_due_again(due)
    training.model = FakeModel()
    assert distil(due, incumbent=Wrong()) == "promoted"
    assert due.known().incumbent.version == 3  # type: ignore[union-attr]


def make_due_again(world: World) -> None:
    world.change("UPDATE distillations SET up_to_answer = 0")
    make_due(world)


def test_what_the_incumbent_kept_is_replayed_unless_it_is_held_out(due: World, training: Training) -> None:
    due.bundle()
    due.submit(Item("kept", "positive 0.95 kept"), Item("doubt", "positive 0.5 doubt"))
    rows = [row.id for row in due.rows("SELECT id FROM items WHERE state = 'queued'")]
    list(due.scorer().run(NAME, rows))
    distil(due)
    assert training.given["replay"] == ["positive 0.95 kept"]
    assert training.given["incumbent"] is not None


def test_a_race_lost_to_another_promotion_leaves_that_one_serving(due: World, training: Training) -> None:
    training.meanwhile = lambda: due.bundle() and None
    assert distil(due) == "overtaken"
    assert due.known().incumbent.version == 1  # type: ignore[union-attr]
    assert run_row(due).state == "overtaken"
    assert due.one("SELECT count(*) FROM certificates") == 0


def test_labels_that_change_meanwhile_keep_the_challenger_from_serving(due: World, training: Training) -> None:
    training.meanwhile = lambda: due.apply(labels=["bad", "good"]) and None
    assert distil(due) == "overtaken"
    assert due.known().incumbent is None


@pytest.mark.parametrize("beats", [True, False])
def test_a_lost_lease_writes_nothing(
    due: World, training: Training, monkeypatch: pytest.MonkeyPatch, beats: bool
) -> None:
    """Whether a heartbeat finds out, or only the end of the work does."""
    if not beats:
        monkeypatch.setattr(lane.Distiller, "_heartbeat", lambda *_: lambda *__: None)
    training.meanwhile = lambda: due.change("UPDATE distillations SET lease_token = gen_random_uuid()")
    assert distil(due) == "overtaken"
    assert due.states("distillations") == {"running": 1}
    for table in ("bundles", "certificates", "delta_ledger", "promotions"):
        assert due.one(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("error", [ModelError("the base is gone"), RuntimeError("CUDA out of memory"), OSError("full")])
def test_a_failure_is_written_down_and_nothing_serves(due: World, training: Training, error: Exception) -> None:
    def fail() -> None:
        raise error

    training.meanwhile = fail
    assert distil(due) == "failed"
    row = run_row(due)
    assert (row.state, row.error, row.lease_token) == ("failed", f"{type(error).__name__}: {error}", None)
    assert due.known().incumbent is None
    assert due.one("SELECT count(*) FROM bundles") == 0


def test_hard_pruning_gets_a_cut_from_the_fit_answers_that_escalate(
    due: World, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    due.apply(distil={"min_new_answers": 1}, prompt={"pruning": "hard"}, policy={"threshold": 0.99})
    distil(due)
    assert due.one("SELECT prune_cut FROM bundles") is None  # 30 are too few for a coverage of 99 %
    monkeypatch.setattr(lesson, "COVERAGE", 0.9)
    make_due_again(due)
    distil(due)
    assert due.one("SELECT prune_cut FROM bundles ORDER BY id DESC LIMIT 1") == pytest.approx(0.95)
