"""The cache is bounded, holds whole files only, and is shared by processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import StoreError
from taskloom.storage.cache import Cache
from taskloom.storage.files import digest_bytes

from .columns import memory_folder


def give(content: bytes, asked: list[bytes] | None = None) -> Callable[[Path], None]:
    """Return a download of ``content`` that notes that it was asked."""

    def download(path: Path) -> None:
        if asked is not None:
            asked.append(content)
        path.write_bytes(content)

    return download


def fetch(cache: Cache, content: bytes, asked: list[bytes] | None = None) -> bytes:
    """Return what the cache gives for ``content``."""
    with cache.borrow(digest_bytes(content), len(content), give(content, asked)) as path:
        return path.read_bytes()


def kept(cache: Cache) -> list[Path]:
    """Return the files in the cache."""
    return [path for path in cache.path.glob("files/*/*") if path.name != ".lock"]


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 60))
@settings(max_examples=25)
def test_any_order_of_files_stays_within_the_bound(order: list[int], num_bytes: int) -> None:
    with memory_folder() as folder:
        cache = Cache(Path(folder), num_bytes)
        for number in order:
            content = bytes([number]) * (number + 1)
            assert fetch(cache, content) == content
            size = sum(path.stat().st_size for path in kept(cache))
            assert size <= max(num_bytes, len(content))
        assert not list((cache.path / "scratch").glob("*")) or not order


def test_a_file_is_fetched_once_and_the_one_used_longest_ago_leaves(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 30)
    asked: list[bytes] = []
    files = [bytes([number]) * 10 for number in range(4)]
    for content in files[:3]:
        fetch(cache, content, asked)
    for turn, content in enumerate((files[1], files[0], files[2])):
        path = cache.path / "files" / digest_bytes(content)[:2] / digest_bytes(content)
        assert fetch(cache, content, asked) == content
        os.utime(path, ns=(turn, turn))  # clocks are too coarse for a test
    fetch(cache, files[3], asked)
    assert asked == files
    assert {path.name for path in kept(cache)} == {
        digest_bytes(content) for content in (files[0], files[2], files[3])
    }


def test_a_file_in_use_outlives_its_leaving(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10)
    with cache.borrow(digest_bytes(b"one"), 3, give(b"one")) as path:
        fetch(cache, b"other" * 2)
        assert path.read_bytes() == b"one"
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"on", "it has 2 bytes instead of 3"), (b"two", "it does not match its checksum")],
)
def test_what_is_not_what_it_should_be_does_not_enter(
    tmp_path: Path, content: bytes, message: str
) -> None:
    cache = Cache(tmp_path, 100)
    with (
        pytest.raises(ValueError, match=message),
        cache.borrow(digest_bytes(b"one"), 3, give(content)),
    ):
        raise AssertionError
    assert kept(cache) == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert fetch(cache, b"one") == b"one"


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)

    def fail(path: Path) -> None:
        path.write_bytes(b"o")
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError), cache.borrow(digest_bytes(b"one"), 3, fail):
        raise AssertionError
    assert kept(cache) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_processes_that_want_one_file_fetch_it_once(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from taskloom.storage.cache import Cache
from taskloom.storage.files import digest_bytes
def slow(path):
    print("fetch", flush=True)
    path.write_bytes(b"half")
    time.sleep(0.3)
    path.write_bytes(content)
content = b"whole" * 1000
with Cache(Path(sys.argv[1]), 10**6).borrow(digest_bytes(content), len(content), slow) as path:
    assert path.read_bytes() == content
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(said) == ["", "", "fetch\n"]


def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "here"))
    assert Cache.of_user(1).path == tmp_path / "here"
    monkeypatch.delenv("TASKLOOM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.of_user(1).path == tmp_path / "taskloom"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Cache.of_user(1).path == Path.home() / ".cache" / "taskloom"


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"T0512.*file/scratch"):
        fetch(Cache(tmp_path / "file", 10), b"one")


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from taskloom.storage.cache import Cache
def die(path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
with Cache(Path(sys.argv[1]), 100).borrow("0" * 32, 9, die):
    pass
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    cache = Cache(tmp_path, 100)
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    assert kept(cache) == []
    assert cache.sweep() == 1
    assert list((tmp_path / "scratch").iterdir()) == []
