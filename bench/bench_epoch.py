"""Shuffled epochs of stored rows in padded batches: ours, a raw loop over arrays, and other libraries.

Claims, in rows per CPU-second of a process and its children: of texts at least half of the raw loop, twice
LitData, 7 times Hugging Face's map-style datasets and 30 times MosaicML Streaming; of images out of Zarr files
at least half of the raw loop, twice LitData and 3 times Grain; packed texts at least half of the raw loop, in
tokens; a background thread costs at most 1.15 times as much CPU as none; an epoch is begun anywhere within
0.05 s; ids take at most half of the disk of raw int32.

Every round runs all contestants after one another; medians are told. Peers run in environments of their own,
see `peers/README.md`, and those that are not there are left out.

    python bench/bench_epoch.py [--out FILE] [--rounds N] [--peers FOLDER] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from epoch_data import BATCH, NUM_ROWS, WARM_UP, cpu_seconds, make_arrays, time_epoch
from report import describe, tell

from taskloom.graph.type import Layout, Type
from taskloom.storage.capacity import Capacity
from taskloom.storage.column import open_writer
from taskloom.storage.loader import Loader, LoaderConfig, to_torch
from taskloom.storage.reader import ColumnReader, open_column
from taskloom.storage.row_batches import BatchConfig, RowBatches
from taskloom.storage.store import Store
from taskloom.storage.template import ConstPiece, IdsPiece, Lesson, Template

ROOT = Path(__file__).parents[1]
PARTITION_ROWS = 8192
PEERS = {
    "litdata": "peers",
    "datasets": "peers",
    "grain": "peers",
    "mosaicml-streaming": "mds",
}
"""The environment that each peer lives in."""
FLOORS = {
    "text": {"raw": 0.5, "litdata": 2.0, "datasets": 7.0, "mosaicml-streaming": 30.0},
    "images": {"raw": 0.5, "litdata": 2.0, "grain": 3.0},
}
IDS = Type("text", "uint16", ("T",), Layout.RAGGED)
PIXELS = Type("image", "uint8", (3, 128, 128), Layout.DENSE)
EPOCHS = {"text": 3, "images": 12}
PACK, TILE = 2048, 32
"""Source positions of a pack, and what documents are aligned to."""


def write_store(case: str, arrays: Mapping[str, Any], folder: Path) -> Store:
    """Write the columns of a case, as a build would."""
    store = Store.create(folder)
    for name, array in arrays.items():
        for begin in range(0, NUM_ROWS[case], PARTITION_ROWS):
            end = min(begin + PARTITION_ROWS, NUM_ROWS[case])
            if isinstance(array, tuple):
                values, offsets = array
                cut = pa.array((offsets[begin : end + 1] - offsets[begin]).astype(np.int32))
                ids = pa.array(values[offsets[begin] : offsets[end]].astype(np.uint16))
                rows: Any = pa.ListArray.from_arrays(cut, ids)
            else:
                rows = pa.FixedShapeTensorArray.from_numpy_ndarray(array[begin:end])
            type_ = IDS if isinstance(array, tuple) else PIXELS
            with open_writer(store, case, name, f"part-{begin:08}", type_) as writer:
                writer.write(rows)
                writer.commit()
    return store


def open_case(store: Store, case: str, arrays: Mapping[str, Any]) -> dict[str, ColumnReader]:
    names = [f"part-{begin:08}" for begin in range(0, NUM_ROWS[case], PARTITION_ROWS)]
    return {name: open_column(store, case, name, names) for name in arrays}


def read_ours(batches: RowBatches, numbers: range) -> Iterator[dict[str, torch.Tensor]]:
    for number in numbers:
        for batch in batches.epoch(number):
            yield {name: torch.from_numpy(values) for name, values in batch.items()}


def read_raw(arrays: Mapping[str, Any], numbers: range) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches gathered from arrays in memory, one vectorised gather for each column of a batch."""
    rng = np.random.default_rng(0)
    for _ in numbers:
        num_rows = len(arrays["ids"][1]) - 1
        order = rng.permutation(num_rows)
        for begin in range(0, num_rows, BATCH):
            yield gather_raw(arrays, order[begin : begin + BATCH])


