"""Stores behind URLs hold what stores in folders do, read the same, and tell what is wrong with them."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import MissingExtraError, StoreError
from taskloom.graph.type import Type
from taskloom.storage.access import Access
from taskloom.storage.column import discard, open_writer, read_receipt
from taskloom.storage.ledger import read_bad_rows
from taskloom.storage.reader import ColumnReader, open_column
from taskloom.storage.remote import RemoteFolder
from taskloom.storage.source import read_batches, register_source
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from ..s3 import SECRET, file_system, make_bucket, objects
from . import crashing
from .columns import IDS, IMAGES, KEEPS, TEXTS, ids, memory_folder, tensors, tree, write_column

Place = tuple[str, dict[str, Any]]

pytestmark = pytest.mark.usefixtures("cache")
NUMBERS = count()


def new_url(options: dict[str, Any]) -> str:
    """Return a place where nothing is yet: a bucket if there are options."""
    name = f"new-{next(NUMBERS)}"
    return f"{make_bucket(options, name)}/store" if options else f"memory://{name}/store"


@pytest.fixture(params=["memory", "s3"])
def anywhere(request: pytest.FixtureRequest) -> Place:
    """Where to put a store, and how to get there."""
    options = request.getfixturevalue("s3") if request.param == "s3" else {}
    return new_url(options), options


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> Place:
    """The same, in memory alone where time is short."""
    options = request.getfixturevalue("s3") if request.param == "s3" else {}
    return new_url(options), options


def create(place: Place, **settings: int) -> Store:
    """Make a store."""
    return Store.create(place[0], storage_options=place[1], **settings)


def damage_object(place: Place, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change the content of an object behind the back of everybody."""
    url, options = place
    store = Store.open(url, storage_options=options)
    store.folder.write(name, change(store.folder.read(name)))


def test_a_url_holds_byte_for_byte_what_a_folder_does(anywhere: Place, tmp_path: Path) -> None:
    local = Store.create(tmp_path / "store")
    crashing.write_everything(local)
    store = create(anywhere)
    crashing.write_everything(store)
    assert objects(*anywhere) == tree(local.path)
    opened = Store.open(anywhere[0], storage_options=anywhere[1])
    assert opened.sources() == local.sources()
    assert opened.columns() == local.columns()
    assert opened.source("s") == local.source("s")
    assert opened.artifacts() == local.artifacts()
    assert str(verify(opened)) == str(verify(local))
    assert read_bad_rows(opened) == read_bad_rows(local)
    for partition in local.source("s").partitions:
        here, there = (list(read_batches(s, s.source("s"), partition.id)) for s in (local, opened))
        assert here == there


def test_writing_again_writes_nothing(place: Place) -> None:
    store = create(place)
    crashing.write_everything(store)
    before = {name: store.folder.written_ns(name) for name in objects(*place)}
    crashing.write_everything(create(place))
    assert {name: store.folder.written_ns(name) for name in objects(*place)} == before


KINDS: dict[str, tuple[Type, Any]] = {
    "ids": (IDS, pa.list_(pa.uint16())),
    "texts": (TEXTS, pa.string()),
    "keeps": (KEEPS, pa.bool_()),
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "ids": st.lists(st.integers(0, 65_535), max_size=5),
    "texts": st.text(max_size=5),
    "keeps": st.booleans(),
}


@given(st.sampled_from(sorted(KINDS)), st.data())
@settings(max_examples=20)
def test_any_rows_read_as_from_a_folder_however_small_the_cache(
    kind: str, data: st.DataObject
) -> None:
    rows = st.lists(st.none() | VALUES[kind], max_size=5)
    partitions = data.draw(st.lists(rows, min_size=1, max_size=5))
    type_, arrow = KINDS[kind]
    names = [f"p{i}" for i in range(len(partitions))]
    with memory_folder() as folder:
        stores = [Store.create(folder), create((new_url({}), {}), cache_bytes=1)]
        readers: list[ColumnReader] = []
        for store in stores:
            for name, values in zip(names, partitions, strict=True):
                write_column(store, "k", name, type_, pa.array(values, arrow))
            readers.append(open_column(store, "s", "k", names))
        here, there = readers
        some = st.integers(0, max(0, here.num_rows - 1))
        wanted = np.array(data.draw(st.lists(some, max_size=12)) if here.num_rows else [], np.int64)
        assert there.take(wanted).equals(here.take(wanted))
        np.testing.assert_array_equal(there.lengths, here.lengths)
        np.testing.assert_array_equal(there.valid, here.valid)
        for one, other in zip(
            _parts(there.gather(wanted)), _parts(here.gather(wanted)), strict=True
        ):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def _parts(gathered: Any) -> Sequence[Any]:
    return gathered if isinstance(gathered, tuple) else [gathered]


