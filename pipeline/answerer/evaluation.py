"""Evaluating: every task on its held-out rows.

A row that could not be built, or is too long to be read, counts as wrong: a score over the rows that happened
to work would reward losing the hard ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph.errors import CheckpointError, PlanError, Problem, suggest
from ...ops.host.bpe import Bpe
from ...ops.metric import accuracy, chance_corrected, majority
from ...ops.recipe.text import BPE
from ...storage.length import find_items
from ...storage.reader import ColumnReader
from ...storage.store import Store
from ...storage.template import GroupPiece, Piece, Template, TensorPiece
from ..builder.dataset import Dataset, Split, open_dataset
from ..loader.crew import Crew
from ..loader.online import add_online_columns
from ..planner.spelling import spell_ids
from ..task import Mixture, Task, as_mixture
from .inference import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """How one task did.

    Attributes:
        task: Name of the task.
        metric: Name of the metric.
        expected: Held-out rows.
        evaluated: Those of them that the model could be asked about.
        score: Share of the expected rows that were answered right.
        baseline: Score of always giving the commonest answer of the training rows.
        corrected: Share of what the baseline leaves that was gained: 0 is the baseline, 1 is perfect.
    """

    task: str
    metric: str
    expected: int
    evaluated: int
    score: float
    baseline: float
    corrected: float


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
    rows = dataset.rows(writer.task, split)
    learned_from = dataset.rows(writer.task, "train").usable
    columns = add_online_columns(dataset.plan, dataset.columns, None, Crew())
    written = writer.write(unanswered(rows.templates[0]), columns, rows.usable, model.search)
    slots = [slot for name, slot in dataset.plan.scored if name == writer.task]
    scores: list[TaskScore] = []
    for slot in slots:
        references = read_targets(dataset, writer.task, slot, rows.expected, writer.bpe)
        learned = read_targets(dataset, writer.task, slot, learned_from, writer.bpe)
        said = [
            written[row][0].values.get(slot) if row in written else None for row in rows.expected
        ]
        score = accuracy([_spell(value) for value in said], references)
        baseline = majority(learned, references)
        scores.append(
            TaskScore(
                task=writer.task if len(slots) == 1 else f"{writer.task}.{slot}",
                metric="accuracy",
                expected=len(rows.expected),
                evaluated=len(written),
                score=score,
                baseline=baseline,
                corrected=chance_corrected(score, baseline),
            )
        )
    return tuple(scores)


def read_targets(
    dataset: Dataset, task: str, slot: str, rows: npt.NDArray[np.int64], bpe: Bpe
) -> list[str | None]:
    """Return the target text of ``slot`` in each of ``rows``; None where there is none.

    What repeats is spelled as a list of texts.
    """
    column, starts = dataset.target(task, slot)
    spell = partial(spell_ids, dataset.target_block(task, slot), bpe=bpe)
    if starts is None:
        return _decode(column, rows, spell)
    items, owners = find_items(starts, rows)
    listed: list[list[str | None]] = [[] for _ in rows]
    for owner, text in zip(owners.tolist(), _decode(column, items, spell), strict=True):
        listed[owner].append(text)
    return [None if None in texts else json.dumps(texts) for texts in listed]


def _decode(
    column: ColumnReader, rows: npt.NDArray[np.int64], spell: Callable[[npt.NDArray[Any]], str]
) -> list[str | None]:
    valid = column.valid[rows]
    gathered = column.gather(rows[valid])
    assert isinstance(gathered, tuple), "targets are ids"
    values, offsets = gathered
    known: dict[bytes, str] = {}
    texts: list[str] = []
    for start, stop in pairwise(offsets):
        ids = values[start:stop]
        if (key := ids.tobytes()) not in known:
            known[key] = spell(ids)
        texts.append(known[key])
    found = iter(texts)
    return [next(found) if is_valid else None for is_valid in valid]


def _spell(value: str | list[str] | None) -> str | None:
    """Return what was written as `read_targets` spells it."""
    return json.dumps(value) if isinstance(value, list) else value


def unanswered(template: Template) -> Template:
    """Return the template without what the model is to write: all from the first piece that is learned."""
    given: list[Piece] = []
    for piece in template.target:
        if isinstance(piece, GroupPiece) or (
            not isinstance(piece, TensorPiece) and piece.lesson is not None
        ):
            break
        given.append(piece)
    return replace(template, target=tuple(given))


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
