"""The documents of all tasks and the shares they are mixed by; whatever is wrong is told together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from json import dumps
from typing import Any

import xxhash

from ..graph.errors import LoaderError, Problem, suggest
from .blend import Blend
from .capacity import Capacity
from .length import measure_documents, select_fitting
from .template import Columns, Documents, GroupPiece, Lesson, Piece, Template, TensorPiece
from .tile import Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a stream is made of.

    Attributes:
        documents: Those of each template, every one of which fits a pack.
        num_left_out: Rows of each template that do not fit.
    """

    documents: tuple[Documents, ...]
    num_left_out: tuple[int, ...]

    @classmethod
    def of(
        cls,
        templates: Sequence[Template],
        rows: Mapping[str, Ints],
        columns: Columns,
        capacity: Capacity,
    ) -> Measured:
        """Measure the documents of every task.

        Raises:
            LoaderError: There are no tasks, or one has no rows (T0601), none that fits (T0602), or rows
                without a value (T0604); two templates have one name (T0606). All problems are told together.
        """
        measured: list[Documents] = []
        problems: list[Problem] = []
        for template in templates:
            try:
                measured.append(_measure(template, rows, columns, capacity))
            except LoaderError as error:
                problems += error.problems
        names = [template.name for template in templates]
        problems += [
            Problem("T0606", f'two tasks are named "{name}"', "give each task a name of its own")
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        ]
        if not templates:
            problems.append(Problem("T0601", "there are no tasks to load"))
        if problems:
            raise LoaderError(*problems)
        documents = tuple(select_fitting(measured, capacity))
        left_out = (len(all_) - len(kept) for all_, kept in zip(measured, documents, strict=True))
        return cls(documents=documents, num_left_out=tuple(left_out))

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each task that fit, by its name."""
        return {each.template.task: len(each) for each in self.documents}

    def blend(self, weights: Mapping[str, float] | Blend | None) -> Blend:
        """Return the shares of the tasks, in their order.

        Args:
            weights: Relative share of samples of each task; by default as many as it has rows.

        Raises:
            LoaderError: They are not of these tasks, or not positive (T0606).
        """
        num_rows = self.num_rows
        if weights is None:
            return Blend.of(num_rows)
        shares = weights.ever() if isinstance(weights, Blend) else weights
        problems = [
            Problem("T0606", f'a weight is given for task "{name}", which is not here', help_)
            for name in shares
            if name not in num_rows and (help_ := suggest(name, list(num_rows)))
        ]
        problems += [
            Problem("T0606", f'task "{name}" needs a positive weight, got {shares.get(name)}')
            for name in num_rows
            if not 0 < (shares.get(name) or 0) < float("inf")
        ]
        if problems:
            raise LoaderError(*problems)
        if isinstance(weights, Blend):
            return weights
        return Blend.of({name: weights[name] for name in num_rows})

    def digests(self) -> dict[str, str]:
        """Return a digest of all that each task brings to a stream, 8 hexadecimal digits by its name."""
        found: dict[str, xxhash.xxh3_128] = {}
        for each in self.documents:
            digest = found.setdefault(each.template.task, xxhash.xxh3_128())
            digest.update(repr(_number_losses(each.template)).encode())
            lengths = (each.source_lengths, each.target_lengths)
            for array in (each.rows, *lengths, *each.tensors.values()):
                digest.update(array.tobytes())
        return {task: digest.hexdigest()[:8] for task, digest in found.items()}

    def mixture_digest(self, blend: Blend) -> str:
        """Return a digest of the tasks and their shares, 8 hexadecimal digits."""
        said = dumps([list(self.num_rows), blend.to_json()])
        return blake2b(said.encode(), digest_size=4).hexdigest()


def _number_losses(template: Template) -> Template:
    """Return ``template`` with its losses counted from 0: their numbers are those of a mixture."""
    numbers: dict[int, int] = {}

    def count(lesson: Lesson | None) -> Lesson | None:
        if lesson is None:
            return None
        return replace(lesson, loss=numbers.setdefault(lesson.loss, len(numbers)))

    def count_in(piece: Piece) -> Piece:
        match piece:
            case GroupPiece():
                inner: Any = tuple(map(count_in, piece.pieces))
                return replace(piece, pieces=inner)
            case TensorPiece():
                return piece
            case _:
                return replace(piece, lesson=count(piece.lesson))

    target = tuple(map(count_in, template.target))
    pair = template.pair
    if pair is not None:
        pair = (pair[0], replace(pair[1], loss=numbers.setdefault(pair[1].loss, len(numbers))))
    return replace(template, target=target, pair=pair)


def _measure(
    template: Template, rows: Mapping[str, Ints], columns: Columns, capacity: Capacity
) -> Documents:
    if not len(rows.get(template.task, ())):
        message = f'task "{template.task}" has no rows'
        help_ = f'no row of source "{template.source_name}" passes its filters with every value'
        raise LoaderError.of("T0601", message, help_)
    documents = measure_documents(template, columns, rows[template.task])
    if not capacity.fits(documents).any():
        raise _say_too_long(documents, capacity)
    return documents


def _say_too_long(documents: Documents, capacity: Capacity) -> LoaderError:
    task, (max_source, max_target) = documents.template.task, capacity.longest
    lanes = {lane: int(numbers.min()) for lane, numbers in documents.tensors.items()}
    shortest = (
        f"its shortest documents take {documents.source_lengths.min()} source positions and "
        f"{documents.target_lengths.min()} target positions, tensors: {lanes or 'none'}"
    )
    allowed = (
        f"a document may take {max_source} and {max_target}, tensors: "
        f"{dict(capacity.tensors) or 'none'}"
    )
    message = f'none of the {len(documents)} documents of task "{task}" fits a pack'
    return LoaderError.of("T0602", message, f"{shortest}\n{allowed}")


__all__ = ["Measured"]