def test_pixels_of_many_partitions_are_gathered_in_order(place: Place) -> None:
    store = create(place)
    pixels = np.arange(5 * 18, dtype=np.uint8).reshape(5, 3, 2, 3)
    for number, part in enumerate((pixels[:2], pixels[2:])):
        write_column(store, "k", f"p{number}", IMAGES, tensors(part))
    column = open_column(store, "s", "k", ["p0", "p1"])
    rows = np.array([4, 0, 3, 0, 1])
    np.testing.assert_array_equal(column.gather(rows), pixels[rows])
    assert column.take(rows).to_numpy_ndarray().tolist() == pixels[rows].tolist()


def test_a_store_goes_to_other_processes_and_shows_no_secret(s3: dict[str, Any]) -> None:
    store = create((new_url(s3), s3))
    sent = pickle.loads(pickle.dumps(store))
    assert sent == store
    assert hash(sent) == hash(store)
    assert len(pickle.dumps(store)) < 1000
    assert SECRET not in f"{store!r}{store}"
    crashing.write_everything(sent)
    assert not [
        name for name, content in objects(str(store), s3).items() if SECRET.encode() in content
    ]


def test_of_two_writers_of_a_partition_the_first_is_kept(place: Place) -> None:
    store = create(place)
    writers = [open_writer(store, "s", "k", "p", IDS) for _ in range(8)]
    for writer in writers:
        writer.write(ids([[1, 2]]))
    receipts: list[Any] = []
    threads = [threading.Thread(target=lambda w=w: receipts.append(w.commit())) for w in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert receipts == [read_receipt(store, "s", "k", "p")] * 8
    assert verify(store).problems == ()


def test_only_one_of_many_creates_an_object(anywhere: Place) -> None:
    folder = create(anywhere).folder
    won: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: won.append(folder.create("a", b"%d" % i)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_two_unequal_writers_at_once_leave_nothing_and_say_so(
    anywhere: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create(anywhere)
    first, second = (open_writer(store, "s", "k", "p", IDS) for _ in range(2))
    first.write(ids([[1]]))
    second.write(ids([[2]]))
    put = RemoteFolder._put  # noqa: SLF001

    def put_late(folder: Any, files: Any) -> None:
        monkeypatch.setattr(RemoteFolder, "_put", put)
        first.commit()
        put(folder, files)

    monkeypatch.setattr(RemoteFolder, "_put", put_late)
    with pytest.raises(StoreError, match=r"(?s)T0520.*two builds wrote .*p.receipt.*not the same"):
        second.commit()
    assert store.missing("s", "k", ["p"]) == ("p",)


def test_discarding_lets_a_partition_be_written_again(place: Place) -> None:
    store = create(place)
    crashing.write_everything(store)
    before = objects(*place)
    discard(store, "s", "images", "p0")
    assert store.committed("s", "images") == {"p1"}
    crashing.write_everything(store)
    assert objects(*place) == before


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content[:-1], r"it has \d+ bytes instead of"),
        (lambda content: b"\xff" + content[1:], "it does not match its checksum"),
    ],
    ids=["truncated", "flipped"],
)
@pytest.mark.parametrize("name", ["arrow", "lengths"])
def test_a_damaged_object_is_told_with_its_column_and_partition(
    place: Place, change: Callable[[bytes], bytes], why: str, name: str
) -> None:
    store = create(place)
    write_column(store, "k", "p0", IDS, ids([[1, 2]]))
    write_column(store, "k", "p1", IDS, ids([[3]]))
    damage_object(place, f"columns/s/k/p1.{name}", change)
    told = rf"(?s)T0504.*{place[0]}/columns/s/k/p1.{name} is damaged: {why}"
    with pytest.raises(StoreError, match=told) as caught:  # noqa: PT012 - truncation shows early
        column = open_column(store, "s", "k", ["p0", "p1"])
        column.gather(np.array([1]))
        print(column.lengths)  # noqa: T201
    (problem,) = caught.value.problems
    assert (problem.row, problem.column) == ("p1", "s/k")
    (problem,) = verify(store).problems
    assert (problem.row.partition(":")[0], problem.column) == ("p1", "s/k")


