"""Every plan goes through its passes in sight: what they made can be written down, and what failed is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.edge import derive_types
from taskloom.graph.errors import PlanError
from taskloom.graph.graph import Graph
from taskloom.graph.node import plan_key
from taskloom.ops.catalogue import whole_catalogue
from taskloom.pipeline import Source, Task, plan
from taskloom.pipeline.viewer.inspection import view_history, view_plan

TASK = Task("t", "[IMAGE:image] what is it? -> [TEXT:label,closed_set]")


def test_the_last_step_is_the_plan_and_nothing_is_skipped() -> None:
    planned = plan(TASK)
    assert [step.name for step in planned.steps] == ["plan", "prune"]
    assert planned.steps[-1].graph is planned.graph
    assert planned.warnings == ()


def test_the_text_after_every_pass_is_written_down_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKLOOM_DUMP", str(tmp_path / "dump"))
    first, second = plan(TASK), plan(TASK, "infer")
    for number, planned in (("1", first), ("2", second)):
        folder = tmp_path / "dump" / number
        names = ["0-plan.txt", "1-prune.txt", "2-cut.txt", "3-segment.txt"]
        assert sorted(path.name for path in folder.iterdir()) == names
        for name, step in zip(names, planned.steps, strict=False):
            text = (folder / name).read_text("utf-8")
            assert Graph.parse(text, whole_catalogue()) == step.graph
    cut = (tmp_path / "dump/1/2-cut.txt").read_text("utf-8").splitlines()
    place = cut.index("offline t.image/resize")
    assert cut[place + 1] == "  stored: the loader reads it; 12,288 bytes a row as uint8"
    assert "t in a process" in (tmp_path / "dump/1/3-segment.txt").read_text("utf-8")


def test_a_graph_that_a_pass_broke_is_the_last_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(graph: Graph) -> Graph:
        return Graph(dict([*graph.nodes.items()][1:]), graph.outputs)

    monkeypatch.setenv("TASKLOOM_DUMP", str(tmp_path))
    monkeypatch.setattr("taskloom.pipeline.planner.rewriting.prune", forget)
    with pytest.raises(PlanError, match=r"T0240.*pass prune leaves a graph that does not hold"):
        plan(TASK)
    before, after = ((tmp_path / "1" / name).read_text() for name in ("0-plan.txt", "1-prune.txt"))
    assert len(after) < len(before)
    assert not (tmp_path / "1" / "2-cut.txt").exists()


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TASKLOOM_DUMP", str(tmp_path / "file"))
    with pytest.raises(PlanError, match=r"T0243.*TASKLOOM_DUMP: cannot write into .*file"):
        plan(TASK)


def test_an_optimisation_that_fails_costs_no_plan_and_is_told_in_every_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(graph: Graph) -> Graph:
        raise KeyError(f"{len(graph)} nodes")

    monkeypatch.setattr("taskloom.pipeline.planner.rewriting.prune", fail)
    planned = plan(TASK)
    (problem,) = planned.warnings
    assert (problem.code, problem.message[:37]) == (
        "T0241",
        "pass prune came to nothing: KeyError:",
    )
    assert problem.message in view_plan(planned, title="t")["remarks"]
    assert view_history(planned, title="t")["passes"][1]["skipped"] == problem.message


def _count_work(num_tasks: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how often planning does what costs time, for tasks that share sources and some texts."""
    counts: dict[str, int] = {"key": 0, "signature": 0, "node": 0}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    sources = [Source(f"s{i}", data=[]) for i in range(5)]
    tasks = [
        Task(f"t{i}", f"[IMAGE:image] q{i}? [TEXT:a{i % 7}] -> [TEXT:b{i % 3}]", sources[i % 5])
        for i in range(num_tasks)
    ]
    with monkeypatch.context() as patched:
        for module in ("draft", "node", "verify"):
            patched.setattr(f"taskloom.graph.{module}.plan_key", counted("key", plan_key))
        patched.setattr("taskloom.graph.draft.derive_types", counted("signature", derive_types))
        patched.setattr("taskloom.graph.verify.derive_types", counted("signature", derive_types))
        counts["node"] = len(plan(tasks).graph)
    return counts


def test_the_work_of_planning_grows_as_the_graph_does(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (_count_work(number, monkeypatch) for number in (50, 200))
    for counts in (few, many):
        # Each node is typed once and digested at most twice: as it is added, and when a fit's output comes.
        assert counts["signature"] <= 1.05 * counts["node"]
        assert counts["key"] <= 2.05 * counts["node"]
    assert (
        many["key"] - few["key"] <= 6 * 150
    )  # what is the task's own: prompt and document, twice digested