def gather_raw(arrays: Mapping[str, Any], rows: np.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
    batch: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        if not isinstance(array, tuple):
            batch[name] = torch.from_numpy(array[rows])
            continue
        values, offsets = array
        begins = offsets[rows]
        lengths = offsets[rows + 1] - begins
        places = np.arange(lengths.max())
        inside = places < lengths[:, None]
        padded = np.zeros(inside.shape, np.int32)
        padded[inside] = values[(begins[:, None] + places)[inside]]
        batch[name] = torch.from_numpy(padded)
        batch[f"{name}_lengths"] = torch.from_numpy(lengths)
    return batch


class Case:
    """The rows of one kind in every contestant's form."""

    def __init__(self, case: str, data: Path, environments: Path) -> None:
        self.case, self.data = case, data
        self.arrays = make_arrays(case)
        folder = data / f"taskloom-{case}"
        is_made = (folder / "store.json").exists()
        self.store = Store.open(folder) if is_made else write_store(case, self.arrays, folder)
        self.pythons = {
            peer: python
            for peer, name in PEERS.items()
            if (python := environments / name / "bin" / "python").exists()
        }
        for peer in self.pythons:
            if not (data / f"{peer}-{case}").exists():
                self.run_peer(peer, "write")

    def run_peer(self, peer: str, what: str) -> str:
        script = ROOT / "bench" / "peers" / "epoch.py"
        command = [str(self.pythons[peer]), str(script), peer, what, self.case]
        done = subprocess.run(
            [*command, str(self.data / f"{peer}-{self.case}")],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def batches(self, **settings: Any) -> RowBatches:
        columns = open_case(self.store, self.case, self.arrays)
        rows = np.arange(NUM_ROWS[self.case])
        return RowBatches(columns, rows, BatchConfig(batch_size=BATCH, **settings))

    def round(self, number: int) -> dict[str, dict[str, Any]]:
        """Run every contestant once."""
        count = EPOCHS[self.case]
        numbers = range(number * count, (number + 1) * count)
        told: dict[str, dict[str, Any]] = {
            "raw": time_epoch(read_raw(self.arrays, numbers)),
            "ours": time_epoch(read_ours(self.batches(), numbers)),
            "ours, thread": time_epoch(read_ours(self.batches(prefetch=2), numbers)),
        }
        if self.case == "text":
            told["packed"] = self.time_packs()
        for peer in self.pythons:
            told[peer] = json.loads(self.run_peer(peer, "read").splitlines()[-1])
        return told

    def time_packs(self) -> dict[str, float]:
        """Return the rows of an epoch in packs of 2,048 source positions, and what they took."""
        columns = open_case(self.store, self.case, self.arrays)
        lengths = {name: column.lengths.mean() for name, column in columns.items()}
        template = Template(
            task="text",
            source_name="text",
            source=(IdsPiece(column="ids", offset=0),),
            target=(
                ConstPiece(ids=(1,)),
                IdsPiece(column="target", offset=0, lesson=Lesson(0)),
            ),
        )
        target = round(PACK * lengths["target"] / lengths["ids"] * 1.1 / TILE) * TILE
        loader = Loader(
            [template],
            {"text": np.arange(NUM_ROWS["text"])},
            {("text", name): column for name, column in columns.items()},
            LoaderConfig(capacity=Capacity(source=PACK, target=target, tile=TILE), prefetch=0),
            plan_digest="bench",
        )
        steps = iter(loader)
        for _ in range(WARM_UP):
            next(steps)
        cpu, wall, rows = cpu_seconds(), time.perf_counter(), 0
        while rows < NUM_ROWS["text"]:
            (pack,) = next(steps)
            to_torch(pack)
            rows += len(pack.rows)
        seconds = {"cpu_s": cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
        return {"rows": rows, **seconds}

    def resume(self) -> float:
        """Return the most seconds of wall time from nothing open to a batch somewhere in an epoch."""
        seconds: list[float] = []
        last = NUM_ROWS[self.case] // BATCH - 1
        for start in (0, last // 2, last):
            each: list[float] = []
            for _ in range(5):
                began = time.perf_counter()
                next(self.batches().epoch(7, start=start))
                each.append(time.perf_counter() - began)
            seconds.append(min(each))
        return max(seconds)

    def disk(self) -> float:
        """Return the bytes of the store over those of the same values as raw int32, or bytes of pixels."""
        raw = sum(
            array[0].nbytes if isinstance(array, tuple) else array.nbytes
            for array in self.arrays.values()
        )
        stored = sum(path.stat().st_size for path in self.store.path.rglob("*") if path.is_file())
        return stored / raw


def measure(case: Case, num_rounds: int) -> dict[str, Any]:
    """Return the figures of a case, and whether what is claimed of it holds."""
    rounds = [case.round(number) for number in range(num_rounds)]
    rates = {
        name: median(one[name]["rows"] / one[name]["cpu_s"] for one in rounds) for name in rounds[0]
    }
    walls = {
        name: max(one[name]["rows"] / one[name]["wall_s"] for one in rounds) for name in rounds[0]
    }
    ratios = {name: round(rates["ours"] / rate, 2) for name, rate in rates.items()}
    floors = {name: floor for name, floor in FLOORS[case.case].items() if name in ratios}
    return {
        "rows per CPU-second": {name: round(rate) for name, rate in rates.items()},
        "rows per second of wall, best": {name: round(rate) for name, rate in walls.items()},
        "ours over": ratios,
        "packed over raw, in tokens": (
            round(rates["packed"] / rates["raw"], 3) if "packed" in rates else None
        ),
        "thread, CPU over none": round(
            median(one["ours, thread"]["cpu_s"] / one["ours"]["cpu_s"] for one in rounds),
            2,
        ),
        "resume, s": round(case.resume(), 4),
        "disk over raw": round(case.disk(), 3),
        "versions": {name: rounds[0][name]["version"] for name in case.pythons},
        "missed": [name for name, floor in floors.items() if ratios[name] < floor],
    }


def main() -> None:
    """Measure both cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time shuffled epochs.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=ROOT / "build", help="where peers are")
    parser.add_argument("--data", type=Path, help="keep what is written here, for other runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path(temporary)
        cases = {
            name: measure(Case(name, data, options.peers), options.rounds) for name in NUM_ROWS
        }
    result = {
        **describe("numpy", "pyarrow", "torch"),
        "rounds": options.rounds,
        "cases": cases,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
