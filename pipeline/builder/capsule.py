"""Capsules: one bad row with all it takes to try it again, in a store's ledger or in a file of its own.

A capsule holds the row's columns, the graph of the node that refused it, the artifacts that graph loads, why
it was refused, and with which versions. As a file it is an Arrow IPC stream of one row that any reader of
Arrow opens; everything else stands in the schema's metadata, under ``taskloom``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import pyarrow as pa

from ...graph.errors import PlanError, Problem, StoreError
from ...graph.graph import Graph
from ...graph.node import Node, NodeId, Value
from ...graph.text import read_nodes
from ...storage.column import RECEIPT, read_receipt
from ...storage.files import write_atomic
from ...storage.ledger import BadRow, open_capsule
from ...storage.store import Store

FORMAT: Final = 1

_METADATA: Final = b"taskloom"
_FACTS: Final = ("code", "message", "help", "address", "row", "column")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capsule:
    """A bad row and what refused it.

    Attributes:
        source: Name of its source.
        node: The node that refused it.
        problem: Why.
        batch: The row's columns, as a record batch of one row.
        graph: What the node is computed from, the node itself included.
        artifacts: Content of the artifacts that the graph loads, by digest.
        versions: Versions of the libraries that refused it, as far as they were noted.
        receipts: The files that keep a store from computing the row again.
    """

    source: str
    node: NodeId
    problem: Problem
    batch: pa.RecordBatch
    graph: Graph
    artifacts: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    receipts: tuple[str, ...] = ()

    @classmethod
    def of(cls, store: Store, bad: BadRow) -> Self:
        """Return the capsule of a row of the ledger.

        Raises:
            StoreError: No graph in the store has the node any more (T0515), or an artifact is gone.
        """
        graph, node = _find_graph(store, bad)
        made_of = graph.needs([Value(node)])
        digests = {str(each.params["digest"]) for each in made_of if each.op == "load_artifacts"}
        noted = [read_receipt(store, bad.source, key, bad.partition) for key in bad.columns]
        receipts = [store.file_name(bad.source, k, bad.partition, RECEIPT) for k in bad.columns]
        return cls(
            source=bad.source,
            node=node,
            problem=_place(bad.entry.problem, graph.nodes[node]),
            batch=open_capsule(bad.entry.capsule),
            graph=Graph({each.id: each for each in made_of}, {}),
            artifacts={digest: store.artifact_content(digest) for digest in sorted(digests)},
            versions={k: v for receipt in noted if receipt for k, v in receipt.libraries.items()},
            receipts=tuple(map(store.folder.spell, receipts)),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the capsule in a file.

        Raises:
            StoreError: The file is missing, or holds no capsule (T0515).
        """
        try:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                batch = reader.read_next_batch()
            record = json.loads((batch.schema.metadata or {})[_METADATA])
        except (OSError, ValueError, KeyError, StopIteration, pa.ArrowException) as error:
            help_ = (
                "give a file that `taskloom replay --save` wrote, or a store and the id of a row"
            )
            raise StoreError.of("T0515", f"{path} is no capsule", help_) from error
        if record["format"] > FORMAT:
            message = (
                f"{path} has format {record['format']}, and this taskloom reads up to {FORMAT}"
            )
            raise StoreError.of("T0515", message, "use the version of taskloom that wrote it")
        graph = _parse(record["graph"])
        node = NodeId.parse(record["node"])
        return cls(
            source=record["source"],
            node=node,
            problem=_place(Problem(**record["problem"]), graph.nodes[node]),
            batch=batch.replace_schema_metadata(None),
            graph=graph,
            artifacts={k: base64.b64decode(v) for k, v in record["artifacts"].items()},
            versions=record["versions"],
        )

    def save(self, path: Path) -> None:
        """Write the capsule to ``path``; nothing else is needed to replay it.

        Raises:
            StoreError: The file cannot be written.
        """
        record = {
            "format": FORMAT,
            "source": self.source,
            "node": str(self.node),
            "problem": {name: asdict(self.problem)[name] for name in _FACTS},
            "graph": str(self.graph),
            "artifacts": {k: base64.b64encode(v).decode() for k, v in self.artifacts.items()},
            "versions": dict(self.versions),
        }
        batch = self.batch.replace_schema_metadata({_METADATA: json.dumps(record)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        write_atomic(path.absolute(), sink.getvalue().to_pybytes())


def _find_graph(store: Store, bad: BadRow) -> tuple[Graph, NodeId]:
    """Return a graph with the node that refused a row: the one beside the row or, in older stores, a task's."""
    graphs = [bad.graph] if bad.graph else [store.task(task)["graph"] for task in store.tasks()]
    for text in graphs:
        graph = _parse(text)
        # Over the rows of the source, or over what was made of them.
        for node in (NodeId(bad.entry.node, bad.source), *graph.nodes):
            if node.key == bad.entry.node and node.rows and node in graph.nodes:
                return graph, node
    message = f"no graph in {store} has the node that refused row {bad.row}"
    help_ = "its task was built otherwise since: build again, and take the row's new id"
    raise StoreError.of("T0515", message, help_).at(row=bad.row, address=bad.entry.address)


def _parse(text: str) -> Graph:
    """Return a graph that may have been written by another taskloom: its keys are taken as they are."""
    try:
        return Graph(*read_nodes(text))
    except PlanError as error:
        help_ = "use the version of taskloom that wrote it, or build again"
        raise StoreError.of("T0515", "the graph beside the row is not understood", help_) from error


def _place(problem: Problem, node: Node) -> Problem:
    return replace(problem, sites=tuple(sorted(node.note.sites)))
