"""What a run is going to cost: FLOP of a step, and steps and FLOP of an epoch of each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...graph.render.quantity import write_amount
from ...storage.length import select_fitting
from ...storage.loader import Loader
from ..loader.stream import Stream
from .demand import Demand


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What steps of a run cost, on average over those to come.

    Attributes:
        samples: Samples of each task in a step.
        rows: Rows of each task.
        flops: FLOP of a sample of each task, every target token taken to be learned.
    """

    samples: Mapping[str, float]
    rows: Mapping[str, int]
    flops: Mapping[str, float]

    @classmethod
    def of(cls, stream: Stream, loader: Loader, demand: Demand) -> Cost:
        """Return the cost of a run on ``stream`` with ``demand``, from where ``loader`` stands."""
        config, report = stream.config, loader.report
        step = min(loader.state()["step"], config.steps - 1)
        coming = range(step, config.steps)
        samples = report.expect_samples(stream.blend, coming, config.packs_per_step)
        return cls(
            samples={task: number / len(coming) for task, number in samples.items()},
            rows={task.name: task.num_rows for task in report.tasks},
            flops=_mean_flops(stream, demand),
        )

    @property
    def step_flops(self) -> float:
        """FLOP of a step."""
        return sum(number * self.flops[task] for task, number in self.samples.items())

    def sentences(self) -> Iterator[str]:
        """Yield a sentence on a step, and one on an epoch of each task."""
        number = sum(self.samples.values())
        yield f"a step: {number:,.0f} samples, about {write_amount(self.step_flops, 'FLOP')}"
        for task, rows in self.rows.items():
            if self.samples[task]:
                steps, flops = rows / self.samples[task], rows * self.flops[task]
                told = f"{steps:,.0f}" if steps >= 10 else f"{steps:.2g}"
                yield f"{task}: an epoch is {told} steps, {write_amount(flops, 'FLOP')} of its own"


def _mean_flops(stream: Stream, demand: Demand) -> dict[str, float]:
    """Return the FLOP of a document of each task, on average over its templates."""
    sums: dict[str, list[float]] = {}
    for each in select_fitting(stream.documents, stream.capacity):
        flops = demand.of_documents(each) / max(len(each), 1)
        sums.setdefault(each.template.task, []).append(flops)
    return {task: sum(each) / len(each) for task, each in sums.items()}
