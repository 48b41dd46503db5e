"""A program that builds a store, to be killed by tests.

python killing.py build STORE           build everything
python killing.py kill FOLDER SEED …    build into FOLDER/SEED, and kill that build when SEED says
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.pipeline import Mixture, Source, Task, build

NUM_PARTITIONS = 4
ROWS_PER_PARTITION = 150


def make_mixture(folder: Path) -> Mixture:
    """Return a mixture of pictures and words; the rows are written to ``folder`` unless they are there."""
    files = [folder / f"{part}.jsonl" for part in range(NUM_PARTITIONS)]
    for part, path in enumerate(files):
        if not path.exists():
            path.write_text(
                "".join(json.dumps(_row(part, i)) + "\n" for i in range(ROWS_PER_PARTITION))
            )
    task = Task(
        "pictures",
        "[IMAGE:image,size=32] [TEXT:note] -> [TEXT:label,closed_set]",
        source=Source("pictures", [str(path) for path in files]),
        holdout=0.2,
        key="id",
    )
    return Mixture([task], bpe_size=300)


def _row(part: int, number: int) -> dict[str, Any]:
    identity = part * ROWS_PER_PARTITION + number
    # A BMP file is a header and the pixels: nothing to compress.
    header = b"BM" + (54 + 192).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + (8).to_bytes(4, "little") * 2
    header += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    pixels = np.random.default_rng(identity).integers(0, 256, 192, np.uint8).tobytes()
    image = base64.b64encode(header + pixels).decode() if number % 50 != 7 else "no image"
    return {
        "id": identity,
        "image": image,
        "note": f"number {identity % 9}",
        "label": str(identity % 3),
    }


def kill_at_some_moment(folder: Path, seed: int, num_files: int) -> None:
    """Build in a child process, and kill it when it has written some of its files."""
    store = folder / str(seed)
    child = os.fork()
    if not child:
        build(make_mixture(folder), store, workers=2, progress=False)
        os._exit(0)
    moment = random.Random(seed)
    wanted = moment.randrange(num_files)
    while count_files(store) < wanted and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.001)
    time.sleep(moment.uniform(0.0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def count_files(folder: Path) -> int:
    """Return how many files there are below ``folder``, whole or not."""
    return sum(len(names) for _, _, names in os.walk(folder))


def main(mode: str, path: str, *seeds: str) -> None:
    """Do what the module's first lines say."""
    if mode == "build":
        print("begin", flush=True)  # noqa: T201 - the test waits for it
        build(make_mixture(Path(path).parent), path, workers=2)
        return
    folder = Path(path)
    build(make_mixture(folder), folder / "whole", workers=2, progress=False)
    for seed in seeds:
        kill_at_some_moment(folder, int(seed), count_files(folder / "whole"))


if __name__ == "__main__":
    main(*sys.argv[1:])
