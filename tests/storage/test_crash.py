"""A writer killed at any moment leaves whole partitions or none, and the next one finishes its work."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from taskloom.storage.reader import open_column
from taskloom.storage.source import register_source
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from . import crashing
from .columns import memory_folder, tree

HERE = Path(__file__).parent


def check(store: Store, whole: dict[str, bytes]) -> None:
    """Check that what ``store`` holds is whole, and that writing again gives the files of ``whole``."""
    assert verify(store).problems == ()
    for key in crashing.KEYS:
        committed = sorted(store.committed("s", key))
        if committed:
            open_column(store, "s", key, committed)
    store.sweep()
    crashing.write_everything(store)
    assert verify(store).problems == ()
    assert tree(store.path) == whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that nobody disturbed."""
    store = Store.create(tmp_path_factory.mktemp("whole"))
    crashing.write_everything(store)
    return tree(store.path)


def test_a_kill_before_any_step_on_files_leaves_nothing_half(whole: dict[str, bytes]) -> None:
    with memory_folder() as folder:
        command = [sys.executable, str(HERE / "crashing.py"), "at-each-step", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout) > 50
        # Many steps change nothing: each state is checked once, whoever its temporary files belong to.
        states = {
            frozenset(re.sub(r"\.tmp\.\w+\.\d+", "", n) for n in tree(path)): path
            for path in sorted(Path(folder).iterdir())
        }
        assert len(states) > 20
        for path in states.values():
            check(Store.create(path), whole)


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_time_leaves_nothing_half(whole: dict[str, bytes], seed: int) -> None:
    with memory_folder() as folder:
        store = Store.create(folder)
        command = [sys.executable, str(HERE / "crashing.py"), "forever", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begin\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(random.Random(seed).uniform(0.02, 0.25))
            process.kill()
            assert process.wait() == -signal.SIGKILL
        check(store, whole)


def test_two_writers_of_one_store_give_what_one_does(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    store = Store.create(tmp_path)
    command = [sys.executable, str(HERE / "crashing.py"), "once", str(store.path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert tree(store.path) == whole
    record = register_source(store, "s", crashing.ROWS, partition_rows=8)
    assert record.num_new == 0
