"""Steps of training to be timed: ours on packs, others' on padded batches, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from eager_ofasys import Batch, EagerOfasys
from padded import make_program, name_as_ofasys
from torch import Tensor

from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.program import Program
from taskloom.storage.pack import Pack

SMOOTHING: Final = 0.1

Step = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """OFASys, and what it is taught."""

    model: EagerOfasys
    batches: Sequence[Batch]

    @property
    def steps(self) -> list[Step]:
        """One for each batch."""
        return [partial(self.teach, batch) for batch in self.batches]

    def teach(self, batch: Batch) -> None:
        """Go forward and backward."""
        for parameter in self.model.state.values():
            parameter.grad = None
        (self.model.charge(batch, SMOOTHING) / batch.weights.sum()).backward()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Our program, and what it is taught."""

    program: Program
    inputs: Sequence[Mapping[str, Tensor]]

    @classmethod
    def of(
        cls, stream: Stream, packs: Sequence[Pack], *, is_compiled: bool, device: str = "cpu"
    ) -> Ours:
        """Return the program of ``stream`` with ``packs``."""
        program = make_program(stream).to(device).train()
        if is_compiled:
            program.compile_layers()
        place = torch.device(device)
        return cls(program=program, inputs=[to_inputs(stream.plan, p, place) for p in packs])

    @property
    def steps(self) -> list[Step]:
        """One for each pack."""
        return [partial(self.teach, inputs) for inputs in self.inputs]

    def teach(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Go forward and backward, and return the loss."""
        self.program.zero_grad(set_to_none=True)
        loss = self.program(inputs)["loss"]
        loss.backward()
        return loss.detach()


def check(
    ours: Ours,
    theirs: EagerOfasys,
    batches: Sequence[Batch],
    *,
    loss_error: float = 1e-5,
    grad_error: float = 2e-3,
) -> None:
    """Compare the loss and all gradients of our first pack with those of its documents in ``batches``."""
    loss = ours.teach(ours.inputs[0])
    weight = sum(float(batch.weights.sum()) for batch in batches)
    charged = sum(theirs.charge(batch, SMOOTHING) for batch in batches) / weight
    assert isinstance(charged, Tensor)
    torch.testing.assert_close(charged.detach(), loss, rtol=loss_error, atol=0)
    charged.backward()
    named = {n: p.grad for n, p in ours.program.named_parameters() if p.grad is not None}
    for name, grad in name_as_ofasys(named).items():
        other = theirs.state[name].grad
        assert other is not None, name
        # What should be nothing, as for the offsets of keys, is rounding.
        assert (grad - other).norm() <= grad_error * grad.norm() + 1e-6, name


def time_in_turn(ways: Mapping[str, Sequence[Step]], num_rounds: int) -> dict[str, list[float]]:
    """Return CPU-seconds of all steps of each way, by round."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(num_rounds):
        order = list(ways.items())
        for way, steps in order if number % 2 else order[::-1]:
            began = time.process_time()
            for step in steps:
                step()
            seconds[way].append(time.process_time() - began)
    return seconds
