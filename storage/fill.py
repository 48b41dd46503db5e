"""Packs, filled: the arrays that the program reads, gathered from columns.

All packs of a step are filled together, template by template and piece by piece: each piece is one
gather from its column and one scatter into the streams. No step of it loops over documents.

A pack's *streams* are its source and its target positions. Positions of no document hold the pad
id, weight 0 and empty ranges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..graph.errors import LoaderError
from .capacity import Capacity
from .length import is_online
from .online import OnlineColumn
from .pack import Int32s, Pack
from .step import Step, to_ranges
from .stretch import PieceReader, Stretch, as_dense, sum_lengths
from .template import PAIRS, Columns, Piece, Template, TensorPiece
from .tile import Ints
from .window import PackPlan

# Packs to fill in one go: small gathers cost more in calls than in bytes. Tensors have enough of those, and
# what is computed when it is read should not be waited for long.
_FILLED_TOGETHER: Final = 8
_TEXTS_TOGETHER: Final = 64
_POSITIONS_TOGETHER: Final = 1 << 18


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
            templates: In the order of their numbers.
            columns: Every column that the templates name.
            capacity: Shape of a pack.
            pad_id: Id at positions of no document.
            gathering: Takes the seconds that gathering columns takes, by template.

        Raises:
            LoaderError: The tensors of a lane differ in shape, type or positions (T0605).
        """
        self._templates = tuple(templates)
        self._reader = PieceReader(columns)
        self._gathering = defaultdict[str, float](float) if gathering is None else gathering
        self._capacity = capacity
        self._pad_id = pad_id
        used = dict.fromkeys(piece.lane for each in templates for piece in each.tensors)
        self._online = {each.name for each in templates if is_online(each, columns)}
        self._lanes = {
            lane: _examine_lane(lane, templates, columns)
            for lane in used
            if lane in capacity.tensors
        }

    @property
    def num_together(self) -> int:
        """How many packs to fill in one go, so that it costs little."""
        if self._online or self._lanes:
            return _FILLED_TOGETHER
        fitting = _POSITIONS_TOGETHER // max(1, self._capacity.source + self._capacity.target)
        return max(_FILLED_TOGETHER, min(fitting, _TEXTS_TOGETHER))

    def tell(self) -> str:
        """Return which computation is going on, for whoever waits for it in another thread; empty for none."""
        column = self._reader.column
        return column.compute.doing if isinstance(column, OnlineColumn) else ""

    def fill(self, plans: Sequence[PackPlan]) -> tuple[Pack, ...]:
        """Return the packs of ``plans``.

        Raises:
            LoaderError: A column returns other lengths than its sidecar promised, or an online one a longer
                value than was planned (T0605).
        """
        step = Step(plans, self._capacity)
        source, tensors, places = self._fill_source(step)
        streams = source | self._fill_target(step)
        rows = np.stack([step.tasks, step.rows], axis=1)
        cuts = np.cumsum([0, *map(len, plans)]).tolist()
        return tuple(
            Pack(
                **dict(zip(streams, values, strict=True)),
                tensors={lane: each[number] for lane, each in tensors.items()},
                places={lane: each[number] for lane, each in places.items()},
                rows=rows[start:stop],
                source_ranges=step.source_ranges[start:stop],
                target_ranges=step.target_ranges[start:stop],
            )
            for number, (values, (start, stop)) in enumerate(
                zip(zip(*streams.values(), strict=True), pairwise(cuts), strict=True)
            )
        )

    def _fill_source(
        self, step: Step
    ) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]], dict[str, Int32s]]:
        size, num_packs = self._capacity.source, step.num_packs
        ids = np.full(num_packs * size, self._pad_id, np.int32)
        tensors: dict[str, npt.NDArray[Any]] = {}
        places: dict[str, Int32s] = {}
        for lane, (length, shape, dtype) in self._lanes.items():
            number = self._capacity.tensors[lane]
            tensors[lane] = np.zeros((num_packs * number, *shape), dtype)
            places[lane] = np.full((num_packs * number, length), size, np.int32)
        for stretch, documents in self._read(step, "source"):
            if isinstance(stretch.piece, TensorPiece):
                lane = stretch.piece.lane
                slot = step.slots[lane][documents] + stretch.places
                tensors[lane][slot] = stretch.values
                places[lane][slot] = stretch.where - (step.packs[documents] * size)[:, None]
                np.add.at(step.slots[lane], documents, 1)
            else:
                ids[stretch.where] = stretch.values
        halves, pairs = self._divide_pairs(step)
        values = (*halves.ranges.T, np.ones(len(halves.starts)))
        lo, hi, is_used = _spread(halves.starts, halves.lengths, len(ids), values)
        streams = {
            "source_ids": ids,
            "source_positions": (step.count(size) - lo) * is_used,
            "source_lo": lo,
            "source_hi": hi,
            **pairs,
        }
        return _cut(streams, num_packs), _cut(tensors, num_packs), _cut(places, num_packs)

    def _divide_pairs(self, step: Step) -> tuple[_Halves, dict[str, Int32s]]:
        """Return the stretches of the source within which tokens see each other, and where pairs lie."""
        number = self._capacity.tensors.get(PAIRS, 0)
        ranges = np.zeros((step.num_packs * number, 2, 2), np.int32)
        loss_ids = np.full(step.num_packs * number, -1, np.int32)
        is_pair = np.zeros(len(step), np.bool_)
        lefts = step.source_lengths.astype(np.int64)
        for template, which in step.by_template(self._templates):
            if template.pair is None:
                continue
            _, lesson = template.pair
            lefts[which] = step.left_lengths[which]
            is_pair[which] = True
            slot = step.slots[PAIRS][which]
            start, stop = step.source_ranges[which].T
            middle = start + lefts[which]
            ranges[slot] = np.stack([start, middle, middle, stop], axis=1).reshape(-1, 2, 2)
            loss_ids[slot] = lesson.loss
        lengths = np.stack([lefts, step.source_lengths - lefts], axis=1)
        is_half = np.stack([np.ones(len(step), np.bool_), is_pair], axis=1)
        starts = np.stack([step.source_at, step.source_at + lefts], axis=1)
        packs = np.repeat(step.packs, 1 + is_pair)
        halves = _Halves.of(starts[is_half], lengths[is_half], packs * self._capacity.source)
        return halves, {"pair_ranges": ranges, "pair_loss_ids": loss_ids}

    def _fill_target(self, step: Step) -> dict[str, npt.NDArray[Any]]:
        size = self._capacity.target
        # A document has one id more than it has positions. In this sequence each document stands
        # one further on for every document before it; inputs lack the last of its ids, labels the first.
        firsts = step.target_at + np.arange(len(step))
        length = step.num_packs * size + len(step)
        sequence = np.full(length, self._pad_id, np.int32)
        weights = np.zeros(length, np.float32)
        losses = np.zeros(length, np.int32)
        for stretch, _ in self._read(step, "target"):
            sequence[stretch.where] = stretch.values
            if not isinstance(stretch.piece, TensorPiece) and (lesson := stretch.piece.lesson):
                weights[stretch.where] = lesson.weight
                losses[stretch.where] = lesson.loss
        is_input, is_label = np.ones((2, length), np.bool_)
        is_input[firsts + step.target_lengths] = False
        is_label[firsts] = False
        values = (step.target_ranges[:, 0], *step.source_ranges.T, np.ones(len(step)))
        lo, cross_lo, cross_hi, is_used = _spread(
            step.target_at, step.target_lengths, step.num_packs * size, values
        )
        here = step.count(size)
        streams = {
            "target_ids": sequence[is_input],
            "labels": sequence[is_label],
            "weights": weights[is_label],
            "loss_ids": losses[is_label],
            "target_positions": (here - lo) * is_used,
            "target_lo": lo,
            "target_hi": (here + np.int32(1)) * is_used,
            "cross_lo": cross_lo,
            "cross_hi": cross_hi,
        }
        return _cut(streams, step.num_packs)

    def _read(
        self, step: Step, side: Literal["source", "target"]
    ) -> Iterator[tuple[Stretch, Ints]]:
        """Yield each piece of a side, and the number of the document that each part of it is of."""
        starts = step.source_at if side == "source" else step.target_at + np.arange(len(step))
        for template, which in step.by_template(self._templates):
            before = self._reader.seconds
            stretches: list[Stretch] = []
            for pieces in _divide(template, side):
                begin = starts[which] + sum_lengths(stretches, len(which))
                if stretches:
                    step.left_lengths[which] = begin - starts[which]
                for stretch in self._reader.read(
                    pieces, template.source_name, step.rows[which], step.passes[which], begin
                ):
                    yield stretch, which[stretch.owners]
                    stretches += self._keep(template, stretch)
            if template.name in self._online:
                step.shorten(side, which, sum_lengths(stretches, len(which)), template)
            self._gathering[template.name] += self._reader.seconds - before

    def _keep(self, template: Template, stretch: Stretch) -> list[Stretch]:
        """Return ``stretch``, without its values, if the lengths of its documents are still to be found out."""
        is_measured = template.pair is not None or template.name in self._online
        return [stretch._replace(where=_NOTHING, values=_NOTHING)] if is_measured else []


