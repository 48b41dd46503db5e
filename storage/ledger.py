"""The ledger: rows that could not be computed, with all it takes to try them again.

There is one file per partition of a column, committed by the column's receipt. It holds the rows, and the graph
of the nodes that refused them: a row can be tried again whatever has become of its tasks. A row that fails once
is in the ledger of every column that needed it, so reading takes each failure once.

People name a row by a *short id*, such as ``5c1f:1499``: enough of its partition to tell it from the others,
and its position there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from ..graph.errors import Problem, StoreError, suggest
from .hashed import HashedFile
from .receipt import LEDGER, StoredFile
from .store import Store

FIELDS: Final = ("offset", "address", "node", "code", "message", "help", "column", "capsule")
SCHEMA: Final = pa.schema(
    [("offset", pa.uint32())]
    + [(name, pa.string()) for name in FIELDS[1:-1]]
    + [("capsule", pa.binary())]
)

_GRAPH: Final = b"graph"
_SHORTEST: Final = 4
"""Digits of a short id at least, so that few new partitions make it ambiguous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One row that a node could not compute.

    Attributes:
        offset: Position of the row in its partition.
        node: Plan key of the node.
        problem: What is wrong, with the node's address and the column of the source.
        capsule: The row's columns, as `make_capsule` packs them.
    """

    offset: int
    node: str
    problem: Problem
    capsule: bytes = b""

    @property
    def address(self) -> str:
        """Where the node stands."""
        return self.problem.address


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row of the ledger, and where it lies.

    Attributes:
        source: Name of the source.
        partition: Id of the partition.
        entry: The row, the node that refused it, and why.
        columns: Ids of the columns that lack the row because of that.
        graph: Text of the graph of the node; empty where an older taskloom wrote the ledger.
    """

    source: str
    partition: str
    entry: LedgerEntry
    columns: tuple[str, ...] = ()
    graph: str = ""

    @property
    def row(self) -> str:
        """The row id."""
        return f"{self.partition}:{self.entry.offset}"


def make_capsule(batch: pa.RecordBatch, offset: int) -> bytes:
    """Return row ``offset`` of ``batch`` as an Arrow IPC stream."""
    row = batch.slice(offset, 1).take(pa.array([0]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_batch(row)
    return sink.getvalue().to_pybytes()


def open_capsule(capsule: bytes) -> pa.RecordBatch:
    """Return the row that `make_capsule` packed, as a record batch of one row."""
    with pa.ipc.open_stream(capsule) as reader:
        return reader.read_next_batch()


def write_ledger(path: Path, entries: Sequence[LedgerEntry], graph: str = "") -> StoredFile:
    """Write ``entries`` to ``path`` in order of row and node, and return their entry in a receipt.

    Args:
        path: Where to.
        entries: The rows.
        graph: Text of the graph of their nodes. It is kept beside the rows, where readers that do not know it
            pass it over.
    """
    ordered = sorted(entries, key=lambda entry: (entry.offset, entry.node))
    columns: dict[str, list[Any]] = {
        "offset": [entry.offset for entry in ordered],
        "node": [entry.node for entry in ordered],
        "capsule": [entry.capsule for entry in ordered],
    }
    for name in ("address", "code", "message", "help", "column"):
        columns[name] = [getattr(entry.problem, name) for entry in ordered]
    schema = SCHEMA.with_metadata({_GRAPH: graph.encode()}) if graph else SCHEMA
    file = HashedFile(path)
    try:
        table = pa.table(columns, schema=schema)
        with pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
            writer.write_table(table)
        return file.finish(LEDGER)
    except BaseException:
        file.abandon()
        raise


def read_bad_rows(
    store: Store,
    source: str | None = None,
    keys: Collection[str] | None = None,
    *,
    offset: int | None = None,
    with_capsules: bool = True,
) -> list[BadRow]:
    """Return the rows that could not be computed, each failure once, in order of source and partition.

    Args:
        store: Where.
        source: Of this source only.
        keys: Of these columns only, for example those of a plan: columns that no plan needs any more keep
            their ledgers.
        offset: At this position of their partition only.
        with_capsules: Whether to read the capsules, which may be large.
    """
    found: dict[tuple[str, str, int, str], BadRow] = {}
    for name, key, partition in _files(store, source, keys):
        file = store.file_name(name, key, partition, LEDGER)
        with store.folder.copied(file) as path:
            table, graph = _read(path, offset, with_capsules=with_capsules)
        for row in table.to_pylist():
            identity = (name, partition, row["offset"], row["node"])
            bad = found.setdefault(identity, _bad_row(name, partition, graph, row))
            found[identity] = replace(bad, columns=(*bad.columns, key), graph=bad.graph or graph)
    return list(found.values())


def read_ledger(
    store: Store, source: str | None = None, keys: Collection[str] | None = None
) -> pa.Table:
    """Return what `read_bad_rows` finds as a table: ``source`` and ``partition``, then `SCHEMA`."""
    rows = [
        {
            "source": bad.source,
            "partition": bad.partition,
            "offset": bad.entry.offset,
            "node": bad.entry.node,
            "capsule": bad.entry.capsule,
            **{name: getattr(bad.entry.problem, name) for name in _OF_PROBLEM},
        }
        for bad in read_bad_rows(store, source, keys)
    ]
    schema = pa.schema([("source", pa.string()), ("partition", pa.string()), *SCHEMA])
    return pa.Table.from_pylist(rows, schema=schema)


def find_bad_rows(store: Store, identity: str) -> list[BadRow]:
    """Return the failures of the row that ``identity`` names, one for each node that refused it.

    Args:
        store: Where.
        identity: The beginning of a partition's id, a colon, and a position in it; then, to choose one of
            several nodes, another colon and the beginning of a node's key.

    Raises:
        StoreError: It is no id, or of no row of the ledger (T0513), or of rows of several partitions (T0514).
    """
    partition, offset, node = [*identity.split(":"), "", ""][:3]
    if not partition or not offset.isdecimal() or identity.count(":") > 2:
        message = f'"{identity}" is no id of a row'
        raise StoreError.of("T0513", message, "ids are like 5c1f:1499; `taskloom ledger` lists all")
    found = [
        bad
        for bad in read_bad_rows(store, offset=int(offset))
        if bad.partition.startswith(partition) and bad.entry.node.startswith(node)
    ]
    if not found:
        raise _unknown(store, identity)
    if len(partitions := sorted({each.partition for each in found})) > 1:
        message = f'"{identity}" may be a row of {len(partitions)} partitions'
        help_ = "\n".join(f"{each}:{offset}" for each in partitions)
        raise StoreError.of("T0514", message, help_)
    return found


def shorten(partitions: Iterable[str]) -> dict[str, str]:
    """Return, for each id of a partition, the shortest beginning that no other one has."""
    ordered = sorted(set(partitions))
    lengths = dict.fromkeys(ordered, _SHORTEST)
    for one, other in pairwise(ordered):
        shared = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), len(one))  # noqa: B905
        for each in (one, other):
            lengths[each] = max(lengths[each], shared + 1)
    return {each: each[:length] for each, length in lengths.items()}


