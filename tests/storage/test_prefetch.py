"""The background thread changes nothing, stays near, hands on its errors, and stops when told."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from ..waiting import wait_until
from .documents import Mixture, RaggedColumn, digest, make_mixture, mixtures, take


@settings(max_examples=40)
@given(mixture=mixtures(), window_size=st.integers(1, 80), prefetch=st.integers(1, 3))
def test_the_thread_changes_nothing(mixture: Mixture, window_size: int, prefetch: int) -> None:
    alone = take(mixture.loader(window_size=window_size), 12)
    ahead = take(mixture.loader(window_size=window_size, prefetch=prefetch), 12)
    assert [*map(digest, ahead)] == [*map(digest, alone)]


class CountedColumn(RaggedColumn):
    """A column that counts how often it is read, and after so many times cannot be."""

    num_gathers = 0
    most_gathers = 1_000_000

    def gather(self, rows: npt.NDArray[np.int64]) -> Any:
        self.num_gathers += 1
        if self.num_gathers > self.most_gathers:
            raise OSError("the disk is gone")
        return super().gather(rows)


def test_an_error_in_the_thread_is_raised_where_packs_are_used() -> None:
    mixture = make_mixture([50], has_images=False)
    damaged = CountedColumn([np.arange(3)] * 53)
    damaged.most_gathers = 3
    loader = mixture.with_column("source0", "text", damaged).loader(prefetch=2)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        take(loader, 1000)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "gather"
    assert frames[0] == "test_an_error_in_the_thread_is_raised_where_packs_are_used"
    assert not _threads()


def test_closing_stops_the_thread() -> None:
    loader = make_mixture([200, 200]).loader(prefetch=3)
    steps = iter(loader)
    next(steps)
    assert len(_threads()) == 1
    loader.close()
    assert not _threads()
    assert len(take(loader, 2)) == 2
    assert loader.state()["step"] == 3


def test_leaving_the_loop_stops_the_thread() -> None:
    for _ in make_mixture([200]).loader(prefetch=3):
        assert _threads()
        break
    assert not _threads()


def test_the_thread_stays_a_bounded_number_of_steps_ahead() -> None:
    mixture = make_mixture([200], has_images=False)
    column = CountedColumn([np.arange(3)] * 203)
    loader = mixture.with_column("source0", "text", column).loader(prefetch=2, packs_per_step=64)
    with loader:
        steps = iter(loader)
        next(steps)
        wait_until(lambda: column.num_gathers >= 1 + 2, "the thread stays behind")
        time.sleep(0.2)  # one that goes further does so now
        assert column.num_gathers == 1 + 2


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "taskloom-prefetch"]


CTRL_C = """
import threading, time
import numpy as np
from taskloom.storage.capacity import Capacity
from taskloom.storage.loader import Loader, LoaderConfig
from taskloom.storage.template import ConstPiece, IdsPiece, Template

class Slow:
    num_rows = 500
    lengths = np.full(500, 9, np.uint32)
    valid = np.ones(500, np.bool_)
    def gather(self, rows):
        time.sleep(0.02)
        return np.zeros(9 * len(rows), np.uint16), np.arange(len(rows) + 1) * 9

template = Template(task="t", source_name="s", source=(IdsPiece(column="c"),),
                    target=(ConstPiece(ids=(1, 2)),))
config = LoaderConfig(capacity=Capacity(source=512, target=64), prefetch=2)
loader = Loader([template], {"t": np.arange(500)}, {("s", "c"): Slow()}, config, plan_digest="p")
try:
    with loader:
        for number, _ in enumerate(loader):
            if number == 3:
                print("running", flush=True)
except KeyboardInterrupt:
    print("threads", threading.active_count(), "resumable", loader.state()["step"] > 3, flush=True)
"""


def test_ctrl_c_ends_the_loop_and_the_thread() -> None:
    with subprocess.Popen([sys.executable, "-c", CTRL_C], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "running\n"
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=120)[0] == "threads 1 resumable True\n"
        assert run.returncode == 0
