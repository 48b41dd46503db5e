"""What happened in a run since the last line of its log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from ...storage.pack import Pack, join_fingerprints
from .ranks import Ranks

_BY_LOSS: Final = {"losses", "loss_weights", "signals"}


@dataclass(slots=True)
class Tally:
    """Sums over some steps, kept on the device until they are asked for.

    Attributes:
        sums: Losses, weights and signals by task, and the norm of the gradient.
        tokens: Tokens that were read and written.
        steps: Steps that were taken.
        packs: Fingerprints of the packs of each.
        seen: Samples and tokens of each task.
        since: When it began.
    """

    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    tokens: int = 0
    steps: int = 0
    packs: list[list[str]] = field(default_factory=list[list[str]])
    seen: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
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
        seen = {task: [*counts] for task, counts in plain.get("seen", {}).items()}
        packs = [[each] for each in plain.get("packs", ())]
        return cls(sums, plain["tokens"], plain["steps"], packs, seen)

    def to_plain(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that the log goes on as if nothing had happened."""
        sums = {name: total.cpu() for name, total in self.sums.items()}
        seen = {task: [*counts] for task, counts in self.seen.items()}
        plain = {"tokens": self.tokens, "steps": self.steps, "packs": self._prints}
        return {"sums": sums, "seen": seen, **plain}

    def of_all(self, ranks: Ranks) -> Tally:
        """Return what happened on all ``ranks`` together, the same on each of them."""
        if ranks.number == 1:
            return self
        shares = ranks.gather((self.packs, self.seen, self.tokens))
        prints = [packs for packs, _, _ in shares]
        steps = [[one for share in step for one in share] for step in zip(*prints, strict=True)]
        seen: dict[str, list[int]] = {}
        for _, share, _ in shares:
            _add_counts(seen, share)
        tokens = sum(number for _, _, number in shares)
        return replace(self, sums=self._add_up(ranks), tokens=tokens, seen=seen, packs=steps)

    def _add_up(self, ranks: Ranks) -> dict[str, Tensor]:
        """Return the sums of all ``ranks`` together."""
        return {
            name: ranks.add_up_tensor(total) if name in _BY_LOSS else total
            for name, total in self.sums.items()
        }

    def share(self, ranks: Ranks) -> Tally:
        """Return what one of ``ranks`` keeps of it so that all of them together have it: all or nothing."""
        if ranks.is_first:
            return self
        sums = {
            name: torch.zeros_like(total) if name in _BY_LOSS else total
            for name, total in self.sums.items()
        }
        return replace(self, sums=sums, tokens=0, seen={}, packs=[[] for _ in self.packs])

    @property
    def _prints(self) -> list[str]:
        """Fingerprint of each step."""
        return [join_fingerprints(packs) for packs in self.packs]

    def add(self, name: str, value: Tensor) -> None:
        """Add ``value`` to the sum ``name``."""
        value = value.detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def count(self, pack: Pack, tasks: Sequence[str]) -> None:
        """Count the documents of ``pack``.

        Args:
            pack: The pack.
            tasks: Task of each template, by number.
        """
        numbers = pack.rows[:, 0]
        lengths = np.diff(pack.source_ranges)[:, 0] + np.diff(pack.target_ranges)[:, 0]
        samples = np.bincount(numbers, minlength=len(tasks)).tolist()
        tokens = np.bincount(numbers, weights=lengths, minlength=len(tasks)).astype(int).tolist()
        self.tokens += sum(tokens)
        for task, *counts in zip(tasks, samples, tokens, strict=True):
            _add_counts(self.seen, {task: counts})

    def trouble(self, tasks: Sequence[str], ranks: Ranks) -> str:
        """Return which sum over ``ranks`` is no longer finite, and of which of ``tasks``; empty if none is."""
        sums = self._add_up(ranks)
        is_finite = sums["losses"].isfinite().tolist()
        if bad := [task for task, is_well in zip(tasks, is_finite, strict=True) if not is_well]:
            return f"the loss of {', '.join(bad)}"
        if not sums["gradient_norm"].isfinite():
            weights = sums["loss_weights"].tolist()
            seen = [task for task, weight in zip(tasks, weights, strict=True) if weight]
            return f"the gradient of {', '.join(seen)}"
        return ""

    def describe(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Return what happened: in all, by loss, and how much of each task was seen.

        The share of a signal is that of its norm, in the sum of those of all losses.
        """
        losses, weights = (self.sums[name].tolist() for name in ("losses", "loss_weights"))
        norms = [math.sqrt(square) for square in self.sums["signals"].tolist()]
        return {
            "loss": _divide(sum(losses), sum(weights)),
            "gradient_norm": float(self.sums["gradient_norm"]) / self.steps,
            "tokens": self.tokens,
            "packs": self._prints,
            "seconds": round(time.perf_counter() - self.since, 3),
            "tasks": {
                task: {
                    "loss": _divide(loss, weight),
                    "labels": weight,
                    "gradient_share": _divide(norm, sum(norms)),
                }
                for task, loss, weight, norm in zip(tasks, losses, weights, norms, strict=True)
            },
            "mixture": self._describe_seen(),
        }

    def _describe_seen(self) -> dict[str, dict[str, Any]]:
        samples, tokens = (sum(count[which] for count in self.seen.values()) for which in (0, 1))
        return {
            task: {
                "samples": count[0],
                "tokens": count[1],
                "sample_share": _divide(count[0], samples),
                "token_share": _divide(count[1], tokens),
            }
            for task, count in self.seen.items()
        }


def _add_counts(seen: dict[str, list[int]], more: Mapping[str, Sequence[int]]) -> None:
    """Add samples and tokens of tasks to ``seen``."""
    for task, counts in more.items():
        before = seen.get(task, [0, 0])
        seen[task] = [one + other for one, other in zip(before, counts, strict=True)]


def _divide(part: float, whole: float) -> float | None:
    """Return the loss of a label, or a share; None where there was none."""
    return part / whole if whole else None