_NOTHING: Final = np.empty(0, np.int64)


def _divide(template: Template, side: Literal["source", "target"]) -> Iterator[Sequence[Piece]]:
    """Yield the pieces of a side, those of each half of a pair apart."""
    if side == "target" or template.pair is None:
        yield template.source if side == "source" else template.target
    else:
        yield template.source[: template.pair[0]]
        yield template.source[template.pair[0] :]


class _Halves(NamedTuple):
    """Stretches of the source stream within which tokens see each other: documents, or halves of pairs."""

    starts: Ints
    lengths: Ints
    ranges: Int32s

    @classmethod
    def of(cls, starts: Ints, lengths: Ints, bases: Ints) -> _Halves:
        """Return the halves that begin at ``starts`` over all packs; each pack begins at its base."""
        return cls(starts, lengths, to_ranges(starts - bases, lengths))


def _examine_lane(
    lane: str, templates: Sequence[Template], columns: Columns
) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Return positions, shape and type of the tensors of ``lane``."""
    found: dict[tuple[int, tuple[int, ...], np.dtype[Any]], str] = {}
    for template in templates:
        for piece in template.tensors:
            if piece.lane == lane:
                column = columns[template.source_name, piece.column]
                empty = as_dense(column.gather(np.empty(0, np.int64)))
                found.setdefault((piece.length, empty.shape[1:], empty.dtype), template.task)
    if len(found) != 1:
        kinds = [f"{task}: {t} {s}, {length} positions" for (length, s, t), task in found.items()]
        message = f'the tensors of lane "{lane}" are not alike: {"; ".join(kinds)}'
        raise LoaderError.of("T0605", message, "resize them to one shape, or use another lane")
    return next(iter(found))


def _spread(starts: Ints, lengths: Ints, size: int, values: Sequence[npt.NDArray[Any]]) -> Int32s:
    """Return each of ``values`` at every position of what it is of, zeros where there is nothing.

    Args:
        starts: Where each begins, ascending, shape ``(N,)``.
        lengths: How long it is, shape ``(N,)``.
        size: Positions in all.
        values: R arrays of shape ``(N,)``.

    Returns:
        One row for each array, shape ``(R, size)``.
    """
    edges = np.stack([starts, starts + lengths], axis=1).ravel()
    segments = np.diff(edges, prepend=0, append=size)
    spread = np.zeros((len(values), len(segments)), np.int32)
    spread[:, 1::2] = values
    return np.repeat(spread, segments, axis=1)


def _cut(arrays: Mapping[str, npt.NDArray[Any]], num_packs: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays with one leading axis more, of packs."""
    return {
        name: array.reshape(num_packs, len(array) // num_packs, *array.shape[1:])
        for name, array in arrays.items()
    }


__all__ = ["PackFiller"]
