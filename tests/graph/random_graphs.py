"""Random graphs over the ops of tests, and what such graphs compute, so that passes can be held to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import hypothesis.strategies as st

from taskloom.graph.draft import Draft
from taskloom.graph.errors import Site, Span
from taskloom.graph.graph import Graph
from taskloom.graph.node import Node, NodeId, Value
from taskloom.graph.op import Op

from .ops import (
    CATALOGUE,
    Compose,
    DecodeImages,
    EmbedTokens,
    EncodeTexts,
    FitWords,
    LookUpWords,
    MakeTexts,
    MaskTokens,
    Pack,
    ReadColumns,
    ResizeImages,
    ScaleImages,
)

NUM_ROWS: Final = 3
SOURCES: Final = ("photos", "letters")

texts = st.text(max_size=6)
sites = st.builds(
    lambda label, text, span: Site(label, text, Span(*sorted(span))),
    texts,
    texts,
    st.tuples(st.integers(0, 99), st.integers(0, 99)),
)


@dataclass(slots=True)
class _Making:
    """A random graph in the making: values by what they may feed."""

    draw: st.DrawFn
    draft: Draft = field(default_factory=lambda: Draft(CATALOGUE))
    values: dict[str, list[Value]] = field(default_factory=dict[str, list[Value]])

    def add(
        self, kind: str, op: Op, inputs: Mapping[str, Value] | None = None, **more: Any
    ) -> None:
        value = self.draft.add(
            op,
            inputs,
            address=self.draw(texts),
            sites=self.draw(st.lists(sites, max_size=1)),
            **more,
        )
        self.values.setdefault(kind, []).append(value)

    def pick(self, *kinds: str) -> Value:
        return self.draw(st.sampled_from([v for kind in kinds for v in self.values.get(kind, ())]))

    def has(self, *kinds: str) -> bool:
        return any(self.values.get(kind) for kind in kinds)

    def step(self) -> None:
        """Add a node of a random kind whose inputs exist."""
        number = self.draw(st.integers(1, 3))
        steps: Mapping[str, tuple[Sequence[str], Callable[[], None]]] = {
            "read": ((), lambda: self.read(number)),
            "make": ((), lambda: self.add("const text", MakeTexts(text=self.draw(texts)))),
            "encode": (("text",), lambda: self.encode("text", "ids", number)),
            "encode const": (
                ("const text",),
                lambda: self.encode("const text", "const ids", number),
            ),
            "mask": (("ids",), lambda: self.mask(number / 4)),
            "fit": (("text",), self.fit),
            "look up": (("words", "text"), self.look_up),
            "decode": (("text",), self.decode),
            "compose": (("ids", "pixels", "scaled"), self.compose),
        }
        able = [name for name, (needs, _) in steps.items() if all(map(self.has, needs[:1]))]
        steps[self.draw(st.sampled_from(able))][1]()

    def read(self, number: int) -> None:
        rows = self.draw(st.sampled_from(SOURCES))
        self.add("text", ReadColumns(column=f"c{number}"), rows=rows)

    def encode(self, kind: str, made: str, number: int) -> None:
        self.add(made, EncodeTexts(size=10 * number), {"texts": self.pick(kind)})

    def mask(self, share: float) -> None:
        self.add("ids", MaskTokens(share=share), {"ids": self.pick("ids")})

    def fit(self) -> None:
        inputs = {f"texts.{i}": self.pick("text") for i in range(self.draw(st.integers(1, 3)))}
        self.add("words", FitWords(), inputs)

    def look_up(self) -> None:
        if self.has("text"):
            self.add(
                "ids", LookUpWords(), {"texts": self.pick("text"), "words": self.pick("words")}
            )

    def decode(self) -> None:
        size = self.draw(st.integers(1, 2))
        self.add("raw", DecodeImages(), {"data": self.pick("text")})
        self.add("pixels", ResizeImages(size=size), {"images": self.values["raw"][-1]})
        if self.draw(st.booleans()):
            self.add("scaled", ScaleImages(size=size), {"images": self.values["pixels"][-1]})

    def compose(self) -> None:
        first = self.pick("ids", "pixels", "scaled")
        others = [
            value
            for kind in ("ids", "pixels", "scaled", "const ids")
            for value in self.values.get(kind, ())
            if value.node.rows in ("", first.node.rows)
        ]
        parts = [first, *self.draw(st.lists(st.sampled_from(others), max_size=2))]
        self.add("document", Compose(), {f"source.{i}": part for i, part in enumerate(parts)})


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph: some chains over two sources, documents, and a program over their pack."""
    making = _Making(draw)
    making.read(1)
    making.encode("text", "ids", 1)
    for _ in range(draw(st.integers(0, 14))):
        making.step()
    making.compose()
    documents = making.values["document"]
    making.add("pack", Pack(), {f"task {i}": document for i, document in enumerate(documents)})
    (pack,) = making.values["pack"]
    scope = draw(st.text(max_size=3))
    making.add("device", EmbedTokens(width=4), {"ids": pack}, scope=scope)
    outputs = {"hidden": making.pick("device"), "labels": Value(pack.node, "labels")}
    outputs |= {draw(texts): fit for fit in making.values.get("words", ())}
    return making.draft.graph(outputs)


