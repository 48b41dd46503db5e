"""A build that is killed loses nothing that it committed, and goes on as if it never was killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskloom.pipeline import build
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from .killing import count_files, make_mixture
from .rows import stamps, tree
from .workers import is_running, worker_pids

HERE = Path(__file__).parent
SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20)]

KillBuild = Callable[[int], Path]


@pytest.fixture(scope="module")
def kill_build(tmp_path_factory: pytest.TempPathFactory) -> KillBuild:
    """Return the store of a build that was killed, by the seed that gave the moment."""
    folder = tmp_path_factory.mktemp("killed")

    def kill(*seeds: int) -> None:
        command = [sys.executable, str(HERE / "killing.py"), "kill", str(folder), *map(str, seeds)]
        subprocess.run(command, check=True)

    def store(seed: int) -> Path:
        if not (folder / str(seed)).exists():
            kill(*(range(2) if seed < 2 else range(2, 20)))
        return folder / str(seed)

    return store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    build(make_mixture(folder), folder / "store", workers=2, progress=False)
    return tree(folder / "store")


def source_free(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out of ``files`` what names the folder that the rows lie in."""
    return {name: content for name, content in files.items() if not name.endswith("source.json")}


def wait_for_workers(store: Path) -> None:
    """Wait until nobody writes below ``store``: workers outlive a killed build for a moment."""
    before, now = {}, stamps(store)
    while before != now:
        time.sleep(0.3)
        before, now = now, stamps(store)


@pytest.mark.parametrize("seed", [0, 1, *SLOW])
def test_a_build_that_was_killed_goes_on_as_if_it_never_was(
    seed: int, kill_build: KillBuild, whole: dict[str, bytes]
) -> None:
    path = kill_build(seed)
    wait_for_workers(path)
    if (path / "store.json").exists():
        assert verify(Store.open(path)).problems == ()
    committed = {n: s for n, s in stamps(path).items() if Path(n).match("[!.]*.receipt")}
    report = build(make_mixture(path.parent), path, workers=2, progress=False)
    assert report.cached == len(committed)
    assert committed.items() <= stamps(path).items()
    assert source_free(tree(path)) == source_free(whole)
    assert verify(Store.open(path)).problems == ()


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))]
)
def test_a_build_whose_workers_are_killed_goes_on_or_says_so(
    seed: int, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    moment = random.Random(seed)
    make_mixture(tmp_path)
    command = [sys.executable, str(HERE / "killing.py"), "build", str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begin\n"
        for _ in range(2):
            time.sleep(moment.uniform(0.2, 0.8))
            for pid in worker_pids(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _, told = process.communicate()
    assert process.returncode == 0 or b"error[T0320]: a worker process died (signal 9)" in told
    build(make_mixture(tmp_path), tmp_path / "store", workers=2, progress=False)
    assert source_free(tree(tmp_path / "store")) == source_free(whole)


def test_two_builds_of_one_store_at_once_both_end_well(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    make_mixture(tmp_path)
    command = [sys.executable, str(HERE / "killing.py"), "build", str(tmp_path / "store")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        told = process.communicate(timeout=120)[1].decode()
        assert process.returncode == 0, told
        assert "column partitions built" in told
    assert source_free(tree(tmp_path / "store")) == source_free(whole)
    assert verify(Store.open(tmp_path / "store")).problems == ()


@pytest.fixture
def building(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A build in a process group of its own, as a terminal starts it."""
    make_mixture(tmp_path)
    command = [sys.executable, str(HERE / "killing.py"), "build", str(tmp_path / "store")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begin\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    "num_files",
    [
        pytest.param(3, marks=pytest.mark.slow, id="at the begin"),
        pytest.param(12, marks=pytest.mark.slow, id="between fitting and building"),
        pytest.param(25, id="in the middle"),
    ],
)
def test_an_interrupted_build_ends_half_way_and_leaves_no_worker(
    num_files: int,
    building: subprocess.Popen[bytes],
    tmp_path: Path,
    whole: dict[str, bytes],
) -> None:
    pids: set[int] = set()
    while count_files(tmp_path / "store") < num_files:
        pids.update(worker_pids(building.pid))
        assert building.poll() is None
        time.sleep(0.002)
    pids.update(worker_pids(building.pid))
    os.killpg(building.pid, signal.SIGINT)
    _, told = building.communicate(timeout=120)
    assert building.returncode in (-signal.SIGINT, 130)
    assert told.decode().rstrip().endswith("KeyboardInterrupt")
    assert not [pid for pid in pids if is_running(pid)]
    assert build(make_mixture(tmp_path), tmp_path / "store", workers=2, progress=False).partitions
    assert source_free(tree(tmp_path / "store")) == source_free(whole)
