"""The benchmark of quality: its cases, its figures of a run, and its table."""

from __future__ import annotations

import gzip
import io
import json
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import quality
from benchmarks.cases import ABLATION_CALLS, CHANGES, Case, ablations, agreements, defaults, larger
from benchmarks.figures import END
from benchmarks.limit import asked_least_sure
from benchmarks.recorded import STREAMS, beginning
from datashunt.backtest.options import Options
from datashunt.backtest.recording import Recorded, Recording
from datashunt.distil import Plan
from datashunt.errors import UsageError

CASES = [*defaults(range(3)), *agreements(range(3)), *ablations(range(3))]


def row(case: Case, **more: Any) -> dict[str, Any]:
    return {"key": case.key, "calls": 400, "accuracy": 0.5, "agreement": 0.6, "ece": 0.02, "seconds": 1.0, **more}


class TestCases:
    def test_have_names_of_their_own_that_may_be_files(self) -> None:
        keys = [case.key for case in CASES]
        assert len(set(keys)) == len(keys)
        for key in keys:
            assert re.fullmatch(r"[\w.,=-]+", key)
            assert len(key) < 200

    def test_are_runs_that_can_be(self) -> None:
        for case in CASES:
            assert case.stream in STREAMS
            options = Options(order="file", seed=case.seed, **case.options)
            assert set(options.plan) <= {field.name for field in fields(Plan)}
            assert (case.threshold is None) != (options.max_calls is None)

    def test_of_an_ablation_change_one_thing(self) -> None:
        usual = {"max_calls": ABLATION_CALLS}
        for case in ablations(range(1)):
            changed = {name: value for name, value in case.options.items() if usual.get(name) != value}
            assert len(changed) == (0 if case.group == "as it is" else 1)
        assert {case.group for case in ablations(range(1))} == set(CHANGES)

    def test_that_retain_only_go_on_from_what_can_be_gone_on_from(self) -> None:
        plans = [case.options.get("plan", {}) for case in ablations(range(1))]
        assert [plan["recipes"] for plan in plans if plan.get("warm")] == [("full",)]


def an_engine(*outcomes: tuple[str | None, str, str | None, str | None]) -> Any:
    """Items as (label, source, teacher, gold); the small model kept, and scored, what has source `small`."""
    decisions, stream = [], []
    for n, (label, source, teacher, gold) in enumerate(outcomes):
        small = source == "small"
        decisions.append(
            SimpleNamespace(
                label=label, source=source if label else None, calls=int(not small),
                small_label=label if small else None, small_confidence=0.9 if small else None,
            )
        )  # fmt: skip
        stream.append(Recorded(n + 1, f"i{n}", f"text {n}", teacher, gold))
    trained = [SimpleNamespace(state="promoted"), SimpleNamespace(state="rejected")]
    return SimpleNamespace(ledger=SimpleNamespace(decisions=decisions, trained=trained), stream=stream)


class TestFigures:
    def test_are_shares_of_all_items(self) -> None:
        made = quality.figures(an_engine(("x", "small", "x", "y"), ("x", "llm", "x", "x"), ("y", "small", "x", "y")))
        assert (made["items"], made["calls"], made["bundles"], made["distillations"]) == (3, 1, 1, 2)
        assert made["accuracy"] == pytest.approx(2 / 3)
        assert made["agreement"] == pytest.approx(2 / 3)
        assert made["llm_accuracy"] == pytest.approx(1 / 3)
        assert (made["kept"], made["kept_accuracy"]) == (pytest.approx(2 / 3), 0.5)
        assert made["ece"] == pytest.approx(0.4)

    def test_take_an_item_without_an_outcome_for_wrong_even_if_nobody_knows_better(self) -> None:
        made = quality.figures(an_engine((None, "llm", None, None), ("x", "llm", "x", "x")))
        assert (made["accuracy"], made["agreement"], made["llm_accuracy"]) == (0.5, 0.5, 0.5)

    def test_of_a_run_that_never_scored_have_no_calibration(self) -> None:
        made = quality.figures(an_engine(("x", "llm", "x", "x")))
        assert (made["ece"], made["kept_accuracy"]) == (None, None)


