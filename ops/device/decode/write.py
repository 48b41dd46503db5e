"""Writing a batch of targets, whatever the search.

The encoder has run. Keys and values of the sources are computed once for each document, those of the targets
are kept in caches of static size. Steps are put to the device without waiting for it; whether all is finished
is looked at every few steps. On a GPU, steps may be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch

from ....graph.errors import PlanError
from .beam import read_beams, search_beams
from .chain import read_chains, write_chains
from .record import Recorder, State
from .task import Task
from .written import Written

LOOK = 8
"""Steps between two looks at a device that works on its own; the host, which does not, is looked at every
time."""


class _State(State, Protocol):
    @property
    def at(self) -> int: ...


_S = TypeVar("_S", bound=_State)


@torch.no_grad()
def write(task: Task, recorder: Recorder | None = None) -> Written:
    """Write the targets of ``task``.

    Args:
        task: What is to be written.
        recorder: Records steps on a GPU, and replays them; elsewhere it has nothing to do.

    Raises:
        PlanError: The model has fewer positions than ``max_length`` (T0232), or some language has slots of
            frames (T0258).
    """
    if task.automaton.most_slots:
        message = "a target has slots of frames, and ids alone are written here"
        raise PlanError.of("T0258", message, "write_slots writes both")
    if task.search.is_chain:
        return read_chains(task, _run(task, write_chains, recorder))
    return read_beams(task, _run(task, search_beams, recorder))


def step_alone(states: Iterator[_S]) -> Iterator[_S]:
    """Yield ``states``, each computed without gradients, whatever the caller does in between."""
    while True:
        with torch.no_grad():
            state = next(states, None)
        if state is None:
            return
        yield state


def _run(task: Task, begin: Callable[[Task], Iterator[_S]], recorder: Recorder | None) -> _S:
    """Return the last state, at the latest a few steps after all is finished."""
    if recorder is not None and task.roots_B.is_cuda:
        return recorder.run(task, begin)
    look = 1 if task.roots_B.device.type == "cpu" else LOOK
    states = begin(task)
    state = next(states)
    for state in states:
        if state.at % look == 0 and bool(state.is_done()):
            break
    return state
