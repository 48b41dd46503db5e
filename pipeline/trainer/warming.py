"""Warming up: what steps compute is computed once before the first, so that it is compiled by then."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..model.program import Program
from .recording import teach
from .sharding import summed_at_last


def warm_up(
    working: Program, program: Program, inputs: Mapping[str, Tensor], *, looks_back: bool
) -> None:
    """Go forward and backward, and leave everything as it was.

    Ranks that share parameters wait for each other here, as in learning; others do not.

    Args:
        working: What computes.
        program: What learns; none of its parameters has a gradient, before or after.
        inputs: A pack.
        looks_back: Whether a step also computes losses without their gradients.
    """
    one = torch.ones((), device=inputs["labels"].device)
    with summed_at_last(program, is_last=True):
        teach(working, program, inputs, {"score_tokens": one, "contrast_pairs": one})
    if looks_back:
        with torch.no_grad():
            working(inputs)
    for part in (working, program):
        part.zero_grad(set_to_none=True)
