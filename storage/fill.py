"""Packs, filled: the arrays that the program reads, gathered from columns.

All packs of a step are filled together, task by task and piece by piece: each piece is one gather
from its column and one scatter into the streams. No step of it loops over documents.

A pack's *streams* are its source and its target positions. Positions of no document hold the pad
id, weight 0 and empty ranges.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..graph.errors import LoaderError
from .capacity import Capacity
from .pack import Int32s, Pack
from .template import Columns, ConstPiece, Gathered, Piece, Template, TensorPiece
from .tile import Ints, restart_sums
from .window import PackPlan

FILLED_TOGETHER: Final = 8
"""Packs to fill in one go: small gathers cost more in calls than in bytes."""


class PackFiller:
    """Fills the packs of one mixture."""

    def __init__(
        self,
        templates: Sequence[Template],
        columns: Columns,
        capacity: Capacity,
        pad_id: int,
        gathering: defaultdict[str, float] | None = None,
    ) -> None:
        """Prepare to fill.

        Args:
            templates: One per task, in the order of the task numbers.
            columns: Every column that the templates name.
            capacity: Shape of a pack.
            pad_id: Id at positions of no document.
            gathering: Takes the seconds that gathering columns takes, by task.

        Raises:
            LoaderError: The tensors of a lane differ in shape, type or positions (T0605).
        """
        self._templates = tuple(templates)
        self._columns = columns
        self._capacity = capacity
        self._pad_id = pad_id
        self._gathering = defaultdict(float) if gathering is None else gathering
        used = dict.fromkeys(piece.lane for each in templates for piece in each.tensors)
        self._lanes = {
            lane: _examine_lane(lane, templates, columns)
            for lane in used
            if lane in capacity.tensors
        }

    def fill(self, plans: Sequence[PackPlan]) -> tuple[Pack, ...]:
        """Return the packs of ``plans``.

        Raises:
            LoaderError: A column returns other lengths than its sidecar promised (T0605).
        """
        step = _Step(plans, self._capacity)
        source, tensors, places = self._fill_source(step)
        streams = source | self._fill_target(step)
        cuts = np.cumsum([0, *map(len, plans)]).tolist()
        return tuple(
            Pack(
                **{name: stream[number] for name, stream in streams.items()},
                tensors={lane: values[number] for lane, values in tensors.items()},
                places={lane: values[number] for lane, values in places.items()},
                rows=np.stack([plan.tasks, plan.rows], axis=1),
                source_ranges=step.source_ranges[start:stop],
                target_ranges=step.target_ranges[start:stop],
            )
            for number, plan, start, stop in zip(
                range(len(plans)), plans, cuts[:-1], cuts[1:], strict=True
            )
        )

    def _fill_source(
        self, step: _Step
    ) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]], dict[str, Int32s]]:
        size, num_packs = self._capacity.source, step.num_packs
        ids = np.full(num_packs * size, self._pad_id, np.int32)
        tensors: dict[str, npt.NDArray[Any]] = {}
        places: dict[str, Int32s] = {}
        slots: dict[str, Ints] = {}
        for lane, (length, shape, dtype) in self._lanes.items():
            number = self._capacity.tensors[lane]
            tensors[lane] = np.zeros((num_packs * number, *shape), dtype)
            places[lane] = np.full((num_packs * number, length), size, np.int32)
            counts = [sum(p.lane == lane for p in t.tensors) for t in self._templates]
            before = restart_sums(np.array(counts, np.int64)[step.tasks], step.packs)
            slots[lane] = step.packs * number + before
        for task, which in step.by_task():
            template, at = self._templates[task], step.source_at[which]
            for piece, where, values in self._read(template, template.source, step.rows[which], at):
                if isinstance(piece, TensorPiece):
                    slot = slots[piece.lane][which]
                    tensors[piece.lane][slot] = values
                    places[piece.lane][slot] = where - (step.packs[which] * size)[:, None]
                    slots[piece.lane][which] += 1
                else:
                    ids[where] = values
        owner = _find_owners(step.source_at, step.source_lengths, len(ids))
        lo, hi = _spread(step.source_ranges, owner)
        streams = {
            "source_ids": ids,
            "source_positions": np.where(owner < len(step), step.count(size) - lo, np.int32(0)),
            "source_lo": lo,
            "source_hi": hi,
        }
        return _cut(streams, num_packs), _cut(tensors, num_packs), _cut(places, num_packs)

    def _fill_target(self, step: _Step) -> dict[str, npt.NDArray[Any]]:
        size = self._capacity.target
        # A document has one id more than it has positions. In this sequence each document stands
        # one further on for every document before it; inputs and labels are two readings of it.
        shift = np.arange(len(step))
        length = step.num_packs * size + len(step) + 2
        sequence = np.full(length, self._pad_id, np.int32)
        learned = np.zeros(length, np.float32)
        for task, which in step.by_task():
            template, at = self._templates[task], (step.target_at + shift)[which]
            is_learned = iter(template.is_learned)
            for _, where, values in self._read(template, template.target, step.rows[which], at):
                sequence[where] = values
                learned[where] = next(is_learned)
        owner = _find_owners(step.target_at, step.target_lengths, step.num_packs * size)
        is_used = owner < len(step)
        reading = np.where(is_used, np.arange(len(owner)) + owner, length - 2)
        lo, _ = _spread(step.target_ranges, owner)
        cross_lo, cross_hi = _spread(step.source_ranges, owner)
        here = step.count(size)
        streams = {
            "target_ids": sequence[reading],
            "labels": sequence[reading + 1],
            "weights": learned[reading + 1],
            "task_ids": np.append(step.tasks, 0).astype(np.int32)[owner],
            "target_positions": np.where(is_used, here - lo, np.int32(0)),
            "target_lo": lo,
            "target_hi": np.where(is_used, here + np.int32(1), np.int32(0)),
            "cross_lo": cross_lo,
            "cross_hi": cross_hi,
        }
        return _cut(streams, step.num_packs)

    def _read(
        self, template: Template, pieces: tuple[Piece, ...], rows: Ints, starts: Ints
    ) -> Iterator[tuple[Piece, Ints, npt.NDArray[Any]]]:
        """Yield each piece of some documents, the positions it fills, and what with."""
        for piece in pieces:
            if isinstance(piece, ConstPiece):
                yield (
                    piece,
                    starts[:, None] + np.arange(len(piece.ids)),
                    np.array(piece.ids, np.int32),
                )
                starts = starts + len(piece.ids)
                continue
            column = self._columns[template.source_name, piece.column]
            began = time.perf_counter()
            gathered = column.gather(rows)
            self._gathering[template.task] += time.perf_counter() - began
            if isinstance(piece, TensorPiece):
                yield piece, starts[:, None] + np.arange(piece.length), _dense(gathered)
                starts = starts + piece.length
                continue
            values, offsets = _ragged(gathered)
            lengths = np.diff(offsets)
            if not np.array_equal(lengths, column.lengths[rows]):
                row = int(rows[(lengths != column.lengths[rows]).argmax()])
                message = f'column "{piece.column}" has other lengths than its sidecar, row {row}'
                help_ = "a file is damaged; `taskloom verify` finds out which"
                raise LoaderError.of("T0605", message, help_).at(column=piece.column)
            where = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[0], offsets[-1])
            yield piece, where, values.astype(np.int32) + np.int32(piece.offset)
            starts = starts + lengths


class _Step:
    """The documents of some packs, as arrays over all of them; ``_at`` counts over the packs."""

    def __init__(self, plans: Sequence[PackPlan], capacity: Capacity) -> None:
        self.num_packs = len(plans)
        self.packs = np.repeat(np.arange(len(plans)), [len(plan) for plan in plans])
        self.tasks = np.concatenate([plan.tasks for plan in plans])
        self.rows = np.concatenate([plan.rows for plan in plans])
        self.source_lengths = np.concatenate([plan.source_lengths for plan in plans])
        self.target_lengths = np.concatenate([plan.target_lengths for plan in plans])
        source_starts = np.concatenate([plan.source_starts for plan in plans])
        target_starts = np.concatenate([plan.target_starts for plan in plans])
        self.source_at = self.packs * capacity.source + source_starts
        self.target_at = self.packs * capacity.target + target_starts
        self.source_ranges = _ranges(source_starts, self.source_lengths)
        self.target_ranges = _ranges(target_starts, self.target_lengths)

    def __len__(self) -> int:
        return len(self.rows)

    def by_task(self) -> Iterator[tuple[int, Ints]]:
        """Yield each task that occurs and the numbers of its documents."""
        for task in np.unique(self.tasks).tolist():
            yield task, np.flatnonzero(self.tasks == task)

    def count(self, size: int) -> Int32s:
        """Return the position in its pack of each position of a stream."""
        return np.tile(np.arange(size, dtype=np.int32), self.num_packs)


def _examine_lane(
    lane: str, templates: Sequence[Template], columns: Columns
) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Return positions, shape and type of the tensors of ``lane``."""
    found: dict[tuple[int, tuple[int, ...], np.dtype[Any]], str] = {}
    for template in templates:
        for piece in template.tensors:
            if piece.lane == lane:
                column = columns[template.source_name, piece.column]
                empty = _dense(column.gather(np.empty(0, np.int64)))
                found.setdefault((piece.length, empty.shape[1:], empty.dtype), template.task)
    if len(found) != 1:
        kinds = [f"{task}: {t} {s}, {length} positions" for (length, s, t), task in found.items()]
        message = f'the tensors of lane "{lane}" are not alike: {"; ".join(kinds)}'
        raise LoaderError.of("T0605", message, "resize them to one shape, or use another lane")
    return next(iter(found))


