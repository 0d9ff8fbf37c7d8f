"""How the demo ends when it fails: with code 1, a sentence, and the logs that it names."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from datashunt import classifier
from datashunt.demo import dataset, live
from datashunt.demo.dataset import Sentence
from datashunt.errors import DatashuntError, UsageError

run: Any = importlib.import_module("datashunt.demo.run")  # the package has a function of this name
SENTENCES = [Sentence(id="a", text="good", mean=0.9, ratings=(1, 1))]


def snapshot(**changes: Any) -> live.Snapshot:
    known: dict[str, Any] = dict.fromkeys(live.Snapshot.__slots__, 0)
    return live.Snapshot(**{**known, "doing": "classifying", **changes})


def stream(monkeypatch: pytest.MonkeyPatch, out: Path, seen: live.Snapshot, **options: Any) -> None:
    monkeypatch.setattr(run, "_snapshot", lambda *_: seen)
    client: Any = SimpleNamespace(submit=lambda *_: None)
    runtime: Any = None
    spec = classifier.load(dataset.SPEC)
    run._stream(Console(quiet=True), client, runtime, spec, SENTENCES, run.Options(out, 1, **options))


def test_what_is_not_done_in_time_names_the_logs_that_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "STREAM_S", 0.001)
    monkeypatch.setattr(run, "DRAIN_S", -1.0)
    with pytest.raises(DatashuntError, match="1 items are still on their way") as failed:
        stream(monkeypatch, tmp_path, snapshot(open=1))
    assert str(failed.value).endswith(f"see the logs in {tmp_path / 'logs'}")
    assert failed.value.exit_code == 1


def test_what_costs_too_much_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DatashuntError, match="--max-usd is reached") as failed:
        stream(monkeypatch, tmp_path, snapshot(cost_usd=2.0), max_usd=1.0)
    assert not isinstance(failed.value, UsageError)


def test_a_simulated_llm_that_ends_is_a_failure(tmp_path: Path) -> None:
    log = tmp_path / "simulator.log"
    log.write_text("no such file")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(DatashuntError, match="did not start: no such file") as failed:
        run._base_url(ended, log)
    assert failed.value.exit_code == 1


@pytest.mark.parametrize("fails", [True, False])
def test_logs_are_kept_of_what_failed_and_of_nothing_else(tmp_path: Path, fails: bool) -> None:
    logs, kept = tmp_path / "servers" / "logs", tmp_path / "logs"
    logs.mkdir(parents=True)
    (logs / "score.log").write_text("said")
    try:
        with run._kept_if_it_fails(logs, kept):
            if fails:
                raise DatashuntError("too slow")
    except DatashuntError:
        assert (kept / "score.log").read_text() == "said"
    assert kept.exists() is fails