def short_id(bad: BadRow, short: Mapping[str, str]) -> str:
    """Return the short id of a row; ``short`` is what `shorten` makes of all partitions."""
    return f"{short[bad.partition]}:{bad.entry.offset}"


def _unknown(store: Store, identity: str) -> StoreError:
    bad = read_bad_rows(store, with_capsules=False)
    short = shorten(each.partition for each in bad)
    ids = {short_id(each, short) for each in bad}
    help_ = suggest(identity, ids) if 0 < len(ids) <= _FEW else "`taskloom ledger` lists them"
    message = f'the ledger of {store} has no row "{identity}"'
    return StoreError.of("T0513", message, help_ if ids else "it has no bad rows at all")


def _read(path: Path, offset: int | None, *, with_capsules: bool) -> tuple[pa.Table, str]:
    """Return the rows of one file, and the text of the graph beside them."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    graph = (table.schema.metadata or {}).get(_GRAPH, b"").decode()
    if not with_capsules:
        table = table.drop_columns(["capsule"])
    if offset is not None:
        table = table.filter(pc.field("offset") == offset)
    return table, graph


def _bad_row(source: str, partition: str, graph: str, row: Mapping[str, Any]) -> BadRow:
    facts = {name: row[name] for name in _OF_PROBLEM}
    problem = Problem(**facts, row=f"{partition}:{row['offset']}")
    entry = LedgerEntry(
        offset=row["offset"],
        node=row["node"],
        problem=problem,
        capsule=row.get("capsule", b""),
    )
    return BadRow(source=source, partition=partition, entry=entry, graph=graph)


def _files(
    store: Store, source: str | None, keys: Collection[str] | None
) -> Iterator[tuple[str, str, str]]:
    for name in sorted(store.folder.folders("ledger")) if source is None else [source]:
        for key in sorted(store.folder.folders(f"ledger/{name}")):
            if keys is not None and key not in keys:
                continue
            found = {
                file.removesuffix(".arrow")
                for file in store.folder.files(f"ledger/{name}/{key}")
                if file.endswith(".arrow")
            }
            # A file without a receipt was left by a build that was killed.
            for partition in sorted(found & store.committed(name, key)):
                yield name, key, partition


_FEW: Final = 20
_OF_PROBLEM: Final = ("address", "code", "message", "help", "column")
