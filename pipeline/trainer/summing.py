"""Summing: gradients of all ranks are added up once a step, by torch's own data parallelism.

Losses are divided by their weight in all of the step, so gradients are summed, not averaged: the sum over ranks
and micro-batches is the gradient of one large batch. All ranks hold the whole program, and one all-reduce
carries all gradients when the last pack of the step is learned: one for a step, not one for a pack.

Why one bucket: with several, the first would be summed while the rest is still learned. Gradients would be the
same, to the bit with two ranks; with four a ring adds in another order, and parameters differ by 6e-8. Against
it, torch divides compiled layers where buckets end (`DDPOptimizer`) unless the whole process is told not to,
and a rank would have to say that it waits for others while it still learns. The gain is not known well enough
to pay that: on two busy cores five buckets took 5.6 to 6.3 s a step where one took 6.3 to 6.5 s, for 34
million parameters (medians of three rounds each), and several GPUs were not tried. ``sharding: full`` sums
layer by layer on the way.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from ..model.program import Program
from .watch import Watch

_ALL_MB: Final = 1 << 20
"""More than the gradients of a model take: all are in one bucket."""


def replicate(working: Program, program: Program, watch: Watch) -> nn.Module:
    """Return what is called in place of ``working`` so that gradients of all ranks are added up.

    Args:
        working: What computes.
        program: What learns.
        watch: Where it is said that a rank waits for others.
    """
    # They are constants, which would be sent again in every step.
    buffers = [name for name, _ in working.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(working, buffers)  # noqa: SLF001
    watch.talk()
    parallel = DistributedDataParallel(
        working,
        bucket_cap_mb=_ALL_MB,
        find_unused_parameters=False,  # lanes that are empty give gradients of zero
    )
    masters = dict(zip(working.parameters(), program.parameters(), strict=True))
    sum_bucket = _sum_bucket if working is program else _sum_in_masters

    def sum_up(own: Any, bucket: Any) -> Any:
        # All that this rank has to learn is learned.
        watch.wait("waiting for gradients of other ranks")
        return sum_bucket(own, bucket)

    # Before every pack; in the second step torch puts gradients in another order there, with all ranks.
    parallel.register_forward_pre_hook(lambda *_: watch.talk())
    sum_up.__annotations__.clear()  # torch compares them with types, and ours are texts
    parallel.register_comm_hook(masters, sum_up)
    return parallel


@contextmanager
def summed(called: nn.Module, *, is_last: bool) -> Generator[None]:
    """Learn a pack within; gradients are added up over ranks if it is the last of the step."""
    if isinstance(called, DistributedDataParallel) and not is_last:
        with called.no_sync():
            yield
        return
    yield


def _sum_bucket(masters: dict[Tensor, Tensor], bucket: GradBucket) -> Future[Tensor]:
    """Add up gradients where they are."""
    del masters
    return _sum(bucket.buffer()).then(lambda done: done.value()[0])


def _sum_in_masters(masters: dict[Tensor, Tensor], bucket: GradBucket) -> Future[Tensor]:
    """Add up gradients in half precision with those that masters have of earlier packs, in single precision.

    The sums go to the masters. What would be added to them once more is zero.
    """
    own = [masters[parameter] for parameter in bucket.parameters()]
    shares = [
        (grad.float() if master.grad is None else master.grad + grad).reshape(-1)
        for grad, master in zip(bucket.gradients(), own, strict=True)
    ]

    def hand_over(done: Any) -> Tensor:
        sums = done.value()[0].split([master.numel() for master in own])
        for master, grad in zip(own, sums, strict=True):
            master.grad = grad.view_as(master)
        return bucket.buffer().zero_()

    return _sum(torch.cat(shares)).then(hand_over)


def _sum(tensor: Tensor) -> Any:
    work: Any = distributed.all_reduce(tensor, async_op=True)
    return work.get_future()
