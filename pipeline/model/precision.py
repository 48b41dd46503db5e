"""Mixed precision: a program computes in half precision what is learned in single.

What is learned, the *masters*, are the parameters of the program itself, in float32: a step is often smaller
than the last digit of the number in bfloat16 that it is added to. A *working copy* of the program is what
computes. Its gradients are handed over to the masters, which an optimizer steps, and it is refreshed from them.
So nothing that is kept of a run, its checkpoints or its model, knows of half precision.

Source: mixed precision training, arXiv:1710.03740; no loss is scaled, since bfloat16 reaches as far as float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..planner.planning import Plan
from .program import Program


def working_copy(plan: Plan, program: Program, precision: str) -> Program:
    """Return what computes in ``precision``: a copy of ``program``, or ``program`` itself in float32.

    No random numbers are drawn.
    """
    if precision == "float32":
        return program
    scopes = copy.deepcopy(program.scopes).to(getattr(torch, precision))
    return Program(plan, scopes).train(program.training)


def precision_of_products(precision: str) -> str:
    """Return what a GPU multiplies in for a run in ``precision``, as torch is set at the moment.

    In float32 torch may let it round factors to ``tensorfloat32``.
    """
    is_rounded = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tensorfloat32" if precision == "float32" and is_rounded else precision


def hand_over(working: nn.Module, masters: nn.Module) -> None:
    """Add the gradients of ``working`` to those of ``masters``, and clear them there."""
    if working is masters:
        return
    add_up([own.grad for own in working.parameters()], masters)
    for own in working.parameters():
        own.grad = None


def add_up(grads: Sequence[Tensor | None], masters: nn.Module) -> None:
    """Add ``grads``, one for each parameter of ``masters`` or none, to theirs."""
    first: tuple[list[Tensor], list[Tensor]] = [], []
    more: tuple[list[Tensor], list[Tensor]] = [], []
    for grad, master in zip(grads, masters.parameters(), strict=True):
        if grad is None:
            continue
        sums, added = first if master.grad is None else more
        if master.grad is None:
            master.grad = torch.empty_like(master)
        sums.append(master.grad)
        added.append(grad)
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
    # Apart, since some buffers hold integers: few kernels copy many tensors of one type alone.
    parameters: tuple[list[Tensor], list[Tensor]]
    parameters = [*working.parameters()], [*masters.parameters()]
    torch._foreach_copy_(*parameters)  # pyright: ignore[reportPrivateImportUsage]
    for own, learned in zip(working.buffers(), masters.buffers(), strict=True):
        own.copy_(learned)
