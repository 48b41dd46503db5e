"""The ledger keeps each failure once, with its row, and knows only what was committed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.graph.errors import Problem, StoreError
from taskloom.storage.column import discard, open_writer
from taskloom.storage.ledger import (
    LedgerEntry,
    find_bad_rows,
    make_capsule,
    open_capsule,
    read_bad_rows,
    read_ledger,
    shorten,
)
from taskloom.storage.store import Store

from .columns import IDS, ids

BATCH = pa.record_batch({"img": [b"PNG", b"notajpeg", None], "n": [[1], [], [2, 3]]})


def entry(offset: int, node: str) -> LedgerEntry:
    problem = Problem(
        "T0301", "cannot identify image", "look", address="caption.img/decode", column="img"
    )
    return LedgerEntry(
        offset=offset, node=node, problem=problem, capsule=make_capsule(BATCH, offset)
    )


def commit(store: Store, source: str, key: str, *entries: LedgerEntry) -> None:
    with open_writer(store, source, key, "p0", IDS) as writer:
        writer.write(ids([None, None, None]))
        writer.commit(entries)


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_capsule_holds_one_row(offset: int) -> None:
    capsule = make_capsule(BATCH, offset)
    assert open_capsule(capsule).equals(BATCH.slice(offset, 1))
    assert capsule == make_capsule(BATCH.slice(offset), 0)


def test_failures_are_read_once_and_in_order(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    assert read_ledger(store).num_rows == 0
    commit(store, "a", "k1", entry(2, "n"), entry(1, "n"))
    commit(store, "a", "k2", entry(1, "n"), entry(1, "m"))
    commit(store, "b", "k1", entry(0, "n"))
    rows = read_ledger(store).to_pylist()
    assert [(r["source"], r["partition"], r["offset"], r["node"]) for r in rows] == [
        ("a", "p0", 1, "n"),
        ("a", "p0", 2, "n"),
        ("a", "p0", 1, "m"),
        ("b", "p0", 0, "n"),
    ]
    assert {key: rows[0][key] for key in ("address", "code", "message", "help", "column")} == {
        "address": "caption.img/decode",
        "code": "T0301",
        "message": "cannot identify image",
        "help": "look",
        "column": "img",
    }
    assert open_capsule(rows[0]["capsule"]).to_pylist() == [{"img": b"notajpeg", "n": []}]
    assert read_ledger(store, "b").num_rows == 1
    assert read_ledger(store, "a", keys=["k2"]).num_rows == 2


def test_the_graph_of_a_ledger_stands_beside_its_rows_and_each_row_names_its_columns(
    tmp_path: Path,
) -> None:
    store = Store.create(tmp_path)
    for key in ("k1", "k2"):
        with open_writer(store, "a", key, "p0", IDS) as writer:
            writer.write(ids([None]))
            writer.commit([entry(0, "n")], graph="the graph")
    (bad,) = read_bad_rows(store)
    assert (bad.graph, bad.columns, bad.row) == ("the graph", ("k1", "k2"), "p0:0")
    (without,) = read_bad_rows(store, with_capsules=False)
    assert (without.entry.capsule, without.entry.problem) == (b"", bad.entry.problem)


@given(st.sets(st.text("0123456789abcdef", min_size=16, max_size=16)))
def test_short_ids_are_the_shortest_beginnings_that_tell_partitions_apart(
    partitions: set[str],
) -> None:
    short = shorten(partitions)
    assert short.keys() == partitions
    for partition, beginning in short.items():
        assert partition.startswith(beginning)
        assert [each for each in partitions if each.startswith(beginning)] == [partition]
        others = [each for each in partitions if each.startswith(beginning[:-1])]
        assert len(beginning) == 4 or len(others) > 1


def test_a_row_is_found_by_a_short_id_and_what_is_none_or_several_is_told(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    for partition in ("aaaa1", "aaaa2"):
        with open_writer(store, "a", "k", partition, IDS) as writer:
            writer.write(ids([None] * 3))
            writer.commit([entry(2, "n"), entry(2, "m")])
    assert [bad.entry.node for bad in find_bad_rows(store, "aaaa1:2")] == ["m", "n"]
    assert [bad.entry.node for bad in find_bad_rows(store, "aaaa1:2:m")] == ["m"]
    with pytest.raises(StoreError, match="T0514") as caught:
        find_bad_rows(store, "aaaa:2")
    assert caught.value.problems[0].help == "aaaa1:2\naaaa2:2"
    with pytest.raises(StoreError, match="T0513") as caught:
        find_bad_rows(store, "aaaa1:1")
    assert "did you mean aaaa1:2?" in caught.value.problems[0].help
    for wrong in ("", ":", "aaaa1", "aaaa1:x", "aaaa1:2:m:n", "aaaa1:-2"):
        with pytest.raises(StoreError, match="T0513"):
            find_bad_rows(store, wrong)


def test_a_ledger_goes_with_its_partition(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    commit(store, "a", "k", entry(0, "n"))
    receipt = store.path / store.file_name("a", "k", "p0", "receipt")
    content = receipt.read_bytes()
    receipt.unlink()
    assert (
        read_ledger(store).num_rows == 0
    )  # as a build leaves it that is killed before its receipt
    receipt.write_bytes(content)
    assert read_ledger(store).num_rows == 1
    discard(store, "a", "k", "p0")
    assert not list((tmp_path / "ledger").rglob("*.arrow"))
    commit(store, "a", "k")
    assert read_ledger(store).num_rows == 0
