"""What comparing every block with its checksum, on first touch, adds to an epoch.

An epoch over a store that is read for the first time, every row once, in a random order: gathered and nothing
else, packed by the loader, and learned from. CPU time is counted, with and without the comparison, interleaved.
The comparison is the same whatever else an epoch does, so its share of packing and of learning is what it adds
to gathering over what those take: compared by itself it would be lost in their noise. The second epoch compares
nothing.

    python bench/bench_touch.py [--out FILE] [--rounds N] [--scale N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from report import describe, tell

from taskloom.graph.type import Layout, Type
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Task, build
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.learner import Learner
from taskloom.storage.capacity import Capacity
from taskloom.storage.column import open_writer
from taskloom.storage.one_pass import pack_documents
from taskloom.storage.reader import ColumnReader, open_column
from taskloom.storage.store import Store
from taskloom.storage.template import ConstPiece, IdsPiece, Lesson, Piece, Template, TensorPiece
from taskloom.storage.touch import FirstTouch

NUM_PARTITIONS = 8
GATHERED = 4096
"""Rows of one gather of texts, about as many as eight packs hold."""

TEXT = Type("text", "uint16", ("T",), Layout.RAGGED)
IMAGE = Type("image", "uint8", (3, 128, 128), Layout.DENSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A column on disk, and a pack for it."""

    name: str
    store: Store
    num_rows: int
    per_gather: int
    piece: Piece
    capacity: Capacity

    def open(self) -> ColumnReader:
        """Return the column as a process sees it that has touched nothing."""
        parts = [f"p{number}" for number in range(NUM_PARTITIONS)]
        column = open_column(self.store, "s", self.name, parts)
        assert column.valid.all()
        assert len(column.lengths) == self.num_rows
        return column

    def gather(self, column: ColumnReader) -> None:
        """Gather every row once."""
        order = np.random.default_rng(1).permutation(self.num_rows)
        for start in range(0, self.num_rows, self.per_gather):
            column.gather(order[start : start + self.per_gather])

    def load(self, column: ColumnReader) -> None:
        """Pack every row once."""
        ends = (ConstPiece(ids=(0,)), ConstPiece(ids=(2,), lesson=Lesson(0)))
        template = Template(task="t", source_name="s", source=(self.piece,), target=ends)
        order = np.random.default_rng(1).permutation(self.num_rows)
        packs = pack_documents([template], {"t": order}, {("s", self.name): column}, self.capacity)
        assert sum(len(pack.rows) for pack in packs) == self.num_rows