class TestCollecting:
    def test_does_not_run_again_what_is_done(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ran = []

        def run(case: Case, out: Path) -> dict[str, Any]:
            if len(ran) == 2:
                raise KeyboardInterrupt
            ran.append(case.key)
            return row(case)

        monkeypatch.setattr(quality, "run", run)
        console = Console(file=io.StringIO())
        with pytest.raises(KeyboardInterrupt):
            quality.collect(CASES[:3], tmp_path, tmp_path / "done", console)
        assert ran == [case.key for case in CASES[:2]]
        ran[:] = []
        found = quality.collect(CASES[:4], tmp_path, tmp_path / "done", console)
        assert ran == [case.key for case in CASES[2:4]]
        assert [(case, made["key"]) for case, made in found] == [(case, case.key) for case in CASES[:4]]
        assert all(re.fullmatch(r"([0-9a-f]{12}\+?)?", made["commit"]) for _, made in found)
        lines = (tmp_path / "done").read_text().splitlines()
        assert [json.loads(line)["key"] for line in lines] == [case.key for case in CASES[:4]]
        assert "accuracy 0.5000" in console.file.getvalue()  # type: ignore[attr-defined]

    def test_runs_several_at_once_to_the_same_figures(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        labels = STREAMS["isear"].labels
        rows = [f"{n},text {n},{labels[n % 7]},{labels[n % 5]}" for n in range(60)]
        with gzip.open(tmp_path / STREAMS["isear"].file, "wt") as file:
            file.write("\n".join(["id,text,gold,gpt35", *rows]))
        monkeypatch.setenv("DATASHUNT_STREAMS", str(tmp_path))
        cases = [Case("some", "name", "isear", seed, options={"max_calls": 50}) for seed in range(3)]
        console = Console(file=io.StringIO())
        found = [
            quality.collect(cases, tmp_path / f"{jobs}", tmp_path / f"{jobs}.jsonl", console, jobs) for jobs in (1, 2)
        ]
        alone, together = [[{**made, "seconds": 0} for _, made in one] for one in found]
        assert alone == together
        assert [made["key"] for made in alone] == [case.key for case in cases]
        assert all(made["calls"] == 50 for made in alone)

    def test_takes_at_least_one_job(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            quality.main(["--jobs", "0"])
        assert "--jobs: found 0, expected 1 or more" in capsys.readouterr().err


class TestTheTable:
    def test_has_one_line_for_each_case_over_its_seeds(self) -> None:
        one, two = (Case("loss", "plain", "isear", seed) for seed in (0, 1))
        other = Case("loss", "robust", "isear")
        none = ("–", "–")  # nothing to compare with
        found = [
            (one, row(one, accuracy=0.5, calls=399)),
            (two, row(two, accuracy=0.7, calls=401)),
            (other, row(other)),
        ]
        assert quality.summary(found) == [
            ("loss", "isear", "plain", "2", "400", "0.6000 ± 0.1414", "0.6000 ± 0.0000", "0.0200 ± 0.0000", *none),
            ("loss", "isear", "robust", "1", "400", "0.5000", "0.6000", "0.0200", *none),
        ]

    def test_compares_an_ablation_with_what_is_unchanged_seed_by_seed(self) -> None:
        usual = [Case("as it is", "the defaults", "isear", seed) for seed in (0, 1)]
        changed = [Case("loss", "plain", "isear", seed) for seed in (0, 1, 2)]
        accuracies = {0: (0.5, 0.51), 1: (0.6, 0.63), 2: (None, 0.9)}
        found = [(case, row(case, accuracy=accuracies[case.seed][0])) for case in usual]
        found += [(case, row(case, accuracy=accuracies[case.seed][1], agreement=0.5)) for case in changed]
        same, other = quality.summary(found)
        assert same[-2:] == ("", "")
        assert other[-2:] == ("+2.0 ± 1.4", "-10.0 ± 0.0")

    def test_shows_that_there_is_no_figure(self) -> None:
        case = Case("loss", "plain", "isear")
        assert quality.summary([(case, row(case, ece=None))])[0][-3] == "–"

    def test_is_written_as_markdown_of_as_many_columns(self) -> None:
        case = Case("loss", "plain", "isear")
        lines = quality.markdown([(case, row(case))]).splitlines()
        assert len(lines) == 3
        assert {line.count("|") for line in lines} == {len(quality.HEADER) + 1}

    def test_replaces_that_of_the_page(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        page = tmp_path / "method.md"
        page.write_text(f"# Method\n{quality.BEGIN}\nold\n{END}\n{quality.BEGIN_CASCADES}\nold\n{END}\n")
        monkeypatch.setattr(quality, "run", lambda case, out: row(case))
        quality.main(
            [
                "--out",
                str(tmp_path / "out"),
                "--results",
                str(tmp_path / "done"),
                "--docs",
                str(page),
                "--only",
                "*.isear.*",
            ]
        )
        assert "| defaults | isear | 1200 calls | 1 | 400 | 0.5000 |" in page.read_text()
        assert "headlines" not in page.read_text()
        assert "old" not in page.read_text()


def test_what_the_cascade_costs_is_read_off_between_its_runs() -> None:
    done = {
        "plain-cascade.headlines.0.7.0": {"agreement": 0.94, "calls": 1_000},
        "plain-cascade.headlines.0.9.0": {"agreement": 0.99, "calls": 2_000},
        "plain-cascade.headlines.0.9.1": {"agreement": 0.99, "calls": 2_000},
        "plain-cascade.isear.0.9.0": {"agreement": 0.5, "calls": 1},
        "defaults.headlines.600-calls.0": {"agreement": 0.965, "calls": 600},
    }
    assert quality.cascades(done).splitlines()[2:] == [
        "| 0 | 1,000: 94.00, 2,000: 99.00 | 1,200 | 1,800 | 600: 96.50 (40 %) |"
    ]


def test_rows_of_other_encoders_stand_in_the_table_each_under_its_name(tmp_path: Path) -> None:
    cases = [case for base in ("org/wide-1", "/models/wide-2") for case in larger(base, range(1))]
    results = tmp_path / "results.jsonl"
    lines = [json.dumps(row(case, base=Path(case.base).name)) for case in cases]
    results.write_text("\n".join(lines) + "\n")
    assert len({case.key for case in cases}) == 6
    known = quality._known(results)
    assert [case.group for case, _ in known] == ["encoder wide-1"] * 3 + ["encoder wide-2"] * 3


def test_a_run_that_other_code_began_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    quality._begun_by("one", folder)
    (folder / "decisions.jsonl").write_text("{}")
    quality._begun_by("one", folder)
    assert (folder / "decisions.jsonl").exists()
    quality._begun_by("other", folder)
    assert [path.name for path in folder.iterdir()] == ["code"]


class TestStreams:
    def test_that_are_not_there_say_where_they_should_be(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATASHUNT_STREAMS", str(tmp_path))
        with pytest.raises(UsageError, match="set DATASHUNT_STREAMS"):
            STREAMS["isear"].read()

    def test_begin_with_the_same_items_however_many(self) -> None:
        made = Recording(tuple(Recorded(n, f"i{n}", "t", "x", "x") for n in range(50)), 0, (), "f")
        whole, part = beginning(made, 1, None), beginning(made, 1, 20)
        assert part.items == whole.items[:20]
        assert set(whole.items) == set(made.items)
        assert whole.items != made.items
        assert len({one.fingerprint for one in (made, whole, part, beginning(made, 2, 20))}) == 4


class TestTheLimit:
    def test_the_least_sure_are_asked_and_the_rest_is_kept(self) -> None:
        labels = ("no", "yes")
        yes = np.array([0.9, 0.6, 0.2, 0.55], dtype=np.float32)
        gold, teacher = ("yes", "no", "no", "no"), ("no", "no", "yes", "yes")
        items = [
            Recorded(n, str(n), "text", said, right) for n, (said, right) in enumerate(zip(teacher, gold, strict=True))
        ]
        probabilities = np.stack([1 - yes, yes], axis=1)
        assert asked_least_sure(probabilities, labels, items, 0.0) == (0.5, 0.5, 0.25)
        assert asked_least_sure(probabilities, labels, items, 0.5) == (0.75, 1.0, 0.0)
        assert asked_least_sure(probabilities, labels, items, 0.75) == (0.5, 1.0, 0.0)
