"""A process that does something is told from one that does nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from taskloom.pipeline.trainer import resting
from taskloom.pipeline.trainer.resting import Resting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")

SPIN = "import time\nend = time.process_time() + 1.5\nwhile time.process_time() < end: pass"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"


def spin() -> None:
    """Use a processor for a while."""
    end = time.thread_time() + 1.5
    while time.thread_time() < end:
        pass


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def rest_during(work: Callable[[], object]) -> float:
    """Return for how long this process seemed to rest at most while another thread does ``work``."""
    rested = Resting()
    rested.look()
    thread = threading.Thread(target=work)
    thread.start()
    longest = 0.0
    while thread.is_alive():
        longest = max(longest, rested.look())
        time.sleep(0.02)
    return longest


def test_a_process_that_sleeps_rests_all_the_while_though_somebody_asks() -> None:
    rested = Resting()
    began = time.monotonic()
    found = rested.look()
    # Asking is work of the thread that asks, and does not count.
    while time.monotonic() < began + 2:
        found = rested.look()
    assert found == pytest.approx(time.monotonic() - began, abs=0.8)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(spin, id="a thread"),
        pytest.param(lambda: run(SPIN), id="a child"),
        pytest.param(lambda: run(CHILD), id="a grandchild"),
    ],
)
def test_whoever_works_in_a_process_it_does_not_rest(work: Callable[[], object]) -> None:
    assert rest_during(work) < 1.2


def test_work_after_a_long_rest_is_seen_at_once() -> None:
    rested = Resting()
    rested.look()
    rested._since -= 500.0  # noqa: SLF001 - time is given by hand
    rested._window -= 500.0  # noqa: SLF001
    assert rested.look() > 500.0
    thread = threading.Thread(target=spin)
    thread.start()
    thread.join()
    assert rested.look() < 1.0


def test_waiting_for_a_disk_is_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is slow enough cannot be had: what the system tells of one is given instead."""
    rested = Resting()
    rested._since -= 500.0  # noqa: SLF001
    read = resting._read_stat  # noqa: SLF001
    monkeypatch.setattr(resting, "_read_stat", lambda folder: ["D", *read(folder)[1:]])
    assert rested.look() == 0.0


def test_where_nothing_is_told_nothing_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "_TASKS", "/nowhere/{}")
    rested = Resting()
    rested._since -= 500.0  # noqa: SLF001
    assert rested.look() == 0.0
