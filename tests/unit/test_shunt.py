from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from datashunt import shunt
from datashunt.items import Role

KEY = b"a key of the classifier, 32 byte"
IDS = [f"item-{number}" for number in range(20_000)]
rates = st.floats(0.0, 1.0)


def test_confident_items_are_kept_and_the_others_escalate() -> None:
    decisions = shunt.decide(np.array([[0.1, 0.9], [0.55, 0.45], [0.8, 0.2]], np.float32), 0.75)
    assert decisions.labels.tolist() == [1, 0, 0]
    assert decisions.keep.tolist() == [True, False, True]
    assert decisions.confidence == pytest.approx([0.9, 0.55, 0.8])


def test_an_item_exactly_at_the_threshold_is_kept() -> None:
    assert shunt.decide(np.array([[0.75, 0.25]]), 0.75).keep.tolist() == [True]


def test_nothing_is_kept_below_a_threshold_of_one_unless_certain() -> None:
    assert shunt.decide(np.array([[0.999, 0.001], [1.0, 0.0]]), 1.0).keep.tolist() == [False, True]


def test_probabilities_that_are_no_numbers_escalate() -> None:
    assert shunt.decide(np.array([[np.nan, np.nan]]), 0.0).keep.tolist() == [False]


def test_a_label_that_is_never_kept_escalates_however_sure_it_is() -> None:
    decisions = shunt.decide(np.array([[0.01, 0.99], [0.95, 0.05]]), 0.9, never=[1])
    assert decisions.keep.tolist() == [False, True]
    assert shunt.decide(np.array([[0.6, 0.4]]), 0.9, never=[1]).keep.tolist() == [False]


def test_what_may_be_a_watched_label_is_audited_more_often_and_nothing_less_often() -> None:
    probabilities = np.array([[0.95, 0.05, 0.0], [0.85, 0.1, 0.05], [0.2, 0.2, 0.6]])
    assert shunt.rates(probabilities, 0.05, [1]).tolist() == pytest.approx([0.05, 0.2, 0.2])
    assert shunt.rates(probabilities, 0.4, [1]).tolist() == pytest.approx([0.4, 1.0, 1.0])


def test_an_empty_batch_has_empty_decisions() -> None:
    labels, confidence, keep = shunt.decide(np.empty((0, 3)), 0.5)
    assert (len(labels), len(confidence), len(keep)) == (0, 0, 0)
    full = shunt.decide(np.ones((1, 1)), 0.5)
    assert (
        [labels.dtype, confidence.dtype, keep.dtype] == [one.dtype for one in full] == [np.intp, np.float64, np.bool_]
    )


@given(st.integers(0, 2**32 - 1), rates)
def test_a_higher_threshold_never_keeps_more(seed: int, threshold: float) -> None:
    probabilities = np.random.default_rng(seed).dirichlet([1.0] * 4, size=16)
    low, high = shunt.decide(probabilities, threshold / 2), shunt.decide(probabilities, threshold)
    assert not (high.keep & ~low.keep).any()


def test_the_draws_are_uniform_whatever_the_pattern_of_the_ids() -> None:
    for purpose in (b"audit", b"role"):
        draws = [shunt.uniform(KEY, item_id, purpose) for item_id in IDS]
        assert min(draws) >= 0.0
        assert max(draws) < 1.0
        assert kstest(draws, "uniform").pvalue > 1e-4


@given(st.text(max_size=40), rates, rates)
def test_raising_the_audit_rate_only_adds_items(item_id: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert shunt.audit(KEY, item_id, high) or not shunt.audit(KEY, item_id, low)


@given(st.text(max_size=40))
def test_a_rate_of_zero_audits_nobody_and_a_rate_of_one_everybody(item_id: str) -> None:
    assert not shunt.audit(KEY, item_id, 0.0)
    assert shunt.audit(KEY, item_id, 1.0)


def test_the_audited_share_is_the_rate() -> None:
    audited = sum(shunt.audit(KEY, item_id, 0.05) for item_id in IDS)
    assert binomtest(audited, len(IDS), 0.05).pvalue > 1e-4


def test_audited_answers_fit_or_judge_half_and_half_whatever_the_rate_that_drew_them() -> None:
    for rate in (0.05, 0.2, 1.0):
        roles = [shunt.role(KEY, item_id, True) for item_id in IDS if shunt.audit(KEY, item_id, rate)]
        assert set(roles) == {Role.FIT, Role.JUDGE}
        assert binomtest(roles.count(Role.FIT), len(roles), 0.5).pvalue > 1e-4


def test_answers_that_are_not_audited_train() -> None:
    assert {shunt.role(KEY, item_id, False) for item_id in IDS[:50]} == {Role.TRAIN}


def test_another_key_draws_other_items() -> None:
    other = b"another key of 32 bytes, secret!"
    both = sum(shunt.audit(KEY, i, 0.2) and shunt.audit(other, i, 0.2) for i in IDS)
    assert binomtest(both, len(IDS), 0.04).pvalue > 1e-4


def test_the_draw_of_an_item_is_the_same_in_every_release() -> None:
    assert shunt.uniform(bytes(range(16)), "item-1", b"audit") == 0.9830165370600487


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_key_that_could_be_guessed_or_is_too_long_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"16 to 64 bytes, this one has {size}"):
        shunt.audit(b"k" * size, "item", 0.5)


@pytest.mark.parametrize("size", [16, 64])
def test_a_key_of_sixteen_to_sixty_four_bytes_draws(size: int) -> None:
    assert 0.0 <= shunt.uniform(b"k" * size, "item", b"audit") < 1.0