def make_cases(folder: Path, scale: int) -> Iterator[Case]:
    """Yield texts of 20 to 180 ids, and pictures of 49 kB."""
    rng = np.random.default_rng(0)
    store = Store.create(folder / "made")
    num_texts, num_images = 10_000 * scale, 400 * scale
    for number in range(NUM_PARTITIONS):
        lengths = rng.integers(20, 181, num_texts // NUM_PARTITIONS)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        values = rng.integers(0, 8000, offsets[-1]).astype(np.uint16)
        texts = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        write(store, "texts", number, TEXT, texts)
        pixels = rng.integers(0, 256, (num_images // NUM_PARTITIONS, 3, 128, 128), np.uint8)
        images = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
        write(store, "pictures", number, IMAGE, images)
    yield Case(
        name="texts",
        store=store,
        num_rows=num_texts,
        per_gather=GATHERED,
        piece=IdsPiece(column="texts", offset=4),
        capacity=Capacity(source=2048, target=256),
    )
    yield Case(
        name="pictures",
        store=store,
        num_rows=num_images,
        per_gather=128,
        piece=TensorPiece(column="pictures", lane="image", length=64),
        capacity=Capacity(source=2048, target=256, tensors={"image": 32}),
    )


def write(store: Store, key: str, number: int, type_: Type, values: Any) -> None:
    """Write one partition."""
    with open_writer(store, "s", key, f"p{number}", type_) as writer:
        writer.write(values)
        writer.commit()


@contextmanager
def unchecked() -> Generator[None]:
    """Compare nothing."""
    with (
        mock.patch.object(FirstTouch, "check", return_value=None),
        mock.patch("taskloom.storage.reader.check_whole", return_value=None),
    ):
        yield


def time_epoch(case: Case, epoch: Callable[[ColumnReader], None]) -> float:
    """Return the CPU-seconds of an epoch, opening the column included."""
    began = time.process_time()
    epoch(case.open())
    return time.process_time() - began


def measure(case: Case, num_rounds: int, learning_s: float) -> dict[str, Any]:
    """Return what an epoch costs with and without the comparison.

    Args:
        case: What to read.
        num_rounds: Rounds of all contestants.
        learning_s: CPU-seconds that learning from one row takes.
    """
    seconds: dict[str, list[float]] = {}
    for _ in range(num_rounds):
        for name, epoch in (("gathered", case.gather), ("packed", case.load)):
            seconds.setdefault(f"{name}, compared", []).append(time_epoch(case, epoch))
            with unchecked():
                seconds.setdefault(name, []).append(time_epoch(case, epoch))
    took = {name: median(each) for name, each in seconds.items()}
    pairs = zip(seconds["gathered, compared"], seconds["gathered"], strict=True)
    added = median(with_ - without for with_, without in pairs)
    num_bytes = sum(file.stat().st_size for file in case.store.path.rglob(f"{case.name}/**/*.*"))
    return {
        "MB of the column": round(num_bytes / 1e6, 1),
        "CPU-seconds of an epoch": {name: round(value, 4) for name, value in took.items()},
        "added to gathering": f"{added / took['gathered']:.1%}",
        "added to packing": f"{added / took['packed']:.2%}",
        "GB compared per CPU-second": round(num_bytes / added / 1e9, 2) if added > 0 else None,
        "CPU-seconds of learning": round(learning_s * case.num_rows, 1),
        "added to learning": f"{added / (learning_s * case.num_rows):.4%}",
    }


def open_learned(folder: Path, name: str) -> Stream:
    """Return what the default model learns from: texts, or pictures of 128 pixels, as long as those above."""
    rng = np.random.default_rng(3)
    if name == "texts":
        rows = [{"x": " ".join(map(str, rng.integers(0, 10**6, 15))), "y": "a"} for _ in range(256)]
        instruction, slots = "[TEXT:x] -> [TEXT:y]", {}
    else:
        rows = [{"x": rng.integers(0, 256, (128, 128, 3), np.uint8), "y": "a"} for _ in range(64)]
        instruction, slots = "[IMAGE:x] -> [TEXT:y]", {"IMAGE": {"size": 128, "patch": 16}}
    mixture = Mixture([Task(name, instruction, source=rows)], slots=slots, bpe_size=300)
    build(mixture, folder / name, progress=False)
    return open_stream(mixture, Store.open(folder / name), ModelConfig(), TrainConfig())


def time_learning(stream: Stream) -> float:
    """Return the CPU-seconds that the default model learns from a row for."""
    learner = Learner.make(stream.plan, stream.config, torch.device("cpu"))
    num_rows, began = 0, 0.0
    with stream.loader() as loader:
        for number, packs in zip(range(4), loader, strict=False):
            if number == 1:  # the first is warming up
                num_rows, began = 0, time.process_time()
            learner.take(packs)
            num_rows += sum(len(pack.rows) for pack in packs)
    return (time.process_time() - began) / num_rows


def main() -> None:
    """Measure both cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time epochs with and without checksums.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=int, default=20, help="10,000 texts, 400 pictures each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        cases = {
            case.name: measure(case, options.rounds, time_learning(open_learned(folder, case.name)))
            for case in make_cases(folder, options.scale)
        }
    result = {
        **describe("numpy", "pyarrow", "xxhash"),
        "rounds": options.rounds,
        "cases": cases,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
