"""What planning and filling packs costs over gathering the same rows and nothing else.

The floor is one vectorised gather per column and block of documents, out of the same arrays in
memory: no order, no packing, no positions, no labels. The loader is read against it in documents
per CPU-second, without and with its thread. Rounds of all contestants are interleaved, and medians
reported, so that a busy machine slows all alike.

    python bench/bench_loader.py [--out FILE] [--rounds N]
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from report import describe, tell

from taskloom.storage.capacity import Capacity
from taskloom.storage.length import measure_documents
from taskloom.storage.loader import Loader, LoaderConfig
from taskloom.storage.position import Position
from taskloom.storage.template import (
    Columns,
    ConstPiece,
    IdsPiece,
    Lesson,
    Template,
    TensorPiece,
)
from taskloom.storage.window_planner import WindowPlanner

Ints = npt.NDArray[np.int64]


class RaggedColumn:
    """Rows of ids, end to end in memory."""

    def __init__(self, lengths: Ints, rng: np.random.Generator) -> None:
        self.num_rows = len(lengths)
        self.lengths = lengths.astype(np.uint32)
        self.valid = np.ones(len(lengths), np.bool_)
        self.starts = np.cumsum(lengths) - lengths
        self.values = rng.integers(0, 8000, lengths.sum()).astype(np.uint16)

    def gather(self, rows: Ints) -> tuple[npt.NDArray[Any], Ints]:
        """Return ``rows`` end to end, and their offsets."""
        lengths = self.lengths[rows].astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        where = np.repeat(self.starts[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return self.values[where], offsets


class DenseColumn:
    """Rows of one shape in memory."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.num_rows = len(values)
        self.values = values
        self.lengths = np.ones(len(values), np.uint32)
        self.valid = np.ones(len(values), np.bool_)

    def gather(self, rows: Ints) -> npt.NDArray[Any]:
        """Return ``rows``."""
        return self.values[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A task over columns in memory, and a pack for it."""

    template: Template
    columns: Columns
    capacity: Capacity
    num_rows: int

    def loader(self, *, prefetch: int, state: dict[str, Any] | None = None) -> Loader:
        """Return a loader of this case alone."""
        return Loader(
            [self.template],
            {self.template.task: np.arange(self.num_rows)},
            self.columns,
            LoaderConfig(capacity=self.capacity, prefetch=prefetch),
            plan_digest="bench",
            state=state,
        )


def make_case(
    name: str, source: Ints, target: Ints, capacity: Capacity, *, has_images: bool, seed: int = 0
) -> Case:
    """Return a case whose documents have about ``source`` and ``target`` positions."""
    rng = np.random.default_rng(seed)
    text = RaggedColumn((source - 4 - 16 * has_images).clip(0), rng)
    answer = RaggedColumn((target - 1).clip(1), rng)
    columns: Columns = {(name, "text"): text, (name, "answer"): answer}
    pieces = (ConstPiece(ids=(5, 6, 7, 8)), IdsPiece(column="text", offset=300))
    if has_images:
        pixels = rng.integers(0, 256, (len(source), 64, 64, 3)).astype(np.uint8)
        columns = {**columns, (name, "image"): DenseColumn(pixels)}
    tensors = (TensorPiece(column="image", lane="image", length=16),) if has_images else ()
    template = Template(
        task=name,
        source_name=name,
        source=(*tensors, *pieces),
        target=(
            ConstPiece(ids=(1,)),
            IdsPiece(column="answer", offset=300, lesson=Lesson(0)),
            ConstPiece(ids=(2,), lesson=Lesson(0)),
        ),
    )
    return Case(template=template, columns=columns, capacity=capacity, num_rows=len(source))


def make_cases() -> list[Case]:
    """Return the length mixes that are measured."""
    rng = np.random.default_rng(0)
    size = 60_000
    mixed = np.exp(rng.normal(4.3, 0.8, size)).clip(20, 400).astype(np.int64)
    long = np.exp(rng.normal(6, 1, size // 6)).clip(20, 4096).astype(np.int64)
    return [
        make_case(
            "short",
            rng.integers(20, 46, size),
            rng.integers(2, 8, size),
            Capacity(source=4096, target=896),
            has_images=False,
        ),
        make_case(
            "mixed",
            mixed,
            np.exp(rng.normal(2.5, 0.6, size)).clip(3, 60).astype(np.int64),
            Capacity(source=4096, target=1024, tile=128),
            has_images=False,
        ),
        make_case(
            "long",
            long,
            rng.integers(4, 200, len(long)),
            Capacity(source=4096, target=1664, tile=32),
            has_images=False,
        ),
        make_case(
            "images",
            rng.integers(24, 40, 8_000),
            rng.integers(2, 8, 8_000),
            Capacity(source=4096, target=896, tensors={"image": 160}),
            has_images=True,
        ),
    ]


def gather_only(case: Case, block: int) -> Iterator[int]:
    """Yield the number of documents of each block, having gathered all their columns."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(case.num_rows)
        for start in range(0, len(order) - block + 1, block):
            for column in case.columns.values():
                column.gather(order[start : start + block])
            yield block


def load(case: Case, *, prefetch: int) -> Iterator[int]:
    """Yield the number of documents of each step."""
    with case.loader(prefetch=prefetch) as loader:
        for (pack,) in loader:
            yield len(pack.rows)


def rate(steps: Iterator[int], num_documents: int) -> float:
    """Return documents per CPU-second of this process, all its threads together."""
    start, done = time.process_time(), 0
    while done < num_documents:
        done += next(steps)
    return done / (time.process_time() - start)


def measure(case: Case, num_rounds: int) -> dict[str, Any]:
    """Return the figures of one case."""
    reporter = case.loader(prefetch=0)
    per_pack = reporter.report.tasks[0].samples_per_pack
    contestants: dict[str, Iterator[int]] = {
        "floor": gather_only(case, max(1, round(8 * per_pack))),
        "loader": load(case, prefetch=0),
        "loader with thread": load(case, prefetch=4),
    }
    num_documents = int(max(200 * per_pack, 4096))
    rounds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(num_rounds):
        for name, steps in contestants.items():
            rounds[name].append(rate(steps, num_documents))
    rates = {name: median(values) for name, values in rounds.items()}
    capacity, fill = case.capacity, reporter.report.fill
    positions = fill["source"] * capacity.source + fill["target"] * capacity.target
    return {
        "documents per CPU-second": {name: round(value) for name, value in rates.items()},
        "positions per CPU-second": round(rates["loader"] * positions / per_pack),
        "loader over floor, CPU per document": round(rates["floor"] / rates["loader"], 2),
        "planning, us of CPU per document": round(
            median(time_planning(case) for _ in range(num_rounds)), 2
        ),
        "resume to first step, ms of CPU": round(
            median(time_resume(case) for _ in range(num_rounds)), 1
        ),
        "fill": {name: round(value, 4) for name, value in fill.items()},
        "documents per pack": round(per_pack, 1),
    }


def time_planning(case: Case) -> float:
    """Return the microseconds that planning a document takes, over three windows."""
    rows = np.arange(case.num_rows)
    documents = measure_documents(case.template, case.columns, rows)
    weights = {case.template.task: 1.0}
    planner = WindowPlanner([documents], case.capacity, weights, seed=0, window_size=4096)
    position = Position.start(1)
    planner.plan(0, position, weights)  # the first window of a pass also permutes its rows
    start = time.process_time()
    for number in range(3):
        position = planner.plan(number, position, weights).after
    return 1e6 * (time.process_time() - start) / int(position.counts.sum())


def time_resume(case: Case) -> float:
    """Return the milliseconds from a state in the middle to the next step."""
    with case.loader(prefetch=0) as loader:
        deque(islice(loader, 50), maxlen=0)
        state = loader.state()
    start = time.process_time()
    next(iter(case.loader(prefetch=0, state=state)))
    return 1e3 * (time.process_time() - start)


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time packing against gathering.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    result = {
        **describe("numpy"),
        "rounds": options.rounds,
        "cases": {case.template.task: measure(case, options.rounds) for case in make_cases()},
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
