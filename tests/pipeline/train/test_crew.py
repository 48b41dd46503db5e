"""Who computes what is new in every pass changes nothing; and what goes wrong with them is told."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import LoaderError, OpError
from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.pipeline.loader.crew import Crew, Doing
from taskloom.pipeline.loader.online import Shared, add_online_columns
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.storage.array_column import join_rows, slice_rows
from taskloom.storage.loader import to_torch
from taskloom.storage.online import OnlineColumn
from taskloom.storage.store import Store

from ...waiting import wait_until
from ..workers import is_running, worker_pids
from .loader_ops import MaskApart
from .stores import MODEL, spell_numbers

HERE = Path(__file__).parent
ROWS = np.arange(100)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """A denoising task, nothing of which needs a process."""
    path = tmp_path_factory.mktemp("crew") / "store"
    task = Task(
        "denoise",
        "fill in [TEXT:words,mask_ratio=0.4] -> [TEXT:words]",
        source=Source("numbers", spell_numbers()),
        holdout=0.2,
        key="number",
    )
    mixture = Mixture([task], bpe_size=300)
    build(mixture, path, progress=False)
    return open_stream(mixture, Store.open(path), MODEL, TrainConfig(source_tokens=256))


@pytest.fixture
def apart(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """The same, with an op that runs in worker processes alone."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[2])]))
    monkeypatch.setenv("LOADER_PID", str(os.getpid()))
    return with_crew(stream, Crew(2, timeout_s=60), mask_spans=MaskApart)


def with_crew(stream: Stream, crew: Crew, **ops: Any) -> Stream:
    """Return ``stream`` computed by ``crew``, with other ops."""
    planned = stream.dataset.plan
    planned = replace(planned, catalogue={**planned.catalogue, **ops})
    columns = add_online_columns(planned, stream.dataset.columns, 0, crew)
    return replace(stream, columns=columns)


def drawn_of(stream: Stream) -> OnlineColumn:
    (found,) = (each for each in stream.columns.values() if isinstance(each, OnlineColumn))
    return found


def read_rows(column: OnlineColumn, passes: int = 0, rows: Any = ROWS) -> list[list[int]]:
    values, offsets = column.gather_in(rows, np.full(len(rows), passes))
    return [part.tolist() for part in np.split(values, offsets[1:-1])]


def take(stream: Stream, number: int) -> list[tuple[bytes, ...]]:
    """Return the bytes of the first packs."""
    with stream.loader() as loader:
        steps = [pack for _, (pack,) in zip(range(number), loader, strict=False)]
    return [tuple(tensor.numpy().tobytes() for tensor in to_torch(p).values()) for p in steps]


def always_divided() -> Any:
    """Let every part be worth handing over."""
    return mock.patch("taskloom.pipeline.loader.online._LEAST_PART_S", 1e-12)


@settings(max_examples=20, deadline=None)
@given(
    num_workers=st.integers(1, 5),
    seen=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 3))),
)
def test_who_computes_a_row_changes_nothing(
    stream: Stream, num_workers: int, seen: list[tuple[int, int]]
) -> None:
    rows, passes = np.array(seen, np.int64).reshape(-1, 2).T
    alone: Any = drawn_of(stream)
    shared = drawn_of(with_crew(stream, Crew(num_workers)))
    assert isinstance(shared.compute, Shared)
    expected = alone.gather_in(rows, passes)
    with always_divided():
        for _ in range(2):  # nobody knows how long a row takes before the first
            found = shared.gather_in(rows, passes)
            assert [a.tolist() for a in found] == [a.tolist() for a in expected]


