"""Random numbers that depend on what is drawn, and on nothing that happened before.

A *key* is 64 bits that stand for one row in one pass of one stream. The numbers of a key are counted: number
``i`` is a function of key and ``i``, so any of them can be had at once, in any order, in any process. Order of
rows, batch size and workers change nothing.

A *stream* stands for one place that draws: two random ops of a task, or of two tasks, share no number. Image
and box of one row that must be cropped alike are given the keys of one stream.

Number ``i`` of a key is output ``i`` of a SplitMix64 generator that the key has seeded. Values are fixed for
good: a test holds some, and every change would make epochs that no run can repeat.

Source: SplitMix64, "Fast splittable pseudorandom number generators" (OOPSLA 2014), with the constants of its
reference code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

Keys: TypeAlias = npt.NDArray[np.uint64]
"""One key a row, shape ``(N,)``."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def digest_stream(task: str, address: str) -> int:
    """Return the stream of the node that stands at ``address`` in ``task``, as 64 bits."""
    text = f"{task}\0{address}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"draw stream").digest())


def number_rows(partition: str, offsets: npt.NDArray[np.int64]) -> Keys:
    """Return the rows at ``offsets`` of ``partition`` as 64 bits each, for `make_keys`."""
    return _number(_digest_partition(partition), np.asarray(offsets))


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """The rows of some partitions, one after the other, as 64 bits each: those that `number_rows` gives them.

    Attributes:
        edges: Where each partition begins, and where the last ends, in rows.
        digests: Digest of each partition.
    """

    edges: npt.NDArray[np.int64]
    digests: Keys

    @classmethod
    def of(cls, partitions: Sequence[tuple[str, int]]) -> Self:
        """Return the rows of ``partitions``, each an id and its number of rows."""
        held = [(_digest_partition(name), rows) for name, rows in partitions if rows]
        digests = np.array([digest for digest, _ in held], np.uint64)
        return cls(np.cumsum([0, *(rows for _, rows in held)], dtype=np.int64), digests)

    def __call__(self, rows: npt.NDArray[np.int64]) -> Keys:
        """Return the numbers of ``rows``, which count over all partitions; shape ``(N,)``."""
        partition = np.searchsorted(self.edges, rows, side="right") - 1
        return _number(self.digests[partition], rows - self.edges[partition])


def make_keys(
    *, seed: int, stream: int, pass_number: int | npt.NDArray[np.int64], rows: Keys
) -> Keys:
    """Return the keys of ``rows`` in one pass of one stream, shape ``(N,)``.

    Args:
        seed: Of the run; taken modulo 2**64.
        stream: What `digest_stream` returned.
        pass_number: How often the task's rows have been through before, from 0; one for all, or one a row.
        rows: What `number_rows` returned.
    """
    state = np.zeros(1, np.uint64)
    for part in (seed, stream):
        state = _mix((state ^ np.uint64(part % (1 << 64))) + _GOLDEN)
    passes = np.atleast_1d(np.asarray(pass_number)).astype(np.uint64)
    state = _mix((state ^ passes) + _GOLDEN)
    return _mix((state ^ rows) + _GOLDEN)


def derive_keys(keys: Keys, purpose: int) -> Keys:
    """Return keys for one of several things that an op draws for each row."""
    return _mix((keys ^ np.uint64(purpose)) + _GOLDEN)


def draw_words(keys: Keys, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return the first ``counts[r]`` numbers of every key, end to end: uniform in 64 bits."""
    positions = count_up(counts).astype(np.uint64)
    return _mix(np.repeat(keys, counts) + (positions + np.uint64(1)) * _GOLDEN)


def draw_uniforms(keys: Keys, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the same numbers as multiples of 2**-53 in ``[0, 1)``."""
    return (draw_words(keys, counts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_integers(keys: Keys, counts: npt.NDArray[np.int64], stop: int) -> npt.NDArray[np.int64]:
    """Return the same numbers as integers in ``[0, stop)``; ``stop`` is at most 2**32."""
    high = draw_words(keys, counts) >> np.uint64(32)
    return (high * np.uint64(stop) >> np.uint64(32)).astype(np.int64)


def count_up(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return ``0 .. counts[r] - 1`` for every row, end to end."""
    stops = np.cumsum(counts)
    total = int(stops[-1]) if len(stops) else 0
    return np.arange(total) - np.repeat(stops - counts, counts)


def _digest_partition(partition: str) -> np.uint64:
    text = partition.encode()
    digest = hashlib.blake2b(text, digest_size=8, person=b"draw partition").digest()
    return np.uint64(int.from_bytes(digest))


def _number(digests: Keys | np.uint64, offsets: npt.NDArray[np.int64]) -> Keys:
    return _mix(digests + offsets.astype(np.uint64) * _GOLDEN)


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return 64 bits each of which depends on every one of ``words``; equal only where those are."""
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))
