"""Sharding: every rank keeps a share of the parameters, of their gradients and of the optimizer's state.

Torch's `fully_shard` is applied to each layer, and then to the program for the rest. A layer's parameters are
gathered while it computes, and its gradients summed, each share where it is kept. In half precision it gathers
and computes in that, and sums in single precision: the shares are the masters, and there is no working copy.

Ranks wait for each other in every layer. So each tells its watch when it begins to gather or to sum: the one
that hangs has begun less often than those that wait for it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..model.program import Program
from .ranks import Ranks
from .watch import Watch


def shard(program: Program, ranks: Ranks, device: torch.device, precision: str) -> None:
    """Leave this rank its share of ``program``, which is called as before; on all ranks."""
    ranks.watch.talk()
    mesh = init_device_mesh(device.type, (ranks.number,))
    policy = MixedPrecisionPolicy()
    if precision != "float32":
        dtype = getattr(torch, precision)
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for module in (*program.layers(), program):
        sharded: Any = fully_shard(module, mesh=mesh, mp_policy=policy)
        # Losses are divided by their weight in all of the step: gradients are summed, not averaged, and
        # with the plain sum, which gloo has as well.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(enable=True)
        _tell(sharded, ranks.watch)


@contextmanager
def summed_at_last(program: nn.Module, *, is_last: bool) -> Generator[None]:
    """Learn a pack within; gradients of a sharded program are summed if it is the last of the step."""
    if isinstance(program, FSDPModule):
        program.set_requires_gradient_sync(is_last)
    yield


def like_own(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole ``tensors`` as shares, where those of the same name in ``own`` are shares."""
    return {name: take_share(tensor, own.get(name)) for name, tensor in tensors.items()}


def take_share(tensor: Tensor, own: Tensor | None) -> Tensor:
    """Return this rank's share of a whole ``tensor`` if ``own``, of the same size, is a share."""
    if not isinstance(own, DTensor) or own.shape != tensor.shape:
        return tensor
    # Every rank has read all of it: none waits for another.
    there = tensor.to(own.device)
    return distribute_tensor(there, own.device_mesh, own.placements, src_data_rank=None)


def is_share(tensor: Tensor) -> bool:
    """Return whether ranks have a share each of ``tensor``."""
    return isinstance(tensor, DTensor)


def make_whole(tensor: Tensor) -> Tensor:
    """Return ``tensor``, of shares all of it; on all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def norms_of(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the norm of each group of tensors, of shares that of all of them; on all ranks, shape ``(G,)``."""
    norms = [nn.utils.get_total_norm([local(each) for each in group]) for group in groups]
    first = next((each for group in groups for each in group), torch.empty(0))
    norms_G = torch.stack([norm.to(first.device) for norm in norms])
    if is_share(first):
        squares_G = norms_G.square()
        distributed.all_reduce(squares_G)
        norms_G = squares_G.sqrt()
    return norms_G


def local(tensor: Tensor) -> Tensor:
    """Return ``tensor``, of shares that of this rank."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _tell(sharded: Any, watch: Watch) -> None:
    """Let a sharded module tell ``watch`` of its talks, if torch has them there."""
    with suppress(ImportError):
        from torch.distributed.fsdp._fully_shard._fsdp_collectives import (  # noqa: PLC0415
            DefaultAllGather,
            DefaultReduceScatter,
        )

        sharded.set_custom_all_gather(_Told(DefaultAllGather(), watch))
        sharded.set_custom_reduce_scatter(_Told(DefaultReduceScatter(), watch))


@dataclass(frozen=True, slots=True)
class _Told:
    """A way in which ranks talk, as torch has it, which tells ``watch`` before each talk."""

    talk: Any
    watch: Watch

    def allocate(self, *sizes: Any, **kind: Any) -> Tensor:
        return self.talk.allocate(*sizes, **kind)

    def __call__(self, **given: Any) -> Any:
        self.watch.talk()
        return self.talk(**given)
