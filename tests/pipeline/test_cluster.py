"""A build on a cluster of real processes gives what a build on this machine gives."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import OpError
from taskloom.graph.graph import Graph
from taskloom.pipeline import Mixture, build
from taskloom.pipeline.cluster import open_cluster
from taskloom.pipeline.job import Job, only_partition
from taskloom.pipeline.progress import open_progress
from taskloom.storage.ledger import read_ledger
from taskloom.storage.store import Store

from .rows import tree
from .workers import worker_pids

pytestmark = pytest.mark.slow


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
        store=store,
        source=only_partition(record, 0),
        graph=Graph({}, {}),
        needs_process=False,
    )
    with (
        open_progress(shown=False) as shown,
        shown.task("die") as bar,
        open_cluster(client, 30.0) as cluster,
        pytest.raises(OpError, match="T0320") as caught,
    ):
        list(cluster.map("worker_functions:die_here", [job], bar))
    assert caught.value.problems[0].row == f"digits/{record.partitions[0].id}"
