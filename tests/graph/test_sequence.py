"""Passes run in sequence: each is verified, an optimisation that fails is skipped, and what breaks is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings

from taskloom.graph.errors import PlanError
from taskloom.graph.graph import Graph
from taskloom.graph.node import Node
from taskloom.graph.passes.cut import cut
from taskloom.graph.passes.fold import fold
from taskloom.graph.passes.history import History, make_history, write_cut
from taskloom.graph.passes.prune import prune
from taskloom.graph.passes.segment import segment
from taskloom.graph.passes.sequence import Pass, Step, run_passes
from taskloom.graph.render.history import write_history
from taskloom.graph.render.printable import measure, printable
from taskloom.graph.type import Type

from .ops import CATALOGUE
from .random_graphs import evaluate_ids, graphs, results
from .short import read_short

GRAPH = read_short(
    """
    %1 = make_texts text="what?" at t.text@1
    %2 = encode_texts (texts=%1) at t.text@1/encode
    %3 = read_columns column="label" over letters at t.label
    %4 = encode_texts (texts=%3) at t.label/encode
    %5 = compose_documents (source.0=%2, target.0=%4) at t/document
    %6 = pack_documents (t=%5) at pack
    output ids %6
    """
)
FOLD = Pass(name="fold", apply=lambda graph: fold(graph, CATALOGUE, evaluate_ids))
PRUNE = Pass(name="prune", apply=prune, is_optimisation=True)


def history(*passes: Pass, graph: Graph = GRAPH, title: str = "t") -> History:
    steps = run_passes(graph, passes, CATALOGUE)
    done = cut(steps[-1].graph, CATALOGUE)
    segments = segment(steps[-1].graph, done, CATALOGUE)
    return make_history(steps, done, segments, title=title)


def divide_by_zero(graph: Graph) -> Graph:
    return Graph({}, {}) if len(graph) // 0 else graph


def refuse(graph: Graph) -> Graph:
    raise PlanError.of("T0203", f"refused {len(graph)} nodes").at(address="t.label")


def with_node(graph: Graph, old: Node, new: Node) -> Graph:
    nodes = [new if node is old else node for node in graph]
    return Graph({node.id: node for node in nodes}, graph.outputs)


@settings(max_examples=40)
@given(graphs())
def test_every_step_means_what_the_plan_meant(graph: Graph) -> None:
    steps = run_passes(graph, [FOLD, PRUNE], CATALOGUE)
    assert [step.name for step in steps] == ["plan", "fold", "prune"]
    for step in steps:
        assert results(step.graph) == results(graph)
        assert step.skipped is None


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (
            divide_by_zero,
            "pass broken came to nothing: ZeroDivisionError: integer division or modulo by zero",
        ),
        (refuse, "pass broken came to nothing: refused 6 nodes"),
    ],
)
def test_an_optimisation_that_fails_is_skipped_and_says_why(apply: object, message: str) -> None:
    broken = Pass(name="broken", apply=apply, is_optimisation=True)  # pyright: ignore[reportArgumentType]
    _, step, last = run_passes(GRAPH, [broken, PRUNE], CATALOGUE)
    assert step.graph is GRAPH
    assert step.skipped is not None
    assert (step.skipped.code, step.skipped.message) == ("T0241", message)
    assert last.skipped is None
    told = write_history(history(broken, PRUNE))
    assert f"  skipped: {message}\n" in told


def test_a_pass_that_planning_cannot_do_without_ends_it() -> None:
    with pytest.raises(PlanError, match=r"T0241.*pass broken came to nothing: ZeroDivisionError"):
        run_passes(GRAPH, [Pass(name="broken", apply=divide_by_zero)], CATALOGUE)
    with pytest.raises(PlanError, match=r"(?s)T0203.*refused 6 nodes.*node t\.label"):
        run_passes(GRAPH, [Pass(name="broken", apply=refuse)], CATALOGUE)


LABEL = GRAPH["t.label/encode"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"params": {"size": 7}}, "has key", id="key"),
        pytest.param({"inputs": {}}, "has key", id="inputs"),
        pytest.param(
            {"types": {"out": Type.parse("text<uint32[T] ragged>@host/letters")}},
            "says that out is text<uint32",
            id="type",
        ),
        pytest.param({"version": 2}, "has key", id="version"),
        pytest.param({"op": "nothing"}, "has key", id="op"),
    ],
)
@pytest.mark.parametrize("is_optimisation", [True, False])
def test_a_pass_that_breaks_the_graph_is_named_with_the_node(
    change: dict[str, object], message: str, *, is_optimisation: bool
) -> None:
    changed = replace(LABEL, **change)
    broken = Pass(
        name="broken",
        apply=lambda graph: with_node(graph, LABEL, changed),
        is_optimisation=is_optimisation,
    )
    seen: list[Step] = []
    with pytest.raises(PlanError) as caught:
        run_passes(GRAPH, [broken], CATALOGUE, see=seen.append)
    (problem,) = caught.value.problems
    assert problem.code == "T0240"
    assert problem.address == "t.label/encode"
    assert problem.message.startswith("pass broken leaves a graph that does not hold: ")
    assert message in problem.message
    assert [step.name for step in seen] == ["plan", "broken"]  # what it broke can be looked at


def test_nodes_in_another_order_do_not_verify() -> None:
    turned = Graph(dict([*GRAPH.nodes.items()][::-1]), GRAPH.outputs)
    broken = Pass(name="broken", apply=lambda _: turned)
    with pytest.raises(PlanError, match=r"T0240.*which nothing makes"):
        run_passes(GRAPH, [broken], CATALOGUE)


def test_history_tells_what_each_pass_removed_added_and_renamed() -> None:
    told = history(FOLD, PRUNE)
    plan, folded, pruned = told["passes"]
    assert (plan["nodes"], folded["nodes"], pruned["nodes"]) == (6, 6, 5)
    assert not plan["removed"] + plan["added"]
    assert [line["address"] for line in folded["removed"]] == ["t.text@1/encode"]
    assert [line["text"] for line in folded["added"]] == [
        'make_ids ids=[19, 4, 97, 16, 63] kind="text" dtype="uint16" () -> text<uint16[T] const>@host'
    ]
    assert [one["address"] for one in folded["renamed"]] == ["t/document", "pack"]
    assert [line["address"] for line in pruned["removed"]] == ["t.text@1"]
    assert not pruned["added"] + pruned["renamed"]
    assert [(one["address"], one["reason"][:19]) for one in told["stored"]] == [
        ("t.label/encode", "the loader reads it")
    ]
    assert [one["nodes"] for one in told["segments"]] == [["t.label", "t.label/encode"]]
    assert json.loads(json.dumps(told)) == told


@settings(max_examples=40)
@given(graphs())
def test_history_accounts_for_every_node(graph: Graph) -> None:
    before = graph
    for step, told in zip(
        run_passes(graph, [FOLD, PRUNE], CATALOGUE),
        history(FOLD, PRUNE, graph=graph)["passes"],
        strict=True,
    ):
        assert told["nodes"] == len(step.graph)
        assert len(before) + len(told["added"]) - len(told["removed"]) == len(step.graph)
        moved = {one["before"]: one["after"] for one in told["renamed"]}
        assert len(moved) == len({*moved.values()})
        before = step.graph


def test_changes_stand_one_after_another_on_a_narrow_terminal() -> None:
    lines = write_history(history(FOLD, PRUNE), width=80).splitlines()
    assert lines[0] == "t   6 nodes planned, 5 left"
    assert "fold     6 nodes   1 removed, 1 added, 2 renamed" in lines
    assert any(line.startswith("  - t.text@1/encode   encode_texts size=100") for line in lines)
    assert any(line.startswith("  + t.text@1/encode   make_ids ids=[19") for line in lines)
    assert any(line.startswith("  ~ pack   ") and " -> " in line for line in lines)


def test_changes_stand_side_by_side_on_a_wide_one() -> None:
    lines = write_history(history(FOLD, PRUNE), width=160).splitlines()
    (row,) = [line for line in lines if "make_ids" in line]
    left, right = row.split(" | ")
    assert left.startswith("  - t.text@1/encode   encode_texts")
    assert right.startswith("+ t.text@1/encode   make_ids")
    assert all(measure(line) <= 160 for line in lines)
    (renamed,) = [line for line in lines if "~ pack" in line]
    assert renamed.count("~") == 2


def test_many_changes_are_counted_and_not_listed() -> None:
    making = "\n".join(f'%{i} = make_texts text="{i}" at t.text@{i}' for i in range(1, 50))
    graph = read_short(f'{making}\n%99 = read_columns column="a" over rows\noutput a %99')
    told = write_history(history(PRUNE, graph=graph), max_lines=10)
    assert "49 removed" in told
    assert "    and 40 more\n" in told
    assert told.count("  - ") == 9


@settings(max_examples=40)
@given(graphs())
def test_nothing_in_a_history_moves_a_cursor(graph: Graph) -> None:
    for width in (80, 160):
        told = write_history(history(FOLD, PRUNE, graph=graph, title="\x1b[2J"), width=width)
        assert all(printable(line) == line for line in told.split("\n"))


def test_a_cut_is_written_node_by_node() -> None:
    lines = write_cut(GRAPH, cut(GRAPH, CATALOGUE)).splitlines()
    place = lines.index("offline t.label/encode")
    assert lines[place + 1].startswith("  stored: the loader reads it; ~64 bytes a row")
    assert lines[-1] == "online pack"
