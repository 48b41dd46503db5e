"""Cases of attention: ranges and relative biases of every kind, and a query by query computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import torch
from torch import Tensor

from taskloom.ops.device.attention import AttentionSpec, Relative, attention

EXACT = ("math", "sdpa", "blockwise")
"""Back ends that compute in double precision, and on any device."""


KINDS = ("random", "causal", "full", "prefix", "empty")
"""Of ranges of one document."""


class Case(NamedTuple):
    """Queries, keys, values, ranges and bias, and a spec under which they are lawful."""

    q_NHD: Tensor
    k_MHD: Tensor
    v_MHD: Tensor
    lo_N: Tensor
    hi_N: Tensor
    spec: AttentionSpec
    relative: Relative | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What has a gradient."""
        return self[:3] if self.relative is None else (*self[:3], self.relative.table_HR)

    def having(self, inputs: list[Tensor]) -> Case:
        """Return the case with other inputs."""
        relative = self.relative and self.relative._replace(table_HR=inputs[3])
        return self._replace(q_NHD=inputs[0], k_MHD=inputs[1], v_MHD=inputs[2], relative=relative)


def tensors(seed: int, num_queries: int, num_keys: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int, head_size: int) -> Tensor:
        return torch.randn(length, 2, head_size, generator=generator, dtype=torch.double)

    return draw(num_queries, 6), draw(num_keys, 6), draw(num_keys, 4)


