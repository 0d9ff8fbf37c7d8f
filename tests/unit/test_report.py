from __future__ import annotations

import json
import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt import report
from datashunt.errors import DatashuntError
from datashunt.items import ItemState, Source
from datashunt.report import BundleRecord, DistillationRecord, ItemRecord, Report

FIELDS = [
    "items", "done", "dead", "held", "kept", "escalated", "audited", "llm_calls", "llm_share",
    "llm_share_by_tenth", "accuracy", "llm_accuracy", "agreement", "kept_disagreement", "bundles",
    "distillations", "cost_usd", "cost_if_all_llm_usd", "seconds",
]  # fmt: skip


def kept(position: int, label: str = "a", **more: Any) -> ItemRecord:
    record = ItemRecord(f"i{position}", position, ItemState.DONE, label, Source.SMALL, 1, label)
    return replace(record, **more)


def asked(position: int, label: str = "a", **more: Any) -> ItemRecord:
    record = ItemRecord(f"i{position}", position, ItemState.DONE, label, Source.LLM, escalated=True)
    return replace(record, llm_label=label, **more)


def build(
    records: list[ItemRecord],
    *,
    bundles: tuple[BundleRecord, ...] = (),
    distillations: tuple[DistillationRecord, ...] = (),
) -> Report:
    return report.build(
        records,
        llm_calls=11,
        cost_usd=Decimal("0.123456789"),
        cost_if_all_llm_usd=Decimal("1.5"),
        bundles=bundles,
        distillations=distillations,
        seconds=12.34567,
    )


