"""Identity: a graph's text is the graph, and a key says what is computed and nothing else."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from taskloom.graph.draft import Draft
from taskloom.graph.errors import PlanError, Site, Span, TaskloomError
from taskloom.graph.graph import Graph
from taskloom.graph.node import KEY_LENGTH, Node, NodeId, Note, Value, plan_key
from taskloom.graph.op import Op, Plain, Rows, Traits, canonical, parameters, scalars
from taskloom.graph.type import ANY, Layout, Port, Signature, Type

from .ops import CATALOGUE, Compose, EncodeTexts, FitWords, MakeTexts, Pack, ReadColumns
from .random_graphs import graphs
from .short import read_short, write_short

many = settings(max_examples=30)
WEIRD = [
    "",
    " ",
    '"',
    "\\",
    "\n",
    "\r\n",
    "\x85\u2028\u2029\x1b[2J\x00",
    "  at a",
    "output x %1",
    "日本語 … ünïcödé 🧵",
    "a -> b",
    ") -> out: x",
    "b: text<x>; c",
    "%1@rows:port",
    '{"a": 1}',
]

texts = st.sampled_from(WEIRD) | st.text(max_size=8)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=8,
)
types = st.builds(
    Type,
    st.sampled_from(["text", "any", "image"]),
    st.sampled_from(
        ["uint16", "timestamp[us, tz=UTC]", "list<item: string>", "struct<a: x, b; c: y>"]
    ),
    st.lists(st.integers(0, 9) | st.sampled_from(["T", "N_image"]), max_size=3).map(tuple),
    st.sampled_from(list(Layout)),
    rows=texts,
)


@st.composite
def nodes(draw: st.DrawFn, made: Mapping[NodeId, Node]) -> Node:
    """Draw a node of an op that nobody knows, with parameters, names and places of any kind."""
    makers = [Value(node.id, port) for node in made.values() for port in node.types]
    inputs = draw(st.dictionaries(texts, st.sampled_from(makers), max_size=3)) if makers else {}
    op, version, scope = draw(texts), draw(st.integers(1, 9)), draw(texts)
    drawn = draw(st.dictionaries(texts, plain, max_size=3))
    params = {name: canonical(value, name) for name, value in drawn.items()}
    rows = draw(texts)
    span = st.builds(Span, st.integers(0, 99), st.integers(0, 99))
    note = Note(
        frozenset(draw(st.lists(texts, max_size=3))),
        frozenset(draw(st.lists(st.builds(Site, texts, texts, span), max_size=2))),
    )
    key = plan_key(op, version, params, inputs, scope, rows)
    outputs = draw(st.dictionaries(texts, types, min_size=1, max_size=3))
    return Node(
        id=NodeId(key, rows),
        op=op,
        version=version,
        params=params,
        inputs=inputs,
        types=outputs,
        scope=scope,
        note=note,
    )


@st.composite
def strange_graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph that holds together and of which nothing else makes sense."""
    made: dict[NodeId, Node] = {}
    for _ in range(draw(st.integers(0, 4))):
        node = draw(nodes(made))
        made.setdefault(node.id, node)
    values = [Value(node.id, port) for node in made.values() for port in node.types]
    outputs = draw(st.dictionaries(texts, st.sampled_from(values), max_size=3)) if values else {}
    return Graph(made, outputs)


@many
@given(graphs())
def test_the_text_of_a_graph_is_the_graph_whose_types_are_checked(graph: Graph) -> None:
    again = Graph.parse(str(graph), CATALOGUE)
    assert again == graph
    assert str(again) == str(graph)
    assert pickle.loads(pickle.dumps(graph)) == graph


@settings(max_examples=60)
@given(strange_graphs())
def test_the_text_of_a_graph_is_the_graph_whatever_its_names_are(graph: Graph) -> None:
    again = Graph.parse(str(graph))
    assert again == graph
    assert [*again.nodes] == [*graph.nodes]
    assert pickle.loads(pickle.dumps(graph)) == graph
    assert str(graph).isprintable() or set(str(graph)) - {"\n"} == {
        c for c in str(graph) if c.isprintable()
    }


