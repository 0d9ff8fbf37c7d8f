"""The benchmarks of pruning and of a decision: that they measure what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import conformal, coverage, decision
from benchmarks.coverage import METHODS, OURS, Prices, Row, Split
from benchmarks.recorded import STREAMS
from benchmarks.scored import Opinions
from datashunt import prompts, prune
from datashunt.items import ClaimedItem, Reason
from datashunt.pipeline.ruling import decide

SPEC = STREAMS["headlines"].spec()
LABELS = SPEC.label_names
SPLIT = Split(700, 4_000, 0.99, 0.98, 2.5, 0.9, 0.6)


def beliefs(n: int, seed: int, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    made = rng.dirichlet([0.5] * k, n).astype(np.float32)
    return made, (made.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=k - 1)


class TestSets:
    def test_a_score_is_the_mass_of_what_is_more_probable_and_a_penalty_from_the_third_on(self) -> None:
        made = conformal.scores(np.array([[0.2, 0.4, 0.3, 0.1], [0.05, 0.05, 0.8, 0.1]]), 0.25)
        assert made == pytest.approx(np.array([[0.95, -np.inf, -np.inf, 1.4], [1.15, 1.45, -np.inf, -np.inf]]))

    @pytest.mark.parametrize("method", METHODS)
    def test_all_cover_what_they_promise_and_offer_two_at_least(self, method: str) -> None:
        fit, said = beliefs(2_000, 1)
        items, truth = beliefs(20_000, 2)
        sets = METHODS[method](fit, said, items, 0.9)
        assert 0.88 < sets[np.arange(len(items)), truth].mean() < 0.93
        assert sets.sum(axis=1).min() == 2
        assert sets[np.arange(len(items)), items.argmax(axis=1)].all()

    def test_ours_is_what_the_product_offers(self) -> None:
        fit, said = beliefs(500, 1)
        items, _ = beliefs(50, 2)
        cut = prune.calibrate(fit, said, 0.9)
        assert cut is not None
        assert (METHODS[OURS](fit, said, items, 0.9) == prune.offered(items, cut)).all()
        assert METHODS[OURS](fit[:5], said[:5], items, 0.9).all()


class TestTokens:
    def test_are_those_of_the_products_prompts_second_calls_included(self) -> None:
        texts = ["gold up", "gold falls on a stronger dollar", "the third is not asked about"]
        sets = np.array([[True, True, False, False], [True, True, True, True]])
        found = Prices.of(SPEC, texts).share(np.array([0, 1]), sets, np.array([True, False]))
        full = [prompts.render(SPEC, text).tokens() for text in texts[:2]]
        pruned = prompts.render(SPEC, texts[0], candidates=LABELS[:2]).tokens()
        assert found == pytest.approx((pruned + full[0] + full[1]) / sum(full))


class TestCoverage:
    def test_the_target_less_its_sampling_error_allows_for_items_and_answers(self) -> None:
        one, many = Row("headlines", 0.9, OURS, [SPLIT]), Row("headlines", 0.9, OURS, [SPLIT] * 100)
        error = 1.645 * (0.9 * 0.1 * (1 / 702 + 1 / 4_000)) ** 0.5
        assert one.least == pytest.approx(0.9 - error)
        assert many.least == pytest.approx(0.9 - error / 10)
        assert one.reached
        assert not replace(one, splits=[replace(SPLIT, covered=0.85)]).reached

    def test_a_split_calibrates_and_prunes_other_items_that_escalate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, said = beliefs(3_000, 3)
        known = Opinions(tuple(f"text {n}" for n in range(3_000)), np.log(made + 1e-6), said)
        monkeypatch.setattr(coverage, "opinions", lambda name, seed: known)
        rows = coverage.measured("headlines", 1, 3)
        assert [(row.coverage, row.method) for row in rows] == [(c, m) for c in (0.9, 0.95, 0.99) for m in METHODS]
        assert all(len(row.splits) == 3 for row in rows)
        for split in rows[-3].splits:
            assert split.fit < 1_000
            assert split.items < 2_000
            assert split.covered == pytest.approx(0.99, abs=0.02)
            assert split.doubtful <= 1.0
        assert rows[0].mean("size") < rows[6].mean("size")

    def test_a_line_says_what_was_reached(self) -> None:
        row = Row("headlines", 0.99, OURS, [SPLIT])
        assert coverage.cells(row) == (
            "headlines", "99%", OURS, "99.00%", "98.33%", "reached", "98.0%", "2.50 of 4", "90.0%", "60.0%",
        )  # fmt: skip
        assert "| headlines | 99% |" in coverage.markdown([row])

    def test_without_the_streams_it_says_what_to_set(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DATASHUNT_STREAMS", str(tmp_path))
        with pytest.raises(SystemExit):
            coverage.main([])
        assert "set DATASHUNT_STREAMS to the folder that holds isear.csv.gz" in capsys.readouterr().err


class TestADecision:
    def test_is_the_dearest_there_is(self) -> None:
        known = decision.registered(7)
        vector = np.array([[0.9, 0.05, 0.03, 0.02, 0.0, 0.0, 0.0]], dtype=np.float32)
        found = [decide(known, [ClaimedItem(1, f"i{n}", "text")], vector)[0] for n in range(40)]
        assert {one.reason for one in found} == {Reason.ESCALATION}
        pruned = [one for one in found if one.propensity is None]
        assert {one.offered for one in pruned} == {known.spec.label_names[:4]}
        assert all(one.prior is not None for one in pruned)

    def test_is_judged_by_the_median_of_its_rounds(self) -> None:
        measures = {one.name: one for one in decision._measures({7: [5.0, 90.0, 6.0], 77: [21.0, 22.0, 20.5]})}
        assert (measures["us_7"].value, measures["us_7"].reached) == (6.0, True)
        assert (measures["us_77"].value, measures["us_77"].reached) == (21.0, False)
        assert measures["us_7_worst"].value == 90.0
