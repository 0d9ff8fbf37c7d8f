"""The command line before it reaches any server: usage, exit codes, one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from datashunt import __version__, cli, embedded
from datashunt.cli import items, servers
from datashunt.cli.items import _calls
from datashunt.embedded import Urls
from datashunt.errors import StoreError, UsageError
from datashunt.items import Item, Refusal
from datashunt.store.results import Open
from datashunt.streams import BadRow, Row

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run one command in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["datashunt", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(str(ended.value.code)), said.out, said.err

    return call


def test_version_and_help_are_printed(run: Run) -> None:
    assert run("--version") == (0, f"datashunt {__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    for command in (
        "classifier",
        "submit",
        "wait",
        "results",
        "status",
        "models",
        "dead",
        "db",
        "up",
        "demo",
        "doctor",
        "review",
        "label",
        "rerun",
        "backtest",
    ):
        assert command in out


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("submit", "mood"),
        ("wait", "mood", "--timeout-s", "soon"),
        ("models", "promote", "mood", "first"),
        ("demo", "--llm", "magic"),
        ("demo", "--llm", "openai"),
        ("simulate-llm",),
        ("simulate-llm", "--answers", "a.csv", "--without", "sense"),
        ("status",),
        ("env",),
    ],
)
def test_wrong_usage_and_missing_settings_exit_2(run: Run, words: tuple[str, ...]) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert err.startswith("datashunt: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("nonsense",), "datashunt"),
        (("submit", "mood"), "datashunt submit"),
        (("models", "promote", "mood", "first"), "datashunt models promote"),
        (("models", "nonsense"), "datashunt models"),
    ],
)
def test_wrong_usage_points_to_the_help_of_that_command(run: Run, words: tuple[str, ...], command: str) -> None:
    assert run(*words)[2].endswith(f"({command} --help shows the usage)\n")


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    code, out, err = run()
    assert (code, "Usage" in out + err) == (2, True)


def test_a_missing_server_is_told_with_the_way_out(run: Run) -> None:
    _, _, err = run("status")
    assert err.startswith("datashunt: DATASHUNT_DATABASE_URL is not set")
    assert "datashunt up --detach" in err
    assert err.count("\n") == 1


def test_a_real_llm_asks_for_a_limit_first(run: Run) -> None:
    assert "--max-usd" in run("demo", "--llm", "openai")[2]


@pytest.mark.parametrize("workers", [True, False])
def test_up_says_where_the_logs_are_and_whether_workers_are_started(
    run: Run, monkeypatch: pytest.MonkeyPatch, workers: bool
) -> None:
    def start(folder: Path, *, ready: Callable[[Urls], None], **_: Any) -> None:
        ready(Urls("postgresql://app@127.0.0.1:9/none", "redis://127.0.0.1:9/0", str(folder)))

    monkeypatch.setattr(embedded, "up", start)
    monkeypatch.setattr(servers.migrate, "catch_up", lambda _: None)
    code, out, _ = run("up", "--detach", "--data-dir", "here", *(["--workers"] if workers else []))
    assert code == 0
    assert "logs: here/logs\n" in out
    assert ("a worker of each lane and beat are started" in out) is workers


def test_a_folder_where_nothing_runs_is_named(run: Run) -> None:
    assert run("down", "--data-dir", "elsewhere")[:2] == (0, "nothing runs in elsewhere\n")
    assert "nothing runs in elsewhere" in run("env", "--data-dir", "elsewhere")[2]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("two\nlines"), 2, "datashunt: two lines\n"),
        (StoreError("away"), 1, "datashunt: away\n"),
        (ValueError("odd"), 1, "datashunt: unexpected ValueError: odd (--debug shows where)\n"),
        (KeyError(), 1, "datashunt: unexpected KeyError: KeyError (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_sentence_and_a_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert run("status") == (code, "", said)


def test_an_exit_code_of_a_command_is_the_programs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out() -> None:
        raise typer.Exit(items.TIMED_OUT)

    app = typer.Typer()
    app.command()(time_out)
    monkeypatch.setattr(cli, "app", app)
    assert run()[0] == 3


def test_a_file_is_submitted_in_calls_of_bounded_size_with_the_line_of_each_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(items, "CALL", 2)
    rows = [Row(1, "a", "x"), BadRow(3, None, "not_json", "line 3 is no JSON"), Row(4, "b", "y", {"n": 1})]
    assert list(_calls(rows)) == [
        ([1, 3], [Item("a", "x", None), Refusal(1, None, "not_json", "line 3 is no JSON")]),
        ([4], [Item("b", "y", {"n": 1})]),
    ]


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.0, 0.2), (0.015, 0.2), (0.5, 5.0), (3.0, 30.0)])
def test_the_longer_a_look_at_the_backlog_takes_the_rarer_it_is(
    monkeypatch: pytest.MonkeyPatch, took_s: float, pause_s: float
) -> None:
    clock, slept = [0.0], []

    def look(*_: object) -> tuple[Open, bool]:
        clock[0] += took_s
        return Open(queued=1, scoring=0, asked=0, held=0, audits=0), True

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(items, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(items, "runtime", nullcontext)
    monkeypatch.setattr(items, "_open", look)
    with pytest.raises(typer.Exit) as ended:
        items.wait("sentiment", timeout_s=50.0, audits=False)
    assert ended.value.exit_code == items.TIMED_OUT
    assert slept[0] == pytest.approx(pause_s)
    assert 50.0 <= clock[0] <= 50.0 + took_s  # no longer than it was told to, but for one last look