@many
@given(graphs())
def test_the_short_form_says_all_but_places(graph: Graph) -> None:
    bare = {node.id: replace(node, note=Note(), scope="s" if node.scope else "") for node in graph}
    text = write_short(Graph(bare, {f"o{i}": v for i, v in enumerate(graph.outputs.values())}))
    if "task " not in text:
        assert write_short(read_short(text)) == text


@many
@given(graphs(), st.data())
def test_a_graph_that_does_not_follow_from_its_ops_is_refused(
    graph: Graph, data: st.DataObject
) -> None:
    graph.verify(CATALOGUE)
    node = data.draw(st.sampled_from(list(graph)))
    port, type_ = data.draw(st.sampled_from(sorted(node.types.items())))
    other = replace(type_, dtype="int7")
    lying = replace(node, types={**node.types, port: other})
    wrong = Graph({n.id: lying if n is node else n for n in graph}, graph.outputs)
    with pytest.raises(TaskloomError) as caught:
        Graph.parse(str(wrong), CATALOGUE)
    assert caught.value.problems[0].code == "T0201"
    Graph.parse(str(wrong))  # without the ops, types are believed


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"op": "no_such_op"}, "T0205", id="op"),
        pytest.param({"version": 9}, "T0205", id="version"),
        pytest.param({"params": {"size": 100, "more": 1}}, "T0204", id="parameter"),
        pytest.param({"params": {}}, "T0204", id="default left out"),
        pytest.param({"params": {"size": 100.0}}, "T0202", id="float for int"),
        pytest.param({"types": {}}, "T0201", id="no output"),
    ],
)
def test_what_only_the_ops_know_is_checked_with_them(change: dict[str, Any], code: str) -> None:
    graph = read_short(
        """
        %1 = read_columns column="a" over rows
        %2 = encode_texts (texts=%1) at t.a/encode
        output ids %2
        """
    )
    changed = replace(graph["t.a/encode"], **change)
    key = plan_key(changed.op, changed.version, changed.params, changed.inputs, rows="rows")
    changed = replace(changed, id=NodeId(key, "rows"))
    read, _ = graph
    wrong = Graph({read.id: read, changed.id: changed}, {})
    wrong.verify()
    with pytest.raises(PlanError) as caught:
        wrong.verify(CATALOGUE)
    assert caught.value.problems[0].code == code
    assert caught.value.problems[0].address == "t.a/encode"


def test_rows_that_a_node_does_not_carry_are_refused() -> None:
    graph = read_short('%1 = make_texts text="a"\noutput text %1')
    (node,) = graph
    moved = replace(node, id=NodeId(node.key, "rows"))
    with pytest.raises(PlanError, match=r"T0206.*carries the rows of a constant"):
        Graph({moved.id: moved}, {}).verify(CATALOGUE)


@many
@given(graphs())
def test_verifying_with_what_is_known_finds_what_verifying_all_finds(graph: Graph) -> None:
    graph.verify(CATALOGUE, known=graph)
    last = [*graph][-1]
    changed = replace(last, params={**last.params, "width": 5})
    wrong = Graph({**graph.nodes, last.id: changed}, graph.outputs)
    for known in (None, graph):
        with pytest.raises(PlanError, match="its contents say"):
            wrong.verify(CATALOGUE, known=known)


# Keys.

GOLDEN = {
    "read": "1fa6589c211889d1b82b1f3f03714ce4",
    "ids": "e8beb70bb146173331c77832ed4806e2",
    "text": "0be93e26a25339841fc6ec458b1dd469",
    "words": "06bf0b4a9d7e9e49dd11553816f704ef",
    "document": "59e8e17a768ab5b29304a7946654900d",
    "pack": "61e93950dfd715a75769177713577452",
    "nested": "f58731769a97713ea889d6e7a4eb2375",
}


