"""The ids a model reads and writes: ordered blocks, each with a stable offset.

Stored columns hold ids relative to their block, so that a column outlives any model's vocabulary. The first
block is always the specials, spelled and numbered as in OFASys (``preprocessor/dictionary.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import PlanError, suggest

BOS, PAD, EOS, UNK = range(4)
SPECIAL = "special"


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
