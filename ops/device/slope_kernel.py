"""Losses and slopes of rows of scores on a GPU, in two passes over them and in their place: a Triton kernel.

One program reads one row. It adds up exponentials as it goes and corrects them when a larger score comes
(arXiv:1805.02867); then it writes over each score what the loss of its row gains with it, its *slope*. Sums are
in single precision.

Scores of a row lie side by side, rows as far apart as the *stride*, and what is left of it behind each row
becomes 0 with its slopes: so memory is read and written in long pieces where the stride is a multiple of 16,
however many ids there are.
"""

# ruff: noqa: ANN001, PLR0913, PLR0917  # Triton learns types and values at each call
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST_BLOCK: Final = 4096
"""Scores that a program holds at once."""


@triton.jit
def slope_row(
    scores_ptr,
    places_ptr,
    losses_ptr,
    num_ids,
    stride,
    right,
    each,
    block: tl.constexpr,
    teaches: tl.constexpr,
) -> None:
    """Turn one row of scores into its loss and, if it teaches, its slopes."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr = scores_ptr + row * stride
    place = tl.load(places_ptr + row)
    label_score = tl.load(row_ptr + place, mask=place >= 0, other=0.0).to(tl.float32)
    most = float("-inf")
    exponentials = 0.0
    total = 0.0
    for start in range(0, num_ids, block):
        ids = start + tl.arange(0, block)
        score = tl.load(row_ptr + ids, mask=ids < stride, other=0.0).to(tl.float32)
        total += tl.sum(tl.where(ids < num_ids, score, 0.0), 0)
        score = tl.where(ids < num_ids, score, float("-inf"))
        larger = tl.maximum(most, tl.max(score, 0))
        exponentials = exponentials * tl.exp(most - larger) + tl.sum(tl.exp(score - larger), 0)
        most = larger
    norm = most + tl.log(exponentials)
    loss = norm - right * label_score - each * total
    tl.store(losses_ptr + row, tl.where(place >= 0, loss, float("inf")))
    if teaches:
        for start in range(0, stride, block):
            ids = start + tl.arange(0, block)
            score = tl.load(row_ptr + ids, mask=ids < stride, other=0.0).to(tl.float32)
            slope = tl.exp(score - norm) - each - tl.where(ids == place, right, 0.0)
            slope = tl.where(ids < num_ids, slope, 0.0)
            tl.store(row_ptr + ids, slope.to(scores_ptr.dtype.element_ty), mask=ids < stride)


def slope_rows(
    scores_RK: Tensor,
    place_R: Tensor,
    each: float,
    *,
    teaches: bool,
) -> Tensor:
    """Return the loss of each row; where that ``teaches``, scores become slopes.

    Args:
        scores_RK: Scores, whose last axis is dense.
        place_R: Place of the label of each row, int64; negative where it is none, and the loss infinite.
        each: Weight of the log probability of every id; the label's has the rest, that all are 1.
        teaches: Whether slopes are wanted.
    """
    num_rows, num_ids = scores_RK.shape
    losses_R = scores_RK.new_empty(num_rows, dtype=torch.float32)
    block = min(LONGEST_BLOCK, triton.next_power_of_2(num_ids))
    slope_row[num_rows,](
        scores_RK,
        place_R,
        losses_R,
        num_ids,
        scores_RK.stride(0),
        1 - each * num_ids,
        each,
        block=block,
        teaches=teaches,
        num_warps=8,
        enable_fp_fusion=True,
    )
    return losses_R