def golden_nodes() -> dict[str, str]:
    """Return the keys that must stay what they are for as long as stores are to be read."""
    draft = Draft(CATALOGUE)
    read = draft.add(ReadColumns(column="caption"), rows="photos")
    ids = draft.add(EncodeTexts(size=7), {"texts": read})
    text = draft.add(MakeTexts(text='a "ß"\n🧵'))
    words = draft.add(FitWords(), {"texts.0": read, "texts.1": text})
    document = draft.add(Compose(), {"target.0": ids, "source.0": read})
    pack = draft.add(Pack(), {"t": document})
    nested: Plain = {"a": (1, 1.0, -0.5, 1e300, True, None, "x"), "b": {"c": ()}}
    return {
        "read": read.node.key,
        "ids": ids.node.key,
        "text": text.node.key,
        "words": words.node.key,
        "document": document.node.key,
        "pack": pack.node.key,
        "nested": plan_key("op", 3, {"nested": nested}, {"in": Value(ids.node, "labels")}, "scope"),
    }


def test_keys_are_those_that_stores_hold() -> None:
    assert golden_nodes() == GOLDEN, "a changed key rebuilds every column: raise KEY_SCHEMA with it"


@pytest.mark.parametrize("part", ["schema", "op", "version", "params", "input", "port", "scope"])
def test_every_part_of_a_node_is_in_its_key(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = {"op": "op", "version": 1, "params": {"a": 1}, "scope": ""}
    inputs = {"in": Value(NodeId("k", "rows"))}
    before = plan_key(**facts, inputs=inputs, rows="rows")
    match part:
        case "schema":
            monkeypatch.setattr("taskloom.graph.node.KEY_SCHEMA", 99)
        case "input":
            inputs = {"in": Value(NodeId("other", "rows"))}
        case "port":
            inputs = {"in": Value(NodeId("k", "rows"), "labels")}
        case _:
            facts[part] = {"op": "po", "version": 2, "params": {"a": 2}, "scope": "s"}[part]
    after = plan_key(**facts, inputs=inputs, rows="rows")
    assert len(after) == KEY_LENGTH
    assert after != before


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_ports_is_in_no_key(order: Sequence[str]) -> None:
    draft = Draft(CATALOGUE)
    parts = {p: draft.add(ReadColumns(column=p), rows="rows") for p in "abcd"}
    first = draft.add(Compose(), parts)
    assert draft.add(Compose(), {port: parts[port] for port in order}) == first


def test_fits_over_the_rows_of_two_sources_are_two_nodes() -> None:
    draft = Draft(CATALOGUE)
    texts = [draft.add(ReadColumns(column="label"), rows=rows) for rows in ("photos", "letters")]
    assert texts[0].node.key == texts[1].node.key
    fits = [draft.add(FitWords(), {"texts.0": text}) for text in texts]
    assert fits[0] != fits[1]
    documents = [draft.add(Compose(), {"source.0": text}) for text in texts]
    assert documents[0].node.key == documents[1].node.key
    packs = [draft.add(Pack(), {"t": document}) for document in documents]
    assert packs[0] != packs[1]


def test_keys_are_equal_in_other_processes_with_other_hash_seeds(tmp_path: Path) -> None:
    script = tmp_path / "keys.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from graph.test_identity import golden_nodes; print(golden_nodes())"
    )
    command = [sys.executable, str(script), str(Path(__file__).parents[1])]
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(golden_nodes())


# Parameters.


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Point:
    x: int = 1


@dataclass(frozen=True, kw_only=True)
class Everything:
    """An op with a field of every kind that is checked, and one that holds anything."""

    whole: int = 1
    number: float = 1.0
    maybe: float | None = None
    either: int | float = 1
    is_on: bool = False
    name: str = ""
    mean: tuple[float, ...] = ()
    anything: Plain = None
    traits: ClassVar[Traits] = Traits("everything", 1, rows=Rows.READ)

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": Port(ANY, ANY)})


