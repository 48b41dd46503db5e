"""On whatever graph: a pass keeps what the outputs mean, is done when done once, and leaves what verifies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from taskloom.graph.graph import Graph
from taskloom.graph.node import Node, Value
from taskloom.graph.op import Rows
from taskloom.graph.passes.cut import Stage, cut
from taskloom.graph.passes.fold import fold
from taskloom.graph.passes.merge import merge
from taskloom.graph.passes.prune import prune
from taskloom.graph.passes.segment import segment
from taskloom.graph.type import Layout

from .ops import CATALOGUE
from .random_graphs import evaluate, evaluate_ids, graphs, results

many = settings(max_examples=40)
PASSES: dict[str, Callable[[Graph], Graph]] = {
    "fold": lambda graph: fold(graph, CATALOGUE, evaluate_ids),
    "merge": merge,
    "prune": prune,
}
each_pass = pytest.mark.parametrize("apply", PASSES.values(), ids=PASSES)


@each_pass
@many
@given(graph=graphs())
def test_a_pass_keeps_what_outputs_mean_is_done_and_verifies(
    apply: Callable[[Graph], Graph], graph: Graph
) -> None:
    after = apply(graph)
    after.verify(CATALOGUE)
    assert results(after) == results(graph)
    assert apply(after) == after
    assert {address for node in after for address in node.note.addresses} <= {
        address for node in graph for address in node.note.addresses
    }


@many
@given(graphs())
def test_fold_leaves_no_text_to_encode_that_documents_read(graph: Graph) -> None:
    after = prune(fold(graph, CATALOGUE, evaluate_ids))
    assert not any(node.op == "encode_texts" and not node.id.rows for node in after)


@many
@given(graphs())
def test_prune_keeps_exactly_what_outputs_need(graph: Graph) -> None:
    needed = {node.id for node in graph.needs(graph.outputs.values())}
    assert prune(graph).nodes.keys() == needed


@many
@given(graphs(), st.data())
def test_merge_is_the_graph_with_the_nodes_replaced(graph: Graph, data: st.DataObject) -> None:
    makers = [node for node in graph if node.op == "make_texts"]
    chosen = data.draw(st.lists(st.sampled_from(makers))) if makers else []
    replaced = {node.id: replace(node, params={"text": "same"}) for node in chosen}
    merged = merge(graph, replaced)
    merged.verify(CATALOGUE)
    known: dict[Value, Any] = {Value(node): "same" for node in replaced}
    expected = evaluate(graph, list(graph.outputs.values()), known)
    assert results(merged) == {name: expected[v] for name, v in graph.outputs.items()}
    kept = frozenset[str]().union(*(node.note.addresses for node in merged))
    assert kept == frozenset[str]().union(*(node.note.addresses for node in graph))


@many
@given(graphs())
def test_a_cut_stores_all_that_the_rest_needs_and_no_constant(graph: Graph) -> None:
    graph = prune(graph)
    done = cut(graph, CATALOGUE)
    offline = [node for node in graph if done.stages[node.id] is Stage.OFFLINE]
    stored = evaluate(graph, list(done.stored))
    constants = evaluate(graph, [Value(node.id) for node in offline if not node.id.rows])
    rest = {node.id: node for node in graph if node not in offline}
    online = Graph(rest | {value.node: graph.nodes[value.node] for value in constants}, {})
    again = evaluate(online, list(graph.outputs.values()), stored | constants)
    assert {name: again[value] for name, value in graph.outputs.items()} == results(graph)
    assert all(graph.type_of(value).layout is not Layout.CONST for value in done.stored)


@many
@given(graphs())
def test_stages_never_go_back_and_nothing_random_is_offline(graph: Graph) -> None:
    done = cut(graph, CATALOGUE)
    order = [*Stage]
    for node in graph:
        now = order.index(done.stages[node.id])
        assert all(order.index(done.stages[value.node]) <= now for value in node.inputs.values())
        assert not (CATALOGUE[node.op].traits.is_random and now == 0)


@many
@given(graphs())
def test_segments_compute_what_is_stored_and_share_no_rows(graph: Graph) -> None:
    graph = prune(graph)
    done = cut(graph, CATALOGUE)
    segments = segment(graph, done, CATALOGUE)
    assert sorted(value for one in segments for value in one.stored) == sorted(done.stored)
    fits = {node.id for node in graph if CATALOGUE[node.op].traits.rows is Rows.FIT}
    artifacts = evaluate(graph, [Value(fit) for fit in fits])
    for one in segments:
        alone = Graph({node: graph.nodes[node] for node in one.nodes}, {})
        made = evaluate(alone, one.stored, artifacts)
        assert made == evaluate(graph, one.stored)
        assert {value.node.rows for value in one.stored} == {one.rows}
    in_rows = [{node for node in one.nodes if node.rows} for one in segments]
    assert all(not first & second for i, first in enumerate(in_rows) for second in in_rows[i + 1 :])
    order = {node: position for position, node in enumerate(graph.nodes)}
    assert all(order[a] < order[b] for one in segments for a, b in pairwise(one.nodes))


@many
@given(graphs())
def test_a_graph_has_the_node_of_every_address(graph: Graph) -> None:
    first: dict[str, Node] = {}
    for node in graph:
        for address in node.note.addresses:
            first.setdefault(address, node)
    assert all(graph[address] is node for address, node in first.items())


@many
@given(graphs())
def test_a_node_needs_what_it_is_among_the_users_of(graph: Graph) -> None:
    for maker, users in graph.users().items():
        for user in users:
            assert graph.nodes[maker] in graph.needs([Value(user.id)])
