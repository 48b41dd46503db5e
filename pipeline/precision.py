"""Mixed precision: a program computes in half precision what is learned in single.

What is learned, the *masters*, are the parameters of the program itself, in float32: a step is often smaller
than the last digit of the number in bfloat16 that it is added to. A *working copy* of the program is what
computes. Its gradients are handed over to the masters, which an optimizer steps, and it is refreshed from them.
So nothing that is kept of a run, its checkpoints or its model, knows of half precision.

Source: mixed precision training, arXiv:1710.03740; no loss is scaled, since bfloat16 reaches as far as float32.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .planning import Plan
from .program import Program


def working_copy(plan: Plan, program: Program, precision: str) -> Program:
    """Return what computes in ``precision``: a copy of ``program``, or ``program`` itself in float32.

    No random numbers are drawn.
    """
    if precision == "float32":
        return program
    scopes = copy.deepcopy(program.scopes).to(getattr(torch, precision))
    return Program(plan, scopes).train(program.training)


def hand_over(working: nn.Module, masters: nn.Module) -> None:
    """Add the gradients of ``working`` to those of ``masters``, and clear them there."""
    if working is masters:
        return
    first: tuple[list[Tensor], list[Tensor]] = [], []
    more: tuple[list[Tensor], list[Tensor]] = [], []
    for own, master in zip(working.parameters(), masters.parameters(), strict=True):
        if own.grad is None:
            continue
        sums, grads = first if master.grad is None else more
        if master.grad is None:
            master.grad = torch.empty_like(master)
        sums.append(master.grad)
        grads.append(own.grad)
        own.grad = None
    # All at once, as few kernels: there are hundreds of parameters.
    if first[0]:
        torch._foreach_copy_(*first)  # pyright: ignore[reportPrivateImportUsage]
    if more[0]:
        torch._foreach_add_(*more)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def refresh(working: nn.Module, masters: nn.Module) -> None:
    """Round the parameters and buffers of ``masters`` to those of ``working``."""
    if working is masters:
        return
    pairs = (
        [*working.parameters(), *working.buffers()],
        [*masters.parameters(), *masters.buffers()],
    )
    torch._foreach_copy_(*pairs)  # pyright: ignore[reportPrivateImportUsage]
