"""What a stream will hold, said before the first step: shares, epochs, and how full packs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .blend import Blend
from .capacity import Capacity, measure_load
from .template import Documents
from .window import PackPlan

# Steps of a run whose shares are looked at, where they change.
_LOOKS: Final = 64


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
        mean_tokens: Source and target positions of its documents, on average.
        mean_load: What its documents take of each capacity of a pack, on average.
    """

    name: str
    num_rows: int
    num_left_out: int
    longest: tuple[int, int]
    sample_share: float
    token_share: float
    samples_per_pack: float
    mean_tokens: float
    mean_load: tuple[float, ...]


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
                    mean_tokens=_mean_tokens([documents[i] for i in which]),
                    mean_load=_mean_load([documents[i] for i in which], capacity),
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

    def expect_samples(self, blend: Blend, steps: range, packs_per_step: int) -> dict[str, float]:
        """Return about how many samples of each task, mixed by ``blend``, there are in ``steps``."""
        # Packs that are as full as the first ones, whatever they are made of.
        fill = max(self._need({task.name: task.samples_per_pack for task in self.tasks}))
        found = dict.fromkeys((task.name for task in self.tasks), 0.0)
        looks = np.linspace(steps.start, steps.stop, min(len(steps), _LOOKS), endpoint=False)
        for step in looks.tolist():
            shares = blend.at(step)
            per_pack = fill / max(self._need(shares))
            for task, share in shares.items():
                found[task] += share * per_pack * packs_per_step * len(steps) / len(looks)
        return found

    def _need(self, samples: Mapping[str, float]) -> list[float]:
        """Return how much of each capacity of a pack ``samples`` of each task take."""
        loads = zip(*(task.mean_load for task in self.tasks), strict=True)
        numbers = [samples[task.name] for task in self.tasks]
        return [sum(n * one for n, one in zip(numbers, load, strict=True)) for load in loads]

    def describe_tasks(
        self, seen: Mapping[str, int], blend: Blend, steps: range, packs_per_step: int
    ) -> list[str]:
        """Return a sentence for each task of a run, and one for each that has rows left out.

        Args:
            seen: Samples of each task that were seen before ``steps``.
            blend: Shares of the tasks in ``steps``.
            steps: The steps to come.
            packs_per_step: Packs in one of them.
        """
        coming = self.expect_samples(blend, steps, packs_per_step)
        samples = {task.name: seen[task.name] + coming[task.name] for task in self.tasks}
        tokens = {task.name: samples[task.name] * task.mean_tokens for task in self.tasks}
        all_samples, all_tokens = (max(sum(each.values()), 1.0) for each in (samples, tokens))
        lines = [
            f"{task.name}: {samples[task.name] / all_samples:.0%} of samples, "
            f"{tokens[task.name] / all_tokens:.0%} of tokens, "
            f"{samples[task.name] / task.num_rows:.1f} epochs in {steps.stop:,} steps"
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


def _mean_tokens(documents: Sequence[Documents]) -> float:
    return float(
        np.mean([each.source_lengths.mean() + each.target_lengths.mean() for each in documents])
    )


def _mean_load(documents: Sequence[Documents], capacity: Capacity) -> tuple[float, ...]:
    loads = [
        measure_load(
            each.source_lengths.astype(np.int64),
            each.target_lengths.astype(np.int64),
            each.count_tensors(capacity.tensors),
            capacity,
        ).mean(axis=1)
        for each in documents
    ]
    return tuple(np.mean(loads, axis=0).tolist())


__all__ = ["StreamReport", "TaskReport"]