class TestCounts:
    def test_the_fields_are_the_contract_in_its_order(self) -> None:
        assert list(build([kept(0)])) == FIELDS

    def test_items_are_counted_by_state_and_by_why_they_were_asked(self) -> None:
        made = build(
            [
                kept(0),
                kept(1, audited=True),
                asked(2),
                asked(3, audited=True),
                ItemRecord("i4", 4, ItemState.DEAD, escalated=True),
                ItemRecord("i5", 5, ItemState.HELD),
                ItemRecord("i6", 6, ItemState.QUEUED),
                replace(asked(7), source=Source.HUMAN),
            ]
        )
        counts = {name: made[name] for name in ("items", "done", "dead", "held", "kept")}  # type: ignore[literal-required]
        assert counts == {"items": 8, "done": 5, "dead": 1, "held": 1, "kept": 2}
        assert (made["escalated"], made["audited"], made["llm_share"]) == (4, 2, 5 / 8)

    def test_money_calls_and_time_are_handed_through(self) -> None:
        made = build([kept(0)])
        assert (made["cost_usd"], made["cost_if_all_llm_usd"]) == (0.123457, 1.5)
        assert (made["llm_calls"], made["seconds"]) == (11, 12.346)

    def test_tenths_follow_the_order_of_submission_not_of_the_records(self) -> None:
        records = [asked(n) if n < 10 else kept(n) for n in range(100)]
        random.Random(1).shuffle(records)
        assert build(records)["llm_share_by_tenth"] == [1.0] + [0.0] * 9

    @given(st.lists(st.booleans(), max_size=60))
    def test_tenths_cover_every_item_once(self, was_asked: list[bool]) -> None:
        tenths = build([asked(n) if is_asked else kept(n) for n, is_asked in enumerate(was_asked)])
        edges = [len(was_asked) * part // 10 for part in range(11)]
        total = sum((share or 0.0) * (edges[n + 1] - edges[n]) for n, share in enumerate(tenths["llm_share_by_tenth"]))
        assert total == pytest.approx(sum(was_asked), abs=1e-3)

    def test_no_items_have_no_shares(self) -> None:
        made = build([])
        assert made["llm_share_by_tenth"] == [None] * 10
        assert [made["llm_share"], made["accuracy"], made["agreement"]] == [None] * 3


class TestAgainstGold:
    def test_accuracy_is_over_done_items_with_gold(self) -> None:
        records = [kept(0, gold="a"), kept(1, gold="b"), asked(2), asked(3, gold="a")]
        records.append(ItemRecord("i4", 4, ItemState.DEAD, gold="a"))
        assert build(records)["accuracy"] == pytest.approx(2 / 3, abs=1e-6)

    def test_without_gold_both_accuracies_are_unknown(self) -> None:
        made = build([kept(0, teacher="a"), asked(1)])
        assert (made["accuracy"], made["llm_accuracy"]) == (None, None)

    def test_a_known_teacher_is_scored_on_the_very_same_items(self) -> None:
        records = [
            kept(0, "a", gold="a", teacher="b"),
            kept(1, "a", gold="b", teacher="b"),
            asked(2, "a", gold="a", teacher="a"),
            asked(3, "a", gold="c", teacher="b"),
        ]
        made = build(records)
        assert (made["accuracy"], made["llm_accuracy"]) == (0.5, 0.5)

    def test_audits_stand_for_the_kept_items_that_were_not_asked(self) -> None:
        """Of 8 kept items, 2 are audited and the LLM errs where we do not on one: 4 of 8 by estimate."""
        records = [kept(n, gold="a") for n in range(6)]
        records += [kept(6, gold="a", audited=True, llm_label="a")]
        records += [kept(7, gold="a", audited=True, llm_label="b")]
        records += [asked(8, "b", gold="a"), asked(9, "a", gold="a")]
        made = build(records)
        assert made["accuracy"] == 0.9
        assert made["llm_accuracy"] == pytest.approx(0.9 - 4 / 10)

    def test_kept_items_that_nobody_audited_leave_the_llm_unknown(self) -> None:
        made = build([kept(0, gold="a"), asked(1, gold="a")])
        assert (made["accuracy"], made["llm_accuracy"], made["agreement"]) == (1.0, None, None)
        assert made["kept_disagreement"] is None

    def test_estimates_from_audits_meet_the_truth(self) -> None:
        """300 runs of a world with known truth: the mean estimate is within four standard errors of it."""
        rng = random.Random(7)
        off_accuracy, off_agreement = [], []
        for _ in range(300):
            world = [_random_item(rng, position) for position in range(200)]
            unseen = [replace(record, teacher=None) for record in world]
            truth, estimate = build(world), build(unseen)
            off_accuracy.append((estimate["llm_accuracy"] or 0.0) - (truth["llm_accuracy"] or 0.0))
            off_agreement.append((estimate["agreement"] or 0.0) - (truth["agreement"] or 0.0))
        for off in (off_accuracy, off_agreement):
            assert abs(np.mean(off)) < 4 * np.std(off) / np.sqrt(len(off))


def _random_item(rng: random.Random, position: int) -> ItemRecord:
    """Kept items are easy, escalated ones hard; a fifth is audited whatever they are."""
    teacher = rng.choice("ab")
    audited = rng.random() < 0.2
    gold = teacher if rng.random() < 0.9 else "c"
    if rng.random() < 0.4:
        return asked(position, teacher, audited=audited, gold=gold, teacher=teacher)
    label = teacher if rng.random() < 0.8 else "c"
    said = teacher if audited else None
    return kept(position, label, audited=audited, llm_label=said, gold=gold, teacher=teacher)


class TestAgainstTheLLM:
    def test_agreement_weighs_kept_items_by_their_number_not_by_their_audits(self) -> None:
        records = [kept(n) for n in range(7)]
        records += [kept(7, audited=True, llm_label="b"), asked(8), asked(9)]
        made = build(records)
        assert (made["kept_disagreement"], made["agreement"]) == (1.0, 0.2)

    def test_an_answer_that_no_audit_asked_for_says_nothing_of_kept_items(self) -> None:
        """An item that was asked, died, and was kept when replayed is no random draw."""
        made = build([kept(0, escalated=True, llm_label="b"), kept(1, audited=True, llm_label="a")])
        assert made["kept_disagreement"] == 0.0

    def test_a_pruned_answer_is_compared_with_the_teacher(self) -> None:
        assert build([asked(0, "a", teacher="b"), asked(1, "a", teacher="a")])["agreement"] == 0.5

    def test_a_human_label_counts_as_an_outcome(self) -> None:
        record = replace(asked(0, "a"), label="b", source=Source.HUMAN)
        assert build([record])["agreement"] == 0.0


class TestBundles:
    def test_a_bundle_is_judged_by_its_own_first_choice_over_all_it_scored(self) -> None:
        records = [
            kept(0, "a", gold="a", teacher="a"),
            kept(1, "a", gold="b", teacher="a"),
            asked(2, "a", gold="a", teacher="a", bundle=1, small_label="b"),
            asked(3, "a", gold="a", teacher="a"),
            kept(4, "a", gold="a", teacher="a", bundle=2),
        ]
        made = build(records, bundles=(BundleRecord(1, "head", 0.8), BundleRecord(2, "full", 0.9)))
        assert made["bundles"] == [
            {"version": 1, "recipe": "head", "threshold": 0.8, "scored": 3, "kept": 2,
             "accuracy": pytest.approx(1 / 3, abs=1e-6), "agreement": pytest.approx(2 / 3, abs=1e-6)},
            {"version": 2, "recipe": "full", "threshold": 0.9, "scored": 1, "kept": 1,
             "accuracy": 1.0, "agreement": 1.0},
        ]  # fmt: skip

    def test_a_bundle_that_scored_nothing_yet_has_no_accuracy(self) -> None:
        made = build([asked(0, gold="a")], bundles=(BundleRecord(1, "head", 0.8),))
        assert (made["bundles"][0]["scored"], made["bundles"][0]["accuracy"]) == (0, None)


class TestContradictions:
    @pytest.mark.parametrize(
        "records",
        [
            [kept(0), kept(0, id="other")],
            [kept(0), kept(1, id="i0")],
            [kept(0), kept(1), kept(2, id="i0")],
            [ItemRecord("i0", 0, ItemState.DONE)],
            [ItemRecord("i0", 0, ItemState.DONE, "a")],
            [ItemRecord("i0", 0, ItemState.ASKED, "a", Source.LLM)],
        ],
    )
    def test_records_that_contradict_themselves_make_no_report(self, records: list[ItemRecord]) -> None:
        with pytest.raises(DatashuntError, match=r"no report: item '(i0|other)'"):
            build(records)


def test_json_is_written_in_the_order_of_the_schema_and_reads_back(tmp_path: Path) -> None:
    made = build([asked(0, gold="a"), kept(1)])
    report.write_json(made, tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert read == made
    assert list(read) == FIELDS
