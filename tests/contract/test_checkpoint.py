"""A training that is interrupted goes on after its last pass, and ends with the very same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from room import no_room
from safetensors.torch import load_file
from tiny import CHECKS, LABELS, example, texts, tiny_base

from datashunt.classifier import digest
from datashunt.distil import Challenger, Plan, checkpoint, distil, full
from datashunt.distil.checkpoint import Checkpoint, State
from datashunt.small import SmallModel

TRAIN = [example(*pair) for pair in zip(*texts(120, 1), strict=True)]
FIT = list(zip(*texts(60, 2), strict=True))
REPLAY = texts(40, 3)[0]

Progress = Callable[[str, float], None]


class Killed(Exception):
    """Stands in for kill -9."""


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A plan over the tiny base, and an incumbent with a head."""
    plan = Plan(
        labels=LABELS,
        labels_hash=digest(list(LABELS)),
        base=tiny_base(tmp_path_factory.mktemp("base")),
        max_tokens=16,
        threshold=0.8,
        device="cpu",
        precision="fp32",
        recipes=("full",),
        epochs=3,
        warm=True,
        encoder_lr=2e-4,
        head_lr=2e-3,
        batch_items=8,
    )
    folder = tmp_path_factory.mktemp("incumbent")
    distil(plan, TRAIN[:40], FIT, [], None, folder, lambda *_: None)
    return {"plan": plan, "incumbent": SmallModel.load(folder, device="cpu", precision="fp32")}


@pytest.fixture(autouse=True)
def after_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_WORK_FOR_WRITING", 0.0)
    monkeypatch.setattr(full, "FEWEST_TO_STOP_BY", len(FIT))


def train(
    lesson: dict[str, Any], out: Path, kept: Path | None, progress: Progress = lambda *_: None, **changes: Any
) -> Challenger:
    given = {"train": TRAIN, "fit": FIT, "replay": REPLAY, "incumbent": lesson["incumbent"], **changes}
    plan = given.pop("plan", lesson["plan"])
    return distil(plan, **given, out=out, progress=progress, checkpoint=kept)


def die_after_saving(patch: pytest.MonkeyPatch, times: int) -> None:
    """The process ends when its state was written for the n-th time."""
    save, left = Checkpoint.save, [times]

    def last(self: Checkpoint, state: State) -> None:
        save(self, state)
        left[0] -= 1
        if not left[0]:
            raise Killed

    patch.setattr(Checkpoint, "save", last)


