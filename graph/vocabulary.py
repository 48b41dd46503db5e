"""The ids a model reads and writes: ordered blocks, each with a stable offset.

Stored columns hold ids relative to their block, so that a column outlives any model's vocabulary. The first
block is always the specials, spelled and numbered as in OFASys (``preprocessor/dictionary.py``).

A *place* says which id is meant whatever its number: its block, and its number in there. Parameters of one
vocabulary are those of another where places are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from .errors import PlanError, suggest

BOS, PAD, EOS, UNK = range(4)
SPECIAL = "special"

Place: TypeAlias = tuple[str, int]
"""Name of a block, and a number in it."""

_SPECIAL_SYMBOLS: Final = ("<s>", "<pad>", "</s>", "<unk>")
_SYMBOL: Final = re.compile(r"<(\w+)>(?:_(.+))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A run of ids with one meaning.

    Attributes:
        name: Kind of the columns that hold its ids, such as ``"text"``.
        size: Number of ids.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Blocks in order; appending one moves no id of those before it."""

    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> Vocabulary:
        """Return the vocabulary of the specials followed by ``blocks``."""
        return cls((Block(SPECIAL, UNK + 1), *blocks))

    @property
    def size(self) -> int:
        """Number of ids in all blocks."""
        return sum(block.size for block in self.blocks)

    def offset(self, name: str) -> int:
        """Return the first id of block ``name``.

        Raises:
            PlanError: There is no such block.
        """
        offset = 0
        for block in self.blocks:
            if block.name == name:
                return offset
            offset += block.size
        known = [block.name for block in self.blocks]
        raise PlanError.of("T0211", f'the vocabulary has no block "{name}"', suggest(name, known))

    def size_of(self, name: str) -> int:
        """Return the number of ids of block ``name``; 0 where there is none."""
        return next((block.size for block in self.blocks if block.name == name), 0)

    def block_of(self, id_: int) -> str:
        """Return the name of the block that ``id_`` is of; empty for an id of no block."""
        stop = 0
        for block in self.blocks:
            stop += block.size
            if id_ < stop:
                return block.name
        return ""

    @property
    def places(self) -> list[Place]:
        """The place of every id, in order."""
        return [(block.name, number) for block in self.blocks for number in range(block.size)]


def read_symbols(symbols: Sequence[str]) -> list[Place]:
    """Return the place of every symbol of a dictionary of OFASys, such as ``<text>_262``.

    Symbols whose ends are no numbers, such as ``<text>_madeupword0000``, come after the last number of their
    block.

    Raises:
        PlanError: A symbol is of another form, or two are the same.
    """
    places: list[Place | None] = []
    behind: list[tuple[int, str]] = []
    ends: dict[str, int] = {}
    for row, symbol in enumerate(symbols):
        if symbol in _SPECIAL_SYMBOLS:
            place = (SPECIAL, _SPECIAL_SYMBOLS.index(symbol))
        elif (match := _SYMBOL.fullmatch(symbol)) is None:
            message = f'symbol {row} of the dictionary is "{symbol}"'
            raise PlanError.of("T0742", message, "symbols are such as <text>_262 and <mask>")
        elif (end := match[2] or "0").isdecimal():
            place = (match[1], int(end))
        else:
            behind.append((row, match[1]))
            places.append(None)
            continue
        places.append(place)
        ends[place[0]] = max(ends.get(place[0], 0), place[1] + 1)
    for row, block in behind:
        ends[block] = ends.get(block, 0) + 1
        places[row] = (block, ends[block] - 1)
    found = [place for place in places if place is not None]
    if len(set(found)) < len(found):
        (first, *_) = (place for place in found if found.count(place) > 1)
        raise PlanError.of("T0742", f"the dictionary has <{first[0]}>_{first[1]} twice")
    return found


def write_symbols(places: Sequence[Place]) -> list[str]:
    """Return the symbol of every place in a dictionary of OFASys; `read_symbols` of them are ``places``."""
    alone = {(SPECIAL, number): symbol for number, symbol in enumerate(_SPECIAL_SYMBOLS)}
    alone["mask", 0] = "<mask>"
    return [alone.get(place, f"<{place[0]}>_{place[1]}") for place in places]


def find_rows(was: Sequence[Place], now: Sequence[Place]) -> list[int]:
    """Return the row of ``was`` that each place of ``now`` had, -1 for those that are new."""
    rows = {place: row for row, place in enumerate(was)}
    return [rows.get(place, -1) for place in now]


def gather_blocks(blocks: Mapping[str, Sequence[Block]]) -> tuple[Block, ...]:
    """Return the blocks of all modalities, each once, in order.

    Args:
        blocks: The blocks of each modality.

    Raises:
        PlanError: Two modalities have a block of one name and different sizes.
    """
    gathered: dict[str, tuple[Block, str]] = {}
    for modality, own in blocks.items():
        for block in own:
            known, other = gathered.setdefault(block.name, (block, modality))
            if known != block:
                message = f'{other} and {modality} have different blocks "{block.name}"'
                help_ = f"{known.size:,} ids against {block.size:,}: name one of them apart"
                raise PlanError.of("T0273", message, help_)
    return tuple(block for block, _ in gathered.values())
