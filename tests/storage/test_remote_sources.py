"""Files of rows behind URLs are known by their content, fetched once, and read from the cache."""

from __future__ import annotations

import io
import pickle
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskloom.graph.errors import SourceError, StoreError
from taskloom.storage.access import Access
from taskloom.storage.head import read_head
from taskloom.storage.record import SourceRecord
from taskloom.storage.remote import RemoteFolder
from taskloom.storage.source import read_batches, register_source
from taskloom.storage.store import Store

from ..s3 import SECRET, make_bucket

Files = tuple[Store, str]

pytestmark = pytest.mark.usefixtures("cache")
NUMBERS = count()


@pytest.fixture(params=["memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """A store in a folder that knows how to reach a bucket, and the bucket's URL."""
    name = f"rows-{next(NUMBERS)}"
    if request.param == "memory":
        return Store.create(tmp_path / "store"), f"memory://{name}"
    options = request.getfixturevalue("s3")
    store = Store.create(tmp_path / "store", storage_options=options)
    return store, make_bucket(options, name)


def put(files: Files, name: str, *values: int) -> str:
    """Put a Parquet file with one column."""
    stream = io.BytesIO()
    pq.write_table(pa.table({"a": values}), stream)
    return put_bytes(files, name, stream.getvalue())


def put_bytes(files: Files, name: str, content: bytes) -> str:
    """Put a file; return its URL."""
    store, url = files
    RemoteFolder(url, store.access_to(url)).write(name, content)
    return f"{url}/{name}"


def rows_of(store: Store, record: SourceRecord) -> list[int]:
    """Return the values of all rows."""
    batches = (batch for p in record.partitions for batch in read_batches(store, record, p.id))
    return [value for batch in batches for value in batch.column("a").to_pylist()]


def fetched(cache: Path) -> set[str]:
    """Return the digests of the files in the cache."""
    return {path.name for path in cache.glob("files/*/*")}


def test_files_behind_urls_are_the_partitions_that_files_here_are(
    files: Files, tmp_path: Path
) -> None:
    store, url = files
    for number in range(3):
        put(files, f"part-{number}.parquet", number, number + 10)
        table = pa.table({"a": [number, number + 10]})
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    here = register_source(store, "here", str(tmp_path / "part-*.parquet"))
    there = register_source(store, "there", f"{url}/part-*.parquet")
    assert there.partitions == here.partitions
    assert [file.path for file in there.files] == [f"{url}/part-{n}.parquet" for n in range(3)]
    assert rows_of(store, there) == rows_of(store, here) == [0, 10, 1, 11, 2, 12]
    assert store.source("there") == there
    assert all(file.etag for file in there.files)
    assert SECRET not in (store.path / "sources/there/source.json").read_text()
    assert SECRET.encode() not in pickle.dumps(there)
    one = register_source(store, "one", [f"{url}/part-2.parquet"])
    assert rows_of(store, one) == [2, 12]


def test_a_file_that_was_not_touched_is_not_fetched_again(files: Files, cache: Path) -> None:
    store, _ = files
    location = put(files, "a.parquet", 1, 2)
    record = register_source(store, "s", location)
    for path in cache.glob("files/*/*"):
        path.unlink()
    assert register_source(store, "s", location).num_new == 0
    assert not fetched(cache) - {".lock"}
    assert rows_of(store, record) == [1, 2]
    assert fetched(cache) - {".lock"} == {record.files[0].digest}


def test_a_changed_file_is_another_partition_and_the_others_stay(files: Files) -> None:
    store, url = files
    put(files, "a.parquet", 1)
    put(files, "b.parquet", 2)
    before = register_source(store, "s", f"{url}/*.parquet")
    put(files, "b.parquet", 3)
    after = register_source(store, "s", f"{url}/*.parquet")
    assert (after.num_new, after.num_kept) == (1, 1)
    assert rows_of(store, after) == [1, 3]
    assert rows_of(store, before) == [1, 2]  # the cache still has it


def test_a_file_that_changed_or_went_since_is_told(files: Files, cache: Path) -> None:
    store, url = files
    record = register_source(store, "s", put(files, "a.parquet", 1))
    for path in cache.glob("files/*/*"):
        path.unlink()
    put(files, "a.parquet", 2)
    with pytest.raises(SourceError, match=rf"T0406.*{url}/a.parquet has changed"):
        rows_of(store, record)
    with pytest.raises(SourceError, match=rf"(?s)T0401.*no file {url}/c.parquet.*a.parquet"):
        register_source(store, "s", f"{url}/c.parquet")
    with pytest.raises(SourceError, match=rf"T0401.*no file matches {url}/x-\*.parquet"):
        register_source(store, "s", f"{url}/x-*.parquet")
    put(files, "folder/a.parquet", 1)
    with pytest.raises(SourceError, match=r"(?s)T0402.*folder is a folder.*folder/\*.parquet"):
        register_source(store, "s", f"{url}/folder")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"a\n1\n2\n"), ("a.jsonl", b'{"a": 1}\n{"a": 2}\n')],
)
def test_every_format_is_read_from_afar(files: Files, name: str, content: bytes) -> None:
    store, _ = files
    location = put_bytes(files, name, content)
    assert rows_of(store, register_source(store, "s", location)) == [1, 2]


def test_a_damaged_file_is_told_by_its_url(files: Files) -> None:
    store, url = files
    with pytest.raises(SourceError, match=rf"T0401.*cannot read {url}/a.parquet"):
        register_source(store, "s", put_bytes(files, "a.parquet", b"nothing of the kind"))
    with pytest.raises(SourceError, match=r"T0402.*no known kind"):
        register_source(store, "s", put_bytes(files, "a.txt", b""))


def test_the_first_rows_are_read_without_a_store() -> None:
    files = (Store.create(f"memory://head-{next(NUMBERS)}/s"), f"memory://head-{next(NUMBERS)}")
    assert read_head(put(files, "a.parquet", 5, 6), 1).column("a").to_pylist() == [5]


def test_options_are_for_urls_of_the_scheme_of_the_store(tmp_path: Path) -> None:
    options = {"key": "k"}
    assert Store.create(tmp_path, storage_options=options).access_to("s3://b/a").options == options
    url = f"memory://other-{next(NUMBERS)}"
    store = Store.create(url, storage_options=options, cache_bytes=9)
    assert store.access_to("memory://b").options == options
    assert store.access_to("s3://b/a") == Access({}, 9)
    with pytest.raises(StoreError, match=r"T0501.*cache_bytes must be positive"):
        Store.create(tmp_path, cache_bytes=0)


def test_a_url_with_a_secret_in_it_is_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with pytest.raises(StoreError, match="T0501") as caught:
        register_source(store, "s", "https://host/a.parquet?X-Amz-Signature=secret")
    assert "secret" not in str(caught.value)
