"""Stores that are built once and left as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom.pipeline import build

from .rows import digits_mixture


@pytest.fixture(autouse=True)
def quiet_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads of torch that wait must sleep, in the processes that a test starts as well."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    yield


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of `rows.digits_mixture`."""
    path = tmp_path_factory.mktemp("digits") / "store"
    build(digits_mixture(), path, progress=False)
    return path
