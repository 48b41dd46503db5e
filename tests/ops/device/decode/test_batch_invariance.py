"""A document's scores are those it has alone, whatever stands beside it: in single precision within 1e-5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from taskloom.graph.vocabulary import BOS
from taskloom.ops.device.decode.few_rows import FewRowsLinear, lay_out
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.rotary_stack import RotaryStack
from taskloom.ops.device.decode.stack import Stack
from taskloom.ops.device.decode.step import Sources, open_cache, take_step

from ..relative.golden import Case

LENGTH = 6
CLOSE = 1e-4
"""Two scores that differ by less may change places."""

FEWEST_CLEAR = 0.95
"""Share of the steps at which the best two must differ by more, so that comparing ids says something."""


def score(stack: Stack, sources: Sources, ids_LR: Tensor) -> Tensor:
    """Return the scores of every step, shape ``(L, R, V)``, of documents that write ``ids_LR``."""
    cache = open_cache(stack, sources, num_rows=1, max_length=LENGTH)
    steps: list[Tensor] = []
    with torch.no_grad():
        for at in range(LENGTH):
            states = take_step(stack, ids_LR[at], torch.tensor([at]), cache, LENGTH)
            steps.append(stack.score(states))
    return torch.stack(steps)


@pytest.fixture(params=["rotary", "relative", "rotary laid out", "relative laid out"])
def stack_and_memory(
    request: pytest.FixtureRequest, program: Any
) -> tuple[Stack, Tensor, Tensor | None, Tensor]:
    """A stack in single precision, the encoder's stream, its positions, and where documents begin."""
    name, _, layout = request.param.partition(" ")
    if name == "rotary":
        stack = RotaryStack(program.float().decoder, program.table)
        memory = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
        positions, starts = None, torch.tensor([0, 7, 8, 20, 40])
    else:
        model: Any = (case := Case("text2text_tiny")).build()
        source, memory, starts = case.read_source(model)
        stack = RelativeStack(model["decoder"], model["target_tokens"], model["vocabulary"])
        positions = source["positions"]
    if layout:
        lay_out(stack.decoder)
        stack = replace(stack, head=FewRowsLinear(stack.table.weight_VC))
    return stack, memory, positions, starts


def test_scores_alone_are_those_in_any_batch_and_so_are_ids_but_for_ties(
    stack_and_memory: tuple[Stack, Tensor, Tensor | None, Tensor],
) -> None:
    clear: list[Tensor] = []

    @settings(deadline=None, max_examples=8)
    @given(data=st.data())
    def compare(data: st.DataObject) -> None:
        clear.append(compare_any_batch(stack_and_memory, data))

    compare()
    share = float(torch.cat(clear).float().mean())
    assert share > FEWEST_CLEAR, f"ids are compared at {share:.1%} of steps"


def compare_any_batch(
    stack_and_memory: tuple[Stack, Tensor, Tensor | None, Tensor], data: st.DataObject
) -> Tensor:
    """Compare a batch with its documents alone, and return at which steps ids could be compared."""
    stack, memory, positions, starts = stack_and_memory
    ranges = list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
    number = st.integers(0, len(ranges) - 1)
    keys = [ranges[each] for each in data.draw(st.lists(number, min_size=1, max_size=9))]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    num_ids = len(stack.weight_VC)
    ids_LR = torch.randint(4, num_ids, (LENGTH, len(keys)), generator=generator)
    ids_LR[0] = BOS
    longest = max(1, *(stop - start for start, stop in keys))
    sources = Sources(memory, torch.tensor(keys).T, longest, positions)
    together_LRV = score(stack, sources, ids_LR)
    clear: list[Tensor] = []
    for row, (start, stop) in enumerate(keys):
        keys_21 = torch.tensor([[start], [stop]])
        alone = Sources(memory, keys_21, max(1, stop - start), positions)
        alone_LV = score(stack, alone, ids_LR[:, row : row + 1])[:, 0]
        torch.testing.assert_close(together_LRV[:, row], alone_LV, atol=1e-5, rtol=0)
        best_L2 = alone_LV.topk(2).values
        is_clear_L = best_L2[:, 0] - best_L2[:, 1] > CLOSE
        clear.append(is_clear_L)
        assert torch.equal(
            alone_LV.argmax(1)[is_clear_L], together_LRV[:, row].argmax(1)[is_clear_L]
        )
    return torch.cat(clear)
