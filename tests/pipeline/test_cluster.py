"""A build on a cluster of real processes gives what a build on this machine gives."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import pytest
from dask import config

from taskloom.graph.errors import OpError
from taskloom.graph.graph import Graph
from taskloom.pipeline import Mixture, build
from taskloom.pipeline.builder.cluster import open_cluster
from taskloom.pipeline.builder.job import Job, JobFailure, only_partitions
from taskloom.storage.ledger import read_ledger
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from .rows import stamps, tree
from .workers import worker_pids

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


class Processes:
    """A scheduler and two workers that were started by hand, on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard")
        self.workers = [self.start_worker() for _ in range(2)]

    def connect(self, timeout_s: float = 30) -> Any:
        """Return a client, which looks that long for a scheduler that is gone."""
        return distributed.Client(scheduler_file=str(self._file), timeout=timeout_s)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start another worker; a nanny would start one in its place when it dies."""
        return self._start("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard")

    def end(self) -> None:
        """Kill whatever is left."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        words = [str(BIN / "dask"), *command, "--scheduler-file", str(self._file)]
        # A working directory each: that of the tests has folders that hide the packages of the same name.
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(words, cwd=self._folder, stdout=log, stderr=log)


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("processes"))
    yield started
    started.end()


def test_a_scheduler_and_workers_started_by_hand_give_the_same_bytes(
    processes: Processes, parts: Mixture, parts_tree: dict[str, bytes], tmp_path: Path
) -> None:
    with processes.connect() as client:
        client.wait_for_workers(2, timeout=60)
        build(parts, tmp_path, progress=False)  # the active client is used
        assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.transition_log))
    assert tree(tmp_path) == parts_tree


@pytest.mark.parametrize("seed", range(20))
def test_a_scheduler_that_is_killed_ends_the_build_and_loses_nothing_that_was_committed(
    seed: int, processes: Processes, parts: Mixture, parts_tree: dict[str, bytes], tmp_path: Path
) -> None:
    moment = random.Random(seed).uniform(0.0, 3.0)
    with (
        config.set({"distributed.comm.timeouts.connect": "2s"}),
        processes.connect(timeout_s=5) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        killer = threading.Timer(moment, processes.scheduler.kill)
        killer.start()
        try:
            build(parts, tmp_path, client=client, progress=False)
        except OpError as error:
            (problem,) = error.problems
            assert problem.code == "T0323"
            assert "build again" in problem.help
            processes.scheduler.wait()
        killer.cancel()
    processes.end()
    goes_on_as_if_nothing_had_happened(parts, tmp_path, parts_tree)


@pytest.mark.parametrize("seed", range(10))
def test_workers_that_are_killed_are_made_up_for_by_others(
    seed: int, processes: Processes, parts: Mixture, parts_tree: dict[str, bytes], tmp_path: Path
) -> None:
    moment = random.Random(seed)

    def kill() -> None:
        for worker in list(processes.workers):
            time.sleep(moment.uniform(0.0, 2.0))
            processes.workers.append(processes.start_worker())
            worker.kill()

    with processes.connect() as client:
        client.wait_for_workers(2, timeout=60)
        thread = threading.Thread(target=kill)
        thread.start()
        build(parts, tmp_path, client=client, progress=False)
        thread.join()
    goes_on_as_if_nothing_had_happened(parts, tmp_path, parts_tree)


def goes_on_as_if_nothing_had_happened(
    mixture: Mixture, path: Path, expected: dict[str, bytes]
) -> None:
    """Assert that the store at ``path`` is whole as far as it goes, and that a build makes it so altogether."""
    await_writers(path)
    committed = {n: s for n, s in stamps(path).items() if Path(n).match("[!.]*.receipt")}
    if (path / "store.json").exists():
        assert verify(Store.open(path)).problems == ()
    report = build(mixture, path, client=False, progress=False)
    assert report.cached == len(committed)
    assert committed.items() <= stamps(path).items()
    assert tree(path) == expected


def await_writers(path: Path) -> None:
    """Wait until nobody writes any more: processes of a worker that is killed end a moment after it."""
    until = time.monotonic() + 30
    while any(Path("/proc", name.name.split(".")[3]).exists() for name in path.rglob(".tmp.*")):
        assert time.monotonic() < until, "a writer outlives its worker"
        time.sleep(0.05)


def test_a_cluster_gives_the_same_bytes_and_keeps_no_processes(
    client: Any, parts: Mixture, parts_tree: dict[str, bytes], tmp_path: Path
) -> None:
    report = build(parts, tmp_path, client=client, progress=False)
    assert tree(tmp_path) == parts_tree
    assert report.rejects == read_ledger(Store.open(tmp_path)).num_rows == 1
    assert not any(worker_pids(pid) for pid in client.run(os.getpid).values())
    again = build(parts, tmp_path, client=client, progress=False)
    assert again.partitions == 0


def test_a_machine_that_is_lost_is_replaced_and_the_build_goes_on(
    client: Any, parts: Mixture, parts_tree: dict[str, bytes], tmp_path: Path
) -> None:
    pids = list(client.run(os.getpid).values())

    def lose_one() -> None:
        while not (tmp_path / "sources").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(pids[0], signal.SIGKILL)

    thread = threading.Thread(target=lose_one)
    thread.start()
    build(parts, tmp_path, client=client, progress=False)
    thread.join()
    assert tree(tmp_path) == parts_tree


def test_a_bad_row_ends_a_build_on_a_cluster_where_that_is_asked_for(
    client: Any, parts: Mixture, tmp_path: Path
) -> None:
    with pytest.raises(OpError, match=r"(?s)T0301.*digits.image/decode") as caught:
        build(parts, tmp_path, client=client, progress=False, on_error="raise")
    assert caught.value.problems[0].row.endswith(":5")


def test_a_job_that_kills_every_machine_it_runs_on_is_told_with_its_partition(
    client: Any, digits_dir: Path
) -> None:
    store = Store.open(digits_dir)
    record = store.source("digits")
    job = Job(
        name="digits",
        store=store,
        source=only_partitions(record, [0]),
        graph=Graph({}, {}),
        needs_process=False,
    )
    with open_cluster(client, 30.0) as cluster:
        (failure,) = cluster.map("worker_functions:die_here", [job], lambda *_: None)
        assert isinstance(failure, JobFailure)
        with pytest.raises(OpError, match=r"T0320.*4 workers of the cluster died"):
            list(
                cluster.map(
                    "worker_functions:die_here", [replace(job, raises=True)], lambda *_: None
                )
            )
    (problem,) = failure.error.problems
    assert (problem.code, problem.row) == ("T0320", f"digits/{record.partitions[0].id}")
