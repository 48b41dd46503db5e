"""Rotary positions matter by their differences alone."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from taskloom.ops.device.rotary import plan_rotary, rotate

positions = st.integers(0, 4000)


@settings(deadline=None, max_examples=50)
@given(query=positions, key=positions, shift=positions)
def test_a_score_depends_on_the_distance_alone(query: int, key: int, shift: int) -> None:
    x_2HD = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    scores: list[torch.Tensor] = []
    for offset in (0, shift):
        rotary = plan_rotary(torch.tensor([query + offset, key + offset]), head_size=8)
        q_HD, k_HD = rotate(x_2HD, rotary)
        scores.append((q_HD * k_HD).sum(-1))
    torch.testing.assert_close(*scores, rtol=0, atol=5e-3)  # angles of some thousand radians


def test_turning_keeps_lengths_and_leaves_position_zero_alone() -> None:
    x_NHD = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(0))
    turned_NHD = rotate(x_NHD, plan_rotary(torch.arange(5), head_size=6))
    torch.testing.assert_close(turned_NHD.norm(dim=-1), x_NHD.norm(dim=-1))
    assert torch.equal(turned_NHD[0], x_NHD[0])
    assert (turned_NHD[1:] - x_NHD[1:]).abs().amin((1, 2)).max() > 1e-3


def test_all_channels_turn_and_neighbouring_positions_differ() -> None:
    ones = torch.ones(3, 1, 8)
    turned = rotate(ones, plan_rotary(torch.arange(3), head_size=8))
    assert (turned[0] != turned[1]).all()
    assert (turned[1] != turned[2]).all()
