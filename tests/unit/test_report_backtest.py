from __future__ import annotations

import json
import math
import random
import re
import struct
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt import report
from datashunt.errors import DatashuntError, UsageError
from datashunt.items import ItemState, Source
from datashunt.report import (
    About,
    BacktestReport,
    BundleRecord,
    CertificateFigures,
    DistillationRecord,
    ItemRecord,
    backtest_series,
)
from datashunt.report.backtest.series import spending

ABOUT = About("sentiment", "reviews & tweets", "gpt-4.1-mini", simulated=False, recorded=True)
CERTIFICATE: CertificateFigures = {
    "bundle": 1, "threshold": 0.9, "alpha": 0.05, "of": "kept", "delta": 0.1, "n": 210,
    "k": 4, "method": "Clopper-Pearson", "at_item": 300,
}  # fmt: skip


def kept(position: int, label: str = "a", **more: Any) -> ItemRecord:
    record = ItemRecord(f"i{position}", position, ItemState.DONE, label, Source.SMALL, 1, label, confidence=0.9)
    return replace(record, **more)


def asked(position: int, label: str = "a", **more: Any) -> ItemRecord:
    record = ItemRecord(f"i{position}", position, ItemState.DONE, label, Source.LLM, escalated=True)
    return replace(record, llm_label=label, **{"teacher": label, **more})


def build(records: list[ItemRecord], certificates: tuple[CertificateFigures, ...] = ()) -> BacktestReport:
    promoted = DistillationRecord(300, "promoted", "no worse <b>", 1, "full", 300, 60, 0.9, None, 4.2)
    return report.build_backtest(
        records,
        certificates=certificates,
        labels=("a", "b", "c"),
        llm_calls=sum(record.spent for record in records),
        cost_usd=Decimal(0),
        cost_if_all_llm_usd=Decimal(0),
        bundles=[BundleRecord(1, "full", 0.9)],
        distillations=[promoted] if len(records) > 300 else [],
        seconds=61.0,
    )


def stream(items: int, *, gold: bool = True, scored: bool = True) -> list[ItemRecord]:
    """The first half is asked and right, the second kept; every fifth of it disagrees with the teacher."""
    half = items // 2
    right = "a" if gold else None
    first = [asked(n, gold=right) for n in range(half)]
    second = [kept(n, "b" if n % 5 == 0 else "a", teacher="a", gold=right) for n in range(half, items)]
    records = [*first, *second]
    return records if scored else [replace(record, confidence=None) for record in records]


