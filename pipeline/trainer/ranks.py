"""Ranks: the processes that train one model together, each on its share of every step.

A launcher such as ``torchrun`` starts them and says in the environment who each is. Without one there is one
rank, alone, and nothing here costs it anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ...graph.errors import TaskloomError, TrainingError
from ..model.program import choose_device
from ..settings import TrainConfig
from .watch import PATIENCE_S, Watch

_T = TypeVar("_T")

_NAMES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""What a launcher says of a rank."""

_WHERE: Final = ("MASTER_ADDR", "MASTER_PORT")
"""Where it says that ranks meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Who takes part in a run, seen from one of them.

    Attributes:
        rank: Its number, from 0.
        number: How many there are.
        group: All of them; None where there is one.
        saving: All of them once more, for what is written in the background.
        watch: Where it says what it does.
    """

    rank: int = 0
    number: int = 1
    group: Any = None
    saving: Any = None
    watch: Watch = field(default_factory=Watch)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and shows for all."""
        return self.rank == 0

    def refuse_uneven(self, num_packs: int) -> None:
        """Check that every rank gets as many of the packs of a step.

        Raises:
            TrainingError: They cannot be divided so (T0760).
        """
        if num_packs % self.number:
            message = (
                f"packs_per_step is {num_packs}, which {self.number} ranks cannot share evenly"
            )
            above = -(-num_packs // self.number) * self.number
            help_ = f"set packs_per_step to a multiple of {self.number}, such as {above}"
            raise TrainingError.of("T0760", message, help_)

    def add_up(self, values: Sequence[float]) -> list[float]:
        """Return the sums of ``values`` over all ranks, the same on each of them."""
        if self.number == 1:
            return list(values)
        self.watch.talk()
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums, group=self.group)
        return sums.tolist()

    def add_up_tensor(self, tensor: Tensor) -> Tensor:
        """Return the sum of ``tensor`` over all ranks, the same on each of them; it waits for the device."""
        if self.number == 1:
            return tensor
        sums = tensor.detach().to("cpu", torch.float64)
        self.watch.talk()
        distributed.all_reduce(sums, group=self.group)
        return sums.to(tensor)

    def gather(self, value: _T) -> list[_T]:
        """Return the ``value`` of every rank, in their order."""
        if self.number == 1:
            return [value]
        self.watch.talk()
        values: list[Any] = [None] * self.number
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def let_first(self, act: Callable[[], _T]) -> _T:
        """Return what ``act`` gives on the first rank, on all of them; what goes wrong there, all raise."""
        if self.number == 1:
            return act()
        value, trouble = None, None
        if self.is_first:
            try:
                value = act()
            except TaskloomError as error:
                trouble = error
        value, trouble = self.gather((value, trouble))[0]
        if trouble is not None:
            raise trouble
        return value  # pyright: ignore[reportReturnType] - the first rank has made it

    def meet(self) -> None:
        """Wait until all ranks have come here."""
        if self.number > 1:
            self.watch.talk()
            distributed.barrier(group=self.group)


def choose_own_device(name: str) -> torch.device:
    """Return the device called ``name``; of several GPUs of this machine that of this rank.

    Raises:
        TrainingError: There is no such device, or what the launcher says makes no sense (T0761).
    """
    _, number, local = _read_environment()
    if number > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        # Before anything is asked of a GPU: it would be the first one, and keep memory there.
        torch.cuda.set_device(local)
        return choose_device(f"cuda:{local}")
    return choose_device(name)


@contextmanager
def join_ranks(config: TrainConfig, device: torch.device) -> Generator[Ranks]:
    """Take part in the run that a launcher has started this process for; alone if there is none.

    Args:
        config: Settings of the run.
        device: What ranks compute on.

    Raises:
        TrainingError: What the launcher says makes no sense (T0761), or another rank is gone (T0762).
    """
    rank, number, _ = _read_environment()
    if number == 1:
        yield Ranks()
        return
    if distributed.is_initialized():
        message = "this process has a process group already, and ranks make their own"
        raise TrainingError.of("T0761", message, "call train() without init_process_group()")
    joined: Any = rendezvous("env://", rank, number)
    store, rank, number = next(joined)
    prefix = _name_attempt(store, number)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(prefix, store),
        rank=rank,
        world_size=number,
        # Longer than whatever the watch waits for: it tells more.
        timeout=timedelta(seconds=2 * PATIENCE_S + config.loader_timeout_s),
        device_id=device if device.type == "cuda" else None,
    )
    watch = Watch(rank, number, PrefixStore(prefix, store.clone()), config.rank_timeout_s)
    try:
        group = distributed.new_group(backend="gloo")
        saving = distributed.new_group(backend="gloo")
        watch.start()
        yield Ranks(rank=rank, number=number, group=group, saving=saving, watch=watch)
    except (RuntimeError, ConnectionError) as error:
        if (gone := _explain_gone(watch, error)) is not None:
            raise gone from error
        raise
    finally:
        watch.close()
    distributed.destroy_process_group()


def _read_environment() -> tuple[int, int, int]:
    """Return number of this rank, of all ranks, and of this one on its machine, as the launcher says them."""
    told = [os.environ.get(name) for name in _NAMES]
    if told[0] is None or told[1] is None:
        return 0, 1, 0
    try:
        rank, number, local = (int(each or 0) for each in told)
    except ValueError:
        rank, number, local = -1, 0, 0
    if not 0 <= rank < number:
        said = ", ".join(f"{n}={t}" for n, t in zip(_NAMES, told, strict=True) if t is not None)
        message = f"the environment says {said}, which names no rank"
        help_ = "start it with torchrun, or unset these variables to train in one process"
        raise TrainingError.of("T0761", message, help_)
    if number > 1 and (missing := [name for name in _WHERE if not os.environ.get(name)]):
        message = f"the environment says RANK={rank} of {number}, but no {' and no '.join(missing)}"
        help_ = "start it with torchrun, or unset these variables to train in one process"
        raise TrainingError.of("T0761", message, help_)
    return rank, number, local


def _name_attempt(store: Any, number: int) -> str:
    """Return a prefix for the keys of this attempt to train, the same on all ranks.

    A launcher that starts ranks again may keep the store, and with it addresses of ranks that are gone.
    """
    prefix = f"taskloom/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{number}"
    return f"{prefix}/{(store.add(f'{prefix}/arrived', 1) - 1) // number}"


def _explain_gone(watch: Watch, error: Exception) -> TrainingError | None:
    """Return what ``error`` means if it means that another rank is gone."""
    text = str(error)
    if not any(sign in text for sign in _GONE):
        return None
    silent = [sign for sign in watch.find_silent(2 * _SIGN_S) if sign.rank != watch.rank]
    names = ", ".join(f"rank {sign.rank}" for sign in silent) or "another rank"
    help_ = "the same command goes on from the last checkpoint; what that rank said tells why"
    help_ = "\n".join([*(f"{sign}" for sign in silent), help_])
    message = f"{names} is gone: {text.splitlines()[0]}"
    return TrainingError.of("T0762", message, help_)


_SIGN_S: Final = 1.5
"""Seconds within which a rank that is there gives a sign."""

_GONE: Final = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "Socket closed",
    "remote process exited",
)
"""Words with which gloo and NCCL say that a connection is lost."""
