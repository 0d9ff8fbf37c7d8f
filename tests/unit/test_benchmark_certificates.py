"""The simulation of lives and the comparison of costs: that they measure what they say."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bargain, lives, power, validity
from benchmarks.scored import Scored, synthetic
from benchmarks.validity import LABELS, SETTINGS, Row, Setting
from datashunt.certificate import Answers, Certificate, MinRecall, OfAll, OfKept, certify
from datashunt.certificate.choice import proven
from datashunt.errors import UsageError


def setting(name: str) -> Setting:
    return next(one for one in SETTINGS if one.name == name)


class TestLives:
    @pytest.mark.parametrize("targets", [(OfAll(0.05),), (OfKept(0.1),), LABELS])
    def test_a_bundle_just_breaks_the_promise_from_some_threshold_on(self, targets: tuple) -> None:
        rng = np.random.default_rng(1)
        for _ in range(5):
            bundle = lives.hardest(rng, targets, lives.rising, 0.1)
            assert bundle.chance.sum() == pytest.approx(1.0)
            risk = bundle.risk(targets[0]) / targets[0].allowed
            first = int((risk > 1).argmax())
            assert first >= 2
            assert risk[first] == pytest.approx(1.005)
            assert bundle.broken(targets)[first:].all()

    def test_a_teacher_of_flat_noise_breaks_it_everywhere(self) -> None:
        bundle = lives.hardest(np.random.default_rng(1), [OfKept(0.1)], lives.flat, 0.1)
        assert bundle.risk(OfKept(0.1)) == pytest.approx(np.full(12, 0.1005))

    def test_counts_of_cells_certify_what_answers_do(self) -> None:
        rng = np.random.default_rng(2)
        cells, one = lives.CELLS, Setting("x", LABELS, validity.one_look)
        for _ in range(20):
            bundle = lives.hardest(rng, LABELS, lives.rising, 0.05)
            counts = bundle.drawn(rng, 4_000, 1)
            places = np.repeat(np.arange(len(cells)), counts[0])
            answers = Answers(cells.confidence[places], cells.said[places], cells.truth[places])
            found = certify(LABELS, lives.LEVELS, answers, delta=0.1)
            passing = proven(validity._exact(one, counts, 0.1).all(axis=1))[0]
            lowest = lives.LEVELS[passing - 1] if passing else None
            assert lowest == (found.threshold if isinstance(found, Certificate) else None)


class TestValidity:
    @pytest.mark.parametrize("name", ["of all, one look", "of kept, one look"])
    def test_a_promise_is_kept(self, name: str) -> None:
        row = validity.lived(setting(name), 400)
        assert row.as_it_should
        assert row.certified > 0.5

    @pytest.mark.parametrize("name", ["wrong: no bound", "wrong: no ledger"])
    def test_a_wrong_method_is_found_out(self, name: str) -> None:
        assert validity.lived(setting(name), 400).as_it_should

    def test_a_wrong_method_does_not_pass_for_a_right_one(self) -> None:
        assert not validity.lived(replace(setting("wrong: no bound"), holds=True), 400).as_it_should

    def test_betting_may_be_looked_at_and_weighed(self) -> None:
        few = replace(setting("of all, changing rates, some items twice as often"), audits=60)
        assert validity._lived(few, 10, 0).broken == 0
        assert validity._lived(setting("the same, batches, a look after each"), 20, 0).broken <= 4

    def test_all_kinds_of_targets_and_four_wrong_methods_are_lived(self) -> None:
        assert sum(not one.holds for one in SETTINGS) == 4
        assert {MinRecall, OfAll, OfKept} <= {type(target) for one in SETTINGS for target in one.targets}

    def test_a_row_says_broken_with_its_interval(self) -> None:
        row = Row(setting("of all, one look"), 1_000, 50, 0.5)
        low, high = row.interval
        assert low < 0.05 < high
        assert row.cells()[1:] == ("1,000", "50%", "5.0% (3.7% to 6.5%)", "≤ 10%", "reached")
        assert replace(row, broken=101).cells()[-1] == "missed"
        assert "| of all, one look | 1,000 | 50% |" in validity.markdown([row])


class TestPower:
    SCORED = synthetic("synthetic", 1, items=3_000)

    def test_hindsight_keeps_as_many_as_it_may(self) -> None:
        asked = power.hindsight(self.SCORED, 0.05)
        assert (self.SCORED.wrong & ~asked).sum() == 150
        assert self.SCORED.confidence[~asked].min() >= self.SCORED.confidence[asked].max()

    @pytest.mark.parametrize("method", [power.batch, power.served])
    def test_ours_asks_the_audited_and_the_doubtful(self, method: object) -> None:
        asked = method(self.SCORED, 0.1, 0.1, 3)  # type: ignore[operator]
        assert power.hindsight(self.SCORED, 0.1).mean() < asked.mean() < 1
        assert (self.SCORED.wrong & ~asked).mean() < 0.1

    def test_a_line_gives_means_and_differences(self) -> None:
        runs = {name: [(share, 0.04), (share + 0.02, 0.06)] for name, share in zip(
            power.METHODS, (0.30, 0.60, 0.45, 0.52, 0.55), strict=True
        )}  # fmt: skip
        row = power.Row("x", 0.05, runs)
        assert row.above("BARGAIN") == 0.5
        assert power.cells(row) == (
            "x", "5", "31.0 (5.0)", "61.0 (5.0)", "46.0 (5.0)", "53.0 (5.0)", "56.0 (5.0)", "15.0", "15.0", "7.0",
        )  # fmt: skip
        assert power.misses(row) == ["x, α = 0.05: one-shot is more than 10 above hindsight"]
        assert "Means of 5 trainings, 6 draws each, 60 of one-shot and 20th renewal." in power.markdown([row], 5, 6)

    def test_what_is_compared_with_says_how_it_is_installed(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("DATASHUNT_BARGAIN", str(tmp_path))
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setitem(sys.modules, "BARGAIN", None)
        with pytest.raises(UsageError, match="pip install --no-deps --target FOLDER bargain"):
            bargain.require()

    def test_what_is_learned_is_not_scored(self) -> None:
        assert isinstance(self.SCORED, Scored)
        assert len(self.SCORED.confidence) == 3_000
        assert len(self.SCORED.fit_confidence) == 2_000