@pytest.mark.parametrize(
    "value",
    [
        ...,
        math.nan,
        math.inf,
        {1: 2},
        {3},
        b"bytes",
        np.float64(1.0),
        np.int64(1),
        np.bool_(True),  # noqa: FBT003
        np.zeros(2),
        np.str_("a"),
        "\ud800",
        {"\udfff": 1},
        print,
        int,
        1j,
    ],
    ids=lambda v: ascii(v)[:24],
)
def test_a_parameter_without_canonical_form_is_refused_by_name(value: Any) -> None:
    with pytest.raises(PlanError, match=r"T0202.*op\.field"):
        canonical(value, "op.field")
    with pytest.raises(PlanError, match=r"T0202.*everything\.anything\[0\]\.deep"):
        parameters(Everything(anything=({"deep": value},)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, (2,)], (1, (2,))),
        ({"b": 1, "a": [2]}, {"a": (2,), "b": 1}),
        (Colour.RED, "red"),
        (Point(x=3), {"x": 3}),
        (-0.0, 0.0),
    ],
)
def test_values_with_one_meaning_have_one_form(value: Any, expected: Plain) -> None:
    assert repr(canonical(value, "op.field")) == repr(expected)


LIST: Any = [1]


@pytest.mark.parametrize(
    ("given", "same"),
    [
        pytest.param(Everything(number=1), Everything(number=1.0), id="1 in a float"),
        pytest.param(Everything(maybe=0), Everything(maybe=0.0), id="0 in a float or nothing"),
        pytest.param(Everything(number=-0.0), Everything(number=0), id="-0.0"),
        pytest.param(Everything(mean=(0, 1)), Everything(mean=(0.0, 1.0)), id="in a tuple"),
        pytest.param(Everything(anything=LIST), Everything(anything=(1,)), id="list and tuple"),
    ],
)
def test_one_meaning_is_one_key(given: Op, same: Op) -> None:
    assert repr(parameters(given)) == repr(parameters(same))
    draft = Draft({"everything": Everything})
    assert draft.add(given, rows="r") == draft.add(same, rows="r")


@pytest.mark.parametrize(
    "values",
    [
        pytest.param((1, 1.0, True), id="one"),
        pytest.param((0, 0.0, False), id="zero"),
        pytest.param(((1,), (1.0,), (True,)), id="in a tuple"),
        pytest.param(({"a": 1}, {"a": 1.0}, {"a": True}), id="in a mapping"),
        pytest.param(("1", 1), id="text"),
        pytest.param((None, "None", "null"), id="none"),
    ],
)
def test_what_no_type_makes_one_is_several_keys(values: Sequence[Any]) -> None:
    draft = Draft({"everything": Everything})
    made = [draft.add(Everything(anything=value), rows="r") for value in values]
    assert len(set(made)) == len(values)
    assert [draft.add(Everything(anything=value), rows="r") for value in values] == made


@pytest.mark.parametrize(
    "wrong",
    [
        {"whole": 1.0},
        {"whole": True},
        {"number": True},
        {"number": 1 << 60},
        {"number": "1"},
        {"is_on": 1},
        {"name": 1},
        {"either": "1"},
        {"mean": (0.5, "1")},
    ],
    ids=str,
)
def test_what_is_not_as_declared_is_refused_by_name(wrong: Mapping[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(PlanError, match=rf"T0202.*everything\.{name}.* is declared"):
        parameters(Everything(**wrong))


@given(plain)
@example([1.0, 1, True])
def test_the_canonical_form_of_a_canonical_form_is_itself(value: Any) -> None:
    once = canonical(value, "op.field")
    assert repr(canonical(once, "op.field")) == repr(once)


@given(st.builds(Everything, whole=st.integers(), number=st.floats(0, 1), name=st.text()))
def test_ops_that_are_alike_to_the_draft_have_equal_parameters(op: Everything) -> None:
    assert scalars(op) is None  # a tuple may hold anything
    one, other = EncodeTexts(size=1), EncodeTexts(size=True)
    assert one == other
    assert scalars(one) != scalars(other)
