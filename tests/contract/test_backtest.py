"""A whole backtest over a tiny base: reproducible, resumable, and blind to what it does not ask."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import LABELS, texts, tiny_base

from datashunt import classifier, prompts
from datashunt.backtest.engine import Engine
from datashunt.backtest.ledger import DECISIONS, STATE, Decision, Trained
from datashunt.backtest.options import Options
from datashunt.backtest.recording import Recorded, Recording
from datashunt.backtest.student import Student
from datashunt.classifier import Spec
from datashunt.pipeline import pruning
from datashunt.pipeline.pruning import Calibration
from datashunt.settings import Settings
from datashunt.small import read_info

ROOT = Path(__file__).parents[2]
ITEMS = 1_200
SERVING = Trained(
    number=1, at_item=0, up_to=0, state="promoted", folder="nowhere", recipe="head", prune_cut=0.2, threshold=0.7,
    verdict={}, counts={}, seconds=0.0, certificate=None, evaluation={},
)  # fmt: skip
SETTINGS = Settings(device="cpu", precision="fp32", threads=1)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A classifier over a tiny base that distils often."""
    return {
        "name": "goods",
        "labels": list(LABELS),
        "instruction": "What does the writer think of it?",
        "small_model": {"base": tiny_base(tmp_path_factory.mktemp("base")), "max_tokens": 32},
        "policy": {"threshold": 0.7, "audit_rate": 0.1},
        "llm": {"model": "teacher-1", "input_price": "1", "output_price": "2"},
        "distil": {"min_new_answers": 60},
    }


def stream(n: int = ITEMS) -> list[dict[str, Any]]:
    """n rows; of each seventh item the LLM says something wrong, of each fiftieth nothing."""
    written, gold = texts(n, seed=3)
    said = [(label + (place % 7 == 0)) % len(LABELS) for place, label in enumerate(gold)]
    return [
        {
            "id": f"i{place:05}",
            "text": f"{text} {place}",
            "llm": "" if place % 50 == 0 else LABELS[said[place]],
            "gold": LABELS[gold[place]],
        }
        for place, text in enumerate(written)
    ]


def recording(rows: list[dict[str, Any]]) -> Recording:
    items = [
        Recorded(line, row["id"], row["text"], row["llm"] or None, row["gold"]) for line, row in enumerate(rows, 1)
    ]
    return Recording(tuple(items), sum(item.teacher is None for item in items), (), "0" * 16)


def run(spec: Spec, recorded: Recording, folder: Path, **options: Any) -> Engine:
    engine = Engine(spec, recorded, Options(**options), SETTINGS, folder)
    engine.run(lambda *_: None)
    engine.ledger.close()
    return engine


@pytest.fixture(scope="module")
def spec(document: dict[str, Any]) -> Spec:
    return classifier.parse(document)


