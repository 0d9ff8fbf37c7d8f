from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datashunt import classifier, llm
from datashunt.backtest import output
from datashunt.backtest.ledger import Decision, Trained, Tried
from datashunt.backtest.options import Options
from datashunt.backtest.output import Finished
from datashunt.backtest.recording import Recorded
from datashunt.backtest.stopwatch import Stopwatch
from datashunt.items import ItemState, Source
from datashunt.policy import TargetPolicy
from datashunt.report import About

SPEC = classifier.parse(
    {
        "name": "mood",
        "labels": ["good", "bad"],
        "instruction": "How is it?",
        "llm": {"model": "teacher-1", "input_price": "10", "output_price": "20"},
    }
)
ABOUT = About("mood", "stream.csv", "column llm", simulated=False, recorded=True)
UNTOUCHED: dict[str, Any] = {
    "label": None, "source": None, "confidence": None, "bundle": None, "small_label": None, "small_confidence": None,
    "reason": None, "role": "train", "audited": False, "offered": None, "answer": None, "calls": 0, "cost_usd": 0.0,
}  # fmt: skip
CERTIFICATE = {"threshold": 0.8, "alpha": 0.1, "delta": 0.05, "n": 90, "k": 3, "method": "exact binomial"}


def decision(position: int, **more: Any) -> Decision:
    return Decision(position=position, id=f"i{position}", **{**UNTOUCHED, **more})


def kept(position: int, confidence: float = 0.9, **more: Any) -> Decision:
    small = {"bundle": 1, "small_label": "good", "small_confidence": confidence}
    return decision(position, label="good", source="small", confidence=confidence, **{**small, **more})


def asked(position: int, answer: str | None = "bad", **more: Any) -> Decision:
    source = None if answer is None else "llm"
    known = {"label": answer, "source": source, "answer": answer, "reason": "escalation", "calls": 1}
    return decision(position, **{**known, "cost_usd": 0.25, **more})


def trained(number: int = 1, **more: Any) -> Trained:
    verdict = {"reason": "no worse", "agreement_challenger": 0.9, "agreement_incumbent": 0.5, "n": 40}
    known: dict[str, Any] = {
        "number": number, "at_item": 3, "up_to": 3, "state": "promoted", "folder": f"bundles/{number}",
        "recipe": "head", "prune_cut": None, "threshold": 0.7, "verdict": verdict,
        "counts": {"train": 200, "fit": 50, "judge": 40}, "seconds": 2.5, "certificate": None, "evaluation": {},
    }  # fmt: skip
    return Trained(**{**known, **more})


DECISIONS = (
    asked(0),
    asked(1, None),
    decision(2),
    kept(3),
    kept(4, 0.8, reason="audit", audited=True, role="judge", answer="bad", calls=1, cost_usd=0.5),
    asked(5, bundle=1, small_label="bad", small_confidence=0.4, offered=("good", "bad"), calls=2),
)
STREAM = tuple(
    Recorded(place + 2, f"i{place}", f"text {place}", None if place == 1 else "bad", "good" if place < 4 else None)
    for place in range(len(DECISIONS))
)


def finished(**more: Any) -> Finished:
    known: dict[str, Any] = {
        "spec": SPEC, "stream": STREAM, "decisions": DECISIONS, "trained": [trained()], "options": Options(),
        "seconds": 12.0,
    }  # fmt: skip
    known["tried"] = []
    return Finished(**{**known, **more})


def test_each_item_ends_done_dead_or_held() -> None:
    states = [record.state for record in output.records(STREAM, DECISIONS)]
    assert states == [ItemState.DONE, ItemState.DEAD, ItemState.HELD, ItemState.DONE, ItemState.DONE, ItemState.DONE]


def test_a_record_knows_the_teacher_of_every_item_and_the_answer_of_an_asked_one() -> None:
    made = output.records(STREAM, DECISIONS)
    assert [record.teacher for record in made] == ["bad", None, "bad", "bad", "bad", "bad"]
    assert [record.llm_label for record in made] == ["bad", None, None, None, "bad", "bad"]
    assert [record.gold for record in made] == ["good"] * 4 + [None] * 2
    audit, escalation = made[4], made[5]
    assert (audit.escalated, audit.audited, audit.source, audit.kept) == (False, True, Source.SMALL, True)
    assert (escalation.escalated, escalation.audited, escalation.source) == (True, False, Source.LLM)
    assert (escalation.bundle, escalation.small_label, escalation.confidence) == (1, "bad", 0.4)
    assert [record.calls for record in made] == [1, 1, 0, 0, 1, 2]
    assert [record.position for record in made] == list(range(6))


def test_a_run_that_has_not_ended_makes_no_records() -> None:
    with pytest.raises(ValueError, match="shorter"):
        output.records(STREAM, DECISIONS[:-1])


def test_every_item_has_a_line_of_outcome() -> None:
    lines = [json.loads(line) for line in output.outcomes(DECISIONS)]
    assert lines[0] == {"id": "i0", "label": "bad", "source": "llm", "confidence": None, "bundle": None}
    assert lines[2] == {"id": "i2", "label": None, "source": None, "confidence": None, "bundle": None}
    assert lines[3] == {"id": "i3", "label": "good", "source": "small", "confidence": 0.9, "bundle": 1}
    assert lines[5]["bundle"] is None  # it was scored, and the LLM decided
    assert [line["id"] for line in lines] == [item.id for item in STREAM]


