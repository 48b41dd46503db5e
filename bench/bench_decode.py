"""Stored pixels against JPEG files that every epoch decodes: what each takes, and when storing pays.

Pictures are crops of two photographs, 256 px wide, as JPEG files of quality 90; a model reads 128 px. Online,
every epoch decodes and resizes them, in one thread or in two (the decoder lets other threads run); stored,
they are decoded once and every epoch gathers their pixels. No claim: both ways have their place.

    python bench/bench_decode.py [--out FILE] [--pictures N] [--rounds N]
"""

from __future__ import annotations

import argparse
import io
import math
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from epoch_data import BATCH, cpu_seconds
from PIL import Image
from report import describe, tell
from sklearn.datasets import load_sample_images

from taskloom.graph.type import Layout, Type
from taskloom.storage.column import open_writer
from taskloom.storage.reader import open_column
from taskloom.storage.row_batches import BatchConfig, RowBatches
from taskloom.storage.store import Store

SIZE, STORED_SIZE = 256, 128
PIXELS = Type("image", "uint8", (STORED_SIZE, STORED_SIZE, 3), Layout.DENSE)


def make_files(num_pictures: int) -> list[bytes]:
    """Return JPEG files of crops of real photographs."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    files: list[bytes] = []
    for number in range(num_pictures):
        photograph = photographs[number % len(photographs)]
        side = int(rng.integers(200, 400))
        left = int(rng.integers(0, photograph.width - side))
        top = int(rng.integers(0, photograph.height - side))
        crop = photograph.crop((left, top, left + side, top + side)).resize((SIZE, SIZE))
        stream = io.BytesIO()
        crop.save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def decode(file: bytes) -> np.ndarray[Any, Any]:
    """Return the pixels that a model reads; the decoder itself halves them, which is the fastest way."""
    with Image.open(io.BytesIO(file)) as image:
        image.draft("RGB", (STORED_SIZE, STORED_SIZE))
        return np.asarray(image.convert("RGB").resize((STORED_SIZE, STORED_SIZE)))


def write_store(files: list[bytes], folder: Path) -> RowBatches:
    """Decode every picture once, and return batches of what was stored."""
    store = Store.create(folder)
    with open_writer(store, "pictures", "image", "part", PIXELS) as writer:
        for first in range(0, len(files), 256):
            pixels = np.stack([decode(file) for file in files[first : first + 256]])
            writer.write(pa.FixedShapeTensorArray.from_numpy_ndarray(pixels))
        writer.commit()
    column = open_column(store, "pictures", "image", ["part"])
    return RowBatches({"image": column}, np.arange(len(files)), BatchConfig(batch_size=BATCH))


def read_online(files: list[bytes], epoch: int, threads: int) -> Iterator[np.ndarray[Any, Any]]:
    order = np.random.default_rng(epoch).permutation(len(files)).tolist()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(order), BATCH):
            some = [files[number] for number in order[first : first + BATCH]]
            yield np.stack(list(pool.map(decode, some) if threads > 1 else map(decode, some)))


def read_stored(batches: RowBatches, epoch: int) -> Iterator[np.ndarray[Any, Any]]:
    return (batch["image"] for batch in batches.epoch(epoch))


def spend(images: Iterator[np.ndarray[Any, Any]]) -> tuple[float, float]:
    """Return the CPU-seconds and the wall seconds of an epoch."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    for _ in images:
        pass
    return cpu_seconds() - cpu, time.perf_counter() - wall


def measure(files: list[bytes], folder: Path, num_rounds: int) -> dict[str, Any]:
    """Return what epochs take either way, and after how many of them storing has paid."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    batches = write_store(files, folder)
    built = cpu_seconds() - cpu, time.perf_counter() - wall
    rounds = [
        {
            "online, 1 thread": spend(read_online(files, number, 1)),
            "online, 2 threads": spend(read_online(files, number, 2)),
            "stored": spend(read_stored(batches, number)),
        }
        for number in range(num_rounds)
    ]
    spent = {
        name: tuple(median(one[name][which] for one in rounds) for which in (0, 1))
        for name in rounds[0]
    }
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    online, gathered = spent["online, 1 thread"], spent["stored"]
    return {
        "pictures per CPU-second": {n: round(len(files) / cpu) for n, (cpu, _) in spent.items()},
        "pictures per second of wall": {n: round(len(files) / s) for n, (_, s) in spent.items()},
        "building once, CPU-s": round(built[0], 2),
        "stored over online, CPU": round(online[0] / gathered[0], 1),
        "epochs until storing has paid, CPU": math.ceil(built[0] / (online[0] - gathered[0])),
        "disk, bytes a picture": {
            "JPEG": round(sum(map(len, files)) / len(files)),
            "stored": round(stored / len(files)),
        },
    }


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time stored pixels against decoding online.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(make_files(options.pictures), Path(temporary) / "store", options.rounds)
    result = {
        **describe("numpy", "pillow"),
        "pictures": options.pictures,
        "rounds": options.rounds,
        **figures,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
