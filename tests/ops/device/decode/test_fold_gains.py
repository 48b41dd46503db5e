"""A decoder without gains of heads, which are in its matrices, is the decoder with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from taskloom.ops.device.decode.fold_gains import fold_gains
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.step import Sources, open_cache, take_step

from ..relative.golden import Case


@pytest.mark.parametrize("num_rows", [1, 3])
@torch.no_grad()
def test_steps_are_the_same_when_gains_are_folded(num_rows: int) -> None:
    model: Any = (case := Case("text2text_tiny")).build()
    decoder = model["decoder"]
    gains = [gain for name, gain in decoder.named_parameters() if name.endswith("gain_H")]
    assert gains
    for gain in gains:
        gain.copy_(1 + torch.rand(len(gain), generator=torch.Generator().manual_seed(len(gains))))
    source, memory, starts = case.read_source(model)
    stack = RelativeStack(decoder, model["target_tokens"], model["vocabulary"])
    keys = torch.stack((starts[:-1], starts[1:]))
    sources = Sources(memory, keys, int((keys[1] - keys[0]).max()), source["positions"])

    def step() -> torch.Tensor:
        cache = open_cache(stack, sources, num_rows=num_rows, max_length=2)
        ids_R = torch.full((keys.shape[1] * num_rows,), 5)
        return take_step(stack, ids_R, torch.tensor([0]), cache, 2)

    expected = step()
    fold_gains(decoder)
    assert not any(name.endswith("gain_H") for name, _ in decoder.named_parameters())
    torch.testing.assert_close(step(), expected, atol=1e-5, rtol=1e-5)
