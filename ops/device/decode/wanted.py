"""What is wanted of slots of frames, and what was written into them.

Shape letters: R = rows, one for each document, T = most frames, B = numbers of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from ....graph.errors import PlanError
from .denoise import Known
from .relative_stack import RelativeStack
from .sampler import Sampler
from .task import Task


class Wanted(NamedTuple):
    """What is wanted of a slot of frames.

    Attributes:
        counts_R: Frames of each document, at most; all that there is room for by default.
        known: Frames that are given.
    """

    counts_R: Tensor | None = None
    known: Known | None = None


class Frames(NamedTuple):
    """What was written into a slot of frames.

    Attributes:
        frames_RTB: The frames, then zeros.
        counts_R: How many there are; 0 where the slot was not written.
    """

    frames_RTB: Tensor
    counts_R: Tensor


def rooms_of(task: Task) -> dict[str, int]:
    """Return the most frames of each slot."""
    rooms: dict[str, int] = {}
    for step in task.automaton.frames:
        rooms[step.slot] = max(step.most, rooms.get(step.slot, 0))
    return rooms


def check_wanted(
    task: Task, samplers: Mapping[str, Sampler], wanted: Mapping[str, Wanted], *, is_led: bool
) -> None:
    """Check that ``task`` can be written.

    Args:
        task: What is to be written.
        samplers: What writes each slot of frames.
        wanted: What is wanted of slots.
        is_led: Whether there are sources that guidance leads away from.

    Raises:
        PlanError: It cannot (T0258, T0232).
    """
    search, rooms = task.search, rooms_of(task)
    if not isinstance(task.stack, RelativeStack):
        message = "frames stand in slots, which a decoder with rotary positions does not tell apart"
        raise PlanError.of("T0258", message, "use a model with position: relative")
    if search.beams > 1 or search.no_repeat_ngram:
        message = "a target with frames is written alone: beams must be 1, and no_repeat_ngram 0"
        raise PlanError.of("T0258", message, "leave them out, or draw with several seeds")
    for slot, most in rooms.items():
        if slot not in samplers:
            known = ", ".join(samplers) or "none"
            message = f'nothing writes the frames of "{slot}"'
            raise PlanError.of("T0258", message, f"samplers were given for: {known}")
        own = wanted.get(slot, Wanted())
        samplers[slot].check(slot, most, has_known=own.known is not None, is_led=is_led)
        _check_slot(task, slot, most, samplers[slot].num_numbers, own)
    if unknown := [slot for slot in wanted if slot not in rooms]:
        message = f'no target has frames of "{unknown[0]}"'
        raise PlanError.of("T0258", message, f"slots of frames: {', '.join(rooms) or 'none'}")


def _check_slot(task: Task, slot: str, most: int, num_numbers: int, own: Wanted) -> None:
    num_rows = len(task.roots_B)
    if own.counts_R is not None:
        counts = own.counts_R.tolist()
        if len(counts) != num_rows or not all(1 <= count <= most for count in counts):
            message = (
                f'each of {num_rows} documents has 1 to {most} frames of "{slot}", got {counts}'
            )
            raise PlanError.of("T0258", message)
    if own.known is not None:
        shapes = tuple(tuple(each.shape) for each in own.known)
        needed = ((num_rows, most, num_numbers), (num_rows, most))
        if shapes != needed:
            message = f'known frames of "{slot}" have shapes {shapes}, and need {needed}'
            raise PlanError.of("T0258", message)
