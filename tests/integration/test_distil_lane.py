"""The distil lane on a real database: who judges, who serves afterwards, and what a lost lease leaves behind.

Training itself is a stand-in here; its own tests are elsewhere.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lanes import LABELS, NAME, FakeLLM, FakeModel, FakeModels, World, reply

import datashunt.distil
import datashunt.small
from datashunt import small
from datashunt.distil import Challenger
from datashunt.errors import ModelError, StoreError
from datashunt.items import Item
from datashunt.pipeline import distil as lane
from datashunt.pipeline import heartbeat, lesson
from datashunt.pipeline.distil import Distiller
from datashunt.prompts import Prompt
from datashunt.registry import Registry
from datashunt.small import BundleInfo
from datashunt.store import distillations, forget

ITEMS = 120


TARGET = {"mode": "target", "alpha": 0.1, "threshold": 0.9, "audit_rate": 0.5}


class Wrong(FakeModel):
    """Is sure of the label after the right one."""

    def _one(self, text: str) -> Any:
        return super()._one(text)[[2, 0, 1]]


class Training:
    """Stands in for training: keeps what it was given, and lets something happen meanwhile."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.model: FakeModel = FakeModel()
        self.opening: Callable[[], None] = lambda: None
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
        checkpoint: Path,
    ) -> Challenger:
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "state").write_text("kept")
        self.checkpoint = checkpoint
        self.given = {"plan": plan, "train": train, "fit": fit, "replay": replay, "incumbent": incumbent}
        progress("load", 0.0)
        self.opening()
        self.meanwhile()
        progress("absorb", 0.5)
        out.mkdir(parents=True)
        (out / "weights").write_text("weights")
        small.describe(out, BundleInfo(plan.labels, 1.0, "head", plan.threshold, plan.base, 16, "", parent=plan.parent))
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


def distil(world: World, incumbent: FakeModel | None = None, stop: Callable[[], bool] = lambda: False) -> str | None:
    model = incumbent or FakeModel()
    model.info = SimpleNamespace(recipe="head")  # type: ignore[attr-defined]
    models: Any = FakeModels(*[model] * 5)
    return Distiller(world.store, models, world.runtime.registry, world.settings).run(NAME, stop=stop)


def run_row(world: World) -> Any:
    """The newest one that somebody began with."""
    return world.rows("SELECT * FROM distillations WHERE attempts > 0 ORDER BY id DESC LIMIT 1")[0]


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
    folder = due.runtime.registry.fetch(incumbent.uri, incumbent.content_hash)
    assert (folder / "weights").exists()
    card = small.read_info(folder)
    assert (card.parent, card.evaluation["agreement"], card.evaluation["judge"]["n"]) == (None, 0.9, 30)


def test_a_bundle_is_listed_for_what_was_forgotten_while_it_was_made(due: World, training: Training) -> None:
    def forgotten() -> forget.Forgotten:
        with due.admin.begin() as tx:
            return forget.forget(tx, due.known().id, NAME, ["i0"])

    training.meanwhile = lambda: seen.append(forgotten())
    seen: list[forget.Forgotten] = []
    assert distil(due) == "promoted"
    assert [(one.bundles, one.distilling) for one in seen] == [((), True)]
    assert (forgotten().bundles, forgotten().distilling) == ((1,), False)
    due.change("UPDATE forgotten SET forgotten_at = now() - interval '1 hour'")
    due.change(
        "INSERT INTO distillations (classifier_id, spec_version, state)"
        " SELECT classifier_id, max(version), 'due' FROM specs GROUP BY 1"
    )
    assert distil(due) in {"promoted", "rejected"}
    assert due.rows("SELECT bundles FROM forgotten") == [([1],)], "the next one read nothing of it"
    assert forgotten().bundles == (1, 2), "but began as one that had"


