"""Replaying: a bad row, tried again with the ops of this installation.

It may fail the same way, or otherwise, or work now. The row alone decides: nothing else of its source is read.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...graph.errors import OpError, Problem, StoreError
from ...graph.node import Node, Value
from ...ops.artifact import load_artifact
from ...ops.catalogue import host_catalogue
from ...ops.host.read import SPLIT_COLUMN
from ...storage.files import scheme_of
from ...storage.ledger import find_bad_rows, shorten
from ...storage.store import Store
from ..host.execute import Execution
from ..versions import installed_version
from .capsule import Capsule

_ADDRESS = re.compile(r"0x[0-9a-f]{4,}")


class Outcome(StrEnum):
    """How a replay compares with what the ledger says."""

    SAME = "fails the same way"
    OTHER = "fails otherwise"
    WORKS = "works now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of trying a row again.

    Attributes:
        capsule: The row, and why it was refused.
        outcome: How the two compare.
        problem: Why it is refused now; None if it is not.
        value: What the node makes of it now, in Arrow; None if it makes nothing.
        changed: What is otherwise here than where it was refused: versions of ops and of libraries.
    """

    capsule: Capsule
    outcome: Outcome
    problem: Problem | None
    value: Any
    changed: tuple[str, ...]

    def __str__(self) -> str:
        lines = [str(self.capsule.problem), f"{self.outcome}{self._where()}"]
        if self.outcome is Outcome.OTHER:
            lines.append(str(self.problem))
        return "\n".join([*lines, *(f"   = {line}" for line in self.help)])

    @property
    def help(self) -> tuple[str, ...]:
        """What to do about it."""
        told = [f"changed since: {line}" for line in self.changed]
        if self.outcome is not Outcome.WORKS:
            return tuple(told)
        if any(now != was for _, was, now in _op_versions(self.capsule)):
            return (*told, "build again: its columns are computed anew")
        if not self.capsule.receipts:
            return (*told, "build again where the row comes from")
        paths = " ".join(shlex.quote(_spell(path)) for path in self.capsule.receipts)
        remove = "delete" if any(map(scheme_of, self.capsule.receipts)) else "rm"
        return (*told, f"{remove} {paths}", "build again: only these partitions are rebuilt")

    def _where(self) -> str:
        node = self.capsule.graph.nodes[self.capsule.node]
        return f", at {node.address}" if self.outcome is Outcome.WORKS else ""


def replay(capsule: Capsule) -> Replay:
    """Try a row again.

    Raises:
        StoreError: An op is not known here, or takes other parameters (T0515).
    """
    value, problem, outcome = None, None, Outcome.WORKS
    try:
        values, failures = _run(capsule)
    except OpError as error:
        problem, outcome = error.problems[0], Outcome.OTHER
    else:
        if failures:
            first = min(failures, key=lambda failure: failure.node != capsule.node)
            is_same = first.node == capsule.node and _told(first.problem) == _told(capsule.problem)
            problem, outcome = first.problem, Outcome.SAME if is_same else Outcome.OTHER
        elif not (made := values[Value(capsule.node)]).null_count:
            value = made[0] if len(made) == 1 else made
        else:  # a column of the source, whose value is still missing
            problem, outcome = capsule.problem, Outcome.SAME
    return Replay(
        capsule=capsule,
        outcome=outcome,
        problem=None if problem is None else replace(problem, row=capsule.problem.row),
        value=value,
        changed=tuple(_changed(capsule)),
    )


def replay_row(store: str | Path | Store, identity: str) -> list[Replay]:
    """Try the row that ``identity`` names again, at each node that refused it.

    Raises:
        StoreError: The ledger has no such row (T0513), or several (T0514), or it cannot be replayed (T0515).
    """
    store = store if isinstance(store, Store) else Store.open(store)
    return [replay(Capsule.of(store, bad)) for bad in find_bad_rows(store, identity)]


def failing_call(capsule: Capsule) -> tuple[Any, dict[str, Any]] | None:
    """Return the op that refuses the row, and its inputs; None where no op does, or none is called.

    Raises:
        StoreError: As for `replay`.
    """
    values, failures = _run(capsule)
    if not failures:
        return None
    node = capsule.graph.nodes[failures[0].node]
    inputs: dict[str, Any] = {port: values[value] for port, value in node.inputs.items()}
    return host_catalogue()[node.op](**node.params), inputs


def tell_replay(store: Store, problem: Problem, partitions: Sequence[str]) -> Problem:
    """Return the problem of a row of the ledger with the command that tries it again.

    Args:
        store: Where the ledger lies.
        problem: The problem.
        partitions: Ids of all partitions that its row may be taken for one of.
    """
    partition, colon, offset = problem.row.partition(":")
    short = shorten([*partitions, partition])
    if not colon or not offset.isdecimal():
        return problem
    command = (
        f"replay: taskloom replay {shlex.quote(_spell(str(store)))} {short[partition]}:{offset}"
    )
    return replace(problem, help=f"{problem.help}\n{command}".strip())


def scrub(message: str) -> str:
    """Return ``message`` without what differs from run to run, so that equal failures group."""
    return _ADDRESS.sub("0x…", message)


def _run(capsule: Capsule) -> Any:
    nodes = capsule.graph.needs([Value(capsule.node)])
    _refuse_unknown_ops(capsule, nodes)

    def load(kind: str, digest: str) -> object:
        return load_artifact(kind, capsule.artifacts[digest])

    execution = Execution(capsule.graph, [node.id for node in nodes], host_catalogue(), load)
    return execution.run(_with_split(capsule.batch))


def _with_split(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return ``batch`` as a source gives it; capsules hold no split, on which no failure depends."""
    if SPLIT_COLUMN in batch.schema.names:
        return batch
    splits = pa.array(np.zeros(batch.num_rows, np.uint8))
    return batch.append_column(SPLIT_COLUMN, splits)


def _refuse_unknown_ops(capsule: Capsule, nodes: Sequence[Node]) -> None:
    problems: list[Problem] = []
    for node in nodes:
        if node.op not in host_catalogue():
            problems.append(_refusal(capsule, node, f"this taskloom has no op {node.op}"))
            continue
        try:
            host_catalogue()[node.op](**node.params)
        except TypeError as error:
            problems.append(_refusal(capsule, node, f"{node.op} takes other parameters: {error}"))
    if problems:
        raise StoreError(*problems)


def _refusal(capsule: Capsule, node: Node, message: str) -> Problem:
    help_ = "use the version of taskloom that built the row, or build again"
    return Problem("T0515", message, help_, address=node.address, row=capsule.problem.row)


def _told(problem: Problem) -> tuple[str, str]:
    return problem.code, scrub(problem.message)


def _op_versions(capsule: Capsule) -> list[tuple[str, int, int]]:
    """Return the version of each op then and now."""
    return [
        (node.op, node.version, host_catalogue()[node.op].traits.version) for node in capsule.graph
    ]


def _changed(capsule: Capsule) -> list[str]:
    ops = [
        f"version of {op} was {was}, is {now}"
        for op, was, now in dict.fromkeys(_op_versions(capsule))
        if was != now
    ]
    now: Mapping[str, str] = {name: installed_version(name) for name in capsule.versions}
    libraries = [
        f"{name} was {was}, is {now[name]}"
        for name, was in capsule.versions.items()
        if was != now[name]
    ]
    return ops + libraries


def _spell(location: str) -> str:
    """Return a path as it is called from here, if it lies below; a URL as it is."""
    path, here = Path(location), Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else location
