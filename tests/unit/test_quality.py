"""Quality against people: the draw is uniform, and the intervals hold the truth as often as they say."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, chisquare

from datashunt import quality, shunt
from datashunt.quality import Draw, Finished, Group, Judged, draw, exact, groups, powered, tuning

KEY = b"k" * 32
NONE = np.empty(0, np.bool_)


def finished(n: int, kept: int) -> list[Finished]:
    return [Finished(row, f"item {row}", 1000 + row, row < kept) for row in range(n)]


def rows(made: Draw) -> list[int]:
    return [one.item.row for one in made.drawn]


def bits(rng: np.random.Generator, n: int, rate: float) -> NDArray[np.bool_]:
    return rng.random(n) < rate


# the draw


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 80), st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_a_draw_has_its_size_no_item_twice_and_true_counts(
    n: int, kept: int, size: int, rate: float, seed: int
) -> None:
    made = draw(finished(n, min(kept, n)), size, key=KEY, seed=seed, rate=rate)
    assert len(set(rows(made))) == len(made.drawn) == min(size, n)
    assert (made.population, made.kept) == (n, min(kept, n))
    assert made.audited == sum(shunt.audit(KEY, f"item {row}", rate) for row in range(min(kept, n)))
    assert all(one.item.kept for one in made.drawn if one.audited)


@given(st.permutations(range(30)), st.integers(0, 10))
def test_the_order_in_which_items_come_does_not_matter(order: list[int], seed: int) -> None:
    items = finished(30, 20)
    in_order = draw(items, 7, key=KEY, seed=seed, rate=0.3)
    assert draw([items[n] for n in order], 7, key=KEY, seed=seed, rate=0.3) == in_order


def test_every_item_is_drawn_as_often_whoever_decided_it() -> None:
    """Over keys, as the hash is keyed: 4,000 draws of 5 out of 20 items, 12 of them kept."""
    counts: Counter[int] = Counter()
    for n in range(4_000):
        made = draw(finished(20, 12), 5, key=n.to_bytes(16, "big"), seed=1, rate=0.4)
        counts.update(rows(made))
    assert chisquare([counts[row] for row in range(20)]).pvalue > 0.001


def test_two_items_are_drawn_together_as_often_as_in_a_simple_random_sample() -> None:
    pairs: Counter[str] = Counter()
    for n in range(6_000):
        made = draw(finished(8, 5), 2, key=n.to_bytes(16, "big"), seed=1, rate=0.5)
        pairs[str(sorted(rows(made)))] += 1
    assert len(pairs) == 28
    assert chisquare(list(pairs.values())).pvalue > 0.001


def test_kept_items_of_a_small_sample_are_all_audited() -> None:
    made = draw(finished(2_000, 1_500), 60, key=KEY, seed=1, rate=0.1)
    kept = [one for one in made.drawn if one.item.kept]
    assert 30 <= len(kept) < 60
    assert all(one.audited for one in kept)


def test_another_seed_draws_another_sample() -> None:
    one, other = (set(rows(draw(finished(500, 300), 50, key=KEY, seed=seed, rate=0.5))) for seed in (1, 2))
    assert len(one & other) < 25


# people alone


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [10, 100, 500])
def test_the_exact_interval_holds_the_truth_as_often_as_it_says(rate: float, n: int) -> None:
    def holds(k: int) -> bool:
        found = exact(k, n, 0.05)
        return found.low <= rate <= found.high

    assert sum(binom.pmf(k, n, rate) for k in range(n + 1) if holds(k)) >= 0.95


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_exact_interval_holds_its_estimate(right: int, wrong: int) -> None:
    found = exact(right, right + wrong, 0.1)
    assert 0 <= found.low <= found.high <= 1
    if right + wrong:
        assert found.low <= found.estimate <= found.high
    else:
        assert math.isnan(found.estimate)
        assert (found.low, found.high) == (0, 1)


# prediction-powered


class World:
    """A share of outcomes is kept; people find some right; the LLM agrees more often with right ones."""

    def __init__(self, kept: float, right: tuple[float, float], agrees: tuple[float, float], others: int) -> None:
        self.kept, self.right, self.agrees, self.others = kept, right, agrees, others

    @property
    def truth(self) -> float:
        return self.kept * self.right[0] + (1 - self.kept) * self.right[1]

    def sample(self, rng: np.random.Generator, n: int) -> list[Group]:
        of_small = rng.binomial(n, self.kept)
        right = bits(rng, of_small, self.right[0])
        others = self._agreed(rng, bits(rng, self.others, self.right[0]))
        return [
            Group(self.kept, right, self._agreed(rng, right), others),
            Group(1 - self.kept, bits(rng, n - of_small, self.right[1]), None, NONE),
        ]

    def _agreed(self, rng: np.random.Generator, right: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.where(right, bits(rng, len(right), self.agrees[0]), bits(rng, len(right), self.agrees[1]))


@pytest.mark.parametrize(
    ("n", "world"),
    [
        (100, World(0.7, (0.95, 0.9), (0.98, 0.2), 1_000)),
        (300, World(0.8, (0.9, 0.8), (0.97, 0.15), 1_000)),
        (100, World(0.7, (0.99, 0.97), (0.99, 0.2), 500)),  # nearly all is right
        (300, World(0.7, (0.98, 0.9), (0.9, 0.9), 1_000)),  # the LLM knows nothing
        (60, World(0.5, (0.9, 0.8), (0.2, 0.97), 300)),  # the LLM is wrong where the small model is right
    ],
)
def test_the_powered_interval_holds_the_truth_as_often_as_it_says(n: int, world: World) -> None:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(2_000):
        found = powered(world.sample(rng, n), 0.05)
        assert found is not None
        held += found.low <= world.truth <= found.high
    assert held / 2_000 >= 0.935  # 0.95 less three standard errors of this simulation


def test_a_good_llm_narrows_the_interval_and_a_useless_one_does_no_harm() -> None:
    rng = np.random.default_rng(7)

    def width(agrees: tuple[float, float] | None) -> float:
        widths = []
        for _ in range(200):
            groups = World(1.0, (0.85, 0.5), agrees or (0.5, 0.5), 3_000).sample(rng, 200)
            if agrees is None:
                groups = [Group(group.share, group.right, None, NONE) for group in groups]
            found = powered(groups, 0.05)
            assert found is not None
            widths.append(found.high - found.low)
        return float(np.mean(widths))

    alone = width(None)
    assert width((0.99, 0.05)) < 0.6 * alone
    assert width((0.5, 0.5)) < 1.02 * alone


@given(st.integers(2, 50), st.integers(1, 50), st.integers(0, 10**6))
def test_the_tuning_lies_between_people_alone_and_full_trust(n: int, others: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right, agreed = bits(rng, n, 0.8).astype(float), bits(rng, n, 0.7).astype(float)
    assert 0 <= tuning(right, agreed, bits(rng, others, 0.7).astype(float)) <= 1


def test_a_perfect_llm_is_trusted_up_to_what_the_others_vary() -> None:
    right = np.array([1.0, 0.0] * 50)
    assert tuning(right, right, np.array([1.0, 0.0] * 5_000)) == pytest.approx(1 / 1.01, rel=0.02)
    assert tuning(right, np.ones(100), np.ones(10)) == 0


@given(st.integers(30, 80), st.integers(0, 50), st.floats(0.01, 0.5), st.integers(0, 10**6))
def test_the_powered_interval_lies_within_the_possible_and_grows_with_certainty(
    n: int, others: int, delta: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = [Group(0.6, bits(rng, n, 0.9), bits(rng, n, 0.8), bits(rng, others, 0.8)), Group(0.4, NONE, None, NONE)]
    found, surer = powered(groups, delta), powered(groups, delta / 2)
    assert found is not None
    assert surer is not None
    assert 0 <= surer.low <= found.low <= found.high <= surer.high <= 1


def judged(kept: int, others: int, *, audited: bool = True) -> list[Judged]:
    of_small = [Judged(kept=True, right=n != 0, audited=audited, agreed=audited and n != 1) for n in range(kept)]
    return of_small + [Judged(kept=False, right=n != 0, audited=False, agreed=False) for n in range(others)]


def test_what_people_said_is_parted_by_source_and_joined_with_the_audits_that_they_did_not_see() -> None:
    small, llm = groups(judged(40, 20), kept=0.75, audited=100, agreed=50)
    assert (small.share, llm.share) == (0.75, 0.25)
    assert (small.right.sum(), llm.right.sum()) == (39, 19)
    assert small.agreed is not None
    assert (small.agreed.sum(), len(small.others), small.others.sum()) == (39, 60, 50)
    assert llm.agreed is None


def test_audits_do_not_inform_a_sample_that_reaches_beyond_them() -> None:
    for found in (
        groups(judged(40, 20) + judged(1, 0, audited=False), kept=0.75, audited=100, agreed=50),
        groups(judged(40, 20), kept=0.75, audited=40, agreed=0),
        groups(judged(40, 20, audited=False), kept=0.75, audited=0, agreed=0),
    ):
        assert found[0].agreed is None
        assert len(found[0].others) == 0
        assert powered(found, 0.05) is not None


def test_few_labels_give_no_powered_interval() -> None:
    few = np.ones(quality.FEWEST - 1, np.bool_)
    assert powered([Group(1.0, few, None, NONE)], 0.05) is None
    assert powered([Group(1.0, np.append(few, True), None, NONE)], 0.05) is not None


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        powered([Group(1.0, np.ones(40, np.bool_), None, NONE)], delta)


def audited(*rows: tuple[str, str | None, bool, float]) -> list[quality.Audited]:
    return [quality.Audited(said, truth, kept, p, seen=False) for said, truth, kept, p in rows]


def test_agreement_weighs_each_audit_by_how_rarely_it_is_drawn() -> None:
    found = quality.agreement(audited(("a", "a", True, 0.1), ("a", "b", True, 0.4), ("b", "b", True, 0.4)), 0.1)
    assert found.interval.estimate == pytest.approx(12.5 / 15)
    assert found.n == 3
    assert found.interval.low < 12.5 / 15 < found.interval.high


def test_the_interval_holds_though_likely_items_are_drawn_more_often_and_agree_less() -> None:
    rng = np.random.default_rng(3)
    held, widths = 0, []
    for _ in range(200):
        likely = rng.random(6_000) < 0.2
        agrees = rng.random(6_000) < np.where(likely, 0.7, 0.95)  # 90 % of all, 81 % of those that are drawn
        propensity = np.where(likely, 0.4, 0.1)
        drawn = rng.random(6_000) < propensity
        found = quality.weighted(agrees[drawn], propensity[drawn], 0.1)
        held += found.low <= agrees.mean() <= found.high
        widths.append(found.high - found.low)
    assert held >= 180
    assert np.mean(widths) < 0.1


def test_an_interval_closes_in_on_a_share_near_one() -> None:
    flags = np.ones(40_000, np.bool_)
    flags[::100] = False
    propensity = np.where(np.arange(40_000) % 2, 0.2, 0.1)
    found = quality.weighted(flags, propensity, 0.1)
    assert 0.98 < found.low < found.estimate < found.high < 0.993


def test_with_one_propensity_the_interval_of_agreement_is_exact() -> None:
    rows = audited(*[("a", "a", True, 0.05)] * 45, *[("a", "b", True, 0.05)] * 5)
    assert quality.agreement(rows, 0.1).interval == quality.exact(45, 50, 0.1)


def test_what_is_asked_counts_as_right_and_an_audit_without_an_answer_as_wrong() -> None:
    rows = audited(("a", "b", False, 0.1), ("a", None, True, 0.1), ("a", "a", True, 0.1))
    found = quality.live(rows, ["a", "b"], 0.1)
    assert (found.kept.interval.estimate, found.kept.n) == (0.5, 2)
    assert found.all.interval.estimate == pytest.approx(2 / 3)
    assert found.unanswered == 1
    assert found.labels["a"].precision.n == 2
    assert (found.labels["b"].recall.n, found.labels["b"].recall.interval.estimate) == (1, 1.0)


def test_texts_that_were_trained_on_are_left_out_of_the_second_figure() -> None:
    rows = [quality.Audited("a", "a", True, 0.1, seen=True), quality.Audited("a", "b", True, 0.1, seen=False)]
    found = quality.live(rows, ["a", "b"], 0.1)
    assert (found.kept.interval.estimate, found.kept_unseen.interval.estimate) == (0.5, 0.0)


def test_without_audits_nothing_is_known() -> None:
    found = quality.agreement([], 0.1)
    assert (found.n, found.interval.low, found.interval.high) == (0, 0.0, 1.0)
