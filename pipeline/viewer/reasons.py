"""Why: what a store holds of every column of some tasks and, of what it lacks, the reason.

A column is *cached*, or some part of it is to be built: because it is computed otherwise than when it was built
(`Change`), or because there are rows that it was never built for (`FileChange`). Files are looked at, and those
that were touched are read once; nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...graph.errors import PlanError, StoreError
from ...graph.graph import Graph
from ...graph.node import Node, Value
from ...graph.type import source_of
from ...graph.view import State, Status
from ...ops.catalogue import host_catalogue
from ...storage.column import read_receipt
from ...storage.store import Store
from ..builder.dataset import artifact_loader, pinned_artifacts
from ..planner.document import column_dtypes
from ..planner.planning import Plan, plan
from ..task import Mixture, Task, as_mixture
from ..versions import installed_version
from .change import Change, find_changes, tell_changes
from .source_change import FileChange, Seen, look_at_sources


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryChange:
    """A library of which another version is installed than had a hand in some partitions.

    Attributes:
        name: Name of the distribution.
        was: Version that they were built with.
        now: Version that is installed.
        partitions: How many they are.
    """

    name: str
    was: str
    now: str
    partitions: int

    def __str__(self) -> str:
        some = f"{self.partitions:,} partition{'s were' if self.partitions != 1 else ' was'}"
        return f"{some} built with {self.name} {self.was}, {self.now} is installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnWhy:
    """What a store holds of one column of a task, and why not all.

    Attributes:
        task: Name of the task.
        address: The node that makes it, as it is called in the task.
        source: Name of its source.
        column: Its id.
        status: Cached; stale, where it was built otherwise; or missing.
        partitions: How many the source has.
        missing: How many of them are to be built.
        changes: In what it is computed otherwise than when it was built.
        files: The files whose rows it was not built for.
        libraries: Other versions than those it was built with.
        shared_with: Other tasks that read it.
        is_new: Whether nothing like it was built for the task before.
    """

    task: str
    address: str
    source: str
    column: str
    status: Status
    partitions: int
    missing: int
    changes: tuple[Change, ...] = ()
    files: tuple[FileChange, ...] = ()
    libraries: tuple[LibraryChange, ...] = ()
    shared_with: tuple[str, ...] = ()
    is_new: bool = False

    def __str__(self) -> str:
        shared = [f"shared with {', '.join(self.shared_with)}"] if self.shared_with else []
        return "; ".join([self.reason, *shared, *map(str, self.libraries)])

    @property
    def reason(self) -> str:
        """Why it is to be built, or that it is not."""
        if self.status is Status.CACHED:
            return f"{self.partitions:,} of {self.partitions:,} partitions"
        if not self.partitions:
            return f'source "{self.source}" was never built'
        if self.changes:
            return tell_changes(self.changes)
        if self.is_new:
            return "never built"
        told = f"{self.missing:,} of {self.partitions:,} partitions to build"
        return f"{told}: {', '.join(map(str, self.files))}" if self.files else told


@dataclass(frozen=True, slots=True)
class Why:
    """The columns of some tasks.

    Attributes:
        columns: In the order of the tasks, and in each of its document's parts.
        fits: Addresses of the artifacts that a build is to fit first.
        remarks: What could not be looked at.
    """

    columns: tuple[ColumnWhy, ...]
    fits: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ColumnWhy]:
        return iter(self.columns)

    def __getitem__(self, task: str) -> tuple[ColumnWhy, ...]:
        """Return the columns of ``task``; none, if it is not known."""
        return tuple(column for column in self.columns if column.task == task)

    def __str__(self) -> str:
        lines: list[str] = []
        for task in dict.fromkeys(column.task for column in self.columns):
            lines.append(task)
            width = max(len(column.address) for column in self[task])
            lines += [f"  {c.address:<{width}}  {c.status:<7}  {c}" for c in self[task]]
        lines += [f"{address} is to be fitted" for address in self.fits]
        distinct = {(c.source, c.column): c.status for c in self.columns}
        number = sum(status is not Status.CACHED for status in distinct.values())
        told = f"{number:,} of {len(distinct):,} columns to build" if number else ""
        return "\n".join([*lines, *self.remarks, told or "nothing to build: everything is cached"])


def why(
    tasks: Mixture | Task | Sequence[Task], store: str | Path | Store, *, task: str | None = None
) -> Why:
    """Return what ``store`` holds of the columns of ``tasks``, and why not all.

    Args:
        tasks: The tasks, as they stand now.
        store: The store, which may never have heard of them.
        task: Tell of this one only; the others are planned with it.

    Raises:
        PlanError: The tasks cannot be planned, or none has the name ``task``.
        StoreError: There is no store.
    """
    mixture = as_mixture(tasks)
    named = mixture.tasks if task is None else [mixture[task]]
    store = store if isinstance(store, Store) else Store.open(store)
    seen = look_at_sources(mixture, store)
    planned = plan(
        mixture,
        columns={name: column_dtypes(record.schema) for name, record in seen.records.items()},
        pinned=pinned_artifacts(store),
        load=artifact_loader(store),
        has_device=False,
    )
    return Why(
        tuple(column_whys(planned, store, [one.name for one in named], seen)),
        tuple(sorted(planned.fits)),
        seen.remarks,
    )


def column_whys(
    planned: Plan, store: Store, tasks: Iterable[str], seen: Seen, *, with_libraries: bool = True
) -> Iterator[ColumnWhy]:
    """Yield what ``store`` holds of every stored column of each of ``tasks``."""
    sharing = planned.sharing()
    for task in tasks:
        yield from _columns_of(planned, store, task, seen, sharing, with_libraries=with_libraries)


def state_of(column: ColumnWhy) -> State:
    """Return the same for a view."""
    return State(column.status, column.reason)


def _columns_of(
    planned: Plan,
    store: Store,
    task: str,
    seen: Seen,
    sharing: Mapping[Value, Sequence[str]],
    *,
    with_libraries: bool,
) -> Iterator[ColumnWhy]:
    before = _Built(store, task)
    for value, port in planned.stored_of(task).items():
        source = source_of(value.node.rows)
        record = seen.records.get(source)
        partitions = [] if record is None else [partition.id for partition in record.partitions]
        lacking = store.missing(source, value.column_id, partitions)
        node = planned.graph.nodes[value.node]
        was = before.find(planned.graph, node, port)
        is_same = was is not None and was.key == node.key
        is_cached = bool(partitions) and not lacking
        changes = () if was is None or is_same else before.changes(planned.graph, node, was)
        # Of a column that was computed otherwise all partitions are to be built, whatever became of files.
        files = seen.files.get(source, ()) if not (is_cached or changes) else ()
        yield ColumnWhy(
            task=task,
            address=node.note.address_in(task),
            source=source,
            column=value.column_id,
            status=_status(is_cached=is_cached, is_stale=bool(changes) and bool(partitions)),
            partitions=len(partitions),
            missing=len(lacking),
            changes=() if is_cached else changes,
            files=tuple(f for f in files if set(f.partitions) & set(lacking)),
            libraries=tuple(_libraries(store, value, partitions)) if with_libraries else (),
            shared_with=tuple(other for other in sharing[value] if other != task),
            is_new=was is None and not is_cached and len(lacking) == len(partitions),
        )


def _status(*, is_cached: bool, is_stale: bool) -> Status:
    if is_cached:
        return Status.CACHED
    return Status.STALE if is_stale else Status.MISSING


def _libraries(store: Store, value: Value, partitions: Sequence[str]) -> Iterator[LibraryChange]:
    built: Counter[tuple[str, str]] = Counter()
    for partition in partitions:
        receipt = read_receipt(store, source_of(value.node.rows), value.column_id, partition)
        built.update(() if receipt is None else receipt.libraries.items())
    for (name, was), number in sorted(built.items()):
        if was != (now := installed_version(name)):
            yield LibraryChange(name=name, was=was, now=now, partitions=number)


class _Built:
    """How a task was built last."""

    def __init__(self, store: Store, task: str) -> None:
        self._task = task
        try:
            self._graph = Graph.parse(store.task(task)["graph"])
        except (StoreError, PlanError):
            self._graph = Graph({}, {})  # it never was, or by code that spelled graphs otherwise
        # What the loader reads: inputs of documents, and of what joins the items of their groups.
        self._inputs = {
            port: value
            for node in self._graph
            if host_catalogue()[node.op].traits.is_online
            for port, value in node.inputs.items()
        }

    def find(self, graph: Graph, now: Node, port: str) -> Node | None:
        """Return the node that stood where ``now`` stands: at the same slot, or filter, or split.

        A slot that was given another name stands where no slot of now was.
        """
        nodes = {its: self._graph.nodes[value.node] for its, value in self._inputs.items()}
        for its_port, node in nodes.items():
            if port == its_port == "split" or _slots(node) & _slots(now):
                return node
        gone = nodes.get(port)
        if gone is None or gone.op != now.op or not gone.id.rows:
            return None
        was = {slot for slot in _slots(gone) if slot.startswith(f"{self._task}.")}
        return None if any(was & _slots(node) for node in graph) else gone

    def changes(self, graph: Graph, now: Node, was: Node) -> tuple[Change, ...]:
        """Return in what node ``now`` of ``graph`` differs from ``was``."""
        return find_changes(graph, now.id, self._graph, was.id)


def _slots(node: Node) -> set[str]:
    """Return the places that ``node`` is the last step of: its addresses without that step."""
    return {address.rpartition("/")[0] for address in node.note.addresses}
