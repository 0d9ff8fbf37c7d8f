"""The losses of the two stages."""

from __future__ import annotations

import pytest
import torch

from datashunt.distil.full import slower
from datashunt.distil.losses import absorb_loss, retain_loss, worst_shift

ALL = torch.ones(1, 3, dtype=torch.bool)
ONE = torch.ones(1)


def logits(*values: float) -> torch.Tensor:
    return torch.tensor([values], requires_grad=True)


def one_hot(label: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor([label]), 3).float()


def test_without_robustness_it_is_the_cross_entropy() -> None:
    z = logits(0.3, -1.0, 2.0)
    expected = torch.nn.functional.cross_entropy(z, torch.tensor([2]))
    assert absorb_loss(z, one_hot(2), ALL, ONE, 0.0).item() == pytest.approx(expected.item())


def test_a_small_robustness_is_nearly_the_cross_entropy() -> None:
    z = logits(0.3, -1.0, 2.0)
    plain = absorb_loss(z, one_hot(0), ALL, ONE, 0.0).item()
    assert absorb_loss(z, one_hot(0), ALL, ONE, 1e-4).item() == pytest.approx(plain, rel=1e-3)


def test_full_robustness_is_the_mean_absolute_error() -> None:
    z = logits(0.3, -1.0, 2.0)
    expected = 1 - torch.softmax(z, dim=1)[0, 1]
    assert absorb_loss(z, one_hot(1), ALL, ONE, 1.0).item() == pytest.approx(expected.item())


def test_the_reverse_cross_entropy_is_four_times_the_probability_of_the_other_labels() -> None:
    z = logits(0.3, -1.0, 2.0)
    p = torch.softmax(z, dim=1)[0, 2].item()
    both = absorb_loss(z, one_hot(2), ALL, ONE, 0.0, reverse=0.5).item()
    assert both - absorb_loss(z, one_hot(2), ALL, ONE, 0.0).item() == pytest.approx(0.5 * 4 * (1 - p))


def test_an_implausible_answer_pulls_less_under_a_robust_loss() -> None:
    pulls = []
    for robustness in (0.0, 0.3, 0.7):
        z = logits(6.0, 0.0, 0.0)
        absorb_loss(z, one_hot(1), ALL, ONE, robustness).backward()
        pulls.append(z.grad.abs().sum().item())
    assert pulls[0] > pulls[1] > pulls[2] > 0


@pytest.mark.parametrize("robustness", [0.0, 0.3, 1.0])
def test_a_label_that_was_not_offered_is_not_pushed_down(robustness: float) -> None:
    z = logits(1.0, 0.0, 5.0)
    known = torch.tensor([[True, True, False]])
    loss = absorb_loss(z, one_hot(0), known, ONE, robustness)
    loss.backward()
    assert z.grad[0, 2] == 0
    assert torch.isfinite(z.grad).all()
    alone = absorb_loss(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool), ONE, robustness
    )
    assert loss.item() == pytest.approx(alone.item())


def test_weights_average_the_answers() -> None:
    z = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    target = torch.cat([one_hot(0), one_hot(1)])
    known = torch.ones(2, 3, dtype=torch.bool)
    right, wrong = (absorb_loss(z[:1], one_hot(i), ALL, ONE, 0.3).item() for i in (0, 1))
    weighted = absorb_loss(z, target, known, torch.tensor([3.0, 1.0]), 0.3).item()
    assert weighted == pytest.approx((3 * right + wrong) / 4)
    assert absorb_loss(z, target, known, torch.zeros(2), 0.3).item() == 0


def test_soft_targets_are_fitted_by_their_own_distribution() -> None:
    target = torch.tensor([[0.7, 0.2, 0.1]])
    z = target.log().requires_grad_(True)
    absorb_loss(z, target, ALL, ONE, 0.0).backward()
    assert z.grad.abs().max() < 1e-6


def test_retaining_costs_nothing_only_where_the_model_agrees() -> None:
    reference = torch.tensor([[0.7, 0.2, 0.1]])
    assert retain_loss(reference.log(), reference).item() == pytest.approx(0.0, abs=1e-6)
    assert retain_loss(torch.zeros(1, 3), reference).item() > 0.1


def test_retaining_is_a_mean_over_texts() -> None:
    reference = torch.tensor([[1.0, 0.0, 0.0]])
    once = retain_loss(torch.zeros(1, 3), reference).item()
    assert retain_loss(torch.zeros(4, 3), reference.repeat(4, 1)).item() == pytest.approx(once)


def test_a_text_is_moved_by_a_share_of_its_own_length_along_its_own_gradient() -> None:
    embeddings = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.3, 0.4], [9.0, 9.0]]])
    gradient = torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[1.0, 0.0], [7.0, 7.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    moved = worst_shift(gradient, embeddings, mask, 0.1)
    torch.testing.assert_close(moved, torch.tensor([[[0.0, 0.5], [0.0, 0.0]], [[0.05, 0.0], [0.0, 0.0]]]))


def test_a_text_without_gradient_is_not_moved() -> None:
    still = worst_shift(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 2), 0.1)
    assert torch.equal(still, torch.zeros(1, 2, 3))


def test_a_moved_text_has_a_greater_loss() -> None:
    torch.manual_seed(0)
    layer, mask = torch.nn.Linear(6, 3), torch.ones(4, 2)
    target = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0]), 3).float()
    known, weight = torch.ones(4, 3, dtype=torch.bool), torch.ones(4)
    words = torch.randn(4, 2, 6, requires_grad=True)

    def loss(at: torch.Tensor) -> torch.Tensor:
        return absorb_loss(layer(at.mean(dim=1)), target, known, weight, 0.0)

    before = loss(words)
    (gradient,) = torch.autograd.grad(before, words)
    assert loss(words.detach() + worst_shift(gradient, words.detach(), mask, 0.05)) > before


@pytest.mark.parametrize(("width", "share"), [(64, 1.0), (384, 1.0), (768, 0.5), (1_024, 0.375)])
def test_wider_encoders_learn_slower(width: int, share: float) -> None:
    assert slower(width) == share
