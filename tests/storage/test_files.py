"""Files are whole or absent, whatever happens to their writer or to the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from taskloom.graph.errors import StoreError
from taskloom.storage.files import local_path, replacing, sweep, temporary_path, write_atomic
from taskloom.storage.source import register_source
from taskloom.storage.store import Store

from .columns import IDS, IMAGES, ids, tensors, write_column

NUM_BYTES = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds a megabyte, or the test is skipped where nothing may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={NUM_BYTES}", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"another")
    assert path.read_bytes() == b"another"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_fails_to_be_replaced_stays_and_leaves_nothing_beside_it(
    tmp_path: Path, *, is_folder: bool
) -> None:
    def write(name: Path, letters: Iterable[Any]) -> None:
        if is_folder:
            name.mkdir()
        with (name / "file" if is_folder else name).open("w") as file:
            for letter in letters:
                file.write(letter)

    path = tmp_path / "thing"
    with replacing(path) as name:
        write(name, "one")
    with pytest.raises(TypeError), replacing(path) as name:
        write(name, [*"half", 0])
    assert [each.name for each in tmp_path.iterdir()] == ["thing"]
    assert (path / "file" if is_folder else path).read_text() == "one"
    with replacing(path) as name:
        write(name, "another")
    assert (path / "file" if is_folder else path).read_text() == "another"


def test_sweeping_removes_what_dead_writers_left_and_spares_the_living(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from taskloom.storage.files import temporary_path;"
        "print(temporary_path(pathlib.Path(sys.argv[1])))"
    )
    named = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.zarr")], capture_output=True, check=True
    )
    dead = Path(named.stdout.decode().strip())
    dead.mkdir()
    (dead / "c.0").write_bytes(b"half")
    living = temporary_path(tmp_path / "b")
    living.write_bytes(b"half")
    kept = tmp_path / ".tmp.not-ours"
    kept.write_bytes(b"")
    assert sweep(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([living, kept])


@pytest.mark.parametrize(
    ("location", "scheme"),
    [
        ("s3://bucket/run", "s3"),
        ("gs://b/x", "gs"),
        ("zip::https://x/y.zip", "zip"),
        (Path("s3://bucket/run"), "s3"),
    ],
)
def test_a_url_is_no_path(location: str | Path, scheme: str) -> None:
    with pytest.raises(StoreError, match=rf"T0501.*folder of this machine.* on {scheme}"):
        local_path(location)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    assert local_path(f"file://{tmp_path}") == tmp_path
    assert local_path(Path(f"file://{tmp_path}")) == tmp_path
    assert local_path("some/folder") == Path.cwd() / "some/folder"


def test_a_full_disk_is_named_and_leaves_what_was_committed(small_disk: Path) -> None:
    store = Store.create(small_disk)
    write_column(store, "ids", "p0", IDS, ids([[1, 2, 3]]))
    pixels = np.ones((150_000, 3, 2, 3), np.uint8)
    with pytest.raises(StoreError, match=r"T0505.*disk is full: cannot write .*/small/"):
        write_column(store, "images", "p0", IMAGES, tensors(pixels))
    many = pa.array([list(range(1000))] * 1000, pa.list_(pa.uint16()))
    with pytest.raises(StoreError, match=r"(?s)T0505.*start again: what is committed is kept"):
        write_column(store, "ids", "p1", IDS, many)
    with pytest.raises(StoreError, match="T0505"):
        register_source(store, "rows", [{"a": os.urandom(NUM_BYTES)}])
    assert store.committed("s", "ids") == {"p0"}
    assert store.committed("s", "images") == frozenset()
    assert not list(small_disk.rglob(".tmp.*"))
    assert sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file()) < 10_000


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    code = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from columns import IDS, ids, write_column
from taskloom.graph.errors import StoreError
from taskloom.storage.store import Store
store = Store.create(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_column(store, "k", "p0", IDS, ids([[7] * 1000] * 1000))
except StoreError as error:
    print(error.problems[0].code)
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout == "T0505\n"
    assert not list(tmp_path.rglob(".tmp.*"))


def test_a_store_that_cannot_be_written_can_be_read(small_disk: Path) -> None:
    store = Store.create(small_disk)
    write_column(store, "ids", "p0", IDS, ids([[1]]))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert Store.create(small_disk).missing("s", "ids", ["p0", "p1"]) == ("p1",)
    with pytest.raises(StoreError, match=r"(?s)T0506.*Read-only.*must be writable to build"):
        write_column(store, "ids", "p1", IDS, ids([[2]]))
