"""First touch: what is read is compared with its checksum once, when the first of its rows is gathered.

A *block*, an Arrow record batch or an inner chunk of a Zarr shard, has a checksum in the receipt. Small files
without blocks are compared when they are opened. What lies between the blocks of an Arrow file is known by the
checksum of all of it alone, which is compared when its last block has been touched; where there is only one
block, that is at once.

Why not when a column is opened: that would read all of it before the first step. Why not in every gather: a
block is touched hundreds of times in an epoch. Once an epoch is through, nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from ..graph.errors import StoreError
from .memory import Ints
from .receipt import Block, Receipt, StoredFile

Damage = Callable[[Receipt, str, str, str], StoreError]
"""Returns the error of a receipt's file: its name, what is wrong with it, and in which rows."""

SHARDS: Final = "zarr/"
"""What the names of Zarr files begin with; all of a shard that is in no block is compared on opening."""


class MappedFile(NamedTuple):
    """A file of values that is mapped.

    Attributes:
        receipt: The receipt of its partition.
        stored: Its entry there.
        content: Its bytes.
    """

    receipt: Receipt
    stored: StoredFile
    content: pa.Buffer


def check_whole(file: MappedFile, damage: Damage) -> None:
    """Compare a file with the checksum of all of it.

    Raises:
        StoreError: It differs (T0504).
    """
    if xxhash.xxh3_128_hexdigest(file.content) != file.stored.xxh3:
        rows = f"0-{file.receipt.rows - 1}" if file.receipt.rows else ""
        raise damage(file.receipt, file.stored.name, "it does not match its checksum", rows)


def find_rows(file: MappedFile) -> str:
    """Return the first rows whose block is not what was written, such as ``"0-99"``; empty if all are."""
    for block in file.stored.blocks:
        content = file.content.slice(block.offset, block.bytes)
        if xxhash.xxh3_64_hexdigest(content) != block.xxh3:
            return f"{block.row}-{block.row + block.rows - 1}"
    return ""


@dataclass(slots=True, eq=False)
class FirstTouch:
    """The blocks of a column that nobody has touched yet.

    Attributes:
        files: The files of its values, in the order of their rows.
        arrays: What Arrow has read of each block; none of dense columns.
        damage: Says which file is damaged.
    """

    files: Sequence[MappedFile]
    arrays: Sequence[Any]
    damage: Damage
    _edges: Ints = field(init=False)
    _blocks: list[tuple[int, Block]] = field(init=False)
    _is_left: Any = field(init=False)
    _num_left: int = field(init=False)
    _left_of: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._blocks = [
            (number, block)
            for number, file in enumerate(self.files)
            for block in file.stored.blocks
        ]
        rows = np.array([block.rows for _, block in self._blocks], np.int64)
        self._edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])
        self._is_left = np.ones(len(rows), np.bool_)
        self._num_left = len(rows)
        self._left_of = [len(file.stored.blocks) for file in self.files]

    def check(self, rows: Ints) -> None:
        """Compare the blocks that ``rows`` lie in, as far as nobody has.

        Raises:
            StoreError: One differs from what was written; file, column, partition and rows are named (T0504).
        """
        if not self._num_left:
            return
        touched = np.searchsorted(self._edges, rows, side="right") - 1
        fresh = touched[self._is_left[touched]]
        for number in np.unique(fresh).tolist():
            self._check_block(number)
            self._is_left[number] = False
            self._num_left -= 1

    def _check_block(self, number: int) -> None:
        place, block = self._blocks[number]
        file = self.files[place]
        is_alone = len(file.stored.blocks) == 1 and not file.stored.name.startswith(SHARDS)
        content = file.content.slice(block.offset, block.bytes)
        is_sound = is_alone or (
            xxhash.xxh3_64_hexdigest(content) == block.xxh3
            and (not self.arrays or _lies_in(self.arrays[number], content))
        )
        if not is_sound:
            rows = f"{block.row}-{block.row + block.rows - 1}"
            why = f"rows {rows} do not match their checksum"
            raise self.damage(file.receipt, file.stored.name, why, rows)
        self._left_of[place] -= 1
        if not self._left_of[place] and not file.stored.name.startswith(SHARDS):
            try:
                check_whole(file, self.damage)
            except StoreError:
                self._left_of[place] += 1  # so that reading again finds it again
                raise


def _lies_in(array: Any, content: pa.Buffer) -> bool:
    """Return whether Arrow has read ``array`` where its block is: a damaged footer may say otherwise."""
    begin, end = content.address, content.address + content.size
    buffers = [each for each in array.buffers() if each is not None and each.size]
    return all(begin <= each.address and each.address + each.size <= end for each in buffers)


__all__ = ["FirstTouch", "MappedFile", "check_whole", "find_rows"]
