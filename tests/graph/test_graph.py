"""Equal work is one node, every edge fits, and a graph's text is the graph."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.draft import Draft
from taskloom.graph.errors import PlanError, Site, Span, TypeMismatchError
from taskloom.graph.graph import Graph
from taskloom.graph.node import NodeId, Value, plan_key
from taskloom.graph.op import canonical

from .ops import (
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

words = st.text(max_size=12)


def caption(draft: Draft, task: str, *, prompt: str = "what?", size: int = 8) -> Value:
    """Add a small task and return its document."""
    image = draft.add(ReadColumns(column="image"), rows="photos", address=f"{task}.image")
    decoded = draft.add(DecodeImages(), {"data": image}, address=f"{task}.image/decode")
    resized = draft.add(
        ResizeImages(size=size), {"images": decoded}, address=f"{task}.image/resize"
    )
    text = draft.add(MakeTexts(text=prompt), address=f"{task}.text@0")
    ids = draft.add(
        EncodeTexts(),
        {"texts": text},
        address=f"{task}.text@0/encode",
        sites=[Site(f"{task}:1", f"{prompt} -> [TEXT:a]", Span(0, len(prompt)))],
    )
    inputs = {"source.0": resized, "source.1": ids}
    return draft.add(Compose(), inputs, address=f"{task}/document")


def mixture(*tasks: str) -> Graph:
    """Return the graph of some captioning tasks."""
    making = draft()
    documents = {task: caption(making, task) for task in tasks}
    pack = making.add(Pack(), documents, address="pack")
    hidden = making.add(EmbedTokens(width=4), {"ids": pack}, scope="vocabulary", address="embed")
    return making.graph({"hidden": hidden})


@given(st.lists(words, max_size=4), st.integers(1, 99))
def test_text_of_a_graph_parses_back_to_an_equal_graph(prompts: list[str], size: int) -> None:
    making = draft()
    documents = {
        f"t{i}": caption(making, f"t{i}", prompt=prompt, size=size)
        for i, prompt in enumerate(prompts)
    }
    graph = making.graph({"pack": making.add(Pack(), documents, address="pack")})
    assert Graph.parse(str(graph)) == graph
    assert pickle.loads(pickle.dumps(graph)) == graph


def test_tasks_that_ask_for_equal_work_share_its_nodes() -> None:
    one, two = mixture("a"), mixture("a", "b")
    assert len(two) == len(one)
    assert two["a.image/resize"] is two["b.image/resize"]


def test_adding_a_task_changes_no_other_host_node() -> None:
    one, two = mixture("b"), mixture("a", "b")
    hosts = {node.id for node in one if node.op not in {"pack_documents", "embed_tokens"}}
    assert hosts <= set(two.nodes)


def test_rows_of_two_sources_are_two_nodes_with_one_plan_key() -> None:
    making = draft()
    first = making.add(ReadColumns(column="image"), rows="photos")
    second = making.add(ReadColumns(column="image"), rows="paintings")
    assert first.node.key == second.node.key
    assert first != second


def test_names_and_places_are_in_no_key() -> None:
    making, other = draft(), draft()
    first = caption(making, "a")
    second = caption(other, "z")
    assert first == second


def test_keys_are_equal_in_another_process_with_another_hash_seed(tmp_path: Path) -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1])\nfrom graph.test_graph import mixture\n"
    path = tmp_path / "keys.py"
    path.write_text(script + "print(mixture('a', 'b'))")
    tests = Path(__file__).parents[1]
    run = [sys.executable, str(path), str(tests)]
    texts = {
        subprocess.run(
            run, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert texts == {str(mixture("a", "b")).strip()}


def test_joining_two_row_sets_names_both() -> None:
    making = draft()
    source = making.add(ReadColumns(column="a"), rows="left")
    target = making.add(ReadColumns(column="b"), rows="right")
    with pytest.raises(PlanError, match=r"(?s)T0206.*rows of \"left\".*rows of \"right\""):
        making.add(Compose(), {"source.0": source, "target.0": target})


def _unlike(change: Callable[[Draft], object]) -> str:
    with pytest.raises(TypeMismatchError) as caught:
        change(draft())
    return str(caught.value)


def _kind(making: Draft) -> None:
    text = making.add(ReadColumns(column="a"), rows="r")
    making.add(ResizeImages(size=4), {"images": text}, address="a.b/resize")


def _dtype(making: Draft) -> None:
    text = making.add(ReadColumns(column="a"), rows="r")
    making.add(MaskTokens(), {"ids": text})


def _layout(making: Draft) -> None:
    data = making.add(ReadColumns(column="a"), rows="r")
    dense = making.add(ResizeImages(size=4), {"images": making.add(DecodeImages(), {"data": data})})
    making.add(ResizeImages(size=4), {"images": dense})


def test_a_mismatch_names_what_differs_and_both_types() -> None:
    assert "kind" in _unlike(_kind)
    assert "expected: image<uint8[H,W,3] ragged>" in _unlike(_kind)
    assert "got:      text<string[] scalar>@host/r" in _unlike(_kind)
    assert "node a.b/resize" in _unlike(_kind)
    assert "dtype, number of dimensions" in _unlike(_dtype) or "dtype" in _unlike(_dtype)
    assert "layout" in _unlike(_layout)


def test_a_port_without_a_value_is_named() -> None:
    with pytest.raises(PlanError, match="encode_texts is left without texts"):
        draft().add(EncodeTexts(), {})


def test_an_unknown_address_suggests_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"did you mean a\.image/resize\?"):
        _ = mixture("a")["a.image/resise"]


@pytest.mark.parametrize(
    "value", [object(), float("nan"), {1: 2}, {3}, b"bytes"], ids=lambda v: type(v).__name__
)
def test_a_parameter_without_canonical_form_is_refused_by_name(value: Any) -> None:
    with pytest.raises(PlanError, match=r"op\.field"):
        canonical(value, "op.field")


def test_order_of_a_mapping_is_in_no_key() -> None:
    first = plan_key("op", 1, {"a": 1, "b": 2}, {})
    assert first == plan_key("op", 1, {"b": 2, "a": 1}, {})
    assert first != plan_key("op", 2, {"a": 1, "b": 2}, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t.replace('"size":8', '"size":9'), "its contents say", id="params"),
        pytest.param(
            lambda t: t.replace("taskloom graph 1", "taskloom graph 2"), "begins", id="head"
        ),
        pytest.param(lambda t: t + "nonsense\n", "not understood", id="line"),
        pytest.param(
            lambda t: t.replace("output hidden %", "output hidden %0"), "nothing makes", id="out"
        ),
    ],
)
def test_a_text_that_is_no_graph_is_refused(change: Callable[[str], str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Graph.parse(change(str(mixture("a"))))


def test_needs_are_in_topological_order_and_nothing_else() -> None:
    graph = mixture("a", "b")
    needed = graph.needs([Value(graph["a.image/resize"].id)])
    assert [node.op for node in needed] == ["read_columns", "decode_images", "resize_images"]


def test_ids_and_values_parse_back() -> None:
    value = Value(NodeId("5c1f", "photos"), "labels")
    assert Value.parse(str(value)) == value
    assert Value.parse(str(Value(NodeId("5c1f")))) == Value(NodeId("5c1f"))
