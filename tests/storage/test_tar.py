"""WebDataset tars are read as WebDataset reads them, in ranges, and what is damaged is refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from webdataset.tariterators import group_by_keys, tar_file_iterator

from taskloom.graph.errors import SourceError
from taskloom.storage.head import read_head
from taskloom.storage.record import SourceRecord
from taskloom.storage.source import read_batches, register_source
from taskloom.storage.store import Store

Member = tuple[str, bytes]


def write_tar(path: Path, members: Sequence[Member], **settings: Any) -> Path:
    with tarfile.open(path, "w", **settings) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(number: int, folder: str = "d/") -> list[Member]:
    key = f"{folder}{number:04}"
    return [
        (f"{key}.png", b"\x89PNG" + bytes([number % 256]) * number),
        (f"{key}.seg.PNG", b"\xff"),
        (f"{key}.cls", str(number).encode()),
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.create(tmp_path / "store")


def read(store: Store, record: SourceRecord) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name != "__split__"}
        for partition in record.partitions
        for batch in read_batches(store, record, partition.id)
        for row in batch.to_pylist()
    ]


def test_members_of_one_key_are_a_row_with_a_column_for_each_extension(
    store: Store, tmp_path: Path
) -> None:
    members = [*sample(0), ("d/", b""), ("d/.hidden", b"?"), ("README", b"?"), *sample(1)[::2]]
    path = write_tar(tmp_path / "a.tar", members)
    record = register_source(store, "s", path)
    assert {column.name: str(column.type) for column in record.schema} == {
        "__key__": "string",
        "png": "binary",
        "seg_png": "binary",
        "cls": "string",
    }
    assert read(store, record) == [
        {"__key__": "d/0000", "png": b"\x89PNG", "seg_png": b"\xff", "cls": "0"},
        {"__key__": "d/0001", "png": b"\x89PNG\x01", "seg_png": None, "cls": "1"},
    ]


@given(
    samples=st.lists(st.lists(st.sampled_from(["txt", "bin", "a.json"]), unique=True, min_size=1)),
    partition_rows=st.integers(1, 9),
    name_length=st.sampled_from([1, 120]),  # long names lie in headers of their own
)
@settings(max_examples=30, deadline=None)
def test_ranges_give_what_webdataset_gives(
    samples: list[list[str]],
    partition_rows: int,
    name_length: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("tar")
    members = [
        (f"{'k' * name_length}{number:03}.{extension}", f"{number} {extension}".encode())
        for number, extensions in enumerate(samples)
        for extension in extensions
    ]
    path = write_tar(folder / "a.tar", members)
    store = Store.create(folder / "store")
    if not samples:
        with pytest.raises(SourceError, match="T0404"):
            register_source(store, "s", path)
        return
    record = register_source(store, "s", path, partition_rows=partition_rows)
    assert all(partition.rows <= partition_rows for partition in record.partitions)
    with path.open("rb") as file:
        files = ({**each, "__url__": str(path)} for each in tar_file_iterator(cast("Any", file)))
        theirs: list[Any] = list(group_by_keys(files))
    expected = [
        {"__key__": row["__key__"]}
        | {name: row[name].decode() for name in ("txt",) if name in row}
        | {name.replace(".", "_"): row[name].decode() for name in ("a.json",) if name in row}
        | {name: row[name] for name in ("bin",) if name in row}
        for row in theirs
    ]
    rows = [{n: v for n, v in row.items() if v is not None} for row in read(store, record)]
    assert rows == expected
    head = read_head(path, 3).drop(["__split__"]).to_pylist()
    assert [{n: v for n, v in row.items() if v is not None} for row in head] == expected[:3]


def test_shards_are_known_by_content_and_only_new_ones_are_new(
    store: Store, tmp_path: Path
) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"{shard}.tar", [m for i in range(5) for m in sample(5 * shard + i)])
    first = register_source(store, "s", f"{tmp_path}/*.tar", partition_rows=2)
    (tmp_path / "0.tar").rename(tmp_path / "00.tar")
    write_tar(tmp_path / "2.tar", sample(77))
    second = register_source(store, "s", f"{tmp_path}/*.tar", partition_rows=2)
    assert (second.num_new, second.num_kept) == (1, len(first.partitions))
    assert [row["cls"] for row in read(store, second)] == [*map(str, range(10)), "77"]


def test_the_head_reads_the_beginning_only(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [m for i in range(300) for m in sample(i)])
    path.write_bytes(path.read_bytes()[:9000] + b"?" * 40_000)
    assert [row["cls"] for row in read_head(path, 2).to_pylist()] == ["0", "1"]


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(format_: int, store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [m for i in range(3) for m in sample(i)], format=format_)
    assert len(read(store, register_source(store, "s", path, partition_rows=2))) == 3


def cut(content: bytes) -> bytes:
    return content[: 4 * 512]


def flip_header(content: bytes) -> bytes:
    return content[: 6 * 512] + b"?" + content[6 * 512 + 1 :]


@pytest.mark.parametrize(
    ("members", "damage", "message"),
    [
        pytest.param(sample(1) * 2, None, 'T0408.*two members for column "png"', id="twice"),
        pytest.param(
            [("a.b.c", b""), ("a.b_c", b"")], None, 'T0408.*column "b_c"', id="equal columns"
        ),
        pytest.param(sample(1), lambda _: b"", "T0401.*empty", id="empty"),
        pytest.param(sample(1), lambda _: b"no tar" * 999, "T0401.*a\\.tar", id="no tar"),
        pytest.param([*sample(1), *sample(2)], cut, "T0401", id="cut between members"),
        pytest.param(
            [*sample(1), *sample(2)], flip_header, "T0401.*at byte 3072", id="damaged header"
        ),
    ],
)
def test_a_damaged_tar_is_refused(
    members: list[Member], damage: Any, message: str, store: Store, tmp_path: Path
) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    path.write_bytes((damage or bytes)(path.read_bytes()))
    with pytest.raises(SourceError, match=f"(?s){message}"):
        register_source(store, "s", path)


def test_text_that_is_not_utf_8_is_named(store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample(1), ("k.txt", b"\xff")])
    record = register_source(store, "s", path)
    with pytest.raises(SourceError, match=r'(?s)T0408.*"k.txt" is not UTF-8.*row a.tar:1'):
        read(store, record)
