"""Ranges become documents where they are those of documents, and the same ranges again."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given

from taskloom.graph.errors import PlanError
from taskloom.ops.device.attention import AttentionSpec, plan_attention
from taskloom.ops.device.attention.documents import find_documents
from taskloom.ops.device.attention.plan import Documents

from .attention_cases import Case, any_ranges, cross_ranges, packed_ranges


def ranges_of(documents: Documents) -> list[tuple[int, int] | None]:
    """Return what each query sees, or nothing."""
    ends = accumulate(documents.key_counts)
    seen: list[tuple[int, int] | None] = []
    for num_queries, num_keys, stop in zip(*documents[:2], ends, strict=True):
        start = stop - num_keys
        for number in range(num_queries):
            last = start + number + 1 if documents.is_causal else stop
            seen.append((start, min(last, stop)) if num_keys else None)
    return seen


def ranges_in(case: Case) -> list[tuple[int, int] | None]:
    pairs = zip(case.lo_N.tolist(), case.hi_N.tolist(), strict=True)
    return [(lo, hi) if lo < hi else None for lo, hi in pairs]


@given(case=packed_ranges() | cross_ranges())
def test_packs_are_documents_with_the_same_ranges(case: Case) -> None:
    num_keys = case.k_MHD.shape[0]
    documents = find_documents(case.lo_N, case.hi_N, num_keys)
    assert documents is not None
    assert ranges_of(documents) == ranges_in(case)
    assert sum(documents.key_counts) == num_keys


@given(case=any_ranges())
def test_other_ranges_are_documents_with_the_same_ranges_or_none(case: Case) -> None:
    documents = find_documents(case.lo_N, case.hi_N, case.k_MHD.shape[0])
    if documents is not None:
        assert ranges_of(documents) == ranges_in(case)


@pytest.mark.parametrize(
    ("lo", "hi"),
    [
        pytest.param([0, 0, 0], [2, 2, 3], id="a prefix"),
        pytest.param([1, 1, 0], [3, 3, 1], id="out of order"),
        pytest.param([0, 1, 2], [2, 3, 3], id="overlapping"),
        pytest.param([0, 0, 0], [4, 4, 4], id="past the keys"),
        pytest.param([1, 1], [2, 3], id="causal, from another place"),
    ],
)
@pytest.mark.parametrize("backend", ["varlen", "xformers"])
def test_ranges_of_no_documents_are_refused(backend: str, lo: list[int], hi: list[int]) -> None:
    spec = AttentionSpec(backend=backend)
    with pytest.raises(PlanError, match="its ranges are not those of documents"):
        plan_attention(torch.tensor(lo), torch.tensor(hi), 3, spec)


def test_offsets_tell_where_documents_begin_and_the_last_ends() -> None:
    documents = Documents([2, 0, 3], [4, 1, 2], is_causal=False)
    of_queries, of_keys = documents.offsets(torch.device("cpu"))
    assert of_queries.tolist() == [0, 2, 2, 5]
    assert of_keys.tolist() == [0, 4, 5, 7]
    assert of_queries.dtype is of_keys.dtype is torch.int32
