"""A build handed over as a Dask graph does, in somebody else's hands, what the build does."""

from __future__ import annotations

from pathlib import Path

import pytest
from dask.delayed import delayed
from distributed import Client, LocalCluster

from taskloom.graph.errors import OpError, PlanError, StoreError
from taskloom.pipeline import BuildReport, Source, to_dask

from .rows import digit_rows, digits_task, mix, run, spoiled, tree


def test_the_graph_writes_the_bytes_that_a_build_writes(tmp_path: Path) -> None:
    built = run(spoiled(), tmp_path / "built")
    graph = to_dask(spoiled(), tmp_path / "graph", fit=True)
    assert not (tmp_path / "graph/columns").exists()
    report = graph.compute(scheduler="threads", num_workers=2)
    assert isinstance(report, BuildReport)
    for name in ("partitions", "cached", "rows", "rejects", "bytes"):
        assert getattr(report, name) == getattr(built, name)
    assert [problem.code for problem in report.problems] == ["T0301"]
    assert tree(tmp_path / "graph") == tree(tmp_path / "built")
    # What was lost is run again, and what is there is nobody's work.
    assert graph.compute(scheduler="threads", num_workers=2).bytes == built.bytes
    assert tree(tmp_path / "graph") == tree(tmp_path / "built")
    rest = to_dask(spoiled(), tmp_path / "graph").compute()
    assert (rest.partitions, rest.cached) == (0, built.partitions)


@pytest.mark.slow
def test_the_graph_is_part_of_a_workflow_on_a_cluster(tmp_path: Path) -> None:
    mixture = mix(
        digits_task(Source("digits", {"train": digit_rows(30), "test": digit_rows(9, 30)}))
    )
    run(mixture, tmp_path / "built")
    graph = to_dask(mixture, tmp_path / "graph", fit=True)

    def follow(report: BuildReport) -> tuple[int, int]:
        return report.partitions, report.rows

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        assert delayed(follow)(graph).compute() == (6, 39)
    assert tree(tmp_path / "graph") == tree(tmp_path / "built")


def test_no_graph_is_made_for_a_store_in_memory() -> None:
    with pytest.raises(StoreError, match=r"(?s)T0501.*this process alone.*do without a Dask graph"):
        to_dask(spoiled(), "memory://graph/store")


def test_what_is_still_to_be_fitted_is_named(tmp_path: Path) -> None:
    mixture = mix(digits_task(Source("digits", digit_rows())))
    with pytest.raises(PlanError, match=r"(?s)T0238.*bpe-main, closed-set.*fit=True"):
        to_dask(mixture, tmp_path)
    assert not (tmp_path / "artifacts").exists()


def test_too_many_bad_rows_fail_the_graph_and_keep_what_was_built(tmp_path: Path) -> None:
    graph = to_dask(spoiled(), tmp_path, fit=True, max_errors=1)
    with pytest.raises(OpError, match="T0313"):
        graph.compute(scheduler="threads", num_workers=2)
    assert run(spoiled(), tmp_path).partitions == 0
