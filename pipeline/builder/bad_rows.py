"""The ledger for people: bad rows of a store, grouped by what is wrong with them and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from ...storage.ledger import BadRow, read_bad_rows, short_id, shorten
from ...storage.store import Store
from .replaying import scrub

_SHOWN = 5
"""Ids, and messages, that people are shown of one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRows:
    """Rows that one node refused for one kind of reason.

    Attributes:
        code: The code of their problems.
        address: The node.
        source: Name of their source.
        messages: What was said of them, the commonest first, and of how many.
        ids: Their short ids, in order of partition and position.
    """

    code: str
    address: str
    source: str
    messages: tuple[tuple[str, int], ...]
    ids: tuple[str, ...]

    def __str__(self) -> str:
        rows = "1 row" if len(self.ids) == 1 else f"{len(self.ids):,} rows"
        lines = [f"{self.code} at {self.address}: {rows} of {self.source}"]
        lines += [f"  {number:>6,}  {message}" for message, number in self.messages[:_SHOWN]]
        if more := len(self.messages) - _SHOWN:
            lines += [f"          and {more:,} more messages"] if more > 0 else []
        ids = "  ".join(self.ids[:_SHOWN])
        more = len(self.ids) - _SHOWN
        return "\n".join([*lines, f"  ids: {ids}" + (f"  and {more:,} more" if more > 0 else "")])


def group_bad_rows(store: Store, keys: Collection[str] | None = None) -> list[BadRows]:
    """Return the bad rows of ``store`` in groups, the largest first.

    Args:
        store: The store.
        keys: Of these columns only; of all by default, those that no task needs any more among them.
    """
    groups: dict[tuple[str, str, str], list[BadRow]] = {}
    bad = read_bad_rows(store, keys=keys, with_capsules=False)
    for row in bad:
        problem = row.entry.problem
        groups.setdefault((problem.code, problem.address, row.source), []).append(row)
    # Short among all rows of the ledger, or an id could not be looked up in it.
    every = bad if keys is None else read_bad_rows(store, with_capsules=False)
    short = shorten(row.partition for row in every)
    found = [
        BadRows(
            code=code,
            address=address,
            source=source,
            messages=tuple(Counter(scrub(r.entry.problem.message) for r in rows).most_common()),
            ids=tuple(short_id(row, short) for row in rows),
        )
        for (code, address, source), rows in groups.items()
    ]
    return sorted(found, key=lambda group: (-len(group.ids), group.code, group.address))
