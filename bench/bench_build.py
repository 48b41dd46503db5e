"""What a build costs beyond the work itself, and what one costs that has nothing to do.

Claims: building two text columns takes at most 1.08 times the CPU of a bare loop that reads the same rows,
encodes them with the same tokenizer and writes the ids, above 60 CPU-seconds of it; a rebuild of 16 partitions
takes at most 0.2 s, the start of the process apart, of 20 the fastest. Instructions are told where they can be
counted: on a machine that others use, they say what seconds cannot.

    python bench/bench_build.py [--out FILE] [--texts N] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
from epoch_data import cpu_seconds
from instructions import open_instructions
from report import describe, tell
from tokenizers import Tokenizer

from taskloom.pipeline import Mixture, Source, Task, build, fit
from taskloom.storage.store import Store

NUM_FILES = 16
BATCH_ROWS = 1024
WORDS_PER_TEXT = 55
PROJECT = """
store: store-0
out: run
sources: {texts: "*.parquet"}
tasks:
  echo:
    instruction: "say [TEXT:text] -> [TEXT:label,closed_set]"
    source: texts
    holdout: 0.1
    key: id
text: {bpe_size: 8000}
"""


def write_texts(folder: Path, num_texts: int) -> None:
    """Write texts of about 310 characters, whose words are as common as words are."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfw"))
    words = np.array(["".join(rng.choice(letters, n)) for n in rng.integers(1, 10, 20_000)])
    per_file = -(-num_texts // NUM_FILES)
    for number in range(NUM_FILES):
        first = number * per_file
        picked = (rng.zipf(1.3, (per_file, WORDS_PER_TEXT)) - 1) % len(words)
        table = {
            "id": np.arange(first, first + per_file),
            "text": [" ".join(line) for line in words[picked]],
            "label": [str(n % 7) for n in range(per_file)],
        }
        pa_parquet.write_table(pa.table(table), folder / f"{number:02}.parquet")


def make_mixture(folder: Path) -> Mixture:
    source = Source("texts", str(folder / "*.parquet"))
    instruction = "say [TEXT:text] -> [TEXT:label,closed_set]"
    task = Task("echo", instruction, source=source, holdout=0.1, key="id")
    return Mixture([task], bpe_size=8000)


def loop_bare(folder: Path, tokenizer: Tokenizer) -> None:
    """Read, encode and write, with nothing around it: no tidying, bad rows, checksums or lengths."""
    schema = pa.schema([(name, pa.list_(pa.uint16())) for name in ("text", "label")])
    for path in sorted(folder.glob("*.parquet")):
        with (
            pa.OSFile(str(path.with_suffix(".ids")), "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            batches = pa_parquet.ParquetFile(path).iter_batches(BATCH_ROWS, columns=schema.names)
            for batch in batches:
                lists = [encode_bare(column, tokenizer) for column in batch.columns]
                writer.write_batch(pa.RecordBatch.from_arrays(lists, schema=schema))


def encode_bare(texts: pa.Array, tokenizer: Tokenizer) -> pa.Array:
    rows = [one.ids for one in tokenizer.encode_batch_fast(texts.to_pylist())]
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    ids = np.fromiter(chain.from_iterable(rows), np.uint16, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))


def spend(work: Callable[[], object], count: Callable[[], int] | None) -> tuple[float, float]:
    """Return the CPU-seconds and 10**9 instructions of ``work`` and the processes that it started."""
    clocks = (cpu_seconds, count or (lambda: 0))
    before = [clock() for clock in clocks]
    work()
    seconds, instructions = (clock() - was for clock, was in zip(clocks, before, strict=True))
    return seconds, instructions / 1e9


def measure_overhead(folder: Path, num_rounds: int) -> dict[str, Any]:
    """Return what builds and bare loops cost, interleaved."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    count = open_instructions()
    mixture = make_mixture(folder)
    loops: list[tuple[float, float]] = []
    builds: list[tuple[float, float]] = []
    for number in range(num_rounds):
        path = folder / f"store-{number}"
        fit(mixture, path, progress=False)
        store = Store.open(path)
        content = store.artifact_content(store.artifacts()["bpe-main"].digest)
        tokenizer = Tokenizer.from_str(content.decode())
        loops.append(spend(partial(loop_bare, folder, tokenizer), count))
        builds.append(spend(partial(build, mixture, path, progress=False), count))
    told: dict[str, Any] = {}
    for place, unit in enumerate(["CPU-s", "10^9 instructions"][: 2 if count else 1]):
        pairs = [(one[place], other[place]) for one, other in zip(loops, builds, strict=True)]
        told |= {
            f"bare loop, {unit}": round(median(loop for loop, _ in pairs), 2),
            f"build, {unit}": round(median(built for _, built in pairs), 2),
            f"build over loop, {unit}": round(median(built / loop for loop, built in pairs), 3),
        }
    return told


def measure_nothing(folder: Path, num_rounds: int) -> dict[str, Any]:
    """Return the seconds of builds that have nothing to do: called, and as a command beside bare imports."""
    (folder / "project.yaml").write_text(PROJECT)
    calls: list[float] = []
    mixture = make_mixture(folder)
    for _ in range(20):
        began = time.perf_counter()
        report = build(mixture, folder / "store-0", progress=False)
        calls.append(time.perf_counter() - began)
        assert not report.partitions
    command = [sys.executable, "-c", "from taskloom.pipeline.cli import main; main()"]
    verb = [*command, "build", "project.yaml"]
    start = "import taskloom.pipeline.cli, taskloom.pipeline.config.project, taskloom.pipeline.builder.building"
    subprocess.run(verb, cwd=folder, check=True, capture_output=True)
    told = {"command": verb, "imports": [sys.executable, "-c", start]}
    seconds: dict[str, list[float]] = {name: [] for name in told}
    for _ in range(num_rounds):
        for name, words in told.items():
            began = time.perf_counter()
            subprocess.run(words, cwd=folder, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - began)
    fastest = {name: min(values) for name, values in seconds.items()}
    return {
        "call, s": round(min(calls), 3),
        "command, s": round(fastest["command"], 3),
        "imports, s": round(fastest["imports"], 3),
        "command beyond its imports, s": round(fastest["command"] - fastest["imports"], 3),
    }


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time builds against the work they do.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--texts", type=int, default=320_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=20, help="processes to start")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_texts(folder, options.texts)
        result = {
            **describe("pyarrow", "tokenizers", "dask"),
            "texts": options.texts,
            "overhead": measure_overhead(folder, options.rounds),
            "nothing to do, 16 partitions": measure_nothing(folder, options.starts),
            "peak of a worker, MB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000,
        }
    tell(result, options.out)


if __name__ == "__main__":
    main()
