"""What is promised: scopes, misses, and targets that cannot be."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt import shunt
from datashunt.certificate import (
    Answers,
    BatchPlan,
    Certificate,
    Finding,
    LabelAlpha,
    Ledger,
    MinRecall,
    NotYet,
    OfAll,
    OfKept,
    Plan,
    Target,
    check,
)
from datashunt.certificate.plan import Risk
from datashunt.errors import CertificateError

#                  kept at 0.5, 0.3:   yes           yes            no, yes        no
ANSWERS = Answers(
    np.array([0.9, 0.8, 0.5, 0.4, 0.2]),
    np.array([0, 1, 1, 2, 1]),
    np.array([0, 0, 1, 0, 0]),
)
GRID = np.array([0.95, 0.5, 0.3])


def counts(target: Target) -> list[tuple[int, int]]:
    scope, missed = target.tally(ANSWERS, GRID)
    assert scope.shape == missed.shape == (5, 3)
    assert not (missed & ~scope).any()
    return list(zip(scope.sum(axis=0).tolist(), missed.sum(axis=0).tolist(), strict=True))


def test_of_kept_counts_the_kept_and_those_that_disagree() -> None:
    assert counts(OfKept(0.1)) == [(0, 0), (3, 1), (4, 2)]


def test_of_all_counts_everything_and_the_kept_that_disagree() -> None:
    assert counts(OfAll(0.1)) == [(5, 0), (5, 1), (5, 2)]


def test_alpha_of_a_label_counts_what_is_kept_as_another() -> None:
    assert counts(LabelAlpha(0, 0.1)) == [(0, 0), (2, 1), (3, 2)]
    assert counts(LabelAlpha(1, 0.1)) == [(0, 0), (1, 0), (2, 0)]


def test_recall_counts_what_the_llm_calls_so_and_what_is_kept_as_another() -> None:
    assert counts(MinRecall(0, 0.9)) == [(4, 0), (4, 1), (4, 2)]
    assert counts(MinRecall(1, 0.9)) == [(1, 0), (1, 0), (1, 0)]


class TestPrunedPrompts:
    """Of what escalates, an item also misses that is asked without the label that the LLM would give."""

    REACHES = np.array([0.0, 0.5, 0.1, 0.2, -np.inf])  # one for each answer
    PRUNED = Answers(ANSWERS.confidence, ANSWERS.said, ANSWERS.truth, reach=REACHES)

    def test_count_what_is_asked_without_its_label(self) -> None:
        target = OfAll(0.1, cuts=(0.2, 0.15, -np.inf))
        scope, missed = target.tally(self.PRUNED, GRID)
        assert scope.all()
        assert missed.T.tolist() == [
            [True, False, True, False, True],  # all are asked: the reach of three is below 0.2
            [False, True, False, False, True],  # of the kept the second disagrees; of those asked one misses its label
            [False, True, False, True, False],  # nothing is pruned
        ]

    def test_without_cuts_count_as_if_nothing_were_pruned(self) -> None:
        for cuts in (None, (-np.inf,) * 3):
            assert OfAll(0.1, cuts).tally(self.PRUNED, GRID).missed.tolist() == (
                OfAll(0.1).tally(ANSWERS, GRID).missed.tolist()
            )

    @pytest.mark.parametrize(
        ("answers", "cuts", "found"),
        [
            (PRUNED, (0.1, 0.2), "2 cuts and a reach"),
            (ANSWERS, (0.1, 0.2), "2 cuts and no reach"),
            (ANSWERS, (0.1, 0.2, 0.3), "3 cuts and no reach"),
        ],
    )
    def test_need_a_cut_for_each_threshold_and_a_reach_of_each_answer(
        self, answers: Answers, cuts: tuple[float, ...], found: str
    ) -> None:
        with pytest.raises(CertificateError) as caught:
            OfAll(0.1, cuts).tally(answers, GRID)
        assert str(caught.value) == (
            f"expected a cut for each of 3 thresholds and the reach of each answer, found {found}"
        )


def test_the_share_that_may_miss() -> None:
    assert [one.allowed for one in (OfKept(0.1), OfAll(0.2), LabelAlpha(0, 0.3))] == [0.1, 0.2, 0.3]
    assert MinRecall(0, 0.95).allowed == pytest.approx(0.05)


def test_an_audit_without_an_answer_disagrees_if_it_is_kept() -> None:
    lost = Answers(np.array([0.9]), np.array([1]), np.array([-1]))
    for target in (OfKept(0.1), OfAll(0.1)):
        assert target.tally(lost, np.array([0.5])).missed.tolist() == [[True]]


@given(st.integers(0, 2**32 - 1))
def test_risks_of_monotone_targets_only_grow_as_the_threshold_falls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = Answers(rng.random(40), rng.integers(0, 3, 40), rng.integers(-1, 3, 40))
    for target in (OfKept(0.1), OfAll(0.1), LabelAlpha(1, 0.1), MinRecall(1, 0.9)):
        scope, missed = target.tally(answers, np.linspace(1, 0, 9))
        assert (np.diff(missed.sum(axis=0)) >= 0).all()
        if target.monotone:
            assert (scope == scope[:, :1]).all()


def test_only_where_the_scope_is_what_is_kept_is_a_target_not_monotone() -> None:
    assert [one.monotone for one in (OfKept(0.1), OfAll(0.1), LabelAlpha(0, 0.1), MinRecall(0, 0.9))] == [
        False, True, False, True,
    ]  # fmt: skip


def test_a_threshold_between_two_float32_keeps_what_the_shunt_would_keep() -> None:
    above = np.float32(0.9)
    below = np.nextafter(above, np.float32(0))
    threshold = float(below) + (float(above) - float(below)) / 4  # float32 would round it down to `below`
    probabilities = np.array([[below, 1 - below]] * 10 + [[above, 1 - above]] * 50, dtype=np.float32)
    none = np.zeros(60, dtype=int)
    kept = Answers(probabilities.max(axis=1), none, none).kept(np.array([threshold]))
    assert kept.sum() == shunt.decide(probabilities, threshold).keep.sum() == 50


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: OfKept(0.0), "alpha must lie inside (0, 1), found 0.0"),
        (lambda: OfAll(1.0), "alpha must lie inside (0, 1), found 1.0"),
        (lambda: LabelAlpha(3, 2.0), "alpha of label 3 must lie inside (0, 1), found 2.0"),
        (lambda: MinRecall(3, 1.0), "min_recall of label 3 must lie inside (0, 1), found 1.0"),
    ],
)
def test_shares_that_cannot_be_are_refused(make: object, named: str) -> None:
    with pytest.raises(CertificateError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == named


def test_targets_say_what_they_promise() -> None:
    assert [str(one) for one in (OfKept(0.05), OfAll(0.02), LabelAlpha(3, 0.01), MinRecall(2, 0.9))] == [
        "at most 0.05 of the kept disagree",
        "at most 0.02 of all are kept and disagree",
        "at most 0.01 of what is kept as another label is label 3",
        "at least 0.9 of label 2 are found",
    ]
    assert str(OfAll(0.02, (0.1,))) == (
        "at most 0.02 of all are kept and disagree, or are asked without the label that the LLM would give"
    )


def test_targets_of_several_labels_stand_together() -> None:
    check([OfKept(0.05), OfAll(0.02), LabelAlpha(0, 0.01), LabelAlpha(1, 0.01), MinRecall(0, 0.9)], 2)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([], "nothing is promised: name a target, such as alpha"),
        ([LabelAlpha(2, 0.1)], "a target speaks of label 2, and there are 2 labels"),
        ([MinRecall(-1, 0.1)], "a target speaks of label -1, and there are 2 labels"),
        (
            [OfKept(0.05), OfKept(0.1)],
            "at most 0.05 of the kept disagree, and at most 0.1 of the kept disagree; keep one of them",
        ),
        (
            [MinRecall(1, 0.9), OfAll(0.1), MinRecall(1, 0.95)],
            "at least 0.9 of label 1 are found, and at least 0.95 of label 1 are found; keep one of them",
        ),
        (
            [LabelAlpha(1, 0.1), LabelAlpha(1, 0.2)],
            "at most 0.1 of what is kept as another label is label 1, and at most 0.2 of what",
        ),
        (
            [OfAll(0.1), OfAll(0.2)],
            "at most 0.1 of all are kept and disagree, and at most 0.2 of all are kept",
        ),
    ],
)
def test_targets_that_cannot_stand_together_are_refused(targets: list[Target], said: str) -> None:
    with pytest.raises(CertificateError) as caught:
        check(targets, 2)
    assert str(caught.value).startswith((said, f"two targets contradict each other: {said}"))


@pytest.mark.parametrize(
    "value",
    [
        ANSWERS,
        OfKept(0.1),
        OfAll(0.1),
        LabelAlpha(0, 0.1),
        MinRecall(0, 0.9),
        Ledger(0.1),
        Plan(0.1, 0.5),
        BatchPlan(0.1, 3, 0.5),
        Risk(np.zeros(1)),
        Finding(OfAll(0.1), 5, 0),
        NotYet(Finding(OfAll(0.1), 5, 0), 17),
        Certificate(0.5, 0.1, (), "x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_promised_and_proven_does_not_change(value: object) -> None:
    assert not hasattr(value, "__dict__")
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, None)  # type: ignore[arg-type]


class TestAnswers:
    def test_know_whether_they_were_audited_at_one_rate(self) -> None:
        one = np.zeros(2)
        zero = np.zeros(2, dtype=int)
        assert Answers(one, zero, zero).one_rate
        assert Answers(one, zero, zero, np.array([0.2, 0.2])).one_rate
        assert not Answers(one, zero, zero, np.array([0.2, 0.1])).one_rate
        assert Answers(one[:0], zero[:0], zero[:0], one[:0]).one_rate

    def test_have_a_length(self) -> None:
        assert len(ANSWERS) == 5

    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            ((np.zeros(2), np.zeros(3, int), np.zeros(2, int)), "found shapes (2,), (3,) and (2,)"),
            ((np.zeros(2), np.zeros(2, int), np.zeros(3, int)), "found shapes (2,), (2,) and (3,)"),
            ((np.zeros((2, 1)), np.zeros((2, 1), int), np.zeros((2, 1), int)), "found shapes (2, 1)"),
            ((np.array([0.5, 1.1]), np.zeros(2, int), np.zeros(2, int)), "in [0, 1], that of item 1 is 1.1"),
            ((np.array([-0.1, 1.0]), np.zeros(2, int), np.zeros(2, int)), "in [0, 1], that of item 0 is -0.1"),
            ((np.array([0.5, np.nan]), np.zeros(2, int), np.zeros(2, int)), "that of item 1 is nan"),
            (
                (np.zeros(2), np.zeros(2, int), np.zeros(2, int), np.ones(3)),
                "expected 2 propensities, found shape (3,)",
            ),
            (
                (np.zeros(2), np.zeros(2, int), np.zeros(2, int), np.array([1.0, 0.004])),
                "in [0.005, 1], that of item 1 is 0.004: raise the audit rate",
            ),
            ((np.zeros(1), np.zeros(1, int), np.zeros(1, int), np.array([1.01])), "that of item 0 is 1.01"),
        ],
    )
    def test_that_cannot_be_are_refused(self, parts: tuple[np.ndarray, ...], said: str) -> None:
        with pytest.raises(CertificateError) as caught:
            Answers(*parts)
        assert said in str(caught.value)

    def test_may_be_audited_as_rarely_as_one_in_two_hundred(self) -> None:
        Answers(np.ones(2), np.zeros(2, int), np.zeros(2, int), np.array([0.005, 1.0]))

    def test_may_be_surer_than_sure_by_the_error_of_a_float(self) -> None:
        Answers(np.array([0.0, 1 + 1e-7]), np.zeros(2, int), np.zeros(2, int))

    def test_have_one_reach_each(self) -> None:
        with pytest.raises(CertificateError, match=r"^expected 2 reaches, found shape \(3,\)$"):
            Answers(np.ones(2), np.zeros(2, int), np.zeros(2, int), reach=np.zeros(3))
