"""When a cut holds, what it is calibrated on, and how its report counts. No database and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from datashunt import classifier, prompts
from datashunt.items import Role
from datashunt.pipeline import pruning
from datashunt.pipeline.pruning import Calibration
from datashunt.store.classifiers import Bundle, Registered
from datashunt.store.distillations import StoredAnswer
from datashunt.store.offers import Asked, Reference

LABELS = ("bad", "middling", "good")
NOTHING = float("inf")


def registered(calibration: Calibration | None = None, pruning: str = "hard", **policy: Any) -> Registered:
    document = {"name": "mood", "labels": list(LABELS), "instruction": "Say.", "policy": policy}
    spec = classifier.parse({**document, "prompt": {"pruning": pruning, "coverage": 0.9}})
    bundle = Bundle(
        **{"id": 1, "version": 1, "state": "promoted", "uri": "x", "content_hash": "x", "labels": LABELS},
        **{"labels_hash": spec.labels_hash, "spec_version": 1, "recipe": "head"},
        prune_cut=calibration and calibration.cut,
        evaluation={} if calibration is None else {"pruning": calibration.to_json()},
        parent_id=None,
        created_at=datetime(2025, 1, 1, tzinfo=UTC),
    )
    return Registered(1, "mood", 1, spec, prompts.prompt_hash(spec), b"k" * 32, bundle)


class Model:
    """Reads its probabilities from the text."""

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[float(p) for p in text.split()] for text in texts], np.float32).reshape(-1, 3)


def fit(*texts: str, label: str = "good") -> list[StoredAnswer]:
    return [StoredAnswer(n, n, text, label, None, Role.FIT, "") for n, text in enumerate(texts, 1)]


def calibrated(texts: Sequence[str], threshold: float = 0.9) -> Calibration:
    model: Any = Model()
    found = pruning.calibrate(registered(), model, fit(*texts), threshold)
    assert found is not None
    return found


DOUBTFUL = [f"0.2 {0.7 - n / 100} {0.1 + n / 100}" for n in range(20)]
SURE = ["0.0 0.05 0.95"] * 30


class TestCalibrating:
    def test_looks_at_answers_to_items_that_escalate_and_at_no_others(self) -> None:
        found = calibrated([*DOUBTFUL, *SURE])
        assert (found.answers, found.missing, found.up_to) == (20, 0, 50)
        assert found.cut == pytest.approx(0.11)  # of 20, one may be missed twice: ⌊21 · 0.1⌋ = 2
        assert found.cut == calibrated(DOUBTFUL).cut

    def test_says_how_many_answers_are_missing(self) -> None:
        found = calibrated([*DOUBTFUL[:4], *SURE])
        assert (found.cut, found.answers, found.missing) == (None, 4, 6)

    def test_with_no_answer_at_all_misses_every_one(self) -> None:
        assert calibrated([]) == Calibration(None, 0, 10, 0, 0.9, 0.9, registered().prompt_hash)

    def test_where_nothing_is_kept_counts_every_answer(self) -> None:
        found = calibrated([*DOUBTFUL, *SURE], NOTHING)
        assert (found.answers, found.threshold) == (50, None)

    def test_leaves_out_what_is_no_number(self) -> None:
        assert calibrated([*DOUBTFUL, "nan nan nan"]).answers == 20

    def test_weighs_answers_where_likely_items_of_a_label_are_audited_more_often(self) -> None:
        known = registered(mode="target", alpha=0.1, labels={"bad": {"min_recall": 0.9}})
        model: Any = Model()
        often = [replace(one, propensity=0.4) for one in fit(*DOUBTFUL)]
        rare = [replace(one, propensity=0.1) for one in fit("0.2 0.7 0.1")]
        found = pruning.calibrate(known, model, [*often, *rare], 0.9)
        assert found is not None
        assert (found.cut, found.answers, found.missing) == (None, 21, 4)  # worth 6 of the 10 that it takes
        assert pruning.calibrate(registered(), model, [*often, *rare], 0.9).missing == 0  # type: ignore[union-attr]

    def test_is_not_done_where_nothing_is_pruned_by_it(self) -> None:
        model: Any = Model()
        assert pruning.calibrate(registered(pruning="soft"), model, fit(*DOUBTFUL), 0.9) is None


class TestACutHolds:
    def test_at_the_threshold_it_was_calibrated_for(self) -> None:
        known = registered(calibrated(DOUBTFUL, 0.7))
        assert pruning.cut_of(known, 0.7) == pytest.approx(0.11)
        assert pruning.cut_of(known, float(np.float32(0.7))) == pytest.approx(0.11)
        assert not pruning.is_due(known, 0.7)
        for other in (0.71, 1.0, NOTHING):
            assert pruning.cut_of(known, other) is None
            assert pruning.is_due(known, other)

    def test_above_one_whatever_the_threshold(self) -> None:
        known = registered(calibrated(DOUBTFUL, NOTHING))
        assert pruning.cut_of(known, NOTHING) == pruning.cut_of(known, 1.5) == pytest.approx(0.11)
        assert pruning.cut_of(known, 1.0) is None

    def test_for_the_prompt_and_the_coverage_it_was_calibrated_for(self) -> None:
        known = registered(calibrated(DOUBTFUL))
        prompt = known.spec.prompt.model_copy(update={"coverage": 0.95})
        others = [
            replace(known, prompt_hash="another"),
            replace(known, spec=known.spec.model_copy(update={"prompt": prompt})),
        ]
        assert pruning.cut_of(known, 0.9) is not None
        for other in others:
            assert pruning.cut_of(other, 0.9) is None
            assert pruning.is_due(other, 0.9)

    def test_only_where_the_classifier_prunes(self) -> None:
        known = registered(calibrated(DOUBTFUL), pruning="soft")
        assert pruning.cut_of(known, 0.9) is None
        assert not pruning.is_due(known, 0.9)

    def test_for_no_bundle_that_was_not_calibrated(self) -> None:
        known = registered()
        assert pruning.cut_of(known, 0.9) is None
        assert pruning.is_due(known, 0.9)
        assert not pruning.is_due(replace(known, incumbent=None), 0.9)
        old = replace(known, incumbent=replace(known.incumbent, prune_cut=0.3))  # type: ignore[type-var]
        assert pruning.cut_of(old, 0.9) is None


def reference(answer: int, label: str = "good", role: Role = Role.JUDGE) -> Reference:
    return Reference(answer, role, label, (0.5, 0.45, 0.05))


def asked(offered: tuple[str, ...] | None, *tokens: int, probabilities: tuple[float, ...] = (0.5, 0.45, 0.05)) -> Asked:
    return Asked(offered, probabilities, len(tokens), sum(tokens), tokens[-1])


class TestTheReport:
    KNOWN = registered(calibrated(DOUBTFUL))

    def test_counts_references_that_lie_in_their_set_with_an_exact_interval(self) -> None:
        found = pruning.reported(self.KNOWN, 0.9, [reference(1, "bad"), reference(2, "middling"), reference(3)], [])
        assert (found.active, found.missing, found.covered, found.audited) == (True, 0, 2, 3)
        assert found.coverage == pytest.approx(2 / 3)
        assert (found.low, found.high) == pytest.approx((beta.ppf(0.025, 2, 2), beta.ppf(0.975, 3, 1)))

    def test_leaves_out_the_answers_that_the_cut_was_calibrated_on(self) -> None:
        seen, fresh = reference(20, "bad", Role.FIT), reference(21, "good", Role.FIT)
        found = pruning.reported(self.KNOWN, 0.9, [fresh, seen], [])
        assert (found.covered, found.audited) == (0, 1)

    def test_with_nothing_to_count_names_no_share(self) -> None:
        found = pruning.reported(self.KNOWN, 0.9, [], [])
        assert (found.audited, found.coverage, found.low, found.high, found.asks) == (0, None, 0.0, 1.0, 0)

    def test_counts_the_answers_that_have_come_since_as_there(self) -> None:
        known = registered(calibrated(DOUBTFUL[:4]))
        since = [reference(5, role=Role.FIT), reference(6, role=Role.FIT), reference(4, role=Role.FIT), reference(7)]
        found = pruning.reported(known, 0.9, since, [])
        assert (found.active, found.missing, found.audited) == (False, 4, 0)

    def test_of_a_bundle_that_was_not_calibrated_misses_what_nobody_has_counted(self) -> None:
        since = [reference(n, role=Role.FIT) for n in (1, 2, 3)]
        assert pruning.reported(registered(), 0.9, since, []).missing == 7
        assert pruning.reported(replace(registered(), incumbent=None), 0.9, [], []).missing == 10

    def test_with_enough_answers_waits_for_the_next_distillation(self) -> None:
        found = pruning.reported(self.KNOWN, 0.8, [reference(n, role=Role.FIT) for n in range(12)], [])
        assert (found.active, found.missing) == (False, 0)

    def test_sets_tokens_of_all_calls_against_those_of_full_prompts(self) -> None:
        spec = self.KNOWN.spec
        pair = ("bad", "middling")
        spared = prompts.render(spec, "x").tokens() - prompts.render(spec, "x", candidates=pair).tokens()
        found = pruning.reported(self.KNOWN, 0.9, [], [asked(pair, 100), asked(pair, 80, 80), asked(None, 100, 130)])
        assert (found.asks, found.fell_back) == (3, 1)
        assert found.tokens == 100 + 160 + 230
        assert found.tokens_full == (100 + spared) + (160 + 2 * spared) + 130

    def test_leaves_out_a_miss_among_all_labels(self) -> None:
        everything = asked(None, 100, 100, probabilities=(0.4, 0.3, 0.3))
        assert pruning.reported(self.KNOWN, 0.9, [], [everything]).asks == 0
