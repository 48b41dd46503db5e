"""Given documents in packs, each exactly once: for evaluation and inference.

Nothing is shuffled, repeated or dropped to fill a pack; the last packs may be half empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .capacity import Capacity
from .fill import PackFiller
from .length import measure_documents
from .pack import Pack
from .template import Columns, Template
from .tile import Ints
from .window import Samples

# Documents that are packed together.
_CHUNK = 4096


class DocumentPacks:
    """An iterable of packs, made when they are asked for.

    Attributes:
        left_out: Task number and global row of documents that no pack can hold, shape ``(L, 2)``.
    """

    def __init__(
        self, samples: Samples, left_out: Ints, filler: PackFiller, capacity: Capacity
    ) -> None:
        self.left_out = left_out
        self._samples = samples
        self._filler = filler
        self._capacity = capacity

    def __iter__(self) -> Iterator[Pack]:
        for start in range(0, len(self._samples.rows), _CHUNK):
            samples = self._samples.slice(start, start + _CHUNK)
            tiling = samples.tile(len(samples.rows), self._capacity)
            plans = samples.divide(tiling.place(max(1, math.ceil(tiling.least_packs))))
            size = self._filler.num_together
            for first in range(0, len(plans), size):
                yield from self._filler.fill(plans[first : first + size])


def pack_documents(
    templates: Sequence[Template],
    rows: Mapping[str, Ints],
    columns: Columns,
    capacity: Capacity,
    *,
    pad_id: int = 0,
) -> DocumentPacks:
    """Pack the documents of ``rows``, every one that fits exactly once.

    A pack's ``rows``, ``source_ranges`` and ``target_ranges`` say which document stands where.

    Args:
        templates: What each task's documents are made of; their order numbers the tasks.
        rows: Global rows of each template, by its name, in the order in which they are packed; there may
            be none.
        columns: Every column that the templates name.
        capacity: What a pack holds.
        pad_id: Id at positions of no document.

    Raises:
        LoaderError: A row has no value (T0604), or columns do not go together (T0605).
    """
    measured = [measure_documents(each, columns, rows[each.name]) for each in templates]
    fits = [capacity.fits(each) for each in measured]
    documents = [each.select(keep) for each, keep in zip(measured, fits, strict=True)]
    left_out = [
        np.stack([np.full((~keep).sum(), task), each.rows[~keep]], axis=1)
        for task, (each, keep) in enumerate(zip(measured, fits, strict=True))
    ]
    sizes = [len(each) for each in documents]
    samples = Samples.of(
        documents,
        np.repeat(np.arange(len(sizes)), sizes),
        [(np.arange(size), np.zeros(size, np.int64)) for size in sizes],
        tuple(capacity.tensors),
    )
    filler = PackFiller(templates, columns, capacity, pad_id)
    empty = np.empty((0, 2), np.int64)
    return DocumentPacks(samples, np.concatenate([empty, *left_out]), filler, capacity)


__all__ = ["DocumentPacks", "pack_documents"]
