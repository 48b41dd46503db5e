"""What measuring every node costs a build: under 2% of its CPU, where nodes are heavy and where they are light.

Told in two ways. *Counted*: a clock of CPU time stands around what measuring does in a build: all but the two
readings of the clock for each call of a node, in place of which its own, slower ones count. It and the build
feel a busy machine alike, so this judges the claim.
*Compared*: builds with measuring and without it alternate, and so does a second build without, which tells what
difference is noise; differences are those within a round. Figures are medians over rounds.

All jobs run in this one process, so that nothing is counted but the build: no worker is started, nothing waits.
Pictures spend their time in decoders; short texts hurry through many light nodes, which is the harder case.

    python bench/bench_measure.py [--out FILE] [--rounds N] [--rows N]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
from PIL import Image
from report import describe, tell

from taskloom.graph.measure import Measure
from taskloom.pipeline import Mixture, Task, build
from taskloom.pipeline.builder import building, partition
from taskloom.pipeline.builder.measuring import BuildMeasures, build_measures
from taskloom.pipeline.builder.scheduler import Count
from taskloom.pipeline.host import execute
from taskloom.pipeline.host.meter import Meter, Sums
from taskloom.pipeline.host.worker import resolve
from taskloom.pipeline.viewer.inspection import open_plan
from taskloom.storage.store import Store

CLAIM = 0.02
"""The share of a build's CPU that measuring may take."""


def make_pictures(folder: Path, num_rows: int) -> Mixture:
    """Return a task on PNG files of 96 x 96 pixels with something in them."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(num_rows):
        coarse = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(stream, "PNG")
        rows.append({"id": number, "image": stream.getvalue(), "label": str(number % 10)})
    instruction = "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"
    return _mix(folder / "pictures.parquet", rows, instruction)


def make_texts(folder: Path, num_rows: int) -> Mixture:
    """Return a task on short sentences: six columns, all of them cheap."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice([*"abcdefghij"], 5)) for _ in range(400)])
    drawn = words[rng.integers(0, len(words), (num_rows, 6))]
    rows = [
        {"id": number, "question": " ".join(each[:4]), "answer": " ".join(each[4:])}
        for number, each in enumerate(drawn.tolist())
    ]
    return _mix(folder / "texts.parquet", rows, "[TEXT:question] -> [TEXT:answer]", where="id >= 0")


def _mix(path: Path, rows: list[dict[str, Any]], instruction: str, **more: Any) -> Mixture:
    pa_parquet.write_table(pa.Table.from_pylist(rows), path)
    task = Task("bench", instruction, source=str(path), holdout=0.1, key="id", **more)
    return Mixture([task], slots={"IMAGE": {"size": 32, "patch": 8}}, bpe_size=512)


class InProcess:
    """A scheduler that runs one job after the other, here."""

    num_workers = 1

    def map(self, function: str, jobs: Iterable[Any], count: Count) -> Iterator[Any]:
        """Yield results in order."""
        for job in jobs:
            yield resolve(function)(job, lambda _: None)
            count(job.name, job.rows, 0)

    def fold(self, function: str, merge: str, jobs: Iterable[Any], count: Count) -> Any:
        """Merge all results at once."""
        return resolve(merge)(list(self.map(function, jobs, count)))


class Unmeasured:
    """A meter, and the measures of a build, that take no notice."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def reading(self, batches: Any) -> Any:
        """Return ``batches`` as they are."""
        return batches

    def writing(self, _: Any) -> Any:
        """Return a context that does nothing."""
        return nullcontext()

    def of(self, _: Any) -> Any:
        """Return sums that nobody reads."""
        return Sums()

    def measures(self) -> Mapping[Any, Any]:
        """Return zeros for every node that is asked for."""
        return defaultdict(Measure)

    def add(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    fitted = add


@contextmanager
def in_process(*_: Any) -> Generator[InProcess]:
    """Stand in for the machine that a build opens."""
    yield InProcess()


def time_build(mixture: Mixture, *, is_measured: bool) -> float:
    """Return the CPU-seconds of a build into a new store."""
    run: Callable[..., Any] = execute.Execution.run

    def run_only(self: Any, batch: Any, meter: Any = None) -> Any:
        del meter
        return run(self, batch)

    off: list[Any] = [
        patch.object(partition, "Meter", Unmeasured),
        patch.object(building, "BuildMeasures", Unmeasured),
        patch.object(execute.Execution, "run", run_only),
    ]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for each in [
            patch.object(building, "open_machine", in_process),
            *([] if is_measured else off),
        ]:
            stack.enter_context(each)
        start = time.process_time()
        build(mixture, folder, progress=False)
        return time.process_time() - start


def count_share(mixture: Mixture) -> float:
    """Return the share of a build's CPU-seconds that is spent measuring."""
    spent = 0.0

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal spent
            began = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent += time.process_time() - began

        return call

    parts = ((Meter, "add"), (Meter, "measures"), (BuildMeasures, "add"), (BuildMeasures, "write"))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(patch.object(building, "open_machine", in_process))
        for owner, name in parts:
            stack.enter_context(patch.object(owner, name, clocked(getattr(owner, name))))
        start = time.process_time()
        build(mixture, folder, progress=False)
        return spent / (time.process_time() - start)


def count_calls(mixture: Mixture) -> int:
    """Return how many calls of nodes a build measures."""
    with tempfile.TemporaryDirectory() as folder:
        build(mixture, folder, progress=False)
        store = Store.open(folder)
        measures = build_measures(open_plan(mixture, store).graph, store)
        return sum(measure.calls for measure in measures.values())


def compare(mixture: Mixture, num_rounds: int) -> dict[str, Any]:
    """Return the figures of one case."""
    contestants = {"off": False, "on": True, "off again": False}
    rounds: list[dict[str, float]] = []
    for number in range(num_rounds):
        names = [*contestants] if number % 2 else [*contestants][::-1]
        rounds.append({n: time_build(mixture, is_measured=contestants[n]) for n in names})
    counted = median(count_share(mixture) for _ in range(num_rounds))
    plain = [(each["off"] + each["off again"]) / 2 for each in rounds]
    added = [each["on"] - off for each, off in zip(rounds, plain, strict=True)]
    noise = [abs(each["off"] - each["off again"]) for each in rounds]
    return {
        "share of CPU, counted": round(counted, 4),
        "share of CPU, compared": round(median(added) / median(plain), 4),
        "share by which equal builds differ": round(median(noise) / median(plain), 4),
        "CPU-seconds without": round(median(plain), 3),
        "CPU-seconds with": round(median(each["on"] for each in rounds), 3),
        "calls of nodes": count_calls(mixture),
    }


def main() -> None:
    """Measure both cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time builds with measuring and without.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=60_000, help="of texts; pictures are 1 to 20")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        mixtures = {
            "pictures": make_pictures(Path(name), max(10, options.rows // 20)),
            "texts": make_texts(Path(name), options.rows),
        }
        cases = {case: compare(mixture, options.rounds) for case, mixture in mixtures.items()}
    result = {
        **describe("numpy", "pyarrow"),
        "rounds": options.rounds,
        "rows of texts": options.rows,
        "claim": f"measuring takes less than {CLAIM:.0%} of a build's CPU, as counted",
        "holds": all(each["share of CPU, counted"] < CLAIM for each in cases.values()),
        "cases": cases,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
