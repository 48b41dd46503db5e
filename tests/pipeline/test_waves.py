"""A build holds no more jobs at a time than keep its workers busy, and what fits learn comes back as one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.graph.errors import OpError, SourceError
from taskloom.graph.graph import Graph
from taskloom.ops.host.bpe import FitBpe
from taskloom.pipeline import Source
from taskloom.pipeline.builder import building
from taskloom.pipeline.builder.job import Job, JobFailure, only_partitions
from taskloom.pipeline.builder.machine import LocalMachine, open_machine
from taskloom.pipeline.builder.report import Tally
from taskloom.pipeline.builder.scheduler import JOBS_A_WORKER, MergeTree
from taskloom.storage.store import Store

from .rows import WORDS, digits_task, mix, run, tree, write_jsonl

NUM_WORKERS = 3


class Maker:
    """Jobs that do nothing, made one after the other; counts them."""

    def __init__(self, store: Path, number: int) -> None:
        self._store = Store.open(store)
        self._source = only_partitions(self._store.source("digits"), [0])
        self._number = number
        self.made = 0

    def __iter__(self) -> Iterator[Job]:
        for number in range(self._number):
            self.made += 1
            yield self.make(number)

    def make(self, number: int, **settings: Any) -> Job:
        """Return one of the jobs."""
        return Job(
            name=str(number),
            store=self._store,
            source=self._source,
            graph=Graph({}, {}),
            needs_process=False,
            **settings,
        )


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that tests let jobs call, empty of what others have left there."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    module = importlib.import_module("worker_functions")
    module.RAN.clear()
    return module


@pytest.fixture
def machine() -> Iterator[LocalMachine]:
    with open_machine(NUM_WORKERS, 30.0) as machine:
        yield machine


def ignore(*_: object) -> None:
    """Take no notice of progress."""


def test_thousands_of_jobs_never_exist_at_the_same_time(
    machine: LocalMachine, functions: Any, digits_dir: Path
) -> None:
    jobs = Maker(digits_dir, 3_000)
    most = 0

    def count(*_: object) -> None:
        nonlocal most
        most = max(most, jobs.made - len(functions.RAN))

    done = set(machine.map("worker_functions:note", jobs, count))
    assert done == {str(number) for number in range(3_000)}
    assert 1 < most <= JOBS_A_WORKER * NUM_WORKERS


def test_a_failed_partition_ends_no_build_and_a_job_that_raises_does(
    machine: LocalMachine, functions: Any, digits_dir: Path
) -> None:
    del functions
    jobs = Maker(digits_dir, 30)
    results = list(machine.map("worker_functions:fail_some", jobs, ignore))
    failed = [result for result in results if isinstance(result, JobFailure)]
    assert len(failed) == 10
    assert len(results) == 30
    assert all(failure.error.problems[0].code == "T0401" for failure in failed)
    with pytest.raises(SourceError, match="0 cannot be read"):
        list(machine.map("worker_functions:fail_some", [jobs.make(0, raises=True)], ignore))


def test_an_error_in_making_jobs_ends_the_build(
    machine: LocalMachine, functions: Any, digits_dir: Path
) -> None:
    del functions

    def jobs() -> Iterator[Job]:
        yield from Maker(digits_dir, 5)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(machine.map("worker_functions:note", jobs(), ignore))


@pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 300])
def test_every_result_is_merged_once(
    number: int, machine: LocalMachine, functions: Any, digits_dir: Path
) -> None:
    del functions
    jobs = Maker(digits_dir, number)
    merged = machine.fold("worker_functions:note", "worker_functions:join", jobs, ignore)
    if not number:
        assert merged is None
        return
    assert sorted(merged.split()) == sorted(map(str, range(number)))


@given(st.integers(1, 600))
def test_what_waits_to_be_merged_grows_with_the_height_of_the_tree(number: int) -> None:
    tree_ = MergeTree()
    most = 0
    for i in range(number):
        merged, height = [i], 0
        while group := tree_.add(merged, height):
            merged, height = [leaf for part in group for leaf in part], height + 1
        most = max(most, len(tree_.rest()))
    assert sorted(leaf for part in tree_.rest() for leaf in part) == list(range(number))
    assert most <= 7 * 4


@given(st.lists(st.sampled_from(["low", "lower", "new", "newest", "wide"]), min_size=2), st.data())
def test_a_vocabulary_is_the_same_whatever_the_tree(words: list[str], data: st.DataObject) -> None:
    op = FitBpe(size=280)
    states = [op.observe(pa.array([word] * 2), pa.array([0, 0])) for word in words]
    left = list(states)
    while len(left) > 1:
        number = data.draw(st.integers(0, len(left) - 2))
        left[number : number + 2] = [op.merge(left[number], left[number + 1])]
    one, *others = states
    for state in others:
        one = op.merge(one, state)
    assert op.finish(left[0]) == op.finish(one)


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_fits_over_many_partitions_are_those_over_one(workers: int, tmp_path: Path) -> None:
    rows = [{"id": i, "note": f"number {i % 11}", "label": str(i % 3)} for i in range(120)]
    files = [write_jsonl(tmp_path / f"{i:03}.jsonl", rows[i : i + 4]) for i in range(0, 120, 4)]
    whole = write_jsonl(tmp_path / "whole.jsonl", rows)
    fitted: list[dict[str, str]] = []
    for name, paths in (("one", [whole]), ("many", files)):
        source = Source("words", [str(path) for path in paths])
        run(mix(digits_task(source, WORDS)), tmp_path / name, workers=workers)
        artifacts = Store.open(tmp_path / name).artifacts()
        fitted.append({name: artifact.digest for name, artifact in artifacts.items()})
    assert fitted[0] == fitted[1]
    assert len(fitted[0]) == 2


def failures(number: int) -> Sequence[JobFailure]:
    """Return failures of ``number`` partitions."""
    return [
        JobFailure(
            name="x",
            place=f"s/{i:03}",
            rows=1,
            error=OpError.of("T0320", "died").at(row=f"s/{i:03}"),
        )
        for i in range(number)
    ]


def test_every_failed_partition_is_named_in_one_error() -> None:
    tally = Tally(rows=100, max_errors=None)
    for failure in reversed(failures(20)):
        tally.fail(failure)
    with pytest.raises(OpError, match="20 partitions could not be built; all others are") as caught:
        tally.check_failures()
    assert [p.code for p in caught.value.problems] == ["T0322", *["T0320"] * 20]
    assert [p.row for p in caught.value.problems[1:]] == [f"s/{i:03}" for i in range(20)]


def test_a_build_is_given_up_when_more_partitions_fail_than_are_built() -> None:
    tally = Tally(rows=100, max_errors=None)
    *some, last = failures(21)
    for failure in some:
        tally.fail(failure)
    with pytest.raises(OpError, match=r"(?s)T0322.*given up.*beside those below: s/020"):
        tally.fail(last)


def test_no_column_is_listed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Any, parts_tree: dict[str, bytes]
) -> None:
    listed: list[str] = []
    committed = Store.committed

    def count(store: Store, source: str, key: str) -> frozenset[str]:
        listed.append(key)
        return committed(store, source, key)

    monkeypatch.setattr(Store, "committed", count)
    monkeypatch.setattr(building.Build, "count_rows", lambda *_: {})
    monkeypatch.setattr(building, "estimate_bytes", lambda *_: "")
    run(parts, tmp_path)
    assert len(listed) == len(set(listed)) > 0
    assert tree(tmp_path) == parts_tree


@pytest.fixture
def here() -> Iterator[Any]:
    """A client of a cluster in this process, the one that is active."""
    distributed: Any = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_scheduler_is_given_a_few_jobs_at_a_time_and_forgets_those_that_are_done(
    here: Any, functions: Any, digits_dir: Path
) -> None:
    del functions
    from taskloom.pipeline.builder.cluster import open_cluster  # noqa: PLC0415 - distributed is an extra

    jobs = Maker(digits_dir, 200)
    sizes: list[int] = []
    with open_cluster(here, 30.0) as cluster:
        assert cluster.num_workers == 2
        for number, _ in enumerate(cluster.map("worker_functions:note", jobs, ignore)):
            if number % 20 == 0:
                sizes.append(
                    here.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                )
                assert jobs.made - number <= 16 + 1
        merged = cluster.fold(
            "worker_functions:note", "worker_functions:join", Maker(digits_dir, 100), ignore
        )
    assert sorted(merged.split()) == sorted(map(str, range(100)))
    assert max(sizes) <= 16 + 2


def test_an_active_client_is_used_unless_it_is_refused(here: Any, tmp_path: Path) -> None:
    rows = [{"id": i, "note": f"number {i % 11}", "label": str(i % 3)} for i in range(20)]
    words = mix(digits_task(Source("words", rows), WORDS))
    seen: list[int] = []

    def build_and_count(**settings: Any) -> None:
        run(words, tmp_path / str(len(seen)), **settings)
        seen.append(
            here.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.transition_log))
        )

    build_and_count(client=False, workers=None)
    build_and_count(workers=1)
    build_and_count(workers=None)
    assert seen[0] == seen[1] == 0 < seen[2]
    assert tree(tmp_path / "0") == tree(tmp_path / "1") == tree(tmp_path / "2")