@given(sizes=st.lists(st.integers(0, 4), min_size=1), cuts=st.lists(st.integers(0, 9)))
def test_rows_that_are_cut_and_joined_are_the_same(sizes: list[int], cuts: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    edges = [0, *sorted(min(cut, len(sizes)) for cut in cuts), len(sizes)]
    dense = np.arange(2 * len(sizes)).reshape(-1, 2)
    for gathered in ((np.arange(offsets[-1]), offsets), dense):
        parts = [slice_rows(gathered, a, b) for a, b in pairwise(edges)]
        joined = join_rows(parts)
        assert all(map(np.array_equal, joined, gathered))


def test_threads_compute_at_the_same_time(stream: Stream) -> None:
    shared: Any = drawn_of(with_crew(stream, Crew(2)))
    segment = shared.compute.segment
    first = segment.calls[0]
    barrier = Barrier(2)

    def meet(ids: Any, *, keys: Any) -> Any:
        if len(ids) < len(ROWS):
            barrier.wait(30)  # is passed by two at a time alone
        return first.op(ids, keys=keys)

    segment.calls = (replace(first, op=meet, is_random=True), *segment.calls[1:])
    with always_divided():
        assert read_rows(shared) == read_rows(shared) == read_rows(drawn_of(stream))


def test_an_op_that_holds_the_gil_runs_in_processes(apart: Stream, stream: Stream) -> None:
    assert take(apart, 4) == take(stream, 4)
    assert 1 <= len(worker_pids()) <= 2


def test_processes_end_with_their_crew(apart: Stream) -> None:
    before = worker_pids()
    column = drawn_of(with_crew(apart, Crew(1), mask_spans=MaskApart))
    read_rows(column)
    (pid,) = set(worker_pids()) - set(before)
    del column
    gc.collect()
    assert not is_running(pid)


@pytest.mark.parametrize("how", ["CRASH_AT", "REFUSE_AT"])
def test_a_row_that_an_op_does_not_survive_is_named(
    apart: Stream, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    column = drawn_of(apart)
    segment: Any = column.compute
    lengths = [len(row) for row in read_rows(column)]
    longest = column.inputs[0].lengths[ROWS]
    row = int(longest.argmax())
    monkeypatch.setenv(how, str(longest[row]))
    held = drawn_of(with_crew(apart, Crew(2), mask_spans=MaskApart))
    with pytest.raises(OpError) as caught:
        read_rows(
            held, passes=2, rows=ROWS[max(0, row - 3) : row + 3]
        )  # it is looked for by halves
    problem = caught.value.problems[0]
    assert problem.code == {"CRASH_AT": "T0320", "REFUSE_AT": "T0303"}[how]
    assert problem.address == "denoise.words/mask"
    ((partition, _),) = segment.segment.partitions
    assert problem.row == f"{partition}:{row}"
    assert "pass 2 and seed 0" in problem.help
    assert problem.sites
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    monkeypatch.delenv(how)
    assert [len(each) for each in read_rows(drawn_of(apart))] == lengths


@pytest.mark.slow  # that a worker which hangs is stopped, and a thread given up, has fast tests of its own
def test_an_op_that_hangs_in_a_process_is_given_up_and_the_process_stopped(
    apart: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANG", "1")
    before = worker_pids()
    stuck = replace(apart, config=replace(apart.config, loader_timeout_s=6))
    stuck = with_crew(stuck, Crew(1, timeout_s=6), mask_spans=MaskApart)
    with pytest.raises(LoaderError) as caught:
        take(stuck, 1)
    (problem,) = caught.value.problems
    assert problem.code == "T0620"
    assert "denoise.words/mask (mask_spans)" in problem.message
    assert "in a worker process" in problem.message
    wait_until(lambda: set(worker_pids()) <= set(before), "the process goes on")


def test_a_thread_that_hangs_does_not_keep_python_from_ending() -> None:
    program = """
        import threading, time
        from taskloom.pipeline.loader.crew import Crew
        crew = Crew(2)
        began = threading.Event()
        def hang(part):
            began.set()
            time.sleep(600)
        threading.Thread(target=crew.map, args=(hang, range(2)), daemon=True).start()
        began.wait()
        print("over")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "over\n"


def test_doing_tells_what_began_first_and_is_not_over() -> None:
    doing = Doing()
    with doing.note("one"):
        assert doing.tell() == "one"
    assert doing.tell() == ""
