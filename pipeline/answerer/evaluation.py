"""Evaluating: every task on its held-out rows.

A row that could not be built, or is too long to be read, counts as wrong: a score over the rows that happened
to work would reward losing the hard ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...graph.errors import CheckpointError, PlanError, Problem, suggest
from ...ops.recipe.text import BPE
from ...storage.store import Store
from ..builder.dataset import Dataset, Split, open_dataset
from ..task import Mixture, Task, as_mixture
from .exam import Exam, TaskScore
from .inference import Model


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of all tasks."""

    scores: tuple[TaskScore, ...]

    def __iter__(self) -> Iterator[TaskScore]:
        return iter(self.scores)

    def __getitem__(self, task: str) -> TaskScore:
        """Return the score of ``task``.

        Raises:
            PlanError: There is none.
        """
        by_task = {score.task: score for score in self.scores}
        if task not in by_task:
            raise PlanError.of("T0219", f'no task "{task}" was scored', suggest(task, by_task))
        return by_task[task]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return the scores by task as plain data."""
        names = TaskScore.__dataclass_fields__
        return {score.task: {name: getattr(score, name) for name in names} for score in self}

    def __str__(self) -> str:
        head = ("task", "n expected", "n evaluated", "metric", "score", "baseline", "corrected")
        rows = [
            (
                s.task,
                f"{s.expected:,}",
                f"{s.evaluated:,}",
                s.metric,
                f"{s.score:.3f}",
                f"{s.baseline:.3f}",
                f"{s.corrected:.3f}",
            )
            for s in self
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(w) if i in (0, 3) else cell.rjust(w) for i, (cell, w) in pairs)
            for row in (head, *rows)
            for pairs in [list(enumerate(zip(row, widths, strict=True)))]
        ]
        return "\n".join(line.rstrip() for line in lines)


def evaluate(
    model: Model,
    mixture: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    *,
    split: Split = "test",
) -> Evaluation:
    """Score ``model`` on the rows of every task that training did not see.

    Args:
        model: The model.
        mixture: The tasks, as they were built.
        store: The store they were built into.
        split: ``"valid"`` to choose settings, ``"test"`` to report.

    Raises:
        PlanError: Some task has no held-out rows, or the model cannot follow its instruction.
        StoreError: Some task is not built.
        CheckpointError: The model reads and writes another vocabulary than the store's.
    """
    mixture = as_mixture(mixture)
    store = store if isinstance(store, Store) else Store.open(store)
    dataset = open_dataset(mixture, store)
    _refuse_other_vocabulary(model, store)
    held_out = {task.name: dataset.rows(task.name, split) for task in mixture.tasks}
    if empty := [name for name, rows in held_out.items() if not len(rows.expected)]:
        raise PlanError(*(_nothing_held_out(name, split) for name in empty))
    scores = (score_task(model, dataset, task, split) for task in mixture.tasks)
    return Evaluation(tuple(score for each in scores for score in each))


def score_task(
    model: Model, dataset: Dataset, task: Task | str, split: Split
) -> tuple[TaskScore, ...]:
    """Score ``model`` on the rows of ``task`` in ``split`` of ``dataset``, which has its vocabulary.

    Args:
        model: The model.
        dataset: Columns of the task.
        task: The task, or the name of one that the model knows.
        split: There must be rows in it.

    Returns:
        A score for each slot that the task learns to write; its instruction is the task's first.

    Raises:
        PlanError: The model cannot follow the task's instruction.
    """
    writer = model.writer(task)
    exam = Exam.of(dataset, writer.task, split, writer.bpe)
    return exam.score(exam.sit(writer, model.search))


def _refuse_other_vocabulary(model: Model, store: Store) -> None:
    pinned: Mapping[str, Any] = store.artifacts()
    ours, theirs = model.pinned[BPE].digest, pinned[BPE].digest
    if ours != theirs:
        message = f'the model has vocabulary {ours[:12]}, the store has "{BPE}" {theirs[:12]}'
        help_ = "evaluate on the store it was trained on, or train again on this one"
        raise CheckpointError.of("T0721", message, help_)


def _nothing_held_out(task: str, split: Split) -> Problem:
    share = "holdout" if split == "test" else "valid"
    help_ = f'give the task {share}=… and key=…, or a source with a split "{split}"; then build'
    return Problem("T0236", f'task "{task}" has no rows in split "{split}"', help_, address=task)
