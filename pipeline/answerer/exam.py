"""An exam: held-out rows of one task with what is right of each, which a model may sit as often as wanted.

A row that could not be built, or is too long to be read, counts as wrong: a score over the rows that happened
to work would reward losing the hard ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from ...ops.device.decode.search import Search
from ...ops.host.bpe import Bpe
from ...ops.metric import accuracy, chance_corrected, majority
from ...storage.length import find_items
from ...storage.reader import ColumnReader
from ...storage.template import Columns, GroupPiece, Piece, Template, TensorPiece
from ..builder.dataset import Dataset, Split
from ..loader.crew import Crew
from ..loader.online import add_online_columns
from ..planner.spelling import spell_ids
from .writing import Said, Writer

_BASELINE_ROWS: Final = 10_000
"""Training rows that a baseline is drawn from where few rows are asked."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """What a model is asked of one task.

    Attributes:
        task: Name of the task.
        template: What the documents are made of; its instruction is the task's first.
        columns: What it reads.
        expected: Rows of the split.
        usable: Those of them that the model can be asked about.
        references: What is right of each expected row, by slot; None where nothing is known to be.
        baselines: Score of always giving the commonest answer of the training rows, by slot.
    """

    task: str
    template: Template
    columns: Columns
    expected: npt.NDArray[np.int64]
    usable: npt.NDArray[np.int64]
    references: Mapping[str, list[str | None]]
    baselines: Mapping[str, float]

    @classmethod
    def of(
        cls, dataset: Dataset, task: str, split: Split, bpe: Bpe, *, num_rows: int | None = None
    ) -> Self:
        """Return the exam of ``task``.

        Args:
            dataset: Columns of the task.
            task: Its name.
            split: There must be rows in it.
            bpe: The vocabulary that targets are written in.
            num_rows: Most rows, drawn from the split, the same ones every time; all if not given. Where it is
                given, baselines are those of a draw of the training rows as well.
        """
        rows = dataset.rows(task, split)
        expected = _draw(rows.expected, num_rows)
        learned_from = dataset.rows(task, "train").usable
        learned_from = _draw(learned_from, num_rows and _BASELINE_ROWS)
        references: dict[str, list[str | None]] = {}
        baselines: dict[str, float] = {}
        for slot in (slot for name, slot in dataset.plan.scored if name == task):
            references[slot] = read_targets(dataset, task, slot, expected, bpe)
            learned = read_targets(dataset, task, slot, learned_from, bpe)
            baselines[slot] = majority(learned, references[slot])
        return cls(
            task=task,
            template=rows.templates[0],
            columns=add_online_columns(dataset.plan, dataset.columns, None, Crew()),
            expected=expected,
            usable=np.intersect1d(expected, rows.usable),
            references=references,
            baselines=baselines,
        )

    def sit(self, writer: Writer, search: Search | None = None) -> dict[int, list[Said]]:
        """Return what ``writer`` says to each row that it can be asked about, by row.

        Raises:
            PlanError: The search asks for what the task cannot write.
        """
        return writer.write(unanswered(self.template), self.columns, self.usable, search)

    def score(self, written: Mapping[int, Sequence[Said]]) -> tuple[TaskScore, ...]:
        """Return the score of each slot, of what was said to each row."""
        scores: list[TaskScore] = []
        for slot, references in self.references.items():
            said = [
                written[row][0].values.get(slot) if row in written else None
                for row in self.expected.tolist()
            ]
            score, baseline = accuracy(list(map(_spell, said)), references), self.baselines[slot]
            scores.append(
                TaskScore(
                    task=self.task if len(self.references) == 1 else f"{self.task}.{slot}",
                    metric="accuracy",
                    expected=len(self.expected),
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


def _draw(rows: npt.NDArray[np.int64], number: int | None) -> npt.NDArray[np.int64]:
    if number is None or len(rows) <= number:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, number, replace=False))
