"""Each pass does one thing, leaves a graph that verifies, and changes nothing when done twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from taskloom.graph.draft import Draft
from taskloom.graph.errors import PlanError
from taskloom.graph.graph import Graph
from taskloom.graph.node import Node, Value
from taskloom.graph.passes.cut import Stage, cut
from taskloom.graph.passes.fold import fold
from taskloom.graph.passes.merge import merge
from taskloom.graph.passes.prune import prune
from taskloom.graph.passes.segment import segment

from .ops import (
    CATALOGUE,
    Compose,
    DecodeImages,
    EmbedTokens,
    EncodeTexts,
    MakeTexts,
    MaskTokens,
    Pack,
    ReadColumns,
    ResizeImages,
    draft,
)


def read(making: Draft, column: str, rows: str = "photos") -> Value:
    return making.add(ReadColumns(column=column), rows=rows, address=f"t.{column}")


def two_sided() -> Graph:
    """An image and a prompt on one side, a label on the other, and a column nobody wants."""
    making = draft()
    decoded = making.add(DecodeImages(), {"data": read(making, "image")}, address="t.image/decode")
    image = making.add(ResizeImages(size=8), {"images": decoded}, address="t.image/resize")
    text = making.add(MakeTexts(text="what?"), address="t.text@1")
    prompt = making.add(EncodeTexts(), {"texts": text}, address="t.text@1/encode")
    label = making.add(EncodeTexts(), {"texts": read(making, "label")}, address="t.label/encode")
    making.add(EncodeTexts(), {"texts": read(making, "unused")}, address="t.unused/encode")
    inputs = {"source.0": image, "source.1": prompt, "target.0": label}
    document = making.add(Compose(), inputs, address="t/document")
    pack = making.add(Pack(), {"t": document}, address="pack")
    hidden = making.add(EmbedTokens(width=4), {"ids": pack}, scope="vocabulary", address="embed")
    return making.graph({"hidden": hidden})


def seven_eight(_: Graph, node: Node) -> Sequence[int] | None:
    return (7, 8) if node.op == "encode_texts" else None


def test_prune_drops_what_no_output_needs() -> None:
    graph = prune(two_sided())
    graph.verify()
    columns = {str(node.params["column"]) for node in graph if node.op == "read_columns"}
    assert columns == {"image", "label"}
    assert prune(graph) == graph


def test_fold_puts_ids_in_place_of_plain_text() -> None:
    graph = fold(prune(two_sided()), CATALOGUE, seven_eight)
    graph.verify()
    folded = graph["t.text@1/encode"]
    assert (folded.op, folded.params["ids"]) == ("make_ids", (7, 8))
    assert not any(node.op == "make_texts" for node in graph)
    assert fold(graph, CATALOGUE, seven_eight) == graph


def test_fold_leaves_what_is_not_known_yet() -> None:
    graph = prune(two_sided())
    assert fold(graph, CATALOGUE, lambda _graph, _node: None) == graph


def test_fold_changes_the_key_of_no_stored_column() -> None:
    before = prune(two_sided())
    after = fold(before, CATALOGUE, seven_eight)
    assert set(cut(before, CATALOGUE).stored) == set(cut(after, CATALOGUE).stored)


def test_merge_of_a_graph_is_the_graph() -> None:
    graph = two_sided()
    assert merge(graph) == graph


def test_cut_stores_what_crosses_to_the_loader_and_no_constant() -> None:
    graph = prune(two_sided())
    stored = {graph.nodes[v.node].address: why for v, why in cut(graph, CATALOGUE).stored.items()}
    assert stored == {
        "t.image/resize": "the loader reads it; 192 bytes a row as uint8",
        "t.label/encode": "the loader reads it",
    }


def test_cut_runs_random_ops_and_what_follows_online() -> None:
    making = draft()
    ids = making.add(EncodeTexts(), {"texts": read(making, "label")}, address="t.label/encode")
    masked = making.add(MaskTokens(), {"ids": ids}, address="t.label/mask")
    document = making.add(Compose(), {"source.0": masked}, address="t/document")
    graph = making.graph({"document": document})
    done = cut(graph, CATALOGUE)
    assert done.stages[graph["t.label/encode"].id] is Stage.OFFLINE
    assert done.stages[graph["t.label/mask"].id] is Stage.ONLINE
    assert done.stored == {ids: "mask_tokens draws anew in every epoch"}


def test_cut_stores_what_persist_asks_for() -> None:
    graph = prune(two_sided())
    done = cut(graph, CATALOGUE, persist=["t.image/decode"])
    assert done.stored[Value(graph["t.image/decode"].id)] == "asked for by persist"


def test_cut_refuses_to_persist_what_runs_on_the_device() -> None:
    with pytest.raises(PlanError, match=r'"embed" does not run offline'):
        cut(prune(two_sided()), CATALOGUE, persist=["embed"])


def test_segments_are_the_unconnected_chains_of_a_source() -> None:
    graph = prune(two_sided())
    segments = segment(graph, cut(graph, CATALOGUE), CATALOGUE)
    found = {tuple(graph.nodes[n].address for n in s.nodes): s.needs_process for s in segments}
    assert found == {
        ("t.image", "t.image/decode", "t.image/resize"): True,
        ("t.label", "t.label/encode"): False,
    }


def test_chains_that_share_a_column_are_one_segment() -> None:
    making = draft()
    label = read(making, "label")
    inputs = {
        f"source.{size}": making.add(EncodeTexts(size=size), {"texts": label}) for size in (1, 2)
    }
    document = making.add(Compose(), inputs, address="t/document")
    graph = making.graph({"document": document})
    (only,) = segment(graph, cut(graph, CATALOGUE), CATALOGUE)
    assert len(only.stored) == 2
    assert len(only.nodes) == 3
