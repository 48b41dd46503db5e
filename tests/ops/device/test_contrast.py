"""Pairs are charged as by the plain formula, among those of their own task, and empty places cost nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from taskloom.ops.device.contrast import AddLosses, ComparePairs, ContrastPairs, pool_ranges

WIDTH, NUM_TOKENS = 8, 24
RANGES = torch.tensor(
    [
        [[0, 3], [3, 5]],
        [[5, 6], [6, 10]],
        [[10, 14], [14, 15]],
        [[16, 18], [18, 24]],
        [[0, 0], [0, 0]],
    ],
    dtype=torch.int32,
)
LOSS_IDS = torch.tensor([0, 1, 0, 0, -1], dtype=torch.int32)


@pytest.fixture
def hidden() -> Tensor:
    """States of a stream."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM_TOKENS, WIDTH, generator=generator).double()


def charge(hidden: Tensor, ranges: Tensor, loss_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    op = ContrastPairs(model_width=WIDTH, num_losses=2)
    return op(op.module().double(), hidden, ranges, loss_ids)


def plain(hidden: Tensor, which: list[int]) -> Tensor:
    """Return the sum of both cross entropies of some pairs among themselves."""
    halves = [
        torch.stack(
            [F.normalize(hidden[a:b].mean(0), dim=0) for a, b in RANGES[which, half].tolist()]
        )
        for half in (0, 1)
    ]
    scores = halves[0] @ halves[1].T / 0.07
    labels = torch.arange(len(which))
    both = [F.cross_entropy(s, labels, reduction="sum") for s in (scores, scores.T)]
    return (both[0] + both[1]) / 2


def test_pairs_are_charged_as_by_the_plain_formula_among_those_of_their_task(
    hidden: Tensor,
) -> None:
    loss, losses, weights = charge(hidden, RANGES, LOSS_IDS)
    expected = plain(hidden, [0, 2, 3])
    assert weights.tolist() == [3, 1]
    torch.testing.assert_close(losses[0], expected)
    torch.testing.assert_close(losses[1], torch.zeros_like(losses[1]))
    torch.testing.assert_close(loss, expected / 4)


def test_a_pair_alone_and_a_pack_without_pairs_cost_nothing(hidden: Tensor) -> None:
    assert charge(hidden, RANGES[:1], LOSS_IDS[:1])[0] == 0
    none = torch.full((3,), -1, dtype=torch.int32)
    loss, _, weights = charge(hidden.requires_grad_(), RANGES[:3], none)
    assert loss == 0
    assert weights.sum() == 0
    loss.backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_the_gradient_is_finite_with_places_of_no_pair(hidden: Tensor) -> None:
    hidden.requires_grad_()
    charge(hidden, RANGES, LOSS_IDS)[0].backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert hidden.grad[:5].any()
    assert not hidden.grad[15].any()  # a token of no pair


def test_the_loss_is_divided_by_the_pairs_of_the_whole_step(hidden: Tensor) -> None:
    op = ContrastPairs(model_width=WIDTH, num_losses=2)
    module = op.module().double()
    whole = op(module, hidden, RANGES, LOSS_IDS)[0]
    part = op(module, hidden, RANGES, LOSS_IDS, divisor=torch.tensor(8.0))[0]
    torch.testing.assert_close(part * 2, whole)


def test_similarity_is_highest_for_halves_that_are_alike(hidden: Tensor) -> None:
    op = ComparePairs(model_width=WIDTH)
    ranges = torch.tensor([[[0, 3], [0, 3]], [[0, 3], [3, 6]]], dtype=torch.int32)
    same, other = op(op.module().double(), hidden, ranges).tolist()
    assert same == pytest.approx(1 / 0.07)
    assert other < same


def test_empty_ranges_have_no_state(hidden: Tensor) -> None:
    assert not pool_ranges(hidden, torch.tensor([[4, 4]])).any()


def test_losses_of_two_kinds_are_added_output_by_output() -> None:
    op = AddLosses(num_losses=2)
    left = {
        "left_out": torch.tensor(1.0),
        "left_losses": torch.ones(2),
        "left_loss_weights": torch.ones(2),
    }
    right = {name.replace("left", "right"): value * 2 for name, value in left.items()}
    out, losses, weights = op(None, **left, **right)
    assert out == 3
    assert losses.tolist() == weights.tolist() == [3, 3]