def evaluate(
    graph: Graph, wanted: Collection[Value], known: Mapping[Value, Any] | None = None
) -> dict[Value, Any]:
    """Return what ``wanted`` stand for, computing no value that is ``known``."""
    values = dict(known or {})
    for value in wanted:
        _compute(graph, value, values)
    return {value: values[value] for value in wanted}


def results(graph: Graph) -> dict[str, Any]:
    """Return what the outputs of ``graph`` stand for."""
    values = evaluate(graph, list(graph.outputs.values()))
    return {name: values[value] for name, value in graph.outputs.items()}


def evaluate_ids(graph: Graph, node: Node) -> Sequence[int] | None:
    """Return the ids of a constant, as `fold` asks for them."""
    value = Value(node.id)
    return evaluate(graph, [value])[value]


def _compute(graph: Graph, value: Value, values: dict[Value, Any]) -> None:
    if value in values:
        return
    node = graph.nodes[value.node]
    for read in node.inputs.values():
        _compute(graph, read, values)
    inputs = {port: values[read] for port, read in node.inputs.items()}
    for port, made in _run(node, inputs).items():
        values[Value(node.id, port)] = made


def _run(node: Node, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the outputs of ``node``: one value for a constant, or for a pack; else one for each row."""
    params: Any = node.params
    if node.op == "read_columns":
        return {"out": [f"{node.id.rows} {params['column']} {row}" for row in range(NUM_ROWS)]}
    if node.op == "fit_words":
        return {
            "out": {t: i for i, t in enumerate(sorted({t for c in inputs.values() for t in c}))}
        }
    if node.op == "pack_documents":
        made = sorted(inputs.items())
        return {"ids": ["ids", made], "labels": ["labels", made]}
    if not node.id.rows or node.op == "embed_tokens":
        return {"out": _ONE_ROW[node.op](params, **_renamed(inputs))}
    rows = [
        {
            port: column if not node.inputs[port].node.rows else column[row]
            for port, column in inputs.items()
        }
        for row in range(NUM_ROWS)
    ]
    return {"out": [_ONE_ROW[node.op](params, **_renamed(row)) for row in rows]}


def _renamed(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {port.replace(".", "_").replace(" ", "_"): value for port, value in inputs.items()}


_ONE_ROW: Final[Mapping[str, Callable[..., Any]]] = {
    "make_texts": lambda params: params["text"],
    "make_ids": lambda params: params["ids"],
    "encode_texts": lambda params, texts: tuple(ord(c) % params["size"] for c in texts),
    "mask_tokens": lambda params, ids: tuple(i for i in ids if i % 4 > 4 * params["share"]),
    "look_up_words": lambda _, texts, words: (words.get(texts, -1),),
    "decode_images": lambda _, data: ("pixels", data),
    "resize_images": lambda params, images: (params["size"], images),
    "scale_images": lambda params, images: (params["factor"], images),
    "compose_documents": lambda _, **parts: sorted(parts.items()),
    "embed_tokens": lambda params, ids: (params["width"], ids),
}


def ids_of(graph: Graph, op: str) -> set[NodeId]:
    """Return the nodes of ``graph`` that use ``op``."""
    return {node.id for node in graph if node.op == op}
