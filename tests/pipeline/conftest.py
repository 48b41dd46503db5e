"""Stores that are built once and left as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.pipeline import Mixture, Source, build

from .rows import WORDS, digit_rows, digits_mixture, digits_task, mix, tree, write_parquet


@pytest.fixture(autouse=True)
def quiet_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads of torch sleep while they wait, in the processes that a test starts as well."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of `rows.digits_mixture`."""
    path = tmp_path_factory.mktemp("digits") / "store"
    build(digits_mixture(), path, progress=False)
    return path


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """A mixture of images in three files, one of which holds a row that is no image, and of words."""
    folder = tmp_path_factory.mktemp("parts")
    rows = digit_rows()
    rows[25]["image"] = b"notajpeg"
    files = [write_parquet(folder / f"{i}.parquet", rows[20 * i : 20 * i + 20]) for i in range(3)]
    words = [{"id": i, "note": f"note {i}", "label": str(i % 3)} for i in range(30)]
    return mix(
        digits_task(Source("digits", [str(path) for path in files])),
        digits_task(Source("words", words), WORDS, name="words"),
    )


@pytest.fixture(scope="session")
def parts_tree(parts: Mixture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store of `parts`, built by one worker."""
    path = tmp_path_factory.mktemp("one worker")
    build(parts, path, workers=1, progress=False)
    return tree(path)
