"""A store that is built once, and a run that is trained once on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.pipeline import Mixture, Run, build
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.storage.store import Store

from .stores import CONFIG, MODEL, continue_run, make_mixture


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    """Both tasks."""
    return make_mixture()


@pytest.fixture(scope="session")
def store_dir(mixture: Mixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that both tasks are built into; tests leave it as it is."""
    path = tmp_path_factory.mktemp("built") / "store"
    build(mixture, path, progress=False)
    return path


@pytest.fixture(scope="session")
def stream(mixture: Mixture, store_dir: Path) -> Stream:
    """What a run on the store learns from."""
    return open_stream(mixture, Store.open(store_dir), MODEL, CONFIG)


@pytest.fixture(scope="session")
def run(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 60 steps; tests leave it as it is."""
    return continue_run(store_dir, tmp_path_factory.mktemp("run"))
