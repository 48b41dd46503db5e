"""Activations: what a step keeps for its backward pass.

A layer keeps what its gradient needs. One that *recomputes* keeps only what it reads, and computes all else
again when its gradient is due, random numbers included: memory of one layer rather than of all, for a third
more time. Where what it reads is *offloaded* as well, that waits in the memory of the host.

Copies to the host and back are in line with what is computed, so nothing waits for them but the device; they
were not run on a GPU yet.

Source: sublinear memory cost, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

Activations: TypeAlias = Literal["keep", "recompute", "offload"]


def set_activations(layer: nn.Module, activations: Activations) -> None:
    """Let ``layer``, which reads its first input, keep so much from now on; in evaluation nothing is kept."""
    if activations == "keep":
        return
    forward: Callable[..., Tensor] = MethodType(_recompute, layer)
    layer.forward = Offloaded(forward) if activations == "offload" else forward


@dataclass(slots=True)
class Offloaded:
    """A layer's forward pass, for which its first input waits on the host.

    Attributes:
        forward: The pass.
    """

    forward: Callable[..., Tensor]

    def __call__(self, x_NC: Tensor, *others: Any) -> Tensor:
        """Return the layer's result."""
        # The input is alive until then, so nothing else lies where it does.
        place = x_NC.untyped_storage().data_ptr()
        with saved_tensors_hooks(partial(_send, place), _fetch):
            return self.forward(x_NC, *others)

    def compile(self, **options: Any) -> None:
        """Compile the pass; what moves tensors stays outside."""
        self.forward = torch.compile(self.forward, **options)


def _recompute(layer: nn.Module, *inputs: Any) -> Tensor:
    # The layer is an input, so that all layers of a class are the same code to a compiler.
    return checkpoint(type(layer).forward, layer, *inputs, use_reentrant=False)


def _send(place: int, kept: Tensor) -> Tensor | tuple[torch.device, Tensor]:
    if kept.untyped_storage().data_ptr() != place:
        return kept
    sent = torch.empty_like(kept, device="cpu", pin_memory=kept.is_cuda)
    return kept.device, sent.copy_(kept, non_blocking=True)


def _fetch(sent: Tensor | tuple[torch.device, Tensor]) -> Tensor:
    if isinstance(sent, Tensor):
        return sent
    device, kept = sent
    return kept.to(device, non_blocking=True)