class TestFigures:
    def test_it_is_the_report_of_a_run_and_five_fields_more(self) -> None:
        made = build(stream(10), (CERTIFICATE,))
        run = report.build(
            stream(10),
            llm_calls=5,
            cost_usd=Decimal(0),
            cost_if_all_llm_usd=Decimal(0),
            bundles=[BundleRecord(1, "full", 0.9)],
            distillations=[],
            seconds=61.0,
        )
        assert list(made) == [*run, "accuracy_by_1000_calls", "certificates", "labels", "unanswered", "left_out"]
        assert {name: made[name] for name in run} == run  # type: ignore[literal-required]
        assert made["certificates"] == [CERTIFICATE]

    def test_a_row_stands_at_the_item_of_each_thousandth_call_and_at_the_end(self) -> None:
        records = [asked(n, gold="a") for n in range(1500)]
        records += [kept(n, "b", teacher="a", gold="a") for n in range(1500, 2500)]
        records += [asked(n, gold="b") for n in range(2500, 3000)]
        records += [kept(3000, teacher="a")]
        assert build(records)["accuracy_by_1000_calls"] == [
            {"calls": 1000, "items": 1000, "accuracy": 1.0, "agreement": 1.0},
            {"calls": 2000, "items": 3000, "accuracy": 0.5, "agreement": pytest.approx(2 / 3, abs=1e-6)},
            {"calls": 2000, "items": 3001, "accuracy": 0.5, "agreement": pytest.approx(2001 / 3001, abs=1e-6)},
        ]

    def test_a_stream_that_ends_with_a_thousandth_call_has_one_row_for_it(self) -> None:
        rows = build([asked(n) for n in range(2000)])["accuracy_by_1000_calls"]
        assert [(row["calls"], row["items"]) for row in rows] == [(1000, 1000), (2000, 2000)]

    def test_few_calls_have_a_row_for_the_end_and_no_items_have_none(self) -> None:
        assert build([kept(0)])["accuracy_by_1000_calls"] == [
            {"calls": 0, "items": 1, "accuracy": None, "agreement": None}
        ]
        assert build([])["accuracy_by_1000_calls"] == []

    def test_an_answer_used_again_spends_no_call_and_a_failed_one_spends_its_own(self) -> None:
        records = [asked(0), asked(1, calls=0), asked(2, calls=3), kept(3)]
        assert spending(records).calls.tolist() == [1, 1, 4, 4]

    def test_a_call_without_an_answer_is_spent(self) -> None:
        dead = ItemRecord("i0", 0, ItemState.DEAD, escalated=True, gold="a")
        rows = build([dead, asked(1, gold="a")])["accuracy_by_1000_calls"]
        assert rows == [{"calls": 2, "items": 2, "accuracy": 1.0, "agreement": 1.0}]

    def test_a_label_agrees_with_no_missing_answer_and_the_llm_alone_is_not_right_there(self) -> None:
        records = [
            asked(0, gold="a", recorded=True),
            kept(1, teacher=None, gold="a", recorded=True),
            kept(2, teacher="a", gold="a", recorded=True),
            kept(3, teacher=None, gold="b", recorded=True),
        ]
        made = build(records)
        assert (made["agreement"], made["kept_disagreement"]) == (0.5, pytest.approx(2 / 3, abs=1e-6))
        assert (made["accuracy"], made["llm_accuracy"]) == (0.75, 0.5)
        assert made["accuracy_by_1000_calls"][-1]["agreement"] == 0.5
        assert made["bundles"][0]["agreement"] == pytest.approx(1 / 3, abs=1e-6)
        assert made["unanswered"] == 2

    def test_each_label_has_its_recall_and_precision(self) -> None:
        records = [asked(0, "a"), asked(1, "b"), kept(2, "b", teacher="a"), kept(3, "a", teacher="a")]
        assert build(records)["labels"] == [
            {"label": "a", "teacher": 3, "outcomes": 2, "recall": pytest.approx(2 / 3, abs=1e-6), "precision": 1.0,
             "kept": 2, "kept_recall": 0.5},
            {"label": "b", "teacher": 1, "outcomes": 2, "recall": 1.0, "precision": 0.5, "kept": 0,
             "kept_recall": None},
            {"label": "c", "teacher": 0, "outcomes": 0, "recall": None, "precision": None, "kept": 0,
             "kept_recall": None},
        ]  # fmt: skip

    def test_the_answer_of_an_equal_text_is_no_question(self) -> None:
        made = build([asked(0), asked(1, calls=0), kept(2, teacher="a"), kept(3, teacher="a")])
        assert made["llm_share"] == 0.25

    def test_records_that_contradict_themselves_make_no_report(self) -> None:
        with pytest.raises(DatashuntError, match="no report: item 'i0'"):
            build([kept(0), kept(0)])

    def test_it_can_be_written(self, tmp_path: Path) -> None:
        made = build(stream(10), (CERTIFICATE,))
        report.write_json(made, tmp_path / "report.json")
        assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == made


_label = st.sampled_from(["a", "b", "c"])
_maybe = st.none() | _label


@st.composite
def _records(draw: st.DrawFn) -> list[ItemRecord]:
    made: list[ItemRecord] = []
    for position in range(draw(st.integers(0, 25))):
        more = {"gold": draw(_maybe), "teacher": draw(_maybe), "audited": draw(st.booleans())}
        record = draw(st.sampled_from([kept, asked]))(position, draw(_label), **more)
        if draw(st.integers(0, 5)) == 0:
            record = replace(record, state=ItemState.DEAD, label=None, source=None)
        made.append(record)
    return made


@given(_records())
def test_every_prefix_has_the_accuracy_and_agreement_of_its_own_report(records: list[ItemRecord]) -> None:
    found = spending(records)
    for end in range(len(records)):
        made = build(records[: end + 1])
        for name, value in (("accuracy", found.accuracy[end]), ("agreement", found.agreement[end])):
            expected = made[name]  # type: ignore[literal-required]
            assert math.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-6)


@given(_records(), st.randoms())
def test_the_order_of_the_records_does_not_matter(records: list[ItemRecord], rng: random.Random) -> None:
    shuffled = rng.sample(records, len(records))
    assert build(shuffled) == build(records)