@pytest.fixture(scope="module")
def plain(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A run with the threshold of the file."""
    return run(spec, recording(stream()), tmp_path_factory.mktemp("plain"))


class TestARun:
    def test_decides_every_item_once_and_learns_on_the_way(self, plain: Engine) -> None:
        assert [decision.id for decision in plain.ledger.decisions] == [item.id for item in plain.stream]
        assert any(one.state == "promoted" for one in plain.ledger.trained)
        kept = [decision for decision in plain.ledger.decisions if decision.source == "small"]
        assert len(kept) > ITEMS / 4

    def test_keeps_what_reaches_the_threshold_and_asks_the_rest(self, plain: Engine) -> None:
        for decision in plain.ledger.decisions:
            kept = decision.small_confidence is not None and decision.small_confidence >= 0.7
            assert (decision.source == "small") == kept
            assert decision.calls == (not kept or decision.audited)

    def test_another_seed_is_another_stream(self, plain: Engine, spec: Spec, tmp_path: Path) -> None:
        other = Engine(spec, recording(stream()), Options(seed=1), SETTINGS, tmp_path)
        other.ledger.close()
        assert {item.id for item in other.stream} == {item.id for item in plain.stream}
        assert list(other.stream) != list(plain.stream)

    def test_never_reads_the_answer_of_an_item_that_is_not_asked(
        self, plain: Engine, spec: Spec, tmp_path: Path
    ) -> None:
        asked = {decision.id for decision in plain.ledger.decisions if decision.reason is not None}
        told = [
            item if item.id in asked else replace(item, teacher=LABELS[place % 3])
            for place, item in enumerate(recording(stream()).items)
        ]
        again = run(spec, Recording(tuple(told), 0, (), "0" * 16), tmp_path)
        assert again.ledger.decisions == plain.ledger.decisions

    def test_never_reads_the_right_labels(self, plain: Engine, spec: Spec, tmp_path: Path) -> None:
        blind = [replace(item, gold=None) for item in recording(stream()).items]
        again = run(spec, Recording(tuple(blind), 0, (), "0" * 16), tmp_path)
        assert again.ledger.decisions == plain.ledger.decisions


@pytest.mark.parametrize("limit", [1, 40, 400, 5_000])
def test_no_more_calls_are_made_than_may_be(spec: Spec, tmp_path: Path, limit: int) -> None:
    decisions = run(spec, recording(stream(600)), tmp_path, max_calls=limit).ledger.decisions
    calls = sum(decision.calls for decision in decisions)
    assert calls == min(limit, 600)
    without = [decision for decision in decisions if decision.label is None and decision.reason is None]
    assert bool(without) == (limit <= 40)  # no bundle yet, and nobody left to ask: held


def test_the_second_call_of_a_pruned_question_counts(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = classifier.parse({**document, "prompt": {"pruning": "hard"}})
    cut = Calibration(SERVING.prune_cut, 100, 0, 0, 0.7, 0.99, prompts.prompt_hash(spec))
    vectors = np.array([[0.5 + n / 100, 0.49 - n / 100, 0.01] for n in range(5)], dtype=np.float32)
    model = SimpleNamespace(probabilities=lambda texts: vectors[: len(texts)])
    monkeypatch.setattr(Student, "_model", lambda self, one: model)
    items = tuple(Recorded(n, f"i{n}", f"text {n}", LABELS[2], None) for n in range(5))
    engine = Engine(spec, Recording(items, 0, (), "0" * 16), Options(max_calls=3), SETTINGS, tmp_path)
    engine.ledger.commit([], [replace(SERVING, evaluation=pruning.noted({}, cut))])
    engine.run(lambda *_: None)
    engine.ledger.close()
    assert 2 <= engine.ledger.calls <= 3
    assert any(decision.offered is not None for decision in engine.ledger.decisions)
    sources = [decision.source for decision in engine.ledger.decisions]
    assert set(sources) == {"llm", "small"}  # with no call left, what the bundle says is kept


@pytest.fixture(scope="module")
def files(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The classifier file and the stream, as somebody would have them."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "goods.yaml").write_text(yaml.safe_dump(document))
    (folder / "stream.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stream()))
    return folder / "goods.yaml", folder / "stream.jsonl"


def command(files: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    words = ["backtest", *map(str, files), "--teacher", "llm", "--gold", "gold", "--out", str(out), *more]
    return [sys.executable, "-m", "datashunt", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "DATASHUNT_DEVICE": "cpu", "DATASHUNT_PRECISION": "fp32", "DATASHUNT_THREADS": "1"}


def finish(words: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done


def kill_when(words: list[str], reached: Callable[[], bool]) -> None:
    """Start the command, and kill -9 it as soon as it has come so far."""
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not reached():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL


def trained(out: Path) -> int:
    state = out / "run" / STATE
    return len(json.loads(state.read_text())["trained"]) if state.exists() else 0


def test_a_stream_of_few_texts_whose_lessons_teach_nothing_is_run_to_its_end(
    document: dict[str, Any], tmp_path: Path
) -> None:
    """Every text is held out somewhere, so that none is left to train on."""
    rows = stream()
    few = [{**row, "text": rows[place % 5]["text"]} for place, row in enumerate(rows)]
    engine = run(classifier.parse(document), recording(few), tmp_path)
    assert {one.state for one in engine.ledger.trained} == {"failed"}
    assert "no answer to learn from" in engine.ledger.trained[0].verdict["reason"]
    assert len(engine.ledger.decisions) == len(rows)
    assert not list((tmp_path / "bundles").glob("*"))


def test_a_bundle_says_from_which_it_learned_and_what_its_judges_said(plain: Engine) -> None:
    serving = [one for one in plain.ledger.trained if one.state == "promoted"]
    info = read_info(plain._student._folder / serving[-1].folder)
    before = [one for one in serving if one.number < serving[-1].number]
    assert info.parent == (before[-1].folder if before else None)
    assert info.evaluation["judge"]["n"] == serving[-1].counts["judge"]


def decided(out: Path) -> list[Decision]:
    lines = (out / "run" / DECISIONS).read_text().splitlines()
    return [Decision(**json.loads(line)) for line in lines]


def test_killed_runs_go_on_to_the_very_outcomes_of_one_that_was_left_alone(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    first = finish(command(files, alone))
    assert "going on" not in first.stderr
    whole = (alone / "outcomes.jsonl").read_bytes()
    assert whole.count(b"\n") == ITEMS
    assert trained(alone) >= 2

    kill_when(command(files, killed), lambda: trained(killed) >= 1)
    kill_when(command(files, killed), (killed / "run" / "bundles" / "2").exists)
    before = len(decided(killed))
    assert 0 < before < ITEMS
    assert not (killed / "outcomes.jsonl").exists()

    last = finish(command(files, killed))
    assert "going on after " in last.stderr
    assert (killed / "outcomes.jsonl").read_bytes() == whole
    assert decided(killed) == decided(alone)

    report = json.loads((killed / "report.json").read_text())
    again = finish(command(files, killed))
    assert f"all {ITEMS:,} items are decided" in again.stderr
    assert (killed / "outcomes.jsonl").read_bytes() == whole
    assert json.loads((killed / "report.json").read_text()) == report
    assert "report.html" in again.stderr
    assert (killed / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (killed / "report.html").read_text()
