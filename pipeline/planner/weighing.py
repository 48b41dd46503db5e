"""Weighing: what the columns of a plan take, with what a store knows of their rows and bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ...graph.node import Value
from ...graph.passes.weigh import Size
from ...storage.column import read_receipts
from ...storage.receipt import Receipt
from ...storage.store import Store
from .planning import Plan

_MAX_RECEIPTS: Final = 16


def tell_stored(planned: Plan, store: Store | None) -> dict[Value, str]:
    """Return why each stored value is stored, and the bytes it takes.

    Rows are those that the store's sources have. The bytes of a column whose type does not say them are those
    of its receipts, or of some of them where there are many.
    """
    if store is None:
        return planned.cut.reasons()
    rows = {name: store.source(name).num_rows for name in store.sources()}
    vague = [value for value, (size, _) in planned.cut.sizes.items() if not size.is_exact]
    return planned.cut.reasons(rows, measure_stored(store, vague))


def measure_stored(store: Store, values: Iterable[Value]) -> dict[Value, Size]:
    """Return what a row of each of ``values`` takes in ``store``, files and all, as far as it is there."""
    found: dict[Value, Size] = {}
    rows = {name: store.source(name).num_rows for name in store.sources()}
    for value in values:
        if (source := value.node.rows) not in rows:
            continue
        receipts = _read_receipts(store, source, value.column_id)
        if num_rows := sum(receipt.rows for receipt in receipts):
            num_bytes = sum(receipt.bytes for receipt in receipts)
            found[value] = Size(num_bytes / num_rows, is_exact=num_rows == rows[source])
    return found


def _read_receipts(store: Store, source: str, key: str) -> list[Receipt]:
    """Return the receipts of a column's partitions, of at most `_MAX_RECEIPTS` spread over them."""
    known = store.committed(source, key)
    ids = [p.id for p in store.source(source).partitions if p.id in known]
    some = ids[:: -(-len(ids) // _MAX_RECEIPTS)] if ids else []
    found = read_receipts(store, source, key, some)
    return [receipt for receipt in found if receipt is not None]
