"""One query of a row and a head against the keys of its document, as a Triton kernel.

One program has one row and one head. It adds up exponentials block by block of keys and corrects them when a
larger score comes (arXiv:1805.02867); sums are in single precision. The key of the row itself is put where it
belongs, and stored last: loads would wait for a store. No program reads what another one stores.

Where programs are few, each waits for memory and little else. So it holds many keys at once, and loads those
of its target before it knows how many there are. Where they are many, fewer registers let all of them run.
"""

# ruff: noqa: ANN001, PLR0913, PLR0915, PLR0917  # Triton learns types and values at each call
# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_BLOCK: Final = 128
"""Keys that a program holds at once, where there are few programs."""

LARGEST_OF_MANY: Final = 64
"""The same of a target where there are many: it has a row of its own to hold as well."""

FEW: Final = 128
"""Programs that any large GPU runs side by side, one to a multiprocessor."""


@triton.jit
def attend_row(
    q_ptr,
    k_ptr,
    v_ptr,
    keys_ptr,
    values_ptr,
    bias_ptr,
    index_ptr,
    out_ptr,
    q_row,
    k_row,
    v_row,
    bias_document,
    bias_head,
    num_heads,
    num_places,
    rows_each,
    scale,
    size: tl.constexpr,
    padded: tl.constexpr,
    block: tl.constexpr,
    is_new: tl.constexpr,
    has_bias: tl.constexpr,
    is_few: tl.constexpr,
    is_single: tl.constexpr,
) -> None:
    """Attend with the query of one row and one head."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    document = row // rows_each
    channel = tl.arange(0, padded)
    is_channel = channel < size
    here = head * size + channel
    query = tl.load(q_ptr + row * q_row + here, mask=is_channel, other=0.0).to(tl.float32) * scale
    first = (document * num_heads + head).to(tl.int64) * num_places * size
    keys_ptr += first
    values_ptr += first
    if has_bias:
        bias_ptr += document * bias_document + head * bias_head
    stop = num_places
    if is_new:
        own_key = tl.load(k_ptr + row * k_row + here, mask=is_channel, other=0.0)
        own_value = tl.load(v_ptr + row * v_row + here, mask=is_channel, other=0.0)
        at = tl.load(index_ptr).to(tl.int32)
        stop = at + 1
    most = -float("inf")
    total = 0.0
    out = tl.zeros((padded,), tl.float32)
    for start in range(0, block if is_single else stop, block):
        place = start + tl.arange(0, block)
        is_kept = place < (at if is_new else stop)
        is_loaded = place < num_places if is_few else is_kept
        where = place[:, None] * size + channel[None, :]
        is_key = place < stop
        inside = is_loaded[:, None] & is_channel[None, :]
        key = tl.load(keys_ptr + where, mask=inside, other=0.0)
        value = tl.load(values_ptr + where, mask=inside, other=0.0)
        if has_bias:
            # Before keys are summed up: nothing is asked for while programs wait for parts of sums.
            bias = tl.load(bias_ptr + place, mask=is_loaded | is_key, other=0.0).to(tl.float32)
        if is_new:
            # What is loaded of places behind is anything, NaN too.
            is_own = (place == at)[:, None]
            key = tl.where(is_own, own_key[None, :], key)
            value = tl.where(is_key[:, None], tl.where(is_own, own_value[None, :], value), 0.0)
        score = tl.sum(key.to(tl.float32) * query[None, :], 1)
        if has_bias:
            score += bias
        score = tl.where(is_key, score, float("-inf"))
        larger = tl.maximum(most, tl.max(score, 0))
        # Nothing but keys that are hidden has come so far.
        level = tl.where(larger == float("-inf"), 0.0, larger)
        before = tl.exp(most - level)
        share = tl.exp(score - level)
        total = total * before + tl.sum(share, 0)
        out = out * before + tl.sum(share[:, None] * value.to(tl.float32), 0)
        most = larger
    out_here = out_ptr + row * num_heads * size + here
    tl.store(out_here, (out / total).to(out_ptr.dtype.element_ty), mask=is_channel)
    if is_new:
        tl.store(keys_ptr + at * size + channel, own_key, mask=is_channel)
        tl.store(values_ptr + at * size + channel, own_value, mask=is_channel)


def launch(
    q_RHD: Tensor,
    keys: Tensor,
    values: Tensor,
    bias_BGP: Tensor | None,
    scale: float,
    new: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Return what rows see, shape ``(R, H, D)``.

    Args:
        q_RHD: Queries; rows of a document lie next to each other.
        keys: Shape ``(B, H, P, D)``, without gaps.
        values: The same of values.
        bias_BGP: What is added to scores; ``B`` may be 1 for all documents, ``G`` 1 for all heads.
        scale: Factor of scores.
        new: Keys and values of the rows, to be kept, and their position; fewer keys are seen.
    """
    num_rows, num_heads, size = q_RHD.shape
    num_documents, _, num_places, _ = keys.shape
    out_RHD = torch.empty(q_RHD.shape, dtype=q_RHD.dtype, device=q_RHD.device)
    if not num_rows:
        return out_RHD
    k_RHD, v_RHD, index = (q_RHD, q_RHD, q_RHD) if new is None else new
    q_RHD, k_RHD, v_RHD = (_rows(each) for each in (q_RHD, k_RHD, v_RHD))
    strides = (0, 0)
    if bias_BGP is not None:
        bias_BGP = bias_BGP if bias_BGP.stride(2) == 1 else bias_BGP.contiguous()
        strides = tuple(bias_BGP.stride(n) if bias_BGP.shape[n] > 1 else 0 for n in (0, 1))
    is_few = num_rows * num_heads <= FEW
    largest = LARGEST_BLOCK if is_few or new is None else LARGEST_OF_MANY
    block = min(largest, max(16, triton.next_power_of_2(num_places)))
    attend_row[(num_rows, num_heads)](
        q_RHD,
        k_RHD,
        v_RHD,
        keys,
        values,
        q_RHD if bias_BGP is None else bias_BGP,
        index,
        out_RHD,
        q_RHD.stride(0),
        k_RHD.stride(0),
        v_RHD.stride(0),
        *strides,
        num_heads,
        num_places,
        num_rows // num_documents,
        scale,
        size=size,
        padded=triton.next_power_of_2(size),
        block=block,
        is_new=new is not None,
        has_bias=bias_BGP is not None,
        is_few=is_few,
        is_single=block >= num_places,
        num_warps=8 if is_few and block == LARGEST_BLOCK else 4,
        enable_fp_fusion=True,
    )
    return out_RHD


def _rows(x_RHD: Tensor) -> Tensor:
    """Return ``x_RHD``, the numbers of each row next to each other."""
    size = x_RHD.shape[2]
    return x_RHD if x_RHD.stride()[1:] == (size, 1) else x_RHD.contiguous()
