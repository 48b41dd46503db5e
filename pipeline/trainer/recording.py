"""Packs as a CUDA graph: what the host says of a pack is said once, and replayed for every pack.

A program has a thousand kernels and more, and a GPU may compute them faster than the host can name them. All of
a pack are recorded, forward and backward, until gradients are in single precision. The recording reads a pack
from buffers of its own and writes gradients into others, which are given to the parameters after each replay.
Random numbers are drawn anew at each, and they are those that would be drawn without a recording.

Some packs are learned as they come before, which makes ready all that must not happen while a graph is
recorded. The last of them tells whether the host waits for the device anywhere: then nothing is recorded.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ..model.precision import add_up, hand_over
from ..model.program import Program
from ..model.signal import Signals

SUMS: Final = ("losses", "loss_weights")
"""What a program tells of a pack, by loss."""

TOLD: Final = (*SUMS, "signals")
"""What is told of a pack that is learned."""

_T = TypeVar("_T")

Capture: TypeAlias = Callable[[Callable[[], _T]], tuple[_T, Callable[[], object]]]
"""Records a call; returns what it returns, and what computes that anew in the same place."""


def teach(
    working: Program,
    program: Program,
    inputs: Mapping[str, Tensor],
    divisors: Mapping[str, Tensor],
    *,
    called: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Add the gradients of a pack to those of ``program``, and return sums of losses, weights and signals.

    Args:
        working: What computes.
        program: What learns.
        inputs: The pack.
        divisors: What each loss is divided by, by its op.
        called: What is called in place of ``working``, which is inside it.
    """
    zeros = torch.zeros(program.num_losses, device=inputs["labels"].device)
    working.signals = Signals(zeros)
    try:
        outputs = (called or working)(inputs, divisors)
    finally:
        working.signals = None
    outputs["loss"].backward()
    hand_over(working, program)
    outputs["signals"] = zeros
    return {name: outputs[name].detach() for name in TOLD}


def capture_graph(call: Callable[[], _T]) -> tuple[_T, Callable[[], object]]:
    """Record ``call`` as a CUDA graph, which computes nothing yet.

    Raises:
        RuntimeError: It does what cannot be recorded.
    """
    stream, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    # Functions of autograd that are still around would tie the graph to the stream they were made on.
    gc.collect()
    try:
        # Other threads may go on using the device.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            made = call()
    except RuntimeError:
        torch.cuda.set_stream(stream)
        # The generator of random numbers waits for a recording to end well before it draws any.
        with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros((), device="cuda")
        torch.cuda.set_stream(stream)
        raise
    return made, graph.replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A pack's way through a program.

    Attributes:
        inputs: Where it reads a pack.
        divisors: Where it reads what losses are divided by.
        told: Where it writes sums of losses and weights.
        grads: Where it writes the gradient of each parameter that learns; None where there is none.
        replay: Computes all anew.
    """

    inputs: Mapping[str, Tensor]
    divisors: Mapping[str, Tensor]
    told: Mapping[str, Tensor]
    grads: Sequence[Tensor | None]
    replay: Callable[[], object]

    def fits(self, inputs: Mapping[str, Tensor], divisors: Mapping[str, Tensor]) -> bool:
        """Return whether a pack is of the shapes that were recorded."""
        return _shapes(inputs) == _shapes(self.inputs) and divisors.keys() == self.divisors.keys()

    def read(self, inputs: Mapping[str, Tensor], divisors: Mapping[str, Tensor]) -> None:
        """Take over a pack that fits."""
        for own, given in ((self.inputs, inputs), (self.divisors, divisors)):
            for name, tensor in own.items():
                tensor.copy_(given[name])


@dataclass(eq=False, slots=True, kw_only=True)
class Recorder:
    """Teaches a program packs of one shape, and records how as soon as that can be done.

    Parameters must stay where they are; their values may change.

    Attributes:
        working: What computes.
        program: What learns.
        capture: Records a call.
        remark: What a person should know: that packs are recorded, or why they are not; empty so far.
    """

    working: Program
    program: Program
    capture: Capture[Any] = capture_graph
    remark: str = ""
    _is_rehearsed: bool = False
    _recording: Recording | None = field(default=None, repr=False)

    def teach(
        self, inputs: Mapping[str, Tensor], divisors: Mapping[str, Tensor], *, is_only: bool
    ) -> dict[str, Tensor]:
        """Do as `teach` does, recorded if possible; all must be compiled that will be.

        Args:
            inputs: The pack.
            divisors: What each loss is divided by, by its op.
            is_only: Whether no other pack is part of the step.
        """
        as_it_comes = self.working, self.program, inputs, divisors
        if self.working.is_watched or (self._recording is None and self.remark):
            return teach(*as_it_comes)
        if not self._is_rehearsed:
            self._is_rehearsed = True
            told, self.remark = _rehearse(lambda: teach(*as_it_comes))
            return told
        if self._recording is None and not self._record(inputs, divisors):
            return teach(*as_it_comes)
        recording = self._recording
        if recording is None or not recording.fits(inputs, divisors):
            return teach(*as_it_comes)
        recording.read(inputs, divisors)
        recording.replay()
        if is_only:
            for parameter, grad in zip(self.program.parameters(), recording.grads, strict=True):
                parameter.grad = grad
        else:
            add_up(recording.grads, self.program)
        # The next replay writes where these are.
        return {name: told.clone() for name, told in recording.told.items()}

    def _record(self, inputs: Mapping[str, Tensor], divisors: Mapping[str, Tensor]) -> bool:
        """Record a pack, and return whether that went well."""
        own = [{name: each.clone() for name, each in part.items()} for part in (inputs, divisors)]
        before = self._take_grads()
        try:
            told, replay = self.capture(lambda: teach(self.working, self.program, *own))
        except RuntimeError as error:
            self._take_grads()
            cause = error.__context__ or error
            self.remark = f"steps are not recorded: {_first_line(cause)}"
        else:
            grads = self._take_grads()
            self._recording = Recording(
                inputs=own[0], divisors=own[1], told=told, grads=grads, replay=replay
            )
            self.remark = "steps are recorded from now on"
        for parameter, grad in zip(self.program.parameters(), before, strict=True):
            parameter.grad = grad
        return self._recording is not None

    def _take_grads(self) -> list[Tensor | None]:
        """Return the gradients of what learns, and leave none."""
        grads = [parameter.grad for parameter in self.program.parameters()]
        for part in (self.working, self.program):
            part.zero_grad(set_to_none=True)
        return grads


def _rehearse(call: Callable[[], _T]) -> tuple[_T, str]:
    """Call, and return what is returned, and why it cannot be recorded; empty if it seems that it can."""
    if not torch.cuda.is_available():
        return call(), ""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            told = call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for each in seen:
        if "called a synchronizing" in str(each.message):
            where = f"{each.filename}:{each.lineno}"
            return told, f"steps are not recorded: the host waits for the device in {where}"
    return told, ""


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