def ranges_of(kind: str, num_queries: int, num_keys: int, *, seed: int = 0, tile: int = 8) -> Case:
    """Ranges of one of `KINDS`, in windows that span all keys."""
    index = np.arange(num_queries)
    rng = np.random.default_rng(seed)
    full = np.stack([index * 0, index * 0 + num_keys])
    lo, hi = {
        "random": np.sort(rng.integers(0, num_keys + 1, (2, num_queries)), axis=0),
        "causal": np.stack([index * 0, np.minimum(index + 1, num_keys)]),
        "full": full,
        "prefix": np.stack([index * 0, np.clip(index + 1, num_keys // 2, num_keys)]),
        "empty": full * 0,
    }[kind]
    return Case(
        *tensors(seed, num_queries, num_keys),
        torch.tensor(lo, dtype=torch.int32),
        torch.tensor(hi, dtype=torch.int32),
        AttentionSpec(tile=tile),
    )


@st.composite
def any_ranges(draw: st.DrawFn) -> Case:
    """Ranges of any kind, empty ones among them."""
    num_queries, num_keys = draw(st.integers(1, 21)), draw(st.integers(1, 21))
    seed, kind = draw(st.integers(0, 2**16)), draw(st.sampled_from(KINDS))
    return ranges_of(kind, num_queries, num_keys, seed=seed, tile=draw(st.integers(1, 8)))


@st.composite
def packed_ranges(draw: st.DrawFn) -> Case:
    """Documents aligned to tiles, with gaps between them, causal or not, in windows that just hold them."""
    tile, longest = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    length = draw(st.integers(1, 8)) * tile - draw(st.integers(0, tile - 1))
    ranges = np.zeros((2, length), np.int32)
    is_causal = draw(st.booleans())
    start = 0
    for size in draw(st.lists(st.integers(1, longest), max_size=12)):
        if start // tile != (start + size - 1) // tile:
            start = -(-start // tile) * tile
        if start + size > length:
            break
        stop = start + size
        ranges[0, start:stop] = start
        ranges[1, start:stop] = np.arange(start + 1, stop + 1) if is_causal else stop
        start = stop + draw(st.integers(0, 1))
    return Case(
        *tensors(length, length, length),
        torch.from_numpy(ranges[0]),
        torch.from_numpy(ranges[1]),
        AttentionSpec.within_documents(longest, tile=tile),
    )


@st.composite
def cross_ranges(draw: st.DrawFn) -> Case:
    """Targets that look at their sources, in the narrowest window of whole tiles that holds them."""
    tile = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=8))
    sources, targets = np.array(sizes).T
    stops = np.cumsum(sources)
    lo, hi = np.repeat(stops - sources, targets), np.repeat(stops, targets)
    window = 0
    for first in range(0, len(lo), tile):
        start, stop = (
            lo[first : first + tile].min() // tile,
            -(-hi[first : first + tile].max() // tile),
        )
        window = max(window, int(stop - start))
    num_keys = max(1, int(stops[-1]))
    return Case(
        *tensors(num_keys, len(lo), num_keys),
        torch.from_numpy(lo),
        torch.from_numpy(hi),
        AttentionSpec(tile=tile, window=window * tile),
    )


@st.composite
def relatives(draw: st.DrawFn, length: int) -> Relative:
    """Codes of text that runs on, of text that begins anew, of pictures and of neither."""
    num_columns, num_codes = draw(st.integers(1, 4)), max(1, length)
    span = 2 * num_columns - 1
    codes, bases, slots = np.zeros((3, length), np.int32)
    start = 0
    while start < length:
        size = draw(st.integers(1, length - start))
        own = slice(start, start + size)
        index = np.arange(size)
        kind = draw(st.sampled_from(["stream", "document", "picture", "scattered"]))
        if kind == "picture":
            patch = index % num_columns**2
            codes[own] = patch // num_columns * span + patch % num_columns
            bases[own], slots[own] = 2 * num_codes - 1 + span * num_columns, 1
        else:
            scattered = index * 7 % num_codes
            codes[own] = {"stream": start + index, "document": index}.get(kind, scattered)
            bases[own], slots[own] = num_codes - 1, draw(st.integers(2, 3))
        start += size
    generator = torch.Generator().manual_seed(length)
    num_rows = 2 * (num_codes + span * num_columns)
    table_HR = torch.randn(2, num_rows, generator=generator, dtype=torch.double)
    return Relative(table_HR, *map(torch.from_numpy, (codes, bases, slots)))


@st.composite
def with_relative(draw: st.DrawFn, cases: st.SearchStrategy[Case]) -> Case:
    """Cases of one stream, with a relative bias."""
    case = draw(cases)
    length = max(case.q_NHD.shape[0], case.k_MHD.shape[0])
    q_NHD, k_MHD, v_MHD = tensors(length, length, length)
    pad = (0, length - case.lo_N.shape[0])
    lo_N, hi_N = (torch.nn.functional.pad(x, pad) for x in (case.lo_N, case.hi_N))
    hi_N = hi_N.clamp(max=length)
    return Case(q_NHD, k_MHD, v_MHD, lo_N, hi_N, case.spec, draw(relatives(length)))


def oracle(case: Case) -> Tensor:
    """Attend one query at a time."""
    rows: list[Tensor] = []
    for index, (lo, hi) in enumerate(zip(case.lo_N.tolist(), case.hi_N.tolist(), strict=True)):
        q_HD, k_KHD, v_KHD = case.q_NHD[index], case.k_MHD[lo:hi], case.v_MHD[lo:hi]
        score_KH = (k_KHD * q_HD).sum(-1) * q_HD.shape[-1] ** -0.5
        if case.relative is not None:
            table_HR, code_N, base_N, slot_N = case.relative
            row_K = (base_N[index] + code_N[lo:hi] - code_N[index]).long()
            is_near_K = slot_N[lo:hi] == slot_N[index]
            score_KH = score_KH + table_HR.t()[row_K.where(is_near_K, 0)] * is_near_K[:, None]
        rows.append((score_KH.softmax(0)[..., None] * v_KHD).sum(0))
    return torch.stack(rows)


def compute(case: Case) -> Tensor:
    """Attend as the case says."""
    return attention(*case)


def run(compute: Callable[[Case], Tensor], case: Case) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the output and the gradients of queries, keys, values and the table."""
    inputs = [x.clone().requires_grad_() for x in case.inputs]
    out = compute(case.having(inputs))
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.double).to(out)
    return out, torch.autograd.grad((out * weights).sum(), inputs, materialize_grads=True)
