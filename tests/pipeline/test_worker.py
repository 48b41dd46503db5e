"""Worker processes answer, fail, die and hang without taking anybody with them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import OpError
from taskloom.ops.errors import RowErrors
from taskloom.pipeline.host.pool import WorkerDiedError, WorkerPool

from ..waiting import wait_until
from .workers import is_running

HERE = Path(__file__).parent
FUNCTIONS = "worker_functions"


def ignore(progress: object) -> None:
    """Take no notice."""


def wait_until_gone(pid: int) -> None:
    """Wait for process ``pid`` to end."""
    wait_until(lambda: not is_running(pid), f"process {pid} still runs")


def start(pool: WorkerPool) -> None:
    """Start the worker of ``pool``; on a busy machine that may take longer than a call may."""

    def answers() -> bool:
        with contextlib.suppress(OpError):
            return pool.call(f"{FUNCTIONS}:double", 2, ignore) == 4
        return False

    wait_until(answers, "no worker starts in time")


@pytest.fixture(autouse=True)
def functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers find the functions of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """One process at a time."""
    with WorkerPool(1, timeout_s=30) as pool:
        yield pool


def test_a_call_returns_its_result_and_tells_of_its_progress(pool: WorkerPool) -> None:
    told: list[object] = []
    assert pool.call(f"{FUNCTIONS}:double", 21, told.append) == 42
    assert told == ["half way"]


def test_an_idle_worker_is_used_again(pool: WorkerPool) -> None:
    first: Any = pool.call(f"{FUNCTIONS}:describe", None, ignore)
    again: Any = pool.call(f"{FUNCTIONS}:describe", None, ignore)
    assert first["pid"] == again["pid"] != os.getpid()


def test_workers_import_neither_torch_nor_what_lies_in_the_working_directory(
    pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    modules: Any = pool.call(f"{FUNCTIONS}:build_one", None, ignore)
    assert "taskloom.pipeline.builder.partition" in modules
    assert "torch" not in modules
    assert "dask" not in modules


def test_workers_use_one_thread_each_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in ((None, "1"), ("3", "3")):
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        else:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        with WorkerPool(1) as pool:
            facts: Any = pool.call(f"{FUNCTIONS}:describe", None, ignore)
            assert facts["threads"] == expected


def test_errors_come_back_as_they_are_and_the_worker_stays(pool: WorkerPool) -> None:
    before: Any = pool.call(f"{FUNCTIONS}:describe", None, ignore)
    with pytest.raises(OpError, match=r"(?s)T0303.*mend it"):
        pool.call(f"{FUNCTIONS}:fail", "named", ignore)
    with pytest.raises(RowErrors) as caught:
        pool.call(f"{FUNCTIONS}:fail", "rows", ignore)
    assert list(caught.value.reasons) == [3]
    after: Any = pool.call(f"{FUNCTIONS}:describe", None, ignore)
    assert before["pid"] == after["pid"]


@pytest.mark.parametrize(("how", "kind"), [("plain", KeyError), ("stubborn", RuntimeError)])
def test_an_error_nobody_foresaw_says_where_in_the_worker_it_was_raised(
    pool: WorkerPool, how: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        pool.call(f"{FUNCTIONS}:fail", how, ignore)
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "worker_functions.py" in told
    assert "missing" in told or "will: not pickle" in told


def test_a_call_of_what_is_not_there_is_an_error_and_not_the_end(pool: WorkerPool) -> None:
    with pytest.raises(ModuleNotFoundError):
        pool.call("no_such_module:f", 1, ignore)
    with pytest.raises(AttributeError):
        pool.call(f"{FUNCTIONS}:no_such_function", 1, ignore)
    assert pool.call(f"{FUNCTIONS}:double", 2, ignore) == 4


def test_a_worker_that_dies_is_reported_and_replaced(pool: WorkerPool) -> None:
    with pytest.raises(WorkerDiedError, match=r"(?s)T0320.*signal 9.*build again"):
        pool.call(f"{FUNCTIONS}:die", None, ignore)
    assert pool.call(f"{FUNCTIONS}:double", 2, ignore) == 4


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_worker_without_progress_is_killed_and_what_to_do_is_said(*, is_stopped: bool) -> None:
    """One that works on would be at it for ten minutes, and one that is stopped hears of nothing."""
    pids: list[Any] = []

    def report(pid: Any) -> None:
        pids.append(pid)
        if is_stopped:
            os.kill(pid, signal.SIGSTOP)

    with WorkerPool(1, timeout_s=3) as pool:
        start(pool)
        with pytest.raises(OpError, match=r"(?s)T0321.*for 3 s.*raise timeout_s"):
            pool.call(f"{FUNCTIONS}:sleep", 600, report)
        wait_until_gone(pids[0])
        start(pool)


def test_slow_work_that_tells_of_its_progress_is_left_alone() -> None:
    with WorkerPool(1, timeout_s=2) as pool:
        start(pool)
        assert pool.call(f"{FUNCTIONS}:walk", 25, ignore) == 25


def test_a_caller_that_breaks_off_leaves_no_answer_behind_for_the_next(pool: WorkerPool) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.call(f"{FUNCTIONS}:walk", 3, interrupt)
    assert pool.call(f"{FUNCTIONS}:double", 2, ignore) == 4


def test_many_threads_share_a_few_workers() -> None:
    with WorkerPool(2) as pool, ThreadPoolExecutor(8) as threads:
        facts: list[Any] = list(
            threads.map(lambda i: pool.call(f"{FUNCTIONS}:describe", i, ignore), range(20))
        )
    assert 1 <= len({fact["pid"] for fact in facts}) <= 2
    assert all(not is_running(fact["pid"]) for fact in facts)


def test_closing_stops_workers_in_the_middle_of_calls_and_starts_no_more() -> None:
    pids: list[Any] = []
    errors: list[OpError] = []
    is_busy = threading.Event()

    def work() -> None:
        def report(pid: object) -> None:
            pids.append(pid)
            is_busy.set()

        try:
            pool.call(f"{FUNCTIONS}:sleep", 600, report)
        except OpError as error:
            errors.append(error)

    with WorkerPool(1) as pool:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert is_busy.wait(30)
    for thread in threads:
        thread.join()
    assert len(errors) == 3
    assert len(pids) == 1
    assert not is_running(pids[0])


PARENT = """
import os, signal, sys
from taskloom.graph.errors import OpError
from taskloom.pipeline.host.pool import WorkerPool

def report(pid):
    print(pid, flush=True)
    if sys.argv[2] == "at once":
        os.kill(os.getpid(), signal.SIGKILL)

pool = WorkerPool(1, timeout_s=float(sys.argv[1]))
while True:
    try:
        pool.call("worker_functions:sleep", 0 if sys.argv[2] == "idle" else 600, report)
        os.kill(os.getpid(), signal.SIGKILL)
    except OpError:  # on a busy machine the worker did not start in time
        pass
"""


@pytest.mark.parametrize("when", ["idle", "at once"])
def test_a_worker_outlives_its_pool_by_no_more_than_its_time(when: str) -> None:
    command = [sys.executable, "-c", PARENT, "2", when]
    parent = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    wait_until_gone(int(parent.stdout.split()[-1]))
