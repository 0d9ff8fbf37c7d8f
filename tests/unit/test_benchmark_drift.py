"""The simulation of the drift guard: that it measures what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import drift, rhythm, streams_that_change
from benchmarks.drift import CHANGES_AT, LONGEST, CalmRow, DelayRow, Delays, Setting
from benchmarks.rhythm import RhythmRow

MADE = streams_that_change.synthetic(1)
AT_ONCE = Setting("at once", MADE, 1.0, 0)


def test_a_threshold_keeps_what_disagrees_no_more_than_it_may() -> None:
    pool = MADE.before
    kept = pool.confidence >= pool.threshold(0.03)
    assert 0.029 < pool.wrong[kept].mean() <= 0.03
    assert kept.mean() > 0.3


def test_a_stream_changes_at_once_or_slowly() -> None:
    around = CHANGES_AT + np.array([-1, 0, 10_000, 30_000])
    assert AT_ONCE.shares(around).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert replace(AT_ONCE, share=0.6, over=20_000).shares(around).tolist() == pytest.approx([0.0, 0.0, 0.3, 0.6])


def test_items_come_from_before_and_after() -> None:
    rng = np.random.default_rng(1)
    calm, late = AT_ONCE.items(rng, 0, 2_000), AT_ONCE.items(rng, CHANGES_AT, 2_000)
    assert calm.wrong.mean() + 0.1 < late.wrong.mean()
    assert (calm.said == 3).mean() + 0.1 < (late.said == 3).mean()


def test_a_life_that_changes_climbs_the_ladder_in_order() -> None:
    life = drift.delays(AT_ONCE, 1)
    assert not life.early
    assert 0 < life.alarm <= life.suspended < math.inf
    assert life.suspended <= life.audits


def test_calm_lives_are_quiet_and_the_wrong_method_is_found_out() -> None:
    assert drift.calm("scores", MADE, drift.of_scores, 8).alarms <= 2
    wrong = drift.calm("wrong", MADE, drift.of_tests, 60, holds=False)
    assert wrong.as_it_should
    assert not replace(wrong, holds=True).as_it_should


RHYTHM = rhythm.rhythms([("synthetic", MADE.before, MADE.labels)])[-1]


def test_a_strong_rhythm_gives_an_alarm_and_a_shuffled_day_none() -> None:
    assert RHYTHM.swing == 0.67
    alarm, suspended = RHYTHM.alarms(1)
    assert alarm <= suspended
    assert alarm < rhythm.DAY * rhythm.DAYS
    assert RHYTHM.alarms(1, shuffled=True) == (math.inf, math.inf)


def test_rows_say_what_was_found() -> None:
    row = CalmRow("scores", 500, 2, holds=True)
    assert row.cells() == ("scores", "500", "0.4% (0.0% to 1.4%)", "≤ 1%", "reached")
    lives = [Delays(100.0, 200.0, math.inf, False), Delays(150.0, 250.0, math.inf, False), Delays(-5.0, 1.0, 1.0, True)]
    cells = DelayRow(AT_ONCE, lives).cells()
    assert cells[2:] == ("2", "125 (150)", "225 (250)", f"> {LONGEST:,} (> {LONGEST:,})")
    page = drift.markdown([row], [DelayRow(AT_ONCE, lives)], [RhythmRow(RHYTHM, [(9.0, math.inf)], [(math.inf,) * 2])])
    assert "| synthetic, ± 67% | 1 | 100% | 0% | 9 | 0% and 0% |" in page
    assert "| scores | 500 |" in page
    assert "| at once | " in page


def test_spoilt_texts_keep_their_length_and_most_letters() -> None:
    text = "Gold prices fall as the dollar gains, 3 % down" * 5
    spoilt = streams_that_change._spoilt(np.random.default_rng(1), text)
    same = sum(ours == theirs for ours, theirs in zip(text, spoilt, strict=True))
    assert 0.75 < same / len(text) < 0.95
