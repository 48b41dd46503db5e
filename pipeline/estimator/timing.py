"""How long a step takes: the slower of what is computed and what is moved, product by product.

No GPU reaches what its maker states. The shares of it that are taken for granted here are those that were
measured with one model on one kind of GPU (``bench/results/training_h200_2026-11.md``: `base`, in bfloat16,
compiled and recorded); what is planned for others is as good as these carry over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from ..model.hardware import Hardware
from ..model.work import Count, Work
from .hidden import SINGLE
from .memory import Layout
from .pack_trace import PackTrace

PRODUCTS: Final = 0.68
"""Share of the peak that matrix products reach: 6.24 TFLOP in 9.3 ms."""
ATTENTION: Final = 0.16
"""Share of the peak that attention reaches, in what it executes: 1.23 TFLOP in 7.9 ms."""
TRAFFIC: Final = 0.85
"""Share of the memory's bandwidth that a product reaches which waits for it."""
REST: Final = 0.51
"""Share of it that all other calls would have reached had each moved its own bytes: 29.3 GB in 12.0 ms.

Compiled, they move less, and at less than full speed.
"""
UPDATE: Final = 0.70
"""Share of it that an update reaches: 7.8 GB in 2.3 ms."""
UPDATED: Final = 52
"""Bytes that an update moves for a parameter: norm and clipping, AdamW, a copy in half precision."""
LAUNCH_S: Final = 2e-6
"""Seconds from one kernel of a recorded step to the next, however small they are."""
LATENCY_S: Final = 3e-5
"""Seconds that ranks need to agree on anything, however little it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of a step by what they are spent on, one after another.

    Attributes:
        products: Matrix products and convolutions.
        attention: Attention.
        rest: Norms, sums, activations and whatever else moves memory.
        launches: What is waited for because kernels are too small to fill the time between them.
        update: The optimizer.
        network: Exchange between ranks that nothing hides.
        loader: What is waited for because packs do not come fast enough.
    """

    products: float
    attention: float
    rest: float
    launches: float
    update: float
    network: float
    loader: float

    @property
    def total(self) -> float:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def busy(self) -> float:
        """Those in which a device computes."""
        return self.total - self.network - self.loader


def time_step(
    trace: PackTrace,
    counts: Sequence[tuple[Work, Count]],
    hardware: Hardware,
    layout: Layout,
    *,
    precision: str,
    num_packs: int,
    link: float,
    pack_s: float,
) -> Timing:
    """Return how long a step takes.

    Args:
        trace: What a pack takes.
        counts: Its work, and how often each part is done in a pack.
        hardware: Of each rank; its peaks must be known.
        layout: How the program lies on ranks.
        precision: What is computed in.
        num_packs: Packs of each rank.
        link: Bytes a second between ranks.
        pack_s: Seconds that the loader of a rank takes for a pack.
    """
    peak, bandwidth = hardware.peaks[precision], hardware.bandwidth * TRAFFIC
    products = attention = 0.0
    for work, count in counts:
        flops, moved = work.flops.executed * count.held, work.bytes / bandwidth
        if work.is_attention:
            attention += max(flops / (ATTENTION * peak), moved)
        else:
            products += max(flops / (PRODUCTS * peak), moved)
    rest = trace.moved / (REST * hardware.bandwidth)
    launches = max(0.0, LAUNCH_S * trace.calls - products - attention - rest)
    share = layout.num_ranks if layout.is_sharded else 1
    update = UPDATED * trace.sizes.learned / share / (UPDATE * hardware.bandwidth)
    computed = num_packs * (products + attention + rest + launches)
    network = _exchange_s(trace, layout, link, num_packs=num_packs)
    if layout.is_sharded:
        # What comes next is gathered while a layer computes.
        network = max(0.0, network - computed)
    busy = computed + update + network
    return Timing(
        products=num_packs * products,
        attention=num_packs * attention,
        rest=num_packs * rest,
        launches=num_packs * launches,
        update=update,
        network=network,
        loader=max(0.0, num_packs * pack_s - busy),
    )


def exchanged_bytes(trace: PackTrace, layout: Layout, *, num_packs: int) -> float:
    """Return the bytes that a rank sends in a step: rings, in which each passes on what it gets."""
    ring = (layout.num_ranks - 1) / layout.num_ranks
    sizes = trace.sizes
    if not layout.is_sharded:
        return 2 * ring * SINGLE * sizes.learned
    # Parameters are gathered for the way there and the way back of each pack; gradients are summed once.
    return ring * (2 * num_packs * layout.itemsize * sizes.total + SINGLE * sizes.learned)


def _exchange_s(trace: PackTrace, layout: Layout, link: float, *, num_packs: int) -> float:
    if layout.num_ranks == 1:
        return 0.0
    # Gradients are summed at once, and the weights of the step before; shares are exchanged layer by layer.
    shards = (2 * num_packs + 1) * (1 + len(trace.sizes.layers))
    calls = shards if layout.is_sharded else 2
    return calls * LATENCY_S + exchanged_bytes(trace, layout, num_packs=num_packs) / link
