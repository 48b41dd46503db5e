"""Products of groups of states with a matrix for each group, where sizes of groups are data.

To a compiler it is one op of static shapes. A GPU has a kernel for all groups at once, in bfloat16; elsewhere
groups are multiplied one after another, for which a GPU would make the host wait. The kernel wants matrices in
one piece, which is made anew for the backward pass: kept, it would double the memory of the weights. It was not
run on a GPU yet.

Shape letters: N = states, group by group, E = groups, C = channels that come in, O = channels that come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def multiply_groups(x_NC: Tensor, weights: Sequence[Tensor], stops_E: Tensor) -> Tensor:
    """Return the product of each state with the matrix of its group, shape ``(N, O)``.

    Args:
        x_NC: States, those of a group together, groups in order.
        weights: A matrix for each group, shape ``(O, C)``.
        stops_E: How many states there are up to the end of each group; int32, and the last is ``N``.
    """
    return _multiply(x_NC, list(weights), stops_E)


def multiply_at_once(x_NC: Tensor, weights_EOC: Tensor, stops_E: Tensor) -> Tensor:
    """Return the same by one kernel."""
    return F.grouped_mm(x_NC, weights_EOC.transpose(1, 2), offs=stops_E)


def differentiate_at_once(
    grad_NO: Tensor, x_NC: Tensor, weights_EOC: Tensor, stops_E: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of states and matrices by a kernel each."""
    to_x = F.grouped_mm(grad_NO, weights_EOC, offs=stops_E)
    return to_x, F.grouped_mm(grad_NO.T, x_NC, offs=stops_E)


@torch.library.custom_op("taskloom_ops::multiply_groups", mutates_args=())
def _multiply(x_NC: Tensor, weights: Sequence[Tensor], stops_E: Tensor) -> Tensor:
    if _has_kernel(x_NC):
        return multiply_at_once(x_NC, torch.stack(list(weights)), stops_E)
    parts = _split(x_NC, stops_E)
    return torch.cat([F.linear(x, w_OC) for x, w_OC in zip(parts, weights, strict=True)])


@torch.library.custom_op("taskloom_ops::multiply_groups_backward", mutates_args=())
def _multiply_backward(
    grad_NO: Tensor, x_NC: Tensor, weights: Sequence[Tensor], stops_E: Tensor
) -> tuple[Tensor, Tensor]:
    if _has_kernel(x_NC):
        return differentiate_at_once(grad_NO, x_NC, torch.stack(list(weights)), stops_E)
    grads, parts = _split(grad_NO, stops_E), _split(x_NC, stops_E)
    to_x = [g @ w_OC for g, w_OC in zip(grads, weights, strict=True)]
    to_weights = [g.T @ x for g, x in zip(grads, parts, strict=True)]
    return torch.cat(to_x), torch.stack(to_weights)


def _has_kernel(x_NC: Tensor) -> bool:
    return x_NC.is_cuda and x_NC.dtype is torch.bfloat16


def _split(x_NC: Tensor, stops_E: Tensor) -> list[Tensor]:
    stops: list[int] = stops_E.tolist()
    return [x_NC[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


@_multiply.register_fake
def _(x_NC: Tensor, weights: Sequence[Tensor], stops_E: Tensor) -> Tensor:  # noqa: ARG001
    return x_NC.new_empty(x_NC.shape[0], weights[0].shape[0])


@_multiply_backward.register_fake
def _(
    grad_NO: Tensor,  # noqa: ARG001
    x_NC: Tensor,
    weights: Sequence[Tensor],
    stops_E: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    return x_NC.new_empty(x_NC.shape), weights[0].new_empty(len(weights), *weights[0].shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x_NC, weights, stops_E = inputs
    ctx.save_for_backward(x_NC, stops_E, *weights)


def _differentiate(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, list[Tensor], None]:
    x_NC, stops_E, *weights = ctx.saved_tensors
    to_x, to_weights = _multiply_backward(grad_NO.contiguous(), x_NC, weights, stops_E)
    return to_x, list(to_weights.unbind()), None


_multiply.register_autograd(_differentiate, setup_context=_remember)
