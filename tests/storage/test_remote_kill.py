"""A writer into a bucket that is killed at any moment leaves whole partitions or none."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskloom.storage.reader import open_column
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

from ..s3 import make_bucket, objects, serving_apart
from . import crashing
from .columns import tree

WRITE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import crashing
from taskloom.storage.store import Store
store = Store.create(sys.argv[2], storage_options=json.loads(sys.argv[3]))
print("begin", flush=True)
crashing.write_everything(store)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    """The options of a server that outlives its writers."""
    with serving_apart() as options:
        yield options


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_kill_during_uploads_leaves_nothing_half(
    server: dict[str, Any], seed: int, tmp_path: Path
) -> None:
    os.environ["TASKLOOM_CACHE"] = str(tmp_path / "cache")
    whole = Store.create(tmp_path / "whole")
    crashing.write_everything(whole)
    url = f"{make_bucket(server, f'killed-{seed}')}/store"
    command = [sys.executable, "-c", WRITE, str(Path(__file__).parent), url, json.dumps(server)]
    moment = random.Random(seed)
    wanted = moment.randrange(len(tree(whole.path)))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begin\n"
        while len(objects(url, server)) <= wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moment.uniform(0.0, 0.03))
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
    store = Store.create(url, storage_options=server)
    left = objects(url, server)
    assert left.items() <= tree(whole.path).items()
    assert verify(store).problems == ()
    for key in crashing.KEYS:
        if committed := sorted(store.committed("s", key)):
            open_column(store, "s", key, committed).take(np.arange(3))
    store.sweep()
    assert not list((tmp_path / "cache").glob("scratch/*"))
    crashing.write_everything(store)
    assert verify(store).problems == ()
    assert objects(url, server) == tree(whole.path)


@pytest.mark.slow
def test_three_writers_of_one_bucket_give_what_one_does(
    server: dict[str, Any], tmp_path: Path
) -> None:
    os.environ["TASKLOOM_CACHE"] = str(tmp_path / "cache")
    whole = Store.create(tmp_path / "whole")
    crashing.write_everything(whole)
    url = f"{make_bucket(server, 'shared')}/store"
    command = [sys.executable, "-c", WRITE, str(Path(__file__).parent), url, json.dumps(server)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert objects(url, server) == tree(whole.path)
