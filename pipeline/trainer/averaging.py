"""Averages: a second program whose parameters follow those that learn, step after step.

After each step every parameter ``a`` of the average becomes ``d * a + (1 - d) * p``, where ``p`` is the learned
one. The decay ``d`` begins small and rises to what was asked for, so that what parameters began with at random
is soon forgotten, in short runs as well. A table that reads and writes is one parameter, and so is its average.

Source: TensorFlow's ``ExponentialMovingAverage``, with ``num_updates``, for the decay that rises.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from ..model.program import Program
from ..planner.planning import Plan
from .sharding import local


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """An exponential moving average of the parameters of a program.

    Attributes:
        program: Computes with the average; it learns nothing itself.
        decay: What is left of the average in a step, at most.
    """

    program: Program
    decay: float

    def follow(self, learned: Program, step: int) -> None:
        """Take in the parameters and buffers of ``learned`` after ``step``, counted from 1."""
        weight = 1 - decay_at(self.decay, step)
        pairs = zip(self.program.parameters(), learned.parameters(), strict=True)
        moved = [(local(own), local(its)) for own, its in pairs if its.requires_grad]
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                [own for own, _ in moved], [its for _, its in moved], weight
            )
            for own, its in zip(self.program.buffers(), learned.buffers(), strict=True):
                own.copy_(its)

    def begin_at(self, learned: Program) -> None:
        """Be what ``learned`` is; of what ranks share, each has the same share of both."""
        own, its = self.program.state_dict(), learned.state_dict()
        for name, tensor in own.items():
            local(tensor).copy_(local(its[name]))


def make_average(plan: Plan, learned: Program, decay: float) -> Average:
    """Return an average that begins as ``learned`` is; no random numbers are drawn."""
    program = Program(plan, copy.deepcopy(learned.scopes)).eval()
    return Average(program=program.requires_grad_(requires_grad=False), decay=decay)


def decay_at(decay: float, step: int) -> float:
    """Return what is left of the average in ``step``, counted from 1: at most ``decay``."""
    return min(decay, (1 + step) / (10 + step))
