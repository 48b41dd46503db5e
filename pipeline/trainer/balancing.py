"""Balancing: what the losses of tasks count in a step, as weights of labels.

Without it a step learns from the mean over its labels, so a task counts as much as it has labels, times their
``loss_weight``. With it, a step learns from the sum of a balancer's coefficients times the tasks' mean losses.
Weights of labels carry that, which are data: what is compiled stays as it is, and divisors stay what they are.

A task that writes several slots has a loss for each, and they are balanced like tasks. A task that a step has
no label of is as if it were not there.

Letters: L = losses.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...graph.errors import TrainingError
from ...graph.planned import name_scored
from ...storage.pack import Pack
from ..loader.packing import move
from ..planner.planning import Plan
from .balancers import (
    FAMO_DECAY,
    Balancer,
    FamoBalancer,
    InitialBalancer,
    Learned,
    Seen,
    UncertaintyBalancer,
)
from .clock import now
from .recording import SUMS

SumUp: TypeAlias = Callable[[Tensor], Tensor]
"""Adds up what all ranks have of a tensor."""


@dataclass(slots=True, kw_only=True)
class Balance:
    """A balancer at work, step after step.

    Attributes:
        balancer: The balancer.
        losses: Names of the losses.
        device: Where it computes.
        sum_up: Adds up what all ranks have.
        is_measured: Whether its time is taken, for which the device is waited for.
        seconds: What it took in steps that were measured.
    """

    balancer: Balancer
    losses: Sequence[str]
    device: torch.device
    sum_up: SumUp
    is_measured: bool = False
    seconds: float = 0.0
    _factors: Tensor = field(init=False)
    _sums: Tensor = field(init=False)

    def begin(self, packs: Sequence[Pack], *, is_measured: bool) -> None:
        """Begin a step on ``packs``, which together with those of other ranks are all of it."""
        self.is_measured = is_measured
        number = len(self.losses)
        labels_L = sum(np.bincount(p.loss_ids, p.weights, minlength=number) for p in packs)
        with self._timed():
            labels = self.sum_up(move(torch.tensor(labels_L, dtype=torch.float32), self.device))
            share_L = labels / labels.sum()
            self._factors = self.balancer.coefficients() / share_L.where(share_L > 0, 1)
            self._sums = torch.zeros(2, number, device=self.device)

    def weigh(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a pack whose labels count as the balancer says."""
        factors_N = self._factors[inputs["loss_ids"]]
        return {**inputs, "weights": inputs["weights"] * factors_N}

    def unweigh(self, told: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return sums of losses and of weights as they would be without a balancer, and keep them."""
        plain = {name: told[name] / self._factors for name in SUMS}
        self._sums += torch.stack([*plain.values()])
        return {**told, **plain}

    def learn(self, look_back: Callable[[], Tensor], is_bad: Tensor) -> None:
        """Let the balancer learn from the step.

        Args:
            look_back: Computes sums of losses and of weights, shape ``(2, L)``, with the newest parameters.
            is_bad: Whether the step changed nothing, shape ``()``.
        """
        with self._timed():
            losses_L, weights_L = self.sum_up(self._sums)
            is_there_L = weights_L > 0
            after_L = None
            if self.balancer.looks_back:
                sums_L, counts_L = self.sum_up(look_back())
                after_L = sums_L / counts_L.where(is_there_L, 1)
            seen = Seen(
                before_L=losses_L / weights_L.where(is_there_L, 1),
                after_L=after_L,
                is_there_L=is_there_L,
                is_bad=is_bad,
            )
            self.balancer.learn(seen)

    def describe(self) -> dict[str, float]:
        """Return the coefficients of the losses, by name; asking waits for the device."""
        return dict(zip(self.losses, self.balancer.coefficients().tolist(), strict=True))

    def to_plain(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {name: tensor.detach().cpu() for name, tensor in self.balancer.state().items()}

    def restore(self, plain: Mapping[str, Tensor], was: Sequence[str]) -> None:
        """Go on with what `to_plain` gave of the losses ``was``; those that are new begin anew."""
        begun = self.balancer.state()
        places = [was.index(name) if name in was else -1 for name in self.losses]
        is_known = torch.tensor([place >= 0 for place in places])
        state: dict[str, Tensor] = {}
        for name, own in begun.items():
            kept = plain[name].to(own)
            is_each = own.ndim == 1
            state[name] = kept[places].where(is_known.to(own.device), own) if is_each else kept
        self.balancer.restore(state)

    @contextmanager
    def _timed(self) -> Generator[None]:
        began = now(self.device) if self.is_measured else 0.0
        yield
        if self.is_measured:
            self.seconds += now(self.device) - began


def make_balance(way: str, plan: Plan, device: torch.device, sum_up: SumUp) -> Balance | None:
    """Return a balance of the losses of ``plan`` by the setting ``way``; None for ``"static"``.

    Raises:
        TrainingError: Some task compares pairs, whose losses are weighed by no labels (T0772).
    """
    if way == "static":
        return None
    if any(node.op == "contrast_pairs" for node in plan.graph):
        message = f"{way} weighs labels, and a task that compares pairs has none"
        raise TrainingError.of("T0772", message, "leave balance at static, or the task out")
    losses = name_scored(plan.scored)
    number = len(losses)
    balancer: Balancer
    if way == "initial":
        balancer = InitialBalancer(torch.zeros(number, device=device))
    elif way == "uncertainty":
        balancer = UncertaintyBalancer(Learned.make(number, device))
    else:
        logits = Learned.make(number, device, FAMO_DECAY)
        balancer = FamoBalancer(logits, torch.zeros(number, device=device))
    return Balance(balancer=balancer, losses=losses, device=device, sum_up=sum_up)
