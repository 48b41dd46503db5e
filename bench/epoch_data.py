"""The rows that readers are compared on, the same in every environment.

Text: 20 to 200 ids and 5 to 60 target ids a row, below 30,000. Images: pictures of 3x128x128 bytes and 20 ids.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Row = dict[str, npt.NDArray[Any]]
BATCH = 32
WARM_UP = 20
"""Batches before the clock starts."""
NUM_ROWS = {"text": 40_000, "images": 4_000}


def ragged(
    rng: np.random.Generator, num_rows: int, least: int, most: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return rows of ids end to end, and where each begins and ends."""
    lengths = rng.integers(least, most + 1, num_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return rng.integers(0, 30_000, offsets[-1]).astype(np.int32), offsets


def make_arrays(case: str) -> dict[str, Any]:
    """Return what the rows of a case hold by name: ragged values with offsets, or one array."""
    rng = np.random.default_rng(0)
    num_rows = NUM_ROWS[case]
    if case == "text":
        return {"ids": ragged(rng, num_rows, 20, 200), "target": ragged(rng, num_rows, 5, 60)}
    pixels = rng.integers(0, 256, (num_rows, 3, 128, 128), dtype=np.uint8)
    return {"image": pixels, "ids": ragged(rng, num_rows, 20, 20)}


def row_of(arrays: dict[str, Any], number: int) -> Row:
    """Return one row."""
    row: Row = {}
    for name, array in arrays.items():
        if isinstance(array, tuple):
            values, offsets = array
            row[name] = values[offsets[number] : offsets[number + 1]]
        else:
            row[name] = array[number]
    return row


def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
    """Return a batch of tensors, ids padded to the longest: what every peer is given to do."""
    batch: dict[str, torch.Tensor] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name == "image":
            batch[name] = torch.from_numpy(np.stack(values))
            continue
        lengths = [len(value) for value in values]
        padded = np.zeros((len(rows), max(lengths)), np.int32)
        for line, value, length in zip(padded, values, lengths, strict=True):
            line[:length] = value
        batch[name] = torch.from_numpy(padded)
        batch[f"{name}_lengths"] = torch.tensor(lengths)
    return batch


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def time_epoch(batches: Iterable[Any]) -> dict[str, float]:
    """Return the rows after the first batches of an epoch, and what they took."""
    iterator = iter(batches)
    for _ in range(WARM_UP):
        next(iterator)
    cpu, wall, rows = cpu_seconds(), time.perf_counter(), 0
    for batch in iterator:
        rows += len(batch["ids"])
    return {"rows": rows, "cpu_s": cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
