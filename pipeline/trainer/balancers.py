"""Balancers: how much each task's loss counts in the next step, by what came of the steps before.

A *balancer* gives every loss a coefficient: a step learns from the sum of coefficients times mean losses. After
the step it is told the mean losses that the step began with, and by some ways those that it came to. Everything
stays on the device; nobody waits for a number.

Letters: L = losses.

Source: GradNorm, section 3.1 (arXiv:1711.02257), for losses over the first; Kendall et al., section 3.2
(arXiv:1705.07115), for uncertainty; FAMO, algorithm 1 (arXiv:2306.03792), with the rate and the decay of its
authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

RATE: Final = 0.025
"""Adam's, of what a balancer learns; a run's own would move it too little in a run."""

FAMO_DECAY: Final = 0.01
_LEAST_LOSS: Final = 1e-8


class Balancer(Protocol):
    """Gives losses their coefficients, and learns from what came of them."""

    @property
    def looks_back(self) -> bool:
        """Whether it must be told losses with the parameters after a step, which costs a forward pass."""
        ...

    def coefficients(self) -> Tensor:
        """Return what each mean loss counts in the next step, shape ``(L,)``."""
        ...

    def learn(self, seen: Seen) -> None:
        """Learn from a step."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what it has learned by name: shape ``(L,)``, or ``()`` for what losses have in common."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a step showed of the losses.

    Attributes:
        before_L: Mean losses with the parameters that the step began with.
        after_L: The same rows' with those that it came to; None if nobody looked back.
        is_there_L: Whether the step had labels of each; the means of others say nothing.
        is_bad: Whether the step changed nothing, so nothing is to be learned from it; shape ``()``.
    """

    before_L: Tensor
    after_L: Tensor | None = None
    is_there_L: Tensor
    is_bad: Tensor


@dataclass(slots=True)
class InitialBalancer:
    """Each loss counts as a share of what it was in the first step that had labels of it.

    Attributes:
        first_L: Those losses; 0 where there was none yet.
    """

    first_L: Tensor
    looks_back: bool = False

    def coefficients(self) -> Tensor:
        """Return one over the first losses, divided by their number."""
        return 1 / (_fill(self.first_L) * len(self.first_L))

    def learn(self, seen: Seen) -> None:
        """Keep losses that are seen first."""
        is_first_L = seen.is_there_L & (self.first_L == 0) & ~seen.is_bad
        self.first_L = torch.where(is_first_L, seen.before_L, self.first_L)

    def state(self) -> dict[str, Tensor]:
        """Return the first losses."""
        return {"first": self.first_L}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave."""
        self.first_L = state["first"].to(self.first_L)


@dataclass(slots=True)
class UncertaintyBalancer:
    """Each loss is over a variance that is learned, whose logarithm costs: ``exp(-s) * loss + s / 2``.

    Attributes:
        learned: The logarithms.
    """

    learned: Learned
    looks_back: bool = False

    def coefficients(self) -> Tensor:
        """Return one over the variances, divided by their number."""
        logs_L = self.learned.values_L
        return (-logs_L).exp() / len(logs_L)

    def learn(self, seen: Seen) -> None:
        """Step the logarithms down the slope of what losses and they cost."""
        slopes_L = 0.5 - (-self.learned.values_L).exp() * seen.before_L
        self.learned.step(slopes_L.where(seen.is_there_L, 0), seen.is_bad)

    def state(self) -> dict[str, Tensor]:
        """Return the logarithms, and Adam's moments."""
        return self.learned.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave."""
        self.learned.restore(state)


@dataclass(slots=True)
class FamoBalancer:
    """The logarithms of all losses are to fall alike, where losses that fell the least count the most.

    In its first step a loss is not known yet, and counts as the mean of those that are.

    Attributes:
        learned: Logits of how much each logarithm counts.
        last_L: Losses with the newest parameters, of the last step that had labels of them; 0 where none had.
    """

    learned: Learned
    last_L: Tensor
    looks_back: bool = True

    def coefficients(self) -> Tensor:
        """Return the slopes of what the logarithms of the losses come to together, which add up to 1."""
        slopes_L = self.learned.values_L.softmax(0) / _fill(self.last_L)
        return slopes_L / slopes_L.sum()

    def learn(self, seen: Seen) -> None:
        """Count those more whose logarithms fell less than others, on the same rows."""
        assert seen.after_L is not None, "it looks back"
        logs_L = (each.clamp(min=_LEAST_LOSS).log() for each in (seen.before_L, seen.after_L))
        before_L, after_L = logs_L
        counts_L = self.learned.values_L.softmax(0)
        # A loss that was not there fell as the others did, and so moves nothing.
        there_L = counts_L * seen.is_there_L
        gains_L = (before_L - after_L).where(seen.is_there_L, 0)
        mean = (there_L * gains_L).sum() / there_L.sum().clamp(min=_LEAST_LOSS)
        self.learned.step(there_L * (gains_L - mean), seen.is_bad)
        is_new_L = seen.is_there_L & ~seen.is_bad
        self.last_L = torch.where(is_new_L, seen.after_L.clamp(min=_LEAST_LOSS), self.last_L)

    def state(self) -> dict[str, Tensor]:
        """Return the logits, Adam's moments and the last losses."""
        return self.learned.state() | {"last": self.last_L}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave."""
        self.learned.restore(state)
        self.last_L = state["last"].to(self.last_L)


@dataclass(slots=True)
class Learned:
    """Numbers that Adam learns, begun at 0.

    Attributes:
        values: The numbers, one for each loss.
        adam: The optimizer.
    """

    values: nn.Parameter
    adam: torch.optim.Adam

    @classmethod
    def make(cls, num_losses: int, device: torch.device, weight_decay: float = 0.0) -> Learned:
        """Return as many numbers as there are losses."""
        values = nn.Parameter(torch.zeros(num_losses, device=device))
        adam = torch.optim.Adam([values], lr=RATE, weight_decay=weight_decay, fused=True)
        learned = cls(values, adam)
        # So that there are moments to keep and restore before the first step.
        learned.step(torch.zeros_like(values), torch.ones((), dtype=torch.bool, device=device))
        return learned

    @property
    def values_L(self) -> Tensor:
        """The numbers, for computing with."""
        return self.values.detach()

    def step(self, slopes_L: Tensor, is_bad: Tensor) -> None:
        """Go down ``slopes_L``, or nowhere where ``is_bad``."""
        told: Any = self.adam
        told.found_inf = is_bad.to(torch.float32)
        self.values.grad = slopes_L
        self.adam.step()

    def state(self) -> dict[str, Tensor]:
        """Return the numbers and their moments."""
        return {"values": self.values_L, **self.adam.state[self.values]}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave."""
        for name, own in self.state().items():
            own.copy_(state[name])


def _fill(losses_L: Tensor) -> Tensor:
    """Return ``losses_L`` with the mean of those that are known for those that are not, 1 if none is."""
    is_known_L = losses_L > 0
    number = is_known_L.sum()
    mean = torch.where(number > 0, losses_L.sum() / number.clamp(min=1), 1)
    return torch.where(is_known_L, losses_L, mean)
