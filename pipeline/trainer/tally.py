"""What happened in a run since the last line of its log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import torch
from torch import Tensor

from ...storage.pack import join_fingerprints
from .ranks import Ranks

_BY_LOSS: Final = {"losses", "loss_weights"}


@dataclass(slots=True)
class Tally:
    """Sums over some steps, kept on the device until they are asked for.

    Attributes:
        sums: Losses and weights by task, and the norm of the gradient.
        tokens: Tokens that were read and written.
        steps: Steps that were taken.
        packs: Fingerprints of the packs of each.
        since: When it began.
    """

    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    tokens: int = 0
    steps: int = 0
    packs: list[list[str]] = field(default_factory=list[list[str]])
    since: float = field(default_factory=time.perf_counter)

    @classmethod
    def from_plain(
        cls,
        plain: Mapping[str, Any],
        device: torch.device,
        was: Sequence[str],
        now: Sequence[str],
    ) -> Self:
        """Return the tally of all ranks that `to_plain` gave of the losses ``was``, for the losses ``now``."""
        sums = {name: total.to(device) for name, total in plain["sums"].items()}
        if list(was) != list(now):
            places = [was.index(name) if name in was else len(was) for name in now]
            for name in _BY_LOSS & sums.keys():
                sums[name] = torch.cat([sums[name], sums[name].new_zeros(1)])[places]
        packs = [[each] for each in plain.get("packs", ())]
        return cls(sums, plain["tokens"], plain["steps"], packs)

    def to_plain(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that the log goes on as if nothing had happened."""
        sums = {name: total.cpu() for name, total in self.sums.items()}
        return {"sums": sums, "tokens": self.tokens, "steps": self.steps, "packs": self._prints}

    def of_all(self, ranks: Ranks) -> Tally:
        """Return what happened on all ``ranks`` together, the same on each of them."""
        if ranks.number == 1:
            return self
        shares = ranks.gather(self.packs)
        steps = [[one for share in step for one in share] for step in zip(*shares, strict=True)]
        sums = {
            name: ranks.add_up_tensor(total) if name in _BY_LOSS else total
            for name, total in self.sums.items()
        }
        tokens = int(ranks.add_up([self.tokens])[0])
        return replace(self, sums=sums, tokens=tokens, packs=steps)

    def share(self, ranks: Ranks) -> Tally:
        """Return what one of ``ranks`` keeps of it so that all of them together have it: all or nothing."""
        if ranks.is_first:
            return self
        sums = {
            name: torch.zeros_like(total) if name in _BY_LOSS else total
            for name, total in self.sums.items()
        }
        return replace(self, sums=sums, tokens=0, packs=[[] for _ in self.packs])

    @property
    def _prints(self) -> list[str]:
        """Fingerprint of each step."""
        return [join_fingerprints(packs) for packs in self.packs]

    def add(self, name: str, value: Tensor) -> None:
        """Add ``value`` to the sum ``name``."""
        value = value.detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def trouble(self, tasks: Sequence[str]) -> str:
        """Return which sum is no longer a finite number, and of which of ``tasks``; empty if none is."""
        is_finite = self.sums["losses"].isfinite().tolist()
        if bad := [task for task, is_well in zip(tasks, is_finite, strict=True) if not is_well]:
            return f"the loss of {', '.join(bad)}"
        if not self.sums["gradient_norm"].isfinite():
            weights = self.sums["loss_weights"].tolist()
            seen = [task for task, weight in zip(tasks, weights, strict=True) if weight]
            return f"the gradient of {', '.join(seen)}"
        return ""

    def describe(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Return losses and labels in all and by task, mean norm of the gradient, tokens, packs and seconds."""
        losses, weights = (self.sums[name].tolist() for name in ("losses", "loss_weights"))
        return {
            "loss": _divide(sum(losses), sum(weights)),
            "gradient_norm": float(self.sums["gradient_norm"]) / self.steps,
            "tokens": self.tokens,
            "packs": self._prints,
            "seconds": round(time.perf_counter() - self.since, 3),
            "tasks": {
                task: {"loss": _divide(loss, weight), "labels": weight}
                for task, loss, weight in zip(tasks, losses, weights, strict=True)
            },
        }


def _divide(loss: float, weight: float) -> float | None:
    """Return the loss of a label; None where there was none."""
    return loss / weight if weight else None
