"""Products of groups of states with a matrix for each group, where sizes of groups are data.

A GPU has a kernel for all groups at once, in bfloat16. Elsewhere groups are multiplied one after another by an
op of our own, whose shapes are static to a compiler: torch 2.13 compiles grouped products of bfloat16 alone. On
a GPU the op would make the host wait for the sizes of groups. Neither was run on a GPU yet.

Shape letters: N = states, group by group, E = groups, C = channels that come in, O = channels that come out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def multiply_groups(x_NC: Tensor, weights_EOC: Tensor, stops_E: Tensor) -> Tensor:
    """Return the product of each state with the matrix of its group, shape ``(N, O)``.

    Args:
        x_NC: States, those of a group together, groups in order.
        weights_EOC: A matrix for each group.
        stops_E: How many states there are up to the end of each group; int32, and the last is ``N``.
    """
    if x_NC.is_cuda and x_NC.dtype is torch.bfloat16:
        return F.grouped_mm(x_NC, weights_EOC.transpose(1, 2), offs=stops_E)
    return _multiply(x_NC, weights_EOC, stops_E)


@torch.library.custom_op("taskloom_ops::multiply_groups", mutates_args=())
def _multiply(x_NC: Tensor, weights_EOC: Tensor, stops_E: Tensor) -> Tensor:
    parts = _split(x_NC, stops_E)
    return torch.cat([F.linear(x, w_OC) for x, w_OC in zip(parts, weights_EOC, strict=True)])


@torch.library.custom_op("taskloom_ops::multiply_groups_backward", mutates_args=())
def _multiply_backward(
    grad_NO: Tensor, x_NC: Tensor, weights_EOC: Tensor, stops_E: Tensor
) -> tuple[Tensor, Tensor]:
    grads, parts = _split(grad_NO, stops_E), _split(x_NC, stops_E)
    to_x = [g @ w_OC for g, w_OC in zip(grads, weights_EOC, strict=True)]
    to_weights = [g.T @ x for g, x in zip(grads, parts, strict=True)]
    return torch.cat(to_x), torch.stack(to_weights)


def _split(x_NC: Tensor, stops_E: Tensor) -> list[Tensor]:
    stops = stops_E.tolist()
    return [x_NC[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


@_multiply.register_fake
def _(x_NC: Tensor, weights_EOC: Tensor, stops_E: Tensor) -> Tensor:  # noqa: ARG001
    return x_NC.new_empty(x_NC.shape[0], weights_EOC.shape[1])


@_multiply_backward.register_fake
def _(
    grad_NO: Tensor,  # noqa: ARG001
    x_NC: Tensor,
    weights_EOC: Tensor,
    stops_E: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    return x_NC.new_empty(x_NC.shape), weights_EOC.new_empty(weights_EOC.shape)


def _remember(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
    return *_multiply_backward(grad_NO.contiguous(), *ctx.saved_tensors), None


_multiply.register_autograd(_differentiate, setup_context=_remember)
