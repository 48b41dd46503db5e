"""What a stream will hold, said before the first step: shares, epochs, and how full packs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .capacity import Capacity
from .template import Documents
from .window import PackPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """One task of a stream.

    Attributes:
        name: Name of the task.
        num_rows: Rows that are seen.
        num_left_out: Rows whose document is longer than a pack holds.
        longest: Source and target positions of the longest document that is seen.
        sample_share: Its share of samples.
        token_share: Its share of source and target positions.
        samples_per_pack: Its samples in a pack, on average.
    """

    name: str
    num_rows: int
    num_left_out: int
    longest: tuple[int, int]
    sample_share: float
    token_share: float
    samples_per_pack: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """The first window of a stream, in numbers.

    Attributes:
        tasks: Its tasks in order.
        capacity: What a pack holds.
        fill: Used share of each capacity: ``source``, ``target`` and the lanes.
    """

    tasks: tuple[TaskReport, ...]
    capacity: Capacity
    fill: Mapping[str, float]

    @classmethod
    def of(
        cls,
        packs: Sequence[PackPlan],
        documents: Sequence[Documents],
        num_left_out: Sequence[int],
        capacity: Capacity,
    ) -> StreamReport:
        """Return the report on ``packs``, which hold ``documents`` of each template."""
        numbers = np.concatenate([plan.tasks for plan in packs])
        source = np.concatenate([plan.source_lengths for plan in packs])
        target = np.concatenate([plan.target_lengths for plan in packs])
        tensors = np.concatenate([plan.tensors for plan in packs], axis=1).sum(axis=1)
        samples = np.bincount(numbers, minlength=len(documents))
        tokens = np.bincount(numbers, weights=source + target, minlength=len(documents))
        used = {"source": source.sum(), "target": target.sum()}
        used |= dict(zip(capacity.tensors, tensors, strict=True))
        room = {"source": capacity.source, "target": capacity.target, **capacity.tensors}
        templates: dict[str, list[int]] = {}
        for number, each in enumerate(documents):
            templates.setdefault(each.template.task, []).append(number)
        return cls(
            tasks=tuple(
                TaskReport(
                    name=task,
                    num_rows=len(documents[which[0]]),
                    num_left_out=num_left_out[which[0]],
                    longest=(
                        max(int(documents[i].source_lengths.max()) for i in which),
                        max(int(documents[i].target_lengths.max()) for i in which),
                    ),
                    sample_share=float(samples[which].sum() / samples.sum()),
                    token_share=float(tokens[which].sum() / max(tokens.sum(), 1)),
                    samples_per_pack=float(samples[which].sum() / len(packs)),
                )
                for task, which in templates.items()
            ),
            capacity=capacity,
            fill={name: float(used[name]) / max(len(packs) * room[name], 1) for name in used},
        )

    def weigh_fill(self, source_flops: float, target_flops: float) -> float:
        """Return the share of linear FLOPs that is spent on used positions."""
        source = self.capacity.source * source_flops
        target = self.capacity.target * target_flops
        used = self.fill["source"] * source + self.fill["target"] * target
        return used / (source + target)

    def describe_tasks(self, num_packs: int, duration: str) -> list[str]:
        """Return a sentence for each task of a run of ``num_packs``, and one for rows left out."""
        lines = [
            f"{task.name}: {task.sample_share:.0%} of samples, {task.token_share:.0%} of tokens, "
            f"{task.samples_per_pack * num_packs / task.num_rows:.1f} epochs in {duration}"
            for task in self.tasks
        ]
        max_source, max_target = self.capacity.longest
        return lines + [
            f"{task.name}: {task.num_left_out:,} of {task.num_left_out + task.num_rows:,} rows are "
            f"left out, longer than {max_source:,} source or {max_target:,} target positions"
            for task in self.tasks
            if task.num_left_out
        ]

    def describe_fill(self, source_flops: float, target_flops: float) -> str:
        """Return one sentence on how full packs are."""
        room = {"source": self.capacity.source, "target": self.capacity.target}
        parts = [
            f"{name} {share:.1%} of {(room | dict(self.capacity.tensors))[name]:,}"
            for name, share in self.fill.items()
        ]
        weighted = self.weigh_fill(source_flops, target_flops)
        return f"packs are filled: {', '.join(parts)}; {weighted:.1%} weighted by FLOPs"


__all__ = ["StreamReport", "TaskReport"]