class TestSeries:
    def test_kept_share_is_a_mean_over_the_items_before(self) -> None:
        drawn = backtest_series(stream(1000), window=100)
        at = dict(zip(drawn.items.tolist(), drawn.kept_share.tolist(), strict=True))
        assert (at[500], at[550], at[1000]) == (0.0, 0.5, 1.0)
        assert (drawn.calls[0], drawn.calls[-1]) == (1, 500)

    def test_means_over_all_so_far_wait_for_some_outcomes(self) -> None:
        drawn = backtest_series(stream(1000))
        assert np.flatnonzero(~np.isnan(drawn.accuracy))[0] == 49
        assert drawn.accuracy[-1] == drawn.agreement[-1] == pytest.approx(0.9)

    def test_reliability_is_over_all_scored_items_with_a_teacher_kept_or_not(self) -> None:
        records = [
            kept(0, teacher="a", confidence=0.95),
            kept(1, teacher="b", confidence=0.95),
            asked(2, "a", bundle=1, small_label="b", confidence=0.35),
            kept(3, confidence=0.95),
            asked(4),
        ]
        drawn = backtest_series(records)
        assert [(bar.n, bar.confidence, bar.accuracy) for bar in drawn.bars] == [
            (1, pytest.approx(0.35), 0.0),
            (2, pytest.approx(0.95), 0.5),
        ]
        assert drawn.scored == 3
        assert drawn.error == pytest.approx((0.35 + 2 * 0.45) / 3)

    def test_nothing_scored_has_no_error(self) -> None:
        drawn = backtest_series(stream(100, scored=False))
        assert (drawn.bars, drawn.scored) == ((), 0)
        assert math.isnan(drawn.error)

    def test_a_long_stream_is_thinned_out_and_keeps_both_ends(self) -> None:
        drawn = backtest_series(stream(5_000))
        assert (len(drawn.items), drawn.items[0], drawn.items[-1]) == (1_500, 1, 5_000)
        assert len(drawn.kept_share) == len(drawn.calls) == len(drawn.agreement) == 1_500


class TestPicture:
    @pytest.mark.parametrize(
        "records",
        [
            stream(600),
            stream(600, gold=False),
            stream(600, scored=False),
            stream(3),
            [],
            [ItemRecord("i0", 0, ItemState.DEAD, escalated=True)],
        ],
        ids=["whole", "no gold", "nothing scored", "few", "none", "nothing done"],
    )
    def test_a_png_of_1600_by_900_comes_out(self, tmp_path: Path, records: list[ItemRecord]) -> None:
        path = tmp_path / "report.png"
        report.write_backtest_png(build(records), backtest_series(records), ABOUT, path)
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", head[16:24]) == (1600, 900)

    def test_the_same_backtest_gives_the_same_bytes(self, tmp_path: Path) -> None:
        records = stream(300)
        for name in ("a.png", "b.png"):
            report.write_backtest_png(build(records), backtest_series(records), ABOUT, tmp_path / name)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_without_matplotlib_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UsageError, match=r"pip install .*\.\[backtest\]"):
            report.write_backtest_png(build(stream(9)), backtest_series(stream(9)), ABOUT, tmp_path / "a.png")


class TestPage:
    def page(self, folder: Path, made: BacktestReport, about: About = ABOUT) -> str:
        (folder / "report.png").write_bytes(b"\x89PNG fake")
        report.write_backtest_html(made, about, folder / "report.png", folder / "report.html")
        return (folder / "report.html").read_text(encoding="utf-8")

    def test_it_says_that_answers_are_recorded_and_no_llm_was_called(self, tmp_path: Path) -> None:
        html = self.page(tmp_path, build(stream(100)))
        assert "No LLM was called.</strong> The answers are recorded ones of gpt-4.1-mini;" in html
        assert "LLM: recorded answers of gpt-4.1-mini" in html
        assert "simulat" not in html

    def test_it_shows_what_calls_bought_and_each_certificate(self, tmp_path: Path) -> None:
        html = self.page(tmp_path, build(stream(3000), (CERTIFICATE,)))
        text = re.sub(r"<[^>]+>", " ", html)
        assert re.search(
            r"calls\s+items\s+accuracy\s+agreement\s+1,000\s+1,000\s+100.0%\s+100.0%\s+1,500\s+3,000", text
        )
        assert re.search(r"bundle 1\s+300\s+0.900\s+kept\s+0.05\s+0.1\s+210\s+4\s+Clopper-Pearson", text)

    def test_money_is_left_out_of_the_line_of_figures_where_prices_are_unknown(self, tmp_path: Path) -> None:
        made = build(stream(100))
        line = "100 items  ·  50 calls  ·  agreement 90.0%  ·  accuracy 90.0% (the LLM alone: 100.0%)"
        assert f"<p>{line}</p>" in self.page(tmp_path, made)
        made["cost_if_all_llm_usd"] = 0.5
        assert f"<p>{line}  ·  cost $0.00 (all asked: $0.50)</p>" in self.page(tmp_path, made)

    def test_a_browser_fetches_nothing_and_words_from_outside_are_escaped(self, tmp_path: Path) -> None:
        about = About("x<script>", "<img src=x>", "$llm <b>", simulated=False, recorded=True)
        html = self.page(tmp_path, build(stream(700), ({**CERTIFICATE, "method": "<i>"},)), about)
        assert not re.search(r"@import|url\(|<script|<link|https?://|<b>\"|<i>", html)
        assert html.count("<img") == 1
        assert "$llm &lt;b&gt;" in html

    def test_an_empty_backtest_has_a_page_too(self, tmp_path: Path) -> None:
        html = self.page(tmp_path, build([]))
        assert "No items." in html
        assert "None was given." in html
