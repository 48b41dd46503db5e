"""Ranges as lists of documents, for libraries that know no others.

Such a library is given the lengths of sequences that lie end to end: the n-th sequence of queries
sees the n-th sequence of keys, all of it or up to its own place. Keys that no query sees become
sequences without queries, and queries that see nothing sequences without keys. Lengths are numbers
to the host, so finding them waits for the device, once per plan, and is no part of a compiled
program.
"""

from __future__ import annotations

from itertools import groupby

from torch import Tensor

from ....graph.errors import PlanError
from .plan import AttentionPlan, Documents
from .spec import AttentionSpec


def plan_documents(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    """Find the documents.

    Raises:
        PlanError: Ranges are those of no documents.
    """
    documents = find_documents(lo_N, hi_N, num_keys)
    if documents is None:
        message = (
            f'the attention back end "{spec.backend}" cannot compute this: '
            "its ranges are not those of documents, one after another and seen as a whole or causally"
        )
        raise PlanError.of("T0230", message)
    return AttentionPlan(spec, lo_N, hi_N, documents=documents)


def find_documents(lo_N: Tensor, hi_N: Tensor, num_keys: int) -> Documents | None:
    """Return the documents that have these ranges, or nothing if none have."""
    ranges = list(zip(lo_N.tolist(), hi_N.tolist(), strict=True))
    groups = [list(group) for _, group in groupby(ranges, key=_first_key)]
    if all(len({hi for _, hi in group}) == 1 or _sees_nothing(group) for group in groups):
        return _lay_out(groups, num_keys, is_causal=False)
    if _is_causal(groups):
        return _lay_out(groups, num_keys, is_causal=True)
    return None


def _first_key(seen: tuple[int, int]) -> int | None:
    lo, hi = seen
    return lo if lo < hi else None


def _sees_nothing(group: list[tuple[int, int]]) -> bool:
    return _first_key(group[0]) is None


def _is_causal(groups: list[list[tuple[int, int]]]) -> bool:
    """Return whether every document begins at its first key and each query sees up to itself."""
    query = 0
    for group in groups:
        steps = [(query, query + 1 + number) for number in range(len(group))]
        if not _sees_nothing(group) and group != steps:
            return False
        query += len(group)
    return True


def _lay_out(
    groups: list[list[tuple[int, int]]], num_keys: int, *, is_causal: bool
) -> Documents | None:
    counts: list[tuple[int, int]] = []
    key = 0
    for group in groups:
        if _sees_nothing(group):
            counts.append((len(group), 0))
            continue
        lo, hi = group[0][0], group[-1][1]
        if lo < key or hi > num_keys:
            return None
        if lo > key:
            counts.append((0, lo - key))
        counts.append((len(group), hi - lo))
        key = hi
    if key < num_keys:
        counts.append((0, num_keys - key))
    return Documents([queries for queries, _ in counts], [keys for _, keys in counts], is_causal)
