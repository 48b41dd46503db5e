"""The kernel sees what plain attention sees of a target and of a source: on a GPU, or interpreted."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

pytest.importorskip("triton")

from taskloom.ops.device.decode import attend_row_kernel, step
from taskloom.ops.device.decode.attend_row import attend_source, attend_target
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.stack import Stack, attend
from taskloom.ops.device.decode.step import Sources, open_cache, take_step

from ..relative.golden import Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = st.sampled_from((1, 8, 20, 64))


@contextmanager
def as_if_few(*, is_few: bool) -> Generator[None]:
    """Let any number of programs count as few, or none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attend_row_kernel, "FEW", 1 << 30 if is_few else 0)
        yield


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(1, 3),
    num_heads=st.integers(1, 3),
    is_few=st.booleans(),
    size=SIZES,
    num_places=st.integers(1, 140),
    share=st.floats(0, 1, exclude_max=True),
    has_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_row_is_added_to_its_target_and_sees_it_and_all_before(
    *,
    num_rows: int,
    num_heads: int,
    is_few: bool,
    size: int,
    num_places: int,
    share: float,
    has_bias: bool,
    seed: int,
) -> None:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    draw = partial(torch.randn, generator=generator, device=DEVICE)
    at = int(share * num_places)
    states = draw(num_rows, 3, num_heads, size)
    q, k, v = states.unbind(1)
    kept = [draw(num_rows, num_heads, num_places, size) for _ in range(2)]
    # What is behind is never seen.
    for each in kept:
        each[:, :, at + 1 :] = torch.nan
    wanted = [each.clone() for each in kept]
    wanted[0][:, :, at], wanted[1][:, :, at] = k, v
    # The third layer of two that take turns.
    bias = draw(2, 1, num_heads, num_places) if has_bias else None
    seen = [each[:, :, : at + 1] for each in wanted]
    scores = None if bias is None else bias[0, :, :, None, : at + 1]
    expected = attend(q[:, :, None], seen[0], seen[1], scores, 0.3)[:, :, 0]
    index = torch.tensor([at], device=DEVICE)
    with as_if_few(is_few=is_few):
        found = attend_target(states, kept[0], kept[1], index, bias, 2, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(kept, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(
    num_documents=st.integers(1, 3),
    num_rows=st.integers(1, 3),
    num_heads=st.integers(1, 3),
    is_few=st.booleans(),
    size=SIZES,
    longest=st.integers(1, 300),
    is_shared=st.booleans(),
    data=st.data(),
)
def test_rows_see_the_source_of_their_document(
    *,
    num_documents: int,
    num_rows: int,
    num_heads: int,
    is_few: bool,
    size: int,
    longest: int,
    is_shared: bool,
    data: st.DataObject,
) -> None:
    generator = torch.Generator(DEVICE).manual_seed(data.draw(st.integers(0, 99)))
    draw = partial(torch.randn, generator=generator, device=DEVICE)
    q = draw(num_documents * num_rows, num_heads, size)
    keys, values = (draw(num_documents, num_heads, longest, size) for _ in range(2))
    bias = draw(num_documents, 1 if is_shared else num_heads, longest)
    # The first keys may be hidden too.
    for each in bias:
        first = data.draw(st.integers(0, longest - 1))
        each[:, :first] = -torch.inf
        each[:, first + data.draw(st.integers(1, longest)) :] = -torch.inf
    q_BHKD = q.unflatten(0, (num_documents, -1)).transpose(1, 2)
    expected = attend(q_BHKD, keys, values, bias[:, :, None], 0.3).transpose(1, 2).flatten(0, 1)
    with as_if_few(is_few=is_few):
        found = attend_source(q, keys, values, bias[:, :, None], 0.3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def step_through(stack: Stack, sources: Sources, num_rows: int, compile_: Any) -> Tensor:
    """Return the states of some steps."""
    cache = open_cache(stack, sources, num_rows=num_rows, max_length=3)
    rows = len(sources.keys_2B[0]) * num_rows
    take = compile_(take_step)
    steps = [
        take(stack, 4 + torch.arange(rows) % 7 + at, torch.tensor([at]), cache, 3)
        for at in range(3)
    ]
    return torch.stack(steps)


@pytest.mark.filterwarnings("ignore")  # those of the compiler, which differ from version to version
@pytest.mark.skipif(DEVICE != "cpu", reason="device tests compare all of writing there")
@pytest.mark.parametrize("num_rows", [1, 2])
@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@torch.no_grad()
def test_steps_with_the_kernel_are_those_without(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, *, is_compiled: bool
) -> None:
    model: Any = (case := Case("text2text_tiny")).build()
    source, memory, starts = case.read_source(model)
    stack = RelativeStack(model["decoder"], model["target_tokens"], model["vocabulary"])
    keys = torch.stack((starts[:-1], starts[1:]))
    # A document without a source, too.
    keys = torch.cat((keys, torch.zeros_like(keys[:, :1])), 1)
    longest = int((keys[1] - keys[0]).max())
    sources = Sources(memory, keys, longest, source["positions"])
    expected = step_through(stack, sources, num_rows, lambda function: function)
    monkeypatch.setattr(step, "suits_triton", lambda _: True)
    torch.compiler.reset()
    compile_: Any = cache(partial(torch.compile, fullgraph=True, dynamic=False))
    found = step_through(stack, sources, num_rows, compile_ if is_compiled else lambda f: f)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_ops_keep_what_torch_asks_of_ops(*, has_bias: bool) -> None:
    states, kept = torch.randn(2, 3, 2, 8, device=DEVICE), torch.randn(2, 2, 5, 8, device=DEVICE)
    bias = torch.randn(1, 1, 2, 5, device=DEVICE) if has_bias else None
    index = torch.tensor([3], device=DEVICE)
    target = (states, kept, kept.clone(), index, bias, 0, 0.3)
    torch.library.opcheck(torch.ops.taskloom.attend_target, target)
    source = (states[:, 0], kept, kept.clone(), torch.randn(2, 1, 1, 5, device=DEVICE), 0.3)
    torch.library.opcheck(torch.ops.taskloom.attend_source, source)