def _ranges(starts: Ints, lengths: Ints) -> Int32s:
    return np.stack([starts, starts + lengths], axis=1).astype(np.int32)


def _find_owners(starts: Ints, lengths: Ints, size: int) -> Ints:
    """Return the document at each position, and the number of documents where there is none."""
    ends = starts + lengths
    gaps = starts - np.concatenate([[0], ends[:-1]])
    segments = np.append(np.stack([gaps, lengths], axis=1).ravel(), size - ends[-1])
    number = np.arange(len(starts))
    owners = np.append(np.stack([np.full_like(number, len(starts)), number], axis=1), len(starts))
    return np.repeat(owners, segments)


def _spread(ranges: Int32s, owner: Ints) -> tuple[Int32s, Int32s]:
    """Return the ends of each position's document, zeros where there is none."""
    padded = np.concatenate([ranges, np.zeros((1, 2), np.int32)])
    return padded[:, 0][owner], padded[:, 1][owner]


def _cut(arrays: Mapping[str, npt.NDArray[Any]], num_packs: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays with one leading axis more, of packs."""
    return {
        name: array.reshape(num_packs, len(array) // num_packs, *array.shape[1:])
        for name, array in arrays.items()
    }


def _dense(gathered: Gathered) -> npt.NDArray[Any]:
    if isinstance(gathered, tuple):
        raise LoaderError.of("T0605", "a ragged column stands where a tensor is wanted")
    return gathered


def _ragged(gathered: Gathered) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    if not isinstance(gathered, tuple):
        raise LoaderError.of("T0605", "a dense column stands where ids are wanted")
    return gathered


__all__ = ["FILLED_TOGETHER", "PackFiller"]
