"""Attention in which every query sees one contiguous range of keys.

A *range* ``[lo, hi)`` per query says which keys of a flat stream it may see. Documents, causality,
prefixes and the way from a target to its source are all ranges, so they are data: one program
serves every pack. A query whose range is empty gets exactly zero, and passes no gradient on.

Scores may carry a *relative bias*, looked up in a table by how far apart two tokens are. An
absolute one needs no help from here: positions stand beside queries and keys in one longer head,
``[q; p] @ [k; r] == q @ k + p @ r``. Heads of queries and keys may differ in size from those of
values for that reason.

Shape letters of this package: N = queries, M = keys, H = heads, D = head size, T = tiles, Q =
queries of a tile, K = keys of a tile or window, W = tiles of a window, R = rows of the table.
"""

from .backend import BACKENDS, Backend, attend, attention, plan_attention
from .plan import AttentionPlan
from .relative import Relative
from .spec import AttentionSpec

__all__ = [
    "BACKENDS",
    "AttentionPlan",
    "AttentionSpec",
    "Backend",
    "Relative",
    "attend",
    "attention",
    "plan_attention",
]