def interrupted(lesson: dict[str, Any], kept: Path, times: int, **changes: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die_after_saving(patch, times)
        with pytest.raises(Killed):
            train(lesson, kept / "never", kept, **changes)


def seen_in(lesson: dict[str, Any], out: Path, kept: Path, **changes: Any) -> list[str]:
    """The stages of a training, each time that one begins."""
    seen: list[str] = []
    train(lesson, out, kept, lambda stage, _: None if seen[-1:] == [stage] else seen.append(stage), **changes)
    return seen


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(lesson: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a training learns that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    train(lesson, folder, None)
    return weights(folder)


@pytest.mark.parametrize(
    ("saved", "rest"),
    [
        (1, ["resume", "absorb", "fit", "retain", "fit"]),
        (2, ["resume", "retain", "fit"]),
        (3, ["resume", "fit"]),
    ],
)
def test_an_interrupted_training_goes_on_to_the_very_same_weights(
    lesson: dict[str, Any], whole: dict[str, torch.Tensor], tmp_path: Path, saved: int, rest: list[str]
) -> None:
    """It went on from a fine-tuned incumbent, was killed after its first pass, its second, and stage 2."""
    interrupted(lesson, tmp_path, saved)
    assert seen_in(lesson, tmp_path / "out", tmp_path) == ["load", "read", "replay", "load", *rest, *CHECKS]
    assert same(weights(tmp_path / "out"), whole)


def test_a_training_from_the_base_goes_on_too_though_its_head_is_fitted_again(
    lesson: dict[str, Any], tmp_path: Path
) -> None:
    both = {"plan": replace(lesson["plan"], recipes=("head", "full")), "incumbent": None, "replay": []}
    train(lesson, tmp_path / "whole", None, **both)
    interrupted(lesson, tmp_path, 2, **both)
    assert "resume" in seen_in(lesson, tmp_path / "out", tmp_path, **both)
    assert same(weights(tmp_path / "out"), weights(tmp_path / "whole"))


def test_with_few_fit_answers_the_last_pass_counts_and_is_gone_on_from(
    lesson: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full, "FEWEST_TO_STOP_BY", len(FIT) + 1)
    train(lesson, tmp_path / "whole", None)
    interrupted(lesson, tmp_path, 2)
    assert "resume" in seen_in(lesson, tmp_path / "out", tmp_path)
    assert same(weights(tmp_path / "out"), weights(tmp_path / "whole"))


def test_a_training_killed_in_mid_pass_repeats_that_pass(
    lesson: dict[str, Any], whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    def die(stage: str, share: float) -> None:
        if stage == "absorb" and share > 0.7:
            raise Killed

    with pytest.raises(Killed):
        train(lesson, tmp_path / "never", tmp_path, die)
    assert "resume" in seen_in(lesson, tmp_path / "out", tmp_path)
    assert same(weights(tmp_path / "out"), whole)


@pytest.mark.parametrize(
    "change",
    [
        {"train": [*TRAIN, example("the phone is superb", 1)]},
        {"train": [*TRAIN[:-1], example(TRAIN[-1].text, int(TRAIN[-1].target.argmax()), weight=0.5)]},
        {"fit": FIT[:-1]},
        {"replay": REPLAY[:-1]},
        {"incumbent": None},
        {"seed": 1},
    ],
)
def test_another_lesson_begins_anew(lesson: dict[str, Any], tmp_path: Path, change: dict[str, Any]) -> None:
    interrupted(lesson, tmp_path, 1)
    if "seed" in change:
        change = {"plan": replace(lesson["plan"], **change)}
    assert "resume" not in seen_in(lesson, tmp_path / "out", tmp_path, **change)


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_a_state_that_cannot_be_read_begins_anew(lesson: dict[str, Any], tmp_path: Path, damage: bytes | None) -> None:
    interrupted(lesson, tmp_path, 1)
    file = tmp_path / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert "resume" not in seen_in(lesson, tmp_path / "out", tmp_path)


def test_a_state_is_one_file_without_pickle_and_nothing_else_is_left(lesson: dict[str, Any], tmp_path: Path) -> None:
    interrupted(lesson, tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]
    assert {name.partition(".")[0] for name in load_file(tmp_path / checkpoint.FILE)} == {"weights", "adam", "dropout"}


def test_a_state_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with no_room(1_000), pytest.raises(OSError, match="a training's state cannot be written"):
        Checkpoint(tmp_path, "lesson").save(State({"a": torch.zeros(10_000)}, {}))
    assert not list(tmp_path.iterdir())


def test_writing_takes_a_fortieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: _write(_[1], now))
    kept = Checkpoint(tmp_path, "lesson")
    written = []
    for _ in range(100):
        now[0] += 1.0
        before = now[0]
        kept.save(State({}, {}))
        written.append(now[0] > before)
    assert sum(written) == pytest.approx(100 / 10, abs=1)


def _write(path: Path, now: list[float]) -> None:
    path.write_bytes(b"")
    now[0] += 0.25


@pytest.mark.parametrize("saved", [1, 2, 3])
@pytest.mark.parametrize("fewest", [0, 1_000])
def test_passes_without_gain_are_gone_on_from_too(
    lesson: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fewest: int, saved: int
) -> None:
    """With enough fit answers they end a stage and are undone; with few they count, and must not be undone."""
    monkeypatch.setattr(full, "FEWEST_TO_STOP_BY", fewest)
    monkeypatch.setattr(full, "held_out_nll", lambda *_: 1.0)
    train(lesson, tmp_path / "whole", None)
    interrupted(lesson, tmp_path, saved)
    assert "resume" in seen_in(lesson, tmp_path / "out", tmp_path)
    assert same(weights(tmp_path / "out"), weights(tmp_path / "whole"))