def test_an_absent_object_is_told_on_opening(place: Place) -> None:
    store = create(place)
    write_column(store, "k", "p0", IDS, ids([[1, 2]]))
    store.folder.remove("columns/s/k/p0.arrow")
    with pytest.raises(StoreError, match=r"T0504.*p0.arrow is damaged: it has 0 bytes"):
        open_column(store, "s", "k", ["p0"])
    assert "it is gone" in str(verify(store).problems[0])
    with pytest.raises(StoreError, match=r"T0507.*lacks 1 of 1 partitions"):
        open_column(store, "s", "k", ["p7"])


def test_what_is_no_store_is_told(place: Place) -> None:
    url, options = place
    with pytest.raises(StoreError, match=rf"T0503.*there is no store at {url}"):
        Store.open(url, storage_options=options)
    create(place)
    with pytest.raises(StoreError, match=r"T0503.*is not a store: it has no store.json"):
        Store.open(url.removesuffix("/store"), storage_options=options)
    with pytest.raises(StoreError, match=r"T0503.*holds other files"):
        Store.create(url.removesuffix("/store"), storage_options=options)
    Store.open(url, storage_options=options).folder.write("store.json", b'{"format": 2}')
    with pytest.raises(StoreError, match=r"T0502.*format 2, .* up to 1"):
        Store.open(url, storage_options=options)


def test_an_absent_bucket_is_told(s3: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"T0503.*no store at s3://absent/store"):
        Store.open("s3://absent/store", storage_options=s3)
    with pytest.raises(StoreError, match=r"(?s)T0520.*no such bucket.*make the bucket"):
        Store.create("s3://absent/store", storage_options=s3)


def test_a_server_that_is_not_there_is_told_without_secrets(s3: dict[str, Any]) -> None:
    quick = {"connect_timeout": 1, "retries": {"max_attempts": 0}}
    nowhere = {**s3, "endpoint_url": "http://127.0.0.1:9", "config_kwargs": quick}
    with pytest.raises(StoreError, match=r"(?s)T0520.*cannot reach s3://b/s/store.json") as caught:
        Store.open("s3://b/s", storage_options=nowhere)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert SECRET not in str(pickle.loads(pickle.dumps(caught.value)))


def test_a_secret_in_what_a_library_says_is_masked(
    s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create((new_url(s3), s3))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(f"who is {SECRET}? X-Amz-Signature=abc")

    monkeypatch.setattr(file_system(s3), "cat_file", refuse)
    with pytest.raises(
        StoreError, match=r"(?s)T0506.*who is \*\*\*\? .*Signature=\*\*\*"
    ) as caught:
        store.folder.read("store.json")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s4://b/s", r"(?s)T0501.*\"s4\" is no scheme.*s3"),
        ("zip::s3://b/s.zip", r"T0501.*inside another"),
        ("s3://me:word@b/s", r"(?s)T0501.*password.*storage_options"),
        ("https://host/s", r"T0501.*only read"),
    ],
)
def test_a_url_that_cannot_be_a_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        Store.create(url)
    assert "word@" not in str(caught.value)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Any = importlib.import_module("fsspec.registry")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registry._registry, "s3", raising=False)  # noqa: SLF001
    with pytest.raises(MissingExtraError, match=r"(?s)T0901.*s3://.*taskloom\[remote\]"):
        Store.open("s3://b/s", storage_options={"key": "another"})


def test_a_captured_object_that_is_damaged_or_gone_is_told(place: Place) -> None:
    store = create(place)
    record = register_source(store, "s", [{"a": 1}])
    (file,) = record.files
    damage_object(place, f"sources/s/{file.path}", lambda content: b"\xff" + content[1:])
    with pytest.raises(StoreError, match=r"T0504.*is damaged: it does not match"):
        next(read_batches(store, record, record.partitions[0].id))
    assert [problem.code for problem in verify(store).problems] == ["T0504"]
    store.folder.remove(f"sources/s/{file.path}")
    with pytest.raises(StoreError, match=r"T0504.*is gone"):
        next(read_batches(store, record, record.partitions[0].id))


def test_a_place_is_tried_with_two_requests_and_is_left_as_it_was(
    anywhere: Place, caplog: pytest.LogCaptureFixture
) -> None:
    url, options = anywhere
    folder = RemoteFolder(url, Access(options))
    folder.write("mine", b"all of it")
    with caplog.at_level("INFO", logger="werkzeug"):
        folder.try_writing()
    asked = [re.findall(r"PUT|GET|HEAD|DELETE|POST", line) for line in caplog.messages]
    assert asked == ([["PUT"], ["DELETE"]] if options else [])
    assert objects(url, options) == {"mine": b"all of it"}
