"""`datashunt backtest` before and around the run: what is refused, what is said, what is left alone."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from datashunt import cli
from datashunt.cli import backtest as command
from datashunt.cli.backtest_progress import Progress

Run = Callable[..., tuple[int, str, str]]
LABELS = ("good", "bad")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `backtest` in a folder with a classifier and a stream of 40 items, too few to distil."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "mood.yaml").write_text("name: mood\nlabels: [good, bad]\ninstruction: How is it?\n")

    def call(*words: str, out: str = "out") -> tuple[int, str, str]:
        whole = ["datashunt", "backtest", "mood.yaml", "stream.jsonl", "--teacher", "llm", "--out", out, *words]
        monkeypatch.setattr(sys, "argv", whole)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(str(ended.value.code)), said.out, said.err

    return call


def write(folder: Path, items: int = 40, **changes: Any) -> None:
    rows = [
        {"id": n, "text": f"text {n}", "llm": LABELS[n % 2], "gold": "good", "other": LABELS[n % 2], **changes}
        for n in range(items)
    ]
    (folder / "stream.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-calls", "5", "--threshold", "0.5"), ("--max-calls and --threshold", "expected one of")),
        (("--alpha", "0.1", "--threshold", "0.5"), ("--threshold and --alpha", "expected one of")),
        (("--max-calls", "5", "--alpha", "0.1"), ("--max-calls and --alpha", "expected one of")),
        (("--delta", "0.1"), ("--delta", "found 0.1 alone", "--alpha")),
        (("--alpha", "0"), ("--alpha", "found 0.0", "inside (0, 1)")),
        (("--alpha", "1"), ("--alpha", "found 1.0", "inside (0, 1)")),
        (("--alpha", "nan"), ("--alpha", "found nan", "inside (0, 1)")),
        (("--alpha", "0.1", "--delta", "1.5"), ("--delta", "found 1.5", "inside (0, 1)")),
        (("--max-calls", "0"), ("--max-calls", "found 0", "1 or more")),
        (("--max-calls", "many"), ("--max-calls", "integer")),
        (("--threshold", "1.2"), ("--threshold", "found 1.2", "[0, 1]")),
        (("--threshold", "nan"), ("--threshold", "found nan", "[0, 1]")),
        (("--order", "backwards"), ("--order", "backwards", "file", "random")),
        (("--gates", "3"), ("--gates", "found 3", "1 or 2")),
        (("--gates", "2", "--alpha", "0.1"), ("--gates", "found 2", "1 with a target")),
        (("--seed", "-1"), ("--seed", "found -1", "0 to 9007199254740992")),
        (("--seed", "99999999999999999999"), ("--seed", "found 99999999999999999999")),
        (("--teacher", "nobody"), ("stream.jsonl", "nobody", "llm")),
        (("--gold", "nobody"), ("stream.jsonl", "nobody")),
        (("--text", "body"), ("stream.jsonl", "body")),
    ],
)
def test_what_cannot_be_is_one_sentence_with_what_was_found_and_expected(
    run: Run, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("datashunt: ")
    assert err.count("\n") == 1
    for part in said:
        assert part in err
    assert not Path("out").exists()


def test_a_folder_that_cannot_be_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run(out="file")
    assert (code, err.startswith("datashunt: --out: cannot write to file: ")) == (2, True)


def test_a_missing_matplotlib_is_found_before_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    code, _, err = run()
    assert code == 2
    assert 'pip install -c constraints.txt ".[backtest]"' in err


class TestAShortRun:
    def test_needs_no_server_and_leaves_four_files(self, run: Run) -> None:
        code, out, err = run("--gold", "gold")
        assert code == 0
        assert "40 of 40 items · 40 calls · LLM asked about 100% · done" in err
        assert "report: out/report.html" in err
        assert "40 (40 done, 0 dead)" in out
        assert "50.0%" in out  # accuracy: one label of two is gold
        written = {path.name for path in Path("out").iterdir()}
        assert written == {"report.json", "report.png", "report.html", "outcomes.jsonl", "run"}

    def test_is_not_done_again_but_written_again(self, run: Run) -> None:
        run()
        figures, outcomes = Path("out/report.json").read_bytes(), Path("out/outcomes.jsonl").read_bytes()
        Path("out/report.json").unlink()
        _, _, err = run()
        assert "all 40 items are decided" in err
        assert (Path("out/report.json").read_bytes(), Path("out/outcomes.jsonl").read_bytes()) == (figures, outcomes)

    def test_may_get_its_right_labels_afterwards(self, run: Run) -> None:
        run()
        assert json.loads(Path("out/report.json").read_text())["accuracy"] is None
        _, _, err = run("--gold", "gold")
        assert "all 40 items are decided" in err
        assert json.loads(Path("out/report.json").read_text())["accuracy"] == 0.5

    @pytest.mark.parametrize("words", [("--seed", "1"), ("--teacher", "other"), ("--threshold", "0.5")])
    def test_is_not_mixed_with_another(self, run: Run, words: tuple[str, ...]) -> None:
        run()
        code, _, err = run(*words)
        assert code == 2
        assert "holds a backtest of another stream, classifier file, options or settings" in err

    def test_is_not_gone_on_with_on_other_hardware(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        run()
        monkeypatch.setenv("DATASHUNT_THREADS", "3")
        code, _, err = run()
        assert (code, "options or settings" in err) == (2, True)

    @pytest.mark.parametrize(("name", "content"), [("state.json", b""), ("decisions.jsonl", b"{}")])
    def test_that_was_damaged_says_what_to_do(self, run: Run, name: str, content: bytes) -> None:
        run()
        Path("out/run", name).write_bytes(content)
        code, _, err = run()
        assert code == 2
        assert "out/run holds a backtest whose files are damaged: remove it" in err
        assert Path("out/run", name).read_bytes() == content

    def test_without_its_seconds_is_gone_on_with(self, run: Run) -> None:
        run()
        Path("out/run/seconds.txt").write_bytes(b"")
        assert run()[0] == 0

    def test_keeps_a_second_process_out(self, run: Run) -> None:
        Path("out/run").mkdir(parents=True)
        with FileLock("out/run/lock"):
            code, _, err = run()
        assert code == 2
        assert "another backtest is at work here" in err
        assert run()[0] == 0

    def test_spends_no_more_than_it_may(self, run: Run) -> None:
        _, out, _ = run("--max-calls", "7")
        assert "40 (7 done, 0 dead, 33 held)" in out
        lines = [json.loads(line) for line in Path("out/outcomes.jsonl").read_text().splitlines()]
        assert sum(line["label"] is not None for line in lines) == 7


def test_the_first_twenty_notes_are_told_and_the_others_counted(run: Run, tmp_path: Path) -> None:
    write(tmp_path, 40)
    with (tmp_path / "stream.jsonl").open("a") as file:
        file.writelines(json.dumps({"id": f"x{n}", "text": "", "llm": "good"}) + "\n" for n in range(25))
    _, _, err = run()
    assert err.count("left out") == 20
    assert "line 41: left out: the text is empty" in err
    assert "… and 5 more" in err


@pytest.mark.parametrize(("pruning", "told"), [("soft", True), ("both", True), ("hard", False), ("'off'", False)])
def test_a_prior_that_a_record_cannot_show_is_told(run: Run, tmp_path: Path, pruning: str, told: bool) -> None:
    with (tmp_path / "mood.yaml").open("a") as file:
        file.write(f"prompt: {{pruning: {pruning}}}\n")
    code, _, err = run()
    assert code == 0
    assert (f"prompt.pruning: {pruning}: run without the prior" in err) == told


def test_calls_that_a_first_bundle_would_take_are_told(run: Run) -> None:
    _, _, err = run("--max-calls", "7")
    assert "--max-calls 7: a first bundle takes about 300 answers" in err
    _, _, err = run("--max-calls", "40", out="enough")
    assert "a first bundle" not in err


def test_a_budget_that_a_record_has_no_days_for_is_told(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "mood.yaml").open("a") as file:
        file.write("policy: {mode: budget, calls_per_day: 100}\n")
    assert "policy.mode: budget: a record has no days" in run()[2]
    assert "budget" not in run("--max-calls", "40", out="limited")[2]


def test_targets_of_labels_that_do_not_count_are_told(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "mood.yaml").open("a") as file:
        file.write("policy: {mode: target, alpha: 0.2, labels: {bad: {always_ask: true}}}\n")
    assert "policy.labels: passed over" in run("--threshold", "0.5")[2]
    assert "passed over" not in run(out="whole")[2]


def test_a_field_called_meta_is_as_any_other(run: Run, tmp_path: Path) -> None:
    write(tmp_path, meta="web")
    assert run()[0] == 0


class TestProgress:
    def shown(self, *, terminal: bool, error: type[BaseException] | None = None) -> str:
        sink = io.StringIO()
        decisions = [SimpleNamespace(reason="escalation")] * 30 + [SimpleNamespace(reason=None)] * 70
        engine: Any = SimpleNamespace(stream=[None] * 400, ledger=SimpleNamespace(decisions=decisions))
        watch: Any = SimpleNamespace(note=lambda: None)
        console = Console(file=sink, force_terminal=terminal, width=120)
        try:
            with Progress(console, engine, watch) as progress:
                for items in (100, 200):
                    progress.show(items, 1_030, "distilling: absorb")
                if error is not None:
                    raise error
        except KeyboardInterrupt:
            pass
        return sink.getvalue()

    def test_is_a_line_now_and_then_where_there_is_no_terminal(self) -> None:
        assert self.shown(terminal=False) == (
            "100 of 400 items · 1,030 calls · LLM asked about 30% · distilling: absorb\n"
        )

    def test_is_a_bar_on_a_terminal(self) -> None:
        shown = self.shown(terminal=True)
        assert "200/400" in shown
        assert "1,030 calls · LLM asked about 30% · distilling: absorb" in shown

    def test_says_how_to_go_on_after_ctrl_c(self) -> None:
        shown = self.shown(terminal=False, error=KeyboardInterrupt)
        assert shown.endswith("stopped after 100 of 400 items: the same command goes on from there\n")


def test_names_of_any_length_and_bytes_can_be_shown() -> None:
    assert command._shown("logs.csv") == "logs.csv"
    shown = command._shown("a" * 100 + ".csv")
    assert (len(shown), shown[18:22], shown[-4:]) == (command.NAME, "a…aa", ".csv")
    assert command._shown(b"x\xff.csv".decode("utf-8", "surrogateescape")) == "x?.csv"
