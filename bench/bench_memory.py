"""An epoch over a store larger than memory, with and without reading ahead.

The reader runs in a control group whose memory is limited to a quarter of the store, page cache included, and
begins with nothing of the store in the cache. Claim: an epoch whose rows are shuffled in windows of partitions,
read ahead, ends, and gives rows at least twice as fast as one whose rows come from everywhere; of the latter
only a tenth is read.

Needs root, and a memory controller of either version of control groups.

    python bench/bench_memory.py [--out FILE] [--rows N] [--rounds N] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from report import describe, tell

from taskloom.graph.type import Layout, Type
from taskloom.storage.column import open_writer
from taskloom.storage.reader import open_column
from taskloom.storage.row_batches import BatchConfig, RowBatches
from taskloom.storage.store import Store

PIXELS = Type("image", "uint8", (3, 128, 128), Layout.DENSE)
ROW_BYTES = 3 * 128 * 128
PARTITION_ROWS = 500
LIMIT_SHARE = 4
"""The store is so many times as large as the limit."""
CONTROLLERS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}


def write_store(folder: Path, num_rows: int) -> None:
    store = Store.create(folder)
    rng = np.random.default_rng(0)
    for first in range(0, num_rows, PARTITION_ROWS):
        pixels = rng.integers(0, 256, (PARTITION_ROWS, 3, 128, 128), dtype=np.uint8)
        with open_writer(store, "images", "image", f"part-{first:08}", PIXELS) as writer:
            writer.write(pa.FixedShapeTensorArray.from_numpy_ndarray(pixels))
            writer.commit()


def forget(folder: Path) -> None:
    """Let the page cache drop every file below ``folder``."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_epoch(folder: Path, num_rows: int, window_rows: int | None) -> dict[str, float]:
    """Read one epoch, or a tenth of it without windows, and say what it took."""
    names = [f"part-{first:08}" for first in range(0, num_rows, PARTITION_ROWS)]
    column = open_column(Store.open(folder), "images", "image", names)
    config = BatchConfig(window_rows=window_rows, prefetch=2)
    batches = RowBatches({"image": column}, np.arange(num_rows), config)
    wanted = num_rows if window_rows else num_rows // 10
    start, seen, total = time.perf_counter(), 0, 0
    for batch in batches.epoch():
        seen += len(batch["image"])
        total += int(batch["image"][:, 0, 0, 0].sum())  # as if somebody used them
        if seen >= wanted:
            break
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": seen,
        "rows per second": seen / wall,
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime,
        "major faults": used.ru_majflt,
    }


def run_limited(folder: Path, num_rows: int, window_rows: int | None) -> dict[str, float]:
    """Read an epoch in a process whose memory is limited, with a cold cache."""
    root, name = next(
        (r, n) for r, n in CONTROLLERS.items() if r.is_dir() and (r / "cgroup.procs").exists()
    )
    group = root / f"taskloom-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / name).write_text(str(num_rows * ROW_BYTES // LIMIT_SHARE))
        forget(folder)
        # The shell joins the group and becomes the reader.
        script = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        reader = [sys.executable, __file__, "--read", str(folder), "--rows", str(num_rows)]
        window = ["--window", str(window_rows)] if window_rows else []
        done = subprocess.run(
            ["sh", "-c", script, "sh", *reader, *window],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"the reader ended with {done.returncode}: {done.stderr[-500:]}")
        return json.loads(done.stdout)
    finally:
        group.rmdir()


def measure(folder: Path, num_rows: int, num_rounds: int) -> dict[str, Any]:
    """Return the figures of an epoch in either order."""
    window = num_rows // LIMIT_SHARE // 4
    orders: dict[str, int | None] = {"windows, read ahead": window, "rows from everywhere": None}
    rounds = [
        {n: run_limited(folder, num_rows, w) for n, w in orders.items()} for _ in range(num_rounds)
    ]
    told: dict[str, Any] = {
        name: {
            fact: round(median(one[name][fact] for one in rounds), 3) for fact in rounds[0][name]
        }
        for name in orders
    }
    windowed, scattered = (told[name]["rows per second"] for name in orders)
    return {
        "store, MB": round(num_rows * ROW_BYTES / 1e6),
        "limit, MB": round(num_rows * ROW_BYTES / LIMIT_SHARE / 1e6),
        "window, rows": window,
        "orders": told,
        "windows over everywhere, rows per second": round(windowed / scattered, 1),
    }


def main() -> None:
    """Measure, or be the reader that is measured."""
    parser = argparse.ArgumentParser(description="Time epochs over a store larger than memory.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="keep the store here, for other runs")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--window", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read_epoch(options.read, options.rows, options.window)))
        return
    folder = options.data or Path(tempfile.mkdtemp())
    try:
        if not (folder / "store.json").exists():
            write_store(folder, options.rows)
        result = {
            **describe("numpy"),
            "rounds": options.rounds,
            **measure(folder, options.rows, options.rounds),
        }
    finally:
        if options.data is None:
            shutil.rmtree(folder)
    tell(result, options.out)


if __name__ == "__main__":
    main()
