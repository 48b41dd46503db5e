"""What a rank holds when it holds most: parameters, what learns them, and what a pack leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .hidden import SINGLE
from .live_bytes import Use
from .pack_trace import PackTrace

RUNTIME: Final = 3 * 2**28
"""Bytes that CUDA, its libraries and compiled kernels take on a GPU, about."""
ROOM: Final = 0.06
"""Share of what is held that lies between what is held, where torch cannot use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a program lies on ranks.

    Attributes:
        num_ranks: Ranks.
        is_sharded: Whether each holds a share of what is learned, rather than all of it.
        itemsize: Bytes of a number that is computed with.
        optimizer: ``"adamw"``, or ``"muon"``, which holds one number for one of a matrix in layers.
        has_average: Whether an average of the parameters is held.
        on_host: Whether ranks compute on the host.
    """

    num_ranks: int
    is_sharded: bool
    itemsize: int
    optimizer: str
    has_average: bool
    on_host: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a rank when it holds most.

    Attributes:
        parameters: What is learned, in single precision.
        optimizer: What the optimizer holds.
        average: The average of the parameters.
        working: The parameters as they are computed with, where that is less precise.
        gradients: Gradients of parameters.
        exchange: What is held to exchange gradients, or what is gathered of other ranks' shares.
        saved: What is kept for the way back, by node, the most first.
        passing: Gradients of states that are on their way.
        within: What an op holds while it computes, such as scores of the loss.
        pack: The pack.
        runtime: What the device's libraries take, and what lies between blocks.
    """

    parameters: int
    optimizer: int
    average: int
    working: int
    gradients: int
    exchange: int
    saved: Mapping[str, int]
    passing: int
    within: int
    pack: int
    runtime: int

    @property
    def of_pack(self) -> int:
        """What is held for a pack, which grows with it."""
        return sum(self.saved.values()) + self.passing + self.within + self.pack

    @property
    def tensors(self) -> int:
        """All that is in tensors."""
        kept = self.parameters + self.optimizer + self.average + self.working + self.gradients
        return kept + self.exchange + self.of_pack

    @property
    def total(self) -> int:
        """All of it."""
        return self.tensors + self.runtime


def add_up_memory(trace: PackTrace, layout: Layout) -> Memory:
    """Return what each rank holds at most."""
    sizes = trace.sizes
    number = sizes.total
    # Two numbers for each that is learned; Muon needs one.
    states = 2 * sizes.learned - (sizes.matrices if layout.optimizer == "muon" else 0)
    is_copied = layout.itemsize != SINGLE
    share = layout.num_ranks if layout.is_sharded else 1
    held = trace.lean if layout.is_sharded else trace.peak
    gradients = held.of(Use.GRADIENT)
    if layout.is_sharded:
        gradients = -(-SINGLE * sizes.learned // share)
    kept = {
        "parameters": -(-SINGLE * number // share),
        "optimizer": -(-SINGLE * states // share),
        "average": -(-SINGLE * number // share) if layout.has_average else 0,
        "working": layout.itemsize * number if is_copied and not layout.is_sharded else 0,
        "gradients": gradients,
        "exchange": _exchange(trace, layout),
        "passing": held.of(Use.PASSING),
        "within": held.of(Use.WITHIN),
        "pack": trace.inputs,
    }
    saved = held.by_node(Use.SAVED)
    tensors = sum(kept.values()) + sum(saved.values())
    runtime = 0 if layout.on_host else RUNTIME + round(ROOM * tensors)
    return Memory(**kept, saved=saved, runtime=runtime)


def _exchange(trace: PackTrace, layout: Layout) -> int:
    """Return what ranks hold beside their own for the sake of others."""
    if layout.num_ranks == 1:
        return 0
    sizes = trace.sizes
    if not layout.is_sharded:
        # Gradients lie together in a bucket. In half precision they are copied to be summed in single, one by
        # one and then as one: when what the pack has left behind is gone, and in its place.
        own = layout.itemsize * sizes.learned
        sums = 2 * SINGLE * sizes.learned * (layout.itemsize != SINGLE)
        return own + max(0, sums - trace.peak.of(Use.SAVED, Use.PASSING, Use.WITHIN))
    # What is in no layer is whole throughout, and two layers at once: one computes, one is on its way. So are
    # their gradients.
    layer = max(sizes.layers, default=0)
    root = sizes.total - sum(sizes.layers)
    return layout.itemsize * (2 * root + 3 * layer)
