"""What fifty thousand partitions cost beside the work itself: memory and time of whoever started the build.

The source is real: as many JSON lines files of one row. Files are looked at, fits learn from all of them, and
jobs are planned, made, sent, run and added up as in any build; only that a job writes nothing, so that neither
disk nor ops are measured. Locally jobs run on Dask's threads, on a cluster in two processes. Memory is the peak
of the client's process, less what it had before the build. The scheduler's tasks are counted every thousand
results.

    python bench/bench_scale.py [--out FILE] [--partitions N [N ...]] [--where local | cluster]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from report import describe, tell

from taskloom.graph.measure import Measure
from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.pipeline.builder import building, fitting
from taskloom.pipeline.builder.job import Job
from taskloom.pipeline.builder.partition import JobReport, Progress

CLAIM_BYTES = 15_000
"""Most bytes that a partition of three columns may take in the memory of the client."""

CLAIM_TASKS = 100
"""Most tasks that the scheduler of two workers may hold at a time."""


def build_nothing(job: Job, report: Any) -> JobReport:
    """Report what a build of the job's partition would, and write nothing."""
    report(Progress(job.rows, 0))
    return JobReport(
        name=job.name,
        source=job.source.name,
        partition=job.partition,
        receipts=(),
        rows=job.rows,
        bad=np.zeros(0, np.uint32),
        first=(),
        measures={node.id: Measure(calls=1, rows_in=1, rows_out=1) for node in job.graph},
    )


def write_files(folder: Path, number: int) -> list[str]:
    """Write files of one row each; return their paths."""
    folder.mkdir()
    paths = [folder / f"{i:06}.jsonl" for i in range(number)]
    for i, path in enumerate(paths):
        path.write_text(f'{{"id": {i}, "note": "number {i % 97}", "label": "{i % 3}"}}\n')
    return [str(path) for path in paths]


def peak_bytes() -> int:
    """Return the most memory that this process has taken so far."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def measure(number: int, where: str) -> dict[str, Any]:
    """Return the figures of one build, in this process."""
    times: dict[str, float] = {}
    most_tasks = 0

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                times[name] = times.get(name, 0.0) + time.perf_counter() - began

        return call

    with tempfile.TemporaryDirectory() as name:
        source = Source("words", write_files(Path(name) / "rows", number))
        task = Task("words", "say [TEXT:note] -> [TEXT:label]", source=source)
        client: Any = False
        cluster: Any = None
        if where == "cluster":
            distributed: Any = importlib.import_module("distributed")  # it is an extra
            cluster = distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None
            )
            client = distributed.Client(cluster)
        count = building.Tally.add

        def count_tasks(tally: Any, report: Any) -> None:
            nonlocal most_tasks
            count(tally, report)
            if client and tally._jobs % 1000 == 1:  # noqa: SLF001
                tasks = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                most_tasks = max(most_tasks, tasks)

        before = peak_bytes()
        with (
            patch.object(building, "BUILD_PARTITION", "bench_scale:build_nothing"),
            patch.object(building.Build, "count_rows", lambda *_: {}),
            patch.object(building.Tally, "add", count_tasks),
            patch.object(building, "register_source", timed("files", building.register_source)),
            patch.object(building, "fit_artifacts", timed("fits", fitting.fit_artifacts)),
            patch.object(building, "find_missing", timed("listing", building.find_missing)),
        ):
            began = time.perf_counter()
            report = build(Mixture([task], bpe_size=300), Path(name) / "store", client=client)
            seconds = time.perf_counter() - began
        taken = peak_bytes() - before
        if client:
            client.close()
            cluster.close()
    times["jobs"] = seconds - sum(times.values())
    return {
        "partitions": number,
        "jobs": report.partitions,
        "where": where,
        "seconds": {name: round(each, 2) for name, each in times.items()},
        "client MB": round(taken / 1e6, 1),
        "client bytes a partition": round(taken / number),
        **({"most tasks of the scheduler": most_tasks} if client else {}),
    }


def main() -> None:
    """Measure every size in a process of its own and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Build a great many tiny partitions.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--partitions", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--where", nargs="+", default=["local", "cluster"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), options.one[1])))
        return
    cases: list[dict[str, Any]] = []
    for number in options.partitions:
        for where in options.where:
            command = [sys.executable, __file__, "--one", str(number), where]
            path = os.pathsep.join(
                filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
            )
            done = subprocess.run(
                command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
            )
            cases.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(cases[-1]), file=sys.stderr)
    result = {
        **describe("dask"),
        "claim": f"a partition takes less than {CLAIM_BYTES:,} bytes of the client and the scheduler never "
        f"holds more than {CLAIM_TASKS} tasks",
        "holds": all(
            each["client bytes a partition"] < CLAIM_BYTES
            and each.get("most tasks of the scheduler", 0) <= CLAIM_TASKS
            for each in cases
        ),
        "cases": cases,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
