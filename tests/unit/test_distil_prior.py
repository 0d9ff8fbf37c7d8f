"""What the labels' own words say, and what a head makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datashunt.distil.corpus import Answers
from datashunt.distil.head import Features, Head, fit_head
from datashunt.distil.plan import Plan
from datashunt.distil.prior import head_of_words

DIMENSIONS, K = 16, 3
WORDS = torch.eye(K, DIMENSIONS) * 2.5 + 7.0
NOBODY = torch.empty((0, DIMENSIONS)), np.empty(0, dtype=np.intp)


def said(labels: torch.Tensor, *, known: torch.Tensor | None = None) -> Answers:
    target = torch.nn.functional.one_hot(labels, K).float()
    known = torch.ones_like(target, dtype=torch.bool) if known is None else known
    return Answers([], target, known, torch.ones(len(labels)))


def texts(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, d) scattered about the words of their labels (n,)."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % K
    return WORDS[labels] + torch.randn(count, DIMENSIONS, generator=draw), labels


def right(head: Head, seed: int = 9) -> float:
    features, labels = texts(600, seed)
    return float((head.logits(features).argmax(dim=1) == labels).float().mean())


def test_texts_near_the_words_of_their_labels_are_classified_though_hardly_anything_is_learned() -> None:
    features, labels = texts(12, seed=1)
    assert right(head_of_words(WORDS, features, said(labels))) > 0.75


def test_words_that_say_nothing_of_the_answers_count_for_nothing() -> None:
    features, labels = texts(600, seed=1)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))]
    head = head_of_words(WORDS, features, said(shuffled))
    assert head.logits(features).std(dim=1).max() < 0.2


def test_words_that_are_the_same_for_all_labels_tell_none_of_them() -> None:
    features, labels = texts(30, seed=1)
    same = WORDS[:1].repeat(K, 1)
    assert head_of_words(same, features, said(labels)).logits(features).abs().max() == 0.0


def test_where_two_labels_were_offered_the_third_is_not_held_improbable() -> None:
    features, labels = texts(300, seed=1)
    of_two = labels < 2
    known = torch.tensor([[True, True, False]]).repeat(int(of_two.sum()), 1)
    head = head_of_words(WORDS, features[of_two], said(labels[of_two], known=known))
    assert head.logits(WORDS).argmax(dim=1).tolist() == [0, 1, 2]


def fitted(prior: Head, count: int) -> Head:
    features, labels = texts(count, seed=3)
    nothing = Features(features, torch.empty((0, DIMENSIONS)), torch.empty((0, K)))
    plan = Plan(("a", "b", "c"), "", "auto", 16, 0.8)
    return fit_head(nothing, said(labels), NOBODY, prior, plan, lambda *_: None)


def test_a_head_begins_at_what_is_believed_and_learns_the_rest() -> None:
    features, labels = texts(6, seed=3)
    believed = head_of_words(WORDS, features, said(labels))
    assert right(fitted(believed, 6)) > right(fitted(Head.of_nothing(K, DIMENSIONS), 6)) + 0.05
    assert right(fitted(believed, 900)) == pytest.approx(right(fitted(Head.of_nothing(K, DIMENSIONS), 900)), abs=0.02)
