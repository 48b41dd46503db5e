"""Writing as CUDA graphs: what the host says of a batch is said once, and replayed for batches of its shape.

A search is recorded as it is, from the first thing that it computes of a batch to its last step, some steps in
each graph. It reads a batch from buffers of the recording. Whether all is finished is copied after each
graph, and the host looks at it while the next one runs: it never waits for a token.

The first batch of a shape is written as it comes, which makes ready all that must not happen while a graph is
recorded; the second is recorded. Recorded, the same kernels run on the same numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

from .task import BLOCK, Task


class State(Protocol):
    """Where a search is."""

    def is_done(self) -> Tensor:
        """Return whether all is finished."""
        ...


_S = TypeVar("_S", bound=State)


@dataclass(eq=False, slots=True, kw_only=True)
class Recorder:
    """Keeps the recordings of the shapes that were written last.

    Parameters of what is recorded must stay where they are; their values may change.

    Attributes:
        size: Shapes that are kept. What was recorded of others is dropped, and its memory with it.
    """

    size: int = 8
    _kept: OrderedDict[tuple[Any, ...], Recording[Any] | None] = field(
        default_factory=OrderedDict[Any, Any]
    )

    def run(self, task: Task, begin: Callable[[Task], Iterator[_S]]) -> _S:
        """Return the last state of a search; the next run of a recording overwrites it.

        Args:
            task: A task on a GPU.
            begin: Begins the search, which follows from the task.
        """
        key = _key(task)
        if key not in self._kept:
            while len(self._kept) >= self.size:
                self._kept.popitem(last=False)
            self._kept[key] = None
            # To its end, though all may be finished: nothing may be new to the device while it is recorded.
            *_, last = begin(task)
            return last
        self._kept.move_to_end(key)
        recording = self._kept[key]
        if recording is None:
            with torch.cuda.device(task.roots_B.device):
                recording = self._kept[key] = Recording[Any].of(task, begin)
        return cast("_S", recording.replay(task))

    @property
    def num_recordings(self) -> int:
        """How many shapes are recorded."""
        return sum(recording is not None for recording in self._kept.values())


class Block(NamedTuple, Generic[_S]):
    """Some steps.

    Attributes:
        graph: What they compute.
        state: Where the search is after them.
        is_done: Whether all is finished then, on the device.
        is_done_told: The same on the host, once ``told`` has happened.
        told: When it is there.
    """

    graph: torch.cuda.CUDAGraph
    state: _S
    is_done: Tensor
    is_done_told: Tensor
    told: torch.cuda.Event

    def start(self) -> None:
        """Put the steps to the device, and after them the word of how it ends."""
        self.graph.replay()
        self.is_done_told.copy_(self.is_done, non_blocking=True)
        self.told.record()

    def ends(self) -> bool:
        """Return whether all is finished after these steps; waits for them."""
        self.told.synchronize()
        return bool(self.is_done_told)


@dataclass(frozen=True, slots=True, eq=False)
class Recording(Generic[_S]):
    """A search through batches of one shape.

    Attributes:
        task: The task that graphs read; its tensors are the recording's own.
        blocks: The steps.
    """

    task: Task
    blocks: tuple[Block[_S], ...]

    @classmethod
    def of(cls, task: Task, begin: Callable[[Task], Iterator[_S]]) -> Recording[_S]:
        """Record the search that ``begin`` begins."""
        own = _with_inputs(task, [None if x is None else x.clone() for x in _inputs(task)])
        pool = torch.cuda.graph_pool_handle()
        states = begin(own)
        blocks: list[Block[_S]] = []
        for _ in range(0, task.max_length, BLOCK):
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                *_, state = islice(states, BLOCK)
                is_done = state.is_done()
            is_done_told = torch.zeros((), dtype=torch.bool, pin_memory=True)
            blocks.append(Block(graph, state, is_done, is_done_told, torch.cuda.Event()))
        return cls(own, tuple(blocks))

    def replay(self, task: Task) -> _S:
        """Return the last state of a search through ``task``, at the latest a block after all is finished."""
        for own, given in zip(_inputs(self.task), _inputs(task), strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self.blocks[0].start()
        for before, block in pairwise(self.blocks):
            block.start()
            if before.ends():
                return block.state
        return self.blocks[-1].state


def _key(task: Task) -> tuple[Any, ...]:
    """Return what two tasks have in common that one recording serves."""
    shapes = [
        None if each is None else (each.shape, each.dtype, each.device) for each in _inputs(task)
    ]
    weight_VC = task.stack.weight_VC
    where = (weight_VC.data_ptr(), weight_VC.dtype)
    static = (task.search, task.max_length, task.prefix, task.sources.longest, task.compile)
    return (task.stack, task.automaton, where, *static, *shapes)


def _inputs(task: Task) -> tuple[Tensor | None, ...]:
    """Return what differs from batch to batch."""
    sources = task.sources
    read = (sources.memory_MC, sources.keys_2B, sources.positions_MC)
    return (*read, task.roots_B, task.given_BP, task.keys_B)


def _with_inputs(task: Task, inputs: list[Tensor | None]) -> Task:
    memory_MC, keys_2B, positions_MC, roots_B, given_BP, keys_B = inputs
    assert memory_MC is not None, "sources are read"
    assert keys_2B is not None, "sources are told apart"
    assert roots_B is not None, "documents begin somewhere"
    sources = task.sources._replace(memory_MC=memory_MC, keys_2B=keys_2B, positions_MC=positions_MC)
    return replace(task, sources=sources, roots_B=roots_B, given_BP=given_BP, keys_B=keys_B)
