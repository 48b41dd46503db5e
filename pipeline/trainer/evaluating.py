"""Evaluating while training: what a run has come to, on rows that it does not learn from.

Rows are those of the split ``valid``, as many of each task as ``evaluate_rows`` says, the same ones every time.
Their loss is that of packs as in training, without dropout; their scores are those of `evaluate`. Random
numbers, the loader and parameters are afterwards what they were, so a run learns the same whether it is
evaluated or not.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from ...graph.errors import PlanError
from ...graph.vocabulary import PAD
from ...storage.one_pass import pack_documents
from ...storage.pack import Pack
from ..answerer.exam import Exam, TaskScore
from ..answerer.inference import Model
from ..answerer.writing import Said, Writer
from ..loader.crew import Crew
from ..loader.online import add_online_columns
from ..loader.packing import to_inputs
from ..loader.stream import Stream
from ..model.program import Program
from .learner import Learner
from .metric import METRICS
from .sample import Sample, find_prompts

NUM_SAMPLES = 4
"""Rows of each task whose answers are kept for people to look at."""


_MANY_TASKS = 8
"""Tasks of which each is told; of more, the mean."""


class Evaluated(NamedTuple):
    """An evaluation.

    Attributes:
        tasks: What is told of each loss and each slot that is written, by name.
        mean: Means over these.
        samples: Some rows, with what the model answered.
        seconds: How long it took.
    """

    tasks: dict[str, dict[str, Any]]
    mean: dict[str, float]
    samples: list[Sample]
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """Every number by the name that the setting ``metric`` takes."""
        named = {
            f"{task}.{name}": numbers[name]
            for task, numbers in self.tasks.items()
            for name in METRICS
            if numbers.get(name) is not None
        }
        return self.mean | named

    def describe(self, step: int, metric: str, best: tuple[float, int] | None) -> str:
        """Return it in a sentence.

        Args:
            step: The step after which it was made.
            metric: What evaluations are compared by.
            best: The best value of that so far, and its step.
        """
        name = metric.rpartition(".")[2]
        told = [f"{t} {n[name]:.3f}" for t, n in self.tasks.items() if n.get(name) is not None]
        if not told:
            told = [
                f"told of no task, so nothing is the best; {', '.join(self.mean)} could be metric"
            ]
        elif len(told) > _MANY_TASKS:
            told = [f"{self.mean[name]:.3f} in the mean of {len(told)} tasks"]
        since = ""
        if best is not None:
            since = (
                "; the best so far"
                if best[1] == step
                else f"; best at step {best[1]:,}: {best[0]:.3f}"
            )
        return f"validation after step {step:,}: {name} {', '.join(told)}{since}"


@dataclass(slots=True)
class Evaluator:
    """Evaluates what a learner has come to.

    Attributes:
        stream: What it learns from.
        learner: The learner.
        model: What it has come to, as a model.
        rows: Rows of each task that has any in the split ``valid``, usable ones.
        packs: Their documents.
        exams: What is asked of the tasks that write.
        remarks: What a person should know.
    """

    stream: Stream
    learner: Learner
    model: Model
    rows: Mapping[str, npt.NDArray[np.int64]]
    packs: Sequence[Pack]
    exams: Mapping[str, tuple[Exam, Writer]]
    remarks: list[str] = field(default_factory=list[str])
    _prompts: dict[tuple[str, int], Sample] = field(default_factory=dict[tuple[str, int], Sample])

    @classmethod
    def make(cls, stream: Stream, learner: Learner, model: Model) -> Self:
        """Return the evaluator of a run; there must be rows to evaluate on."""
        exams: dict[str, tuple[Exam, Writer]] = {}
        rows: dict[str, npt.NDArray[np.int64]] = {}
        remarks: list[str] = []
        number = stream.config.evaluate_rows
        for task in validated_tasks(stream):
            try:
                writer = model.writer(task)
                exam = Exam.of(stream.dataset, task, "valid", writer.bpe, num_rows=number)
            except PlanError as error:
                remarks.append(f"{task}: only its loss is told, {error.problems[0].message}")
                rows[task] = stream.dataset.rows(task, "valid").usable[:number]
            else:
                exams[task], rows[task] = (exam, writer), exam.usable
        return cls(stream, learner, model, rows, _pack(stream, rows), exams, remarks)

    def evaluate(self, program: Program) -> Evaluated:
        """Return how every task does with what the run has come to, ``program``."""
        began = time.perf_counter()
        if not _are_same(program, self.model.program):
            # It was put together anew, of what ranks share or of pairs of matrices.
            self.model.program.load_state_dict(program.state_dict(), strict=False)
        with self._as_in_use(program):
            losses = self._losses(program)
            written = {task: exam.sit(writer) for task, (exam, writer) in self.exams.items()}
        scores = [s for task, (exam, _) in self.exams.items() for s in exam.score(written[task])]
        tasks: dict[str, dict[str, Any]] = {name: {"loss": loss} for name, loss in losses.items()}
        for score in scores:
            tasks.setdefault(score.task, {}).update(_tell(score))
        return Evaluated(
            tasks=tasks,
            mean={
                name: float(np.mean(known))
                for name in METRICS
                if (known := [t[name] for t in tasks.values() if t.get(name) is not None])
            },
            samples=self._samples(written),
            seconds=time.perf_counter() - began,
        )

    @contextmanager
    def _as_in_use(self, program: Program) -> Generator[None]:
        """Compute as a model in use does, and as one that learns after that."""
        learner = self.learner
        devices = [learner.device] if learner.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            for each in (program, self.model.program):
                each.eval()
            try:
                yield
            finally:
                # These may be modules that learn, or that they share.
                for each in (learner.program, learner.working):
                    each.train()

    def _losses(self, program: Program) -> dict[str, float]:
        """Return the loss of a label, by name of the loss; those without labels are missing."""
        learner = self.learner
        sums = torch.zeros(2, len(self.stream.losses), device=learner.device)
        for pack in self.packs:
            inputs = to_inputs(learner.plan, pack, learner.device)
            # Packs have the shape of training, but evaluation is not what was compiled.
            with torch.compiler.set_stance("force_eager"):
                outputs = program(inputs)
            sums += torch.stack([outputs["losses"], outputs["loss_weights"]]).to(sums.dtype)
        pairs = zip(self.stream.losses, *sums.tolist(), strict=True)
        return {name: loss / weight for name, loss, weight in pairs if weight}

    def _samples(self, written: Mapping[str, Mapping[int, Sequence[Said]]]) -> list[Sample]:
        """Return a few rows of each task that writes, with what was written."""
        wanted = {
            (task, row)
            for task, (exam, _) in self.exams.items()
            for row in exam.usable[:NUM_SAMPLES].tolist()
        }
        if not self._prompts:
            bpe = next((writer.bpe for _, writer in self.exams.values()), None)
            self._prompts = find_prompts(self.stream, self.packs, wanted, bpe)
        return [
            prompt.answered(self.exams[task][0], written[task][row][0])
            for (task, row), prompt in self._prompts.items()
            if row in written[task]
        ]


def validated_tasks(stream: Stream) -> dict[str, list[str]]:
    """Return the tasks that have rows in the split ``valid``, with what is told of each by name."""
    told: dict[str, list[str]] = {}
    for (task, _), name in zip(stream.plan.scored, stream.losses, strict=True):
        told.setdefault(task, []).append(name)
    return {t: names for t, names in told.items() if len(stream.dataset.rows(t, "valid").usable)}


def _pack(stream: Stream, rows: Mapping[str, npt.NDArray[np.int64]]) -> list[Pack]:
    """Return documents of the first template of each task in packs; those that no pack holds are left out."""
    none = np.empty(0, np.int64)
    by_name = {
        template.name: none if template.number else rows.get(template.task, none)
        for template in stream.templates
    }
    columns = add_online_columns(stream.dataset.plan, stream.dataset.columns, None, Crew())
    return list(pack_documents(stream.templates, by_name, columns, stream.capacity, pad_id=PAD))


def _are_same(program: Program, other: Program) -> bool:
    """Return whether two programs share their parameters."""
    own = dict(other.named_parameters())
    return all(
        parameter is own.get(name, parameter) for name, parameter in program.named_parameters()
    )


def _tell(score: TaskScore) -> dict[str, Any]:
    names = ("metric", "score", "baseline", "corrected", "expected", "evaluated")
    return {name: getattr(score, name) for name in names}
