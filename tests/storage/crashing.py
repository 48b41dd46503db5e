"""A program that writes a store, to be killed by tests.

python crashing.py once STORE             write everything
python crashing.py forever STORE          write everything, again and again into what is there
python crashing.py at-each-step FOLDER    in FOLDER/1, FOLDER/2, … die before the first, second, … step on files
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa

from taskloom.graph.errors import Problem
from taskloom.graph.type import Layout, Type
from taskloom.storage.column import open_writer
from taskloom.storage.ledger import LedgerEntry
from taskloom.storage.source import register_source
from taskloom.storage.store import Store

KEYS = ("ids", "images")
ROWS = [{"a": i, "b": "x" * i} for i in range(20)]
STEPS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"})


def write_everything(store: Store) -> None:
    """Write what `store` lacks: captured rows, an artifact, and two columns of two partitions."""
    register_source(store, "s", ROWS, partition_rows=8)
    store.pin("bpe", "bpe", b"merges")
    types = {
        "ids": Type("text", "uint16", ("T",), Layout.RAGGED),
        "images": Type("image", "uint8", (4, 4), Layout.DENSE),
    }
    for number, key in enumerate(KEYS):
        for partition in store.missing("s", key, ["p0", "p1"]):
            rng = np.random.default_rng(number)
            with open_writer(store, "s", key, partition, types[key]) as writer:
                for _ in range(3):
                    pixels = rng.integers(0, 255, (50, 4, 4), np.uint8)
                    images = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
                    ids = pa.array([[int(p[0, 0])] * 9 for p in pixels], pa.list_(pa.uint16()))
                    writer.write(ids if key == "ids" else images)
                problem = Problem("T0301", "no image")
                writer.commit([LedgerEntry(offset=1, node="n", problem=problem)])


def die_at(step: int) -> None:
    """Kill this process before its ``step``-th step on files."""
    steps = count(1)

    def watch(event: str, _: object) -> None:
        if event in STEPS and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main(mode: str, path: Path) -> None:
    """Do what the module's first lines say."""
    if mode == "once":
        write_everything(Store.create(path))
    elif mode == "forever":
        print("begin", flush=True)  # noqa: T201 - the test waits for it
        store = Store.open(path)
        while True:
            write_everything(store)
            for receipt in (path / "columns").rglob("*.receipt"):
                receipt.unlink()
    else:
        print(die_at_each_step(path))  # noqa: T201 - the answer


def die_at_each_step(folder: Path) -> int:
    """Let children die at every step on files there is; return how many did."""
    write_everything(
        Store.create(folder / "whole")
    )  # what is imported late takes steps on files, too
    for step in count(1):
        store = Store.create(folder / str(step))
        child = os.fork()
        if not child:
            die_at(step)
            write_everything(store)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return step - 1
    raise AssertionError("unreachable")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