def test_the_first_lesson_is_a_linear_head_and_the_whole_one_is_due_at_once(due: World, training: Training) -> None:
    assert distil(due) == "promoted"
    assert training.given["plan"].recipes == ("head",)
    assert due.states("distillations") == {"promoted": 1, "due": 1}
    assert distil(due) == "promoted"
    assert training.given["plan"].recipes == ("head", "blend", "full")
    assert training.given["incumbent"] is not None, "it is a challenger of the first"
    assert training.given["plan"].parent == due.one("SELECT content_hash FROM bundles WHERE version = 1")
    assert distil(due) is None, "and there is no third"


def test_a_lesson_that_goes_on_from_the_incumbent_has_its_files(
    due: World, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache may have been emptied since a worker has loaded them."""
    distil(due)
    incumbent = due.known().incumbent
    assert incumbent is not None
    cached = due.runtime.registry.fetch(incumbent.uri, incumbent.content_hash)
    shutil.rmtree(cached)
    monkeypatch.setattr(lesson, "FRESH", 0)
    monkeypatch.setattr(lesson, "_goes_on", lambda *_: True)
    training.meanwhile = lambda: seen.append(cached.exists())
    seen: list[bool] = []
    distil(due)
    assert (training.given["plan"].warm, seen) == (True, [True])


def test_a_first_lesson_that_wins_nothing_is_followed_too_and_not_given_again(due: World, training: Training) -> None:
    training.model = Wrong()
    assert distil(due) == "rejected"
    assert distil(due) == "rejected"
    assert training.given["plan"].recipes == ("head", "blend", "full")
    assert distil(due) is None


def test_a_first_lesson_that_failed_is_tried_again_before_the_whole(due: World, training: Training) -> None:
    training.meanwhile = lambda: _raise(ModelError("the base is gone"))
    assert distil(due) == "failed"
    assert due.states("distillations") == {"failed": 1}
    due.change("UPDATE distillations SET finished_at = now() - interval '1 day'")
    make_due(due)
    training.meanwhile = lambda: None
    assert distil(due) == "promoted"
    assert training.given["plan"].recipes == ("head",)


def test_a_whole_lesson_that_failed_is_tried_again_without_new_answers(due: World, training: Training) -> None:
    due.apply(distil={"min_new_answers": 50})
    distil(due)
    training.meanwhile = lambda: _raise(RuntimeError("out of memory"))
    assert distil(due) == "failed"
    assert not due_again(due), "not at once"
    due.change("UPDATE distillations SET finished_at = now() - interval '1 day'")
    assert due_again(due)
    training.meanwhile = lambda: None
    assert distil(due) == "promoted"
    assert training.given["plan"].recipes == ("head", "blend", "full")
    assert not due_again(due), "and now new answers are needed"


def due_again(world: World) -> bool:
    with world.store.begin() as tx:
        return distillations.make_due(tx, world.known(), judges=30) is not None


@pytest.mark.parametrize(
    ("change", "follows"),
    [
        ({"policy": {"threshold": 0.7}}, True),
        ({"labels": ["bad", "good"]}, False),
        ({"instruction": "Say it in other words."}, False),
    ],
)
def test_a_file_that_changes_in_the_first_lesson_says_whether_the_whole_one_has_judges(
    due: World, training: Training, change: dict[str, Any], follows: bool
) -> None:
    training.meanwhile = lambda: due.apply(**change) and None
    distil(due)
    assert due.states("distillations").get("due", 0) == follows


def test_other_labels_begin_with_a_first_lesson_of_their_own(due: World, training: Training) -> None:
    distil(due)
    distil(due)
    due.apply(labels=[*reversed(LABELS)], distil={"min_new_answers": 1})
    known = due.known()
    due.change(
        "UPDATE answers SET labels_hash = :labels, prompt_hash = :prompt",
        labels=known.spec.labels_hash,
        prompt=known.prompt_hash,
    )
    make_due_again(due)
    distil(due)
    assert (training.given["plan"].recipes, training.given["plan"].labels) == (("head",), known.spec.label_names)


def test_with_a_target_the_first_lesson_is_whole(due: World, training: Training) -> None:
    """The proof of a bundle that is replaced at once would be in vain."""
    due.apply(policy=TARGET, distil={"min_new_answers": 1})
    distil(due)
    assert training.given["plan"].recipes == ("head", "blend", "full")
    assert distil(due) is None


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
    due.change("UPDATE distillations SET spec_version = (SELECT max(version) FROM specs)")  # due under this file, too
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


def test_a_winner_does_not_take_over_from_a_certified_bundle(due: World, training: Training) -> None:
    due.apply(policy=TARGET, distil={"min_new_answers": 1})
    serving = due.bundle()
    due.change(
        "INSERT INTO trials (classifier_id, bundle_id, promise, delta, thresholds, llm_model, prompt_hash, after_ask,"
        " planned) VALUES (1, :id, '{}', 0.01, '{0.9}', 'm', 'p', 0, 300)",
        id=serving.id,
    )
    due.change(
        "INSERT INTO certificates (classifier_id, bundle_id, threshold, alpha, delta, n, k, method, llm_model,"
        " fingerprints, prompt_hash, labels_hash, bundle_hash, trial_id)"
        " VALUES (1, :id, 0.9, 0.1, 0.1, 50, 0, 'm', 'l', '{}', 'p', 'l', 'b', 1)",
        id=serving.id,
    )
    assert distil(due, incumbent=Wrong()) == "uncertified"
    known = due.known()
    assert known.incumbent is not None
    assert (known.incumbent.id, known.certified) == (serving.id, 0.9)
    assert due.rows("SELECT version, state FROM bundles ORDER BY id") == [(1, "promoted"), (2, "challenger")]


def test_with_a_target_a_promoted_bundle_has_no_certificate_before_its_trial(due: World, training: Training) -> None:
    due.apply(policy=TARGET, distil={"min_new_answers": 1})
    assert distil(due) == "promoted"
    assert due.one("SELECT count(*) FROM certificates") == 0


def test_a_challenger_is_judged_against_the_incumbent(due: World, training: Training) -> None:
    due.bundle()
    training.model = Wrong()
    assert distil(due) == "rejected"
    assert due.known().incumbent.version == 1  # type: ignore[union-attr]
    make_due_again(due)
    training.model = FakeModel()
    serving = due.known().incumbent
    assert distil(due, incumbent=Wrong()) == "promoted"
    assert due.known().incumbent.version == 3  # type: ignore[union-attr]
    assert training.given["plan"].parent == serving.content_hash  # type: ignore[union-attr]


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


def test_labels_that_come_back_are_learned_at_once_from_the_answers_of_before(due: World, training: Training) -> None:
    due.apply(distil={"min_new_answers": 50})
    distil(due)
    distil(due)
    assert not due_again(due)
    due.apply(labels=["bad", "good"], distil={"min_new_answers": 50})
    assert not due_again(due)
    due.change(
        "INSERT INTO distillations (classifier_id, spec_version, state, up_to_answer, finished_at)"
        " SELECT classifier_id, max(version), 'rejected', 1000000, now() FROM specs GROUP BY 1"
    )
    due.apply(distil={"min_new_answers": 50})
    assert due.known().incumbent is None
    assert due_again(due)
    assert distil(due) == "promoted"
    assert not due_again(due), "no answer is new"


def test_kept_texts_are_looked_for_among_the_newest_scores_since_the_incumbent_was_made(
    due: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = due.bundle()
    due.submit(*[Item(f"k{n}", f"positive 0.95 kept {n}") for n in range(6)])
    list(due.scorer().run(NAME, [row.id for row in due.rows("SELECT id FROM items WHERE state = 'queued'")]))
    newest = due.one("SELECT max(id) FROM scores")

    def found() -> list[str]:
        with due.store.begin() as tx:
            return [one[-1] for one in distillations.confident_texts(tx, due.known(), 100, up_to=newest)]

    assert found() == ["5", "4", "3", "2", "1", "0"]
    due.change("UPDATE distillations SET bundle_id = :id, up_to_score = :score", id=made.id, score=newest - 4)
    assert found() == ["5", "4", "3", "2"]
    monkeypatch.setattr(distillations, "MOST_LOOKED_THROUGH", 3)
    assert found() == ["5", "4", "3"]


def test_a_race_lost_to_another_promotion_leaves_that_one_serving(due: World, training: Training) -> None:
    training.meanwhile = lambda: due.bundle() and None
    assert distil(due) == "overtaken"
    assert due.known().incumbent.version == 1  # type: ignore[union-attr]
    assert run_row(due).state == "overtaken"
    assert due.one("SELECT count(*) FROM certificates") == 0


def test_labels_that_change_meanwhile_keep_the_challenger_from_serving(
    due: World, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane.Distiller, "_heartbeat", lambda *_: nullcontext(lambda *__: None))
    training.meanwhile = lambda: due.apply(labels=["bad", "good"]) and None
    assert distil(due) == "overtaken"
    assert due.known().incumbent is None


def test_a_training_for_labels_that_are_no_longer_in_force_stops_at_its_next_sign_of_life(
    due: World, training: Training
) -> None:
    training.meanwhile = lambda: due.apply(labels=["bad", "good"]) and None
    assert distil(due) == "lease_lost"
    assert (run_row(due).state, run_row(due).error) == ("failed", "the labels changed while it ran")
    assert due.one("SELECT count(*) FROM bundles") == 0
    due.apply(distil={"min_new_answers": 1})
    assert due_again(due), "it failed under another version of the file"


@pytest.mark.parametrize("change", [{"labels": ["positive", "neutral", "negative"]}, {"instruction": "Feel it."}])
def test_a_distillation_that_was_due_under_other_labels_or_another_prompt_is_not_begun_with_too_few_answers(
    due: World, training: Training, change: dict[str, Any]
) -> None:
    due.apply(**change, distil={"min_new_answers": 2})
    for start, end in ((0, 3), (3, 60)):
        assert distil(due) is None
        assert not due_again(due)
        due.submit(*[Item(f"n{n}", f"{LABELS[n % 3]} 0.95 new {n}") for n in range(start, end)])
        list(due.scorer().run(NAME, [row.id for row in due.rows("SELECT id FROM items WHERE state = 'queued'")]))
        due.change(
            "UPDATE asks SET role = CASE WHEN item_id % 3 = 0 THEN 'train' ELSE 'judge' END,"
            " propensity = CASE WHEN item_id % 3 > 0 THEN 0.5 END WHERE state = 'waiting'"
        )
        due.ask(FakeLLM([said]))
    assert due.states("distillations") == {"failed": 1}
    assert due_again(due)
    assert distil(due) == "promoted"
    assert training.given["plan"].recipes == ("head",), "the first lesson of these labels"


def test_a_bundle_that_was_judged_by_too_few_is_no_first_lesson(due: World, training: Training) -> None:
    due.change("UPDATE answers SET role = 'fit' WHERE role = 'judge' AND id % 8 > 0")
    assert distil(due) == "rejected"
    due.change("UPDATE answers SET role = 'judge' WHERE role = 'fit' AND propensity IS NOT NULL AND id % 2 = 0")
    due.change("UPDATE distillations SET state = 'failed', finished_at = now() WHERE state = 'due'")
    due.change("INSERT INTO distillations (classifier_id, spec_version, state) VALUES (1, 2, 'due')")
    distil(due)
    assert training.given["plan"].recipes == ("head",)


@pytest.mark.parametrize("beats", [True, False])
def test_a_lost_lease_writes_nothing(
    due: World, training: Training, monkeypatch: pytest.MonkeyPatch, beats: bool
) -> None:
    """Whether a heartbeat finds out, or only the end of the work does."""
    if not beats:
        monkeypatch.setattr(distillations, "heartbeat", lambda *_, **__: True)
    training.meanwhile = lambda: due.change("UPDATE distillations SET lease_token = gen_random_uuid()")
    assert distil(due) == "lease_lost"
    assert due.states("distillations") == {"running": 1}
    for table in ("bundles", "certificates", "delta_ledger", "promotions"):
        assert due.one(f"SELECT count(*) FROM {table}") == 0
    assert published(due) == []
    assert on_disk(due) == [f"{NAME}-{run_row(due).id}", "state"]  # whoever runs it now may need it


def published(world: World) -> list[str]:
    """The bundles that lie in the registry."""
    return sorted(path.name for path in (world.settings.data_dir / "models" / NAME).glob("*"))


def on_disk(world: World) -> list[str]:
    """What runs keep on this host."""
    return sorted(path.name for path in (world.settings.data_dir / "distil").rglob("*"))


@pytest.mark.parametrize("how", ["promoted", "rejected", "overtaken", "failed"])
def test_a_run_that_has_ended_leaves_nothing_on_this_host(due: World, training: Training, how: str) -> None:
    if how == "rejected":
        training.model = Wrong()
    if how == "overtaken":
        training.meanwhile = lambda: due.bundle() and None
    if how == "failed":
        training.meanwhile = lambda: _raise(ModelError("the base is gone"))
    assert distil(due) == how
    assert on_disk(due) == []


def _raise(error: Exception) -> None:
    raise error


def test_a_run_that_is_stopped_is_due_again_at_once_and_keeps_its_state(due: World, training: Training) -> None:
    asked: list[bool] = []
    training.meanwhile = lambda: asked.append(True)
    assert distil(due, stop=lambda: bool(asked)) == "stopped"
    (row,) = due.rows("SELECT id, state, attempts, lease_token, error FROM distillations")
    assert row[1:] == ("due", 0, None, None)
    assert on_disk(due) == [f"{NAME}-{row.id}", "state"]
    assert [wake.lane for wake in due.runtime.ticker.run()] == ["distil"]
    assert distil(due, stop=lambda: True) is None
    training.meanwhile = lambda: None
    assert distil(due) == "promoted"


def test_a_run_that_is_stopped_after_it_lost_its_lease_changes_nothing(due: World, training: Training) -> None:
    lost: list[None] = []

    def lose() -> None:
        due.change("UPDATE distillations SET lease_token = gen_random_uuid()")
        lost.append(None)

    training.meanwhile = lose
    assert distil(due, stop=lambda: bool(lost)) == "lease_lost"
    assert due.states("distillations") == {"running": 1}


def test_a_database_that_goes_away_fails_no_run(due: World, training: Training) -> None:
    training.meanwhile = lambda: _raise(StoreError("PostgreSQL cannot be used"))
    with pytest.raises(StoreError):
        distil(due)
    assert due.states("distillations") == {"running": 1}
    assert on_disk(due) == [f"{NAME}-{run_row(due).id}", "state"]


def test_what_a_killed_attempt_left_behind_is_removed(
    due: World, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed after it had published its bundle; other runs were killed before, of another classifier too."""

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(lane.Distiller, "_commit", lambda *_, **__: _raise(Killed()))  # type: ignore[arg-type]
        patch.setattr(lane.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            distil(due)
    (orphan,) = published(due)
    row = run_row(due).id
    folder = due.settings.data_dir / "distil"
    for other in (f"{NAME}-9{row}", f"{NAME}-more-{row}", "neighbour-1"):
        (folder / other).mkdir()
    due.change("UPDATE distillations SET state = 'due', lease_token = NULL, lease_until = NULL")
    assert distil(due) == "promoted"
    assert [name for name in published(due) if name == orphan] == []
    assert len(published(due)) == 1
    assert on_disk(due) == ["neighbour-1", f"{NAME}-more-{row}"]


def test_judging_many_answers_keeps_the_lease(due: World, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    due.apply(distil={"min_new_answers": 1}, prompt={"pruning": "hard"})
    due.bundle()
    monkeypatch.setattr(lesson, "CHUNK", 10)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.0)
    beats: list[str] = []
    beat = distillations.heartbeat

    def seen(*given: Any, **more: Any) -> bool:
        beats.append(more["stage"])
        return beat(*given, **more)

    monkeypatch.setattr(distillations, "heartbeat", seen)
    incumbent = FakeModel()
    training.model = Wrong()
    assert distil(due, incumbent) == "rejected"
    assert beats == ["fetch", "load", "absorb", *["judge"] * 3, *["judge incumbent"] * 3, *["prune"] * 6, "publish"]
    assert max(map(len, incumbent.batches)) == 10


@pytest.mark.parametrize("step", ["fetch", "load", "publish"])
def test_a_step_that_reports_nothing_for_longer_than_the_lease_keeps_it(
    due: World, training: Training, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    due.settings = due.settings.model_copy(update={"distil_lease_s": 0.4})
    due.bundle()

    def until_it_would_have_ended() -> None:
        ends = due.one("SELECT lease_until FROM distillations WHERE state = 'running'")
        end = time.monotonic() + 20
        kept = "SELECT now() >= :ends AND lease_until > :ends FROM distillations WHERE state = 'running'"
        while not due.one(kept, ends=ends):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert due.one("SELECT stage FROM distillations WHERE state = 'running'") == step

    def slow(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **more: Any) -> Any:
            until_it_would_have_ended()
            return real(*given, **more)

        return wrapped

    if step == "fetch":
        monkeypatch.setattr(FakeModels, "serving", slow(FakeModels.serving))
    elif step == "load":
        training.opening = until_it_would_have_ended
    else:
        monkeypatch.setattr(Registry, "publish", slow(Registry.publish))
    assert distil(due) == "promoted"


def test_a_lease_that_is_lost_while_a_step_reports_nothing_ends_the_run(due: World, training: Training) -> None:
    due.settings = due.settings.model_copy(update={"distil_lease_s": 0.4})
    training.opening = lambda: due.change("UPDATE distillations SET lease_token = gen_random_uuid()")
    assert distil(due) == "lease_lost"


def test_a_heartbeat_that_fails_once_ends_no_run(
    due: World, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat, failures = distillations.heartbeat, iter([StoreError("the server restarts")])

    def failing(*given: Any, **more: Any) -> bool:
        for failure in failures:
            raise failure
        return beat(*given, **more)

    monkeypatch.setattr(distillations, "heartbeat", failing)
    assert distil(due) == "promoted"


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


HARD: dict[str, Any] = {"distil": {"min_new_answers": 1}, "policy": {"threshold": 0.99}}


def test_hard_pruning_gets_a_cut_from_the_fit_answers_that_escalate(due: World, training: Training) -> None:
    due.apply(prompt={"pruning": "hard"}, **HARD)
    distil(due)
    assert due.one("SELECT prune_cut FROM bundles") is None  # 30 are too few for a coverage of 99 %
    assert due.one("SELECT evaluation -> 'pruning' ->> 'missing' FROM bundles") == "70"
    due.apply(prompt={"pruning": "hard", "coverage": 0.9}, **HARD)
    distil(due)
    assert due.one("SELECT prune_cut FROM bundles ORDER BY id DESC LIMIT 1") > 1  # two labels hold every answer
    due.score(Item("new", "positive 0.98"))
    assert due.one("SELECT offered FROM asks ORDER BY id DESC LIMIT 1") == ["negative", "positive"]


def test_the_bundle_that_serves_on_is_calibrated_anew(due: World, training: Training) -> None:
    due.apply(prompt={"pruning": "hard", "coverage": 0.9}, **HARD)
    due.bundle()
    training.model = Wrong()
    assert distil(due) == "rejected"
    incumbent = due.known().incumbent
    assert incumbent is not None
    assert incumbent.version == 1
    assert incumbent.prune_cut is not None
    assert incumbent.evaluation["pruning"]["answers"] == 30
    assert incumbent.evaluation["judge"]["n"] == 40


def test_without_hard_pruning_nothing_is_calibrated(due: World, training: Training) -> None:
    distil(due)
    assert due.rows("SELECT prune_cut, evaluation -> 'pruning' FROM bundles") == [(None, None)]