class TestBundles:
    def test_are_those_that_served_at_their_threshold(self) -> None:
        runs = [trained(1), trained(2, state="rejected"), trained(3, threshold=0.75)]
        assert [(b.version, b.threshold) for b in output.bundles(finished(trained=runs))] == [(1, 0.7), (3, 0.75)]

    def test_show_the_lowest_confidence_that_they_kept_where_calls_are_limited(self) -> None:
        made = output.bundles(finished(trained=[trained(1), trained(2)], options=Options(max_calls=5)))
        assert [bundle.threshold for bundle in made] == [0.8, 0.7]

    def test_keep_nothing_without_a_certificate_where_only_that_counts(self) -> None:
        runs = [trained(1), trained(2, certificate=CERTIFICATE)]
        assert [b.threshold for b in output.bundles(finished(trained=runs, options=Options(alpha=0.1)))] == [1.0, 0.8]

    def test_keep_without_a_certificate_where_the_file_says_so(self) -> None:
        keeps = TargetPolicy(mode="target", alpha=0.1, on_uncertified="keep", threshold=0.6)
        spec = SPEC.model_copy(update={"policy": keeps})
        runs = [trained(1), trained(2, certificate=CERTIFICATE)]
        made = output.bundles(finished(spec=spec, trained=runs, options=Options(alpha=0.1)))
        assert [bundle.threshold for bundle in made] == [0.6, 0.8]


def test_a_distillation_is_told_as_the_store_tells_it() -> None:
    (record,) = output.distillations([trained(2, state="rejected")])
    assert (record.bundle, record.state, record.at_item, record.reason) == (2, "rejected", 3, "no worse")
    assert (record.answers, record.judged, record.seconds) == (250, 40, 2.5)
    assert (record.agreement, record.incumbent_agreement) == (0.9, 0.5)


def test_a_distillation_that_failed_made_no_bundle() -> None:
    failed = trained(2, state="failed", folder="", recipe="", verdict={"reason": "training diverged"})
    (record,) = output.distillations([failed])
    assert (record.bundle, record.recipe, record.state, record.reason) == (None, None, "failed", "training diverged")
    assert (record.agreement, record.incumbent_agreement) == (None, None)


def test_certificates_say_of_which_bundle_and_since_when() -> None:
    lower = {**CERTIFICATE, "threshold": 0.7, "at_item": 12}
    tried = [
        Tried(1, 3, 0.05, [0.9], 300, None),
        Tried(2, 3, 0.05, [0.8, 0.7], 300, None, granted=({**CERTIFICATE, "at_item": 9}, lower)),
    ]
    assert output.certificates(tried, "all") == [
        {"bundle": 2, "of": "all", "at_item": 9, **CERTIFICATE},
        {"bundle": 2, "of": "all", **lower},
    ]


class TestTheFiles:
    def test_hold_the_whole_run(self, tmp_path: Path) -> None:
        figures = output.write(finished(), ABOUT, tmp_path)
        assert json.loads((tmp_path / "report.json").read_text()) == figures
        assert (tmp_path / "outcomes.jsonl").read_text().splitlines() == list(output.outcomes(DECISIONS))
        assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
        assert "column llm" in (tmp_path / "report.html").read_text()

    def test_count_calls_and_money(self, tmp_path: Path) -> None:
        figures = output.build(finished(), output.records(STREAM, DECISIONS))
        assert (figures["items"], figures["done"], figures["dead"], figures["held"]) == (6, 4, 1, 1)
        assert (figures["llm_calls"], figures["cost_usd"]) == (5, 1.25)
        everything = float(sum(llm.estimate(SPEC, item.text) for item in STREAM))
        assert figures["cost_if_all_llm_usd"] == pytest.approx(everything, abs=1e-6)
        assert figures["seconds"] == 12.0

    def test_say_how_many_rows_were_left_out_and_how_many_items_have_no_label(self, tmp_path: Path) -> None:
        figures = output.write(finished(left_out=3), ABOUT, tmp_path)
        page = (tmp_path / "report.html").read_text()
        assert figures["left_out"] == 3
        assert "Lines left out: 3." in page
        assert "2 without a label" in page

    def test_replace_older_ones(self, tmp_path: Path) -> None:
        output.write(finished(), ABOUT, tmp_path)
        output.write(finished(stream=STREAM[:1], decisions=DECISIONS[:1]), ABOUT, tmp_path)
        assert len((tmp_path / "outcomes.jsonl").read_text().splitlines()) == 1

    def test_keep_letters_as_they_are(self, tmp_path: Path) -> None:
        output.write(finished(decisions=[replace(DECISIONS[0], label="gut·é"), *DECISIONS[1:]]), ABOUT, tmp_path)
        assert '"gut·é"' in (tmp_path / "outcomes.jsonl").read_text(encoding="utf-8")


class TestStopwatch:
    def test_adds_the_seconds_of_all_starts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = iter([100.0, 103.5, 500.0, 501.0, 502.0])
        monkeypatch.setattr("datashunt.backtest.stopwatch.time.monotonic", lambda: next(now))
        first = Stopwatch(tmp_path / "seconds.txt")
        assert first.noted == 0.0
        first.note()
        second = Stopwatch(tmp_path / "seconds.txt")
        assert second.noted == 3.5
        second.note()
        second.note()
        assert second.noted == 5.5

    def test_of_a_run_that_ended_stands_still(self, tmp_path: Path) -> None:
        (tmp_path / "seconds.txt").write_text("7.250")
        assert Stopwatch(tmp_path / "seconds.txt").noted == 7.25
