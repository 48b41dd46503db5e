"""The ledger: rows that could not be computed, with all it takes to try them again.

There is one file per partition of a column, committed by the column's receipt. A row that fails once is in the
ledger of every column that needed it, so reading takes each failure once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ..graph.errors import Problem
from .hashed import HashedFile
from .receipt import LEDGER, StoredFile
from .store import Store

FIELDS: Final = ("offset", "address", "node", "code", "message", "help", "column", "capsule")
SCHEMA: Final = pa.schema(
    [("offset", pa.uint32())]
    + [(name, pa.string()) for name in FIELDS[1:-1]]
    + [("capsule", pa.binary())]
)


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


def write_ledger(path: Path, entries: Sequence[LedgerEntry]) -> StoredFile:
    """Write ``entries`` to ``path`` in order of row and node, and return their entry in a receipt."""
    ordered = sorted(entries, key=lambda entry: (entry.offset, entry.node))
    columns: dict[str, list[Any]] = {
        "offset": [entry.offset for entry in ordered],
        "node": [entry.node for entry in ordered],
        "capsule": [entry.capsule for entry in ordered],
    }
    for name in ("address", "code", "message", "help", "column"):
        columns[name] = [getattr(entry.problem, name) for entry in ordered]
    file = HashedFile(path)
    try:
        table = pa.table(columns, schema=SCHEMA)
        with pa.ipc.new_file(pa.PythonFile(file, "w"), SCHEMA) as writer:
            writer.write_table(table)
        return file.finish(LEDGER)
    except BaseException:
        file.abandon()
        raise


def read_ledger(
    store: Store, source: str | None = None, keys: Collection[str] | None = None
) -> pa.Table:
    """Return the rows that could not be computed, each failure once.

    Args:
        store: Where.
        source: Of this source only.
        keys: Of these columns only, for example those of a plan: columns that no plan needs any more keep
            their ledgers.

    Returns:
        The columns ``source`` and ``partition``, then those of `SCHEMA`.
    """
    seen: set[tuple[str, str, int, str]] = set()
    rows: list[dict[str, Any]] = []
    for name, key, partition, path in _files(store, source):
        if keys is not None and key not in keys:
            continue
        with pa.memory_map(str(path)) as file:
            entries = pa.ipc.open_file(file).read_all().to_pylist()
        for entry in entries:
            identity = (name, partition, entry["offset"], entry["node"])
            if identity not in seen:
                seen.add(identity)
                rows.append({"source": name, "partition": partition, **entry})
    schema = pa.schema([("source", pa.string()), ("partition", pa.string()), *SCHEMA])
    return pa.Table.from_pylist(rows, schema=schema)


def _files(store: Store, source: str | None) -> Iterator[tuple[str, str, str, Path]]:
    folder = store.path / "ledger"
    pattern = f"{source or '*'}/*/*.arrow"
    for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
        partition, key, name = path.stem, path.parent.name, path.parent.parent.name
        # A file without a receipt was left by a build that was killed.
        if store.file_path(name, key, partition, "receipt").exists():
            yield name, key, partition, path
