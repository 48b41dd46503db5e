"""Splits: which rows are learned from, which choose settings, and which only ever test.

A row is held out by a hash of a *key*, never by its place in the source: rows that belong together,
such as the questions about one picture, share a key and a split, and a row keeps its split whatever
is added, removed or reordered around it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import pyarrow as pa

from ...graph.errors import OpError
from ...graph.op import Traits
from ...graph.type import ANY, Port, Signature
from ..by_hand import takes_columns
from .text import spell_values

TRAIN: Final = 0
VALID: Final = 1
TEST: Final = 2
NO_SPLIT: Final = 255

SPLIT = Port("split", "uint8")

# Keeps the hash apart from other uses of the same keys. Changing it moves rows between splits.
_HASH = hashlib.blake2b(digest_size=16, person=b"taskloom split")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignSplits:
    """Hold out training rows by a hash of their key.

    Attributes:
        test: Share of the keys that is moved to the test split, at least 0, below 1.
        valid: Share of the keys not moved to the test split that is moved to the valid split.
    """

    test: float = 0.0
    valid: float = 0.0
    # The digest of a key holds the GIL, but no longer than the row takes to be read: no work for a process.
    traits: ClassVar[Traits] = Traits("assign_splits", version=1)

    def __post_init__(self) -> None:
        for name, share in (("test", self.test), ("valid", self.valid)):
            if not 0 <= share < 1:
                message = f"the {name} share must be at least 0 and below 1, got {share}"
                raise OpError.of("T0307", message)
            # 0 and 0.0 are one share, and must be one parameter in the plan key.
            object.__setattr__(self, name, float(share))

    @property
    def signature(self) -> Signature:
        """The split a source was given as and a key in, the split that is used out."""
        return Signature(inputs={"split": SPLIT, "key": Port(ANY, ANY)}, outputs={"out": SPLIT})

    @takes_columns
    def __call__(self, split: pa.Array, key: pa.Array) -> pa.Array:
        """Return the split of each row; only training rows ever move.

        Raises:
            OpError: The keys are neither numbers, nor texts, nor bytes, nor dates or times.
        """
        spelled = _spell_keys(key).dictionary_encode()
        # Two independent fractions a key, in units of 2**-64: raising the test share then moves no
        # row between train and valid.
        digests = b"".join(map(_digest, spelled.dictionary.to_pylist()))
        fractions = np.frombuffer(digests, "<u8").reshape(-1, 2)[np.asarray(spelled.indices)]
        held_out = np.where(fractions[:, 1] < _threshold(self.valid), VALID, TRAIN)
        held_out = np.where(fractions[:, 0] < _threshold(self.test), TEST, held_out)
        given = np.asarray(split)
        return pa.array(np.where(given == TRAIN, held_out, given).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class MaskSplits:
    """Take rows that a filter leaves out of every split, so that nothing is fitted on them."""

    traits: ClassVar[Traits] = Traits("mask_splits", version=1)

    @property
    def signature(self) -> Signature:
        """The split of each row and whether the row is kept in, the split out."""
        inputs = {"split": SPLIT, "keep": Port("keep", "bool")}
        return Signature(inputs=inputs, outputs={"out": SPLIT})

    @takes_columns
    def __call__(self, split: pa.Array, keep: pa.Array) -> pa.Array:
        """Return the split of rows that are kept, `NO_SPLIT` for the others."""
        return pa.array(np.where(np.asarray(keep), np.asarray(split), np.uint8(NO_SPLIT)))


def _spell_keys(key: pa.Array) -> pa.Array:
    """Return one spelling of each key as ``binary``: 5, 5.0 and ``"5"`` are one key."""
    dtype = key.type
    if (
        pa.types.is_binary(dtype)
        or pa.types.is_large_binary(dtype)
        or pa.types.is_binary_view(dtype)
    ):
        return key.cast(pa.binary())
    if pa.types.is_temporal(dtype) or pa.types.is_decimal(dtype):
        return key.cast(pa.string()).cast(pa.binary())
    try:
        return spell_values(key).cast(pa.binary())
    except OpError:
        message = f"values of type {dtype} cannot be a key"
        help_ = "use a column of text, numbers, bytes, dates or times"
        raise OpError.of("T0308", message, help_) from None


def _digest(key: bytes) -> bytes:
    # A copy of a hash that is set up costs half of setting one up.
    hash_ = _HASH.copy()
    hash_.update(key)
    return hash_.digest()


def _threshold(share: float) -> np.uint64:
    return np.uint64(int(share * 2**64))
