"""Worker processes of a build may die or hang: it goes on, or says at which partition and node it could not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from taskloom.graph.errors import (
    OpError,
    StoreError,
    TaskloomError,
)
from taskloom.graph.graph import Graph
from taskloom.graph.node import Value
from taskloom.pipeline import plan
from taskloom.pipeline.builder.job import Job, only_partitions
from taskloom.pipeline.host.pool import WorkerDiedError
from taskloom.storage.store import Store

from .rows import (
    digits_mixture,
    run,
    spoiled,
    tree,
)
from .workers import worker_pids


def end_workers(stop: threading.Event, how: signal.Signals) -> threading.Thread:
    """Send a signal to every worker process of this one, again and again, until ``stop`` is set."""

    def work() -> None:
        while not stop.is_set():
            for pid in worker_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("how", "code", "told"),
    [
        pytest.param(signal.SIGKILL, "T0320", "signal 9", id="dies"),
        pytest.param(signal.SIGSTOP, "T0321", "for 1 s", id="hangs"),
    ],
)
def test_a_decoder_that_dies_or_hangs_is_told_with_its_partition_and_node(
    how: signal.Signals, code: str, told: str, tmp_path: Path, digits_dir: Path
) -> None:
    mixture = digits_mixture()
    fitted = Store.create(tmp_path)
    for name, artifact in Store.open(digits_dir).artifacts().items():
        content = Store.open(digits_dir).artifact_content(artifact.digest)
        fitted.pin(name, artifact.kind, content, artifact.made_by)
    stop = threading.Event()
    thread = end_workers(stop, how)
    try:
        with pytest.raises(OpError) as caught:
            run(mixture, tmp_path, timeout_s=1.0, workers=1)
    finally:
        stop.set()
        thread.join()
    heading, *problems = caught.value.problems
    assert heading.code == "T0322"
    assert heading.message == "1 partition could not be built; all others are"
    (partition,) = Store.open(tmp_path).source("digits").partitions
    for problem in problems:
        assert problem.code == code
        assert told in problem.message
        assert problem.row == f"digits/{partition.id}"
        assert "build again" in problem.help
    assert "digits.image/decode" in [problem.address for problem in problems]
    assert run(mixture, tmp_path).partitions > 0
    assert tree(tmp_path).keys() >= tree(digits_dir).keys()


def test_a_worker_that_dies_once_is_replaced_and_the_build_goes_on(
    tmp_path: Path, digits_dir: Path
) -> None:
    is_done = threading.Event()

    def kill_one() -> None:
        while not is_done.is_set():
            for pid in worker_pids():
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        run(digits_mixture(), tmp_path)
    finally:
        is_done.set()
        thread.join()
    assert tree(tmp_path) == tree(digits_dir)


def test_a_job_that_dies_half_way_says_how_far_it_had_come(digits_dir: Path) -> None:
    store = Store.open(digits_dir)
    record = store.source("digits")
    graph = plan(digits_mixture()).graph
    nodes = graph.needs([Value(graph["digits.image/resize"].id)])
    job = Job(
        name="digits",
        store=store,
        source=only_partitions(record, [0]),
        graph=Graph({node.id: node for node in nodes}, {}),
        needs_process=True,
    )
    died = WorkerDiedError.of("T0320", "a worker process died (signal 9)")
    (problem,) = job.locate(died, 1024).problems
    assert problem.row == f"digits/{record.partitions[0].id}:1024 or later"
    assert problem.address == "digits.image/decode"
    assert [site.span.start for site in problem.sites] == [0]
    (full,) = job.locate(StoreError.of("T0505", "disk is full"), 0).problems
    assert (full.row, full.address) == (f"digits/{record.partitions[0].id}", "")


def test_no_worker_is_left_when_a_build_ends_however_it_ends(tmp_path: Path) -> None:
    run(digits_mixture(), tmp_path / "well")
    with pytest.raises(TaskloomError):
        run(spoiled(), tmp_path / "badly", on_error="raise")
    assert worker_pids() == []
