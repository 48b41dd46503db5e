"""Stages of blocks: chunks whose queries and keys are read in one go, and whose results are put in one.

Chunks of many blocks are *gathered*: heads of tokens are copied to where one product reads those of all blocks.
A *stretch* is a chunk of one block, whose tokens follow one another: it is read where it lies, and its results
are written there.

Shape letters: as in `taskloom.ops.device.attention.chunks`; X and Y = heads of queries and of keys, one by one;
G = blocks of a chunk times heads. In a stream the heads of a token follow one another; in a chunk there are all
blocks of the first head, then those of the second.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from torch import Tensor


class Gathered(NamedTuple):
    """Where the heads of a stage's queries and keys come from, and where they go.

    Attributes:
        chunks: Numbers of its chunks.
        query_X: Head of a query that each is.
        filler_X: Which of them blocks are filled up with.
        put_X: The same, and that of a query behind the last for what blocks are filled up with.
        key_Y: Head of a key that each is.
        shapes: Blocks of each chunk times heads, and queries and keys of each.
    """

    chunks: range
    query_X: Tensor
    filler_X: Tensor
    put_X: Tensor
    key_Y: Tensor
    shapes: list[tuple[int, int, int]]

    @property
    def keeps_keys(self) -> bool:
        """Whether what `hold_keys` returns holds what other stages have added."""
        return False

    def read_queries(self, x_NHD: Tensor) -> Tensor:
        """Return what this stage reads of queries; what blocks are filled up with is a query again."""
        return x_NHD.flatten(0, 1).index_select(0, self.query_X)

    def read_grads(self, x_NHD: Tensor) -> Tensor:
        """Return what this stage reads of their gradients; what blocks are filled up with has none."""
        return self.read_queries(x_NHD).index_fill_(0, self.filler_X, 0)

    def read_keys(self, x_MHD: Tensor) -> Tensor:
        """Return what this stage reads of keys."""
        return x_MHD.flatten(0, 1).index_select(0, self.key_Y)

    def hold_queries(self, x_NHD: Tensor) -> Tensor:
        """Return room for what belongs in ``x_NHD``, which has a query more than there are."""
        return x_NHD.new_empty(len(self.query_X), x_NHD.shape[2])

    def put_queries(self, x_NHD: Tensor, own_XD: Tensor) -> None:
        """Put what is in such room where it belongs."""
        x_NHD.flatten(0, 1).index_copy_(0, self.put_X, own_XD)

    def hold_keys(self, x_MHD: Tensor) -> Tensor:
        """Return room for what is to be added to ``x_MHD``."""
        return x_MHD.new_empty(len(self.key_Y), x_MHD.shape[2])

    def add_keys(self, x_MHD: Tensor, own_YD: Tensor) -> None:
        """Add what is in such room to keys, of which some are in many blocks."""
        x_MHD.flatten(0, 1).index_add_(0, self.key_Y, own_YD)

    def cut_queries(self, own_XD: Tensor) -> list[Tensor]:
        """Return the part of each chunk, shape ``(G, Q, D)``."""
        return _cut(own_XD, [(blocks, queries) for blocks, queries, _ in self.shapes])

    def cut_keys(self, own_YD: Tensor) -> list[Tensor]:
        """Return the part of each chunk, shape ``(G, K, D)``."""
        return _cut(own_YD, [(blocks, keys) for blocks, _, keys in self.shapes])


class Stretch(NamedTuple):
    """A block that is read where it lies; its methods are those of `Gathered`.

    Attributes:
        chunks: The number of its chunk.
        queries: Its queries.
        keys: Its keys.
    """

    chunks: range
    queries: slice
    keys: slice

    @property
    def keeps_keys(self) -> bool:
        """As the room of keys is where their sums are."""
        return True

    def read_queries(self, x_NHD: Tensor) -> Tensor:
        """Return its queries."""
        return x_NHD[self.queries]

    def read_grads(self, x_NHD: Tensor) -> Tensor:
        """Return their gradients."""
        return x_NHD[self.queries]

    def read_keys(self, x_MHD: Tensor) -> Tensor:
        """Return its keys."""
        return x_MHD[self.keys]

    def hold_queries(self, x_NHD: Tensor) -> Tensor:
        """Return the place of its queries."""
        return x_NHD[self.queries]

    def put_queries(self, x_NHD: Tensor, own: Tensor) -> None:
        """Leave them there."""

    def hold_keys(self, x_MHD: Tensor) -> Tensor:
        """Return the place of its keys."""
        return x_MHD[self.keys]

    def add_keys(self, x_MHD: Tensor, own: Tensor) -> None:
        """Leave them there."""

    def cut_queries(self, own: Tensor) -> list[Tensor]:
        """Return them, heads first."""
        return [own.transpose(0, 1)]

    def cut_keys(self, own: Tensor) -> list[Tensor]:
        """Return them, heads first."""
        return [own.transpose(0, 1)]


Stage: TypeAlias = Gathered | Stretch


def _cut(x: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    parts = x.split([number * size for number, size in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]
