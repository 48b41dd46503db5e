"""A source ten times what a worker may take is built within that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.storage.store import Store
from taskloom.storage.verify import verify

distributed: Any = pytest.importorskip("distributed")

pytestmark = pytest.mark.slow

LIMIT_BYTES = 512 << 20
SIDE = 512
ROW_BYTES = SIDE * SIDE * 3
NUM_ROWS = 10 * LIMIT_BYTES // ROW_BYTES + 1

SCRIPT = """
import re, sys, threading, time
from pathlib import Path
from tests.pipeline.test_build_memory import make_mixture
from tests.pipeline.workers import worker_pids
from taskloom.pipeline import build

most = 0
done = threading.Event()

def watch():
    # Not what the system tells of children that have ended: it counts what they shared with us at their birth.
    global most
    while not done.is_set():
        for pid in worker_pids():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if found := re.search(r"VmHWM:\\s+(\\d+) kB", status):
                most = max(most, 1024 * int(found[1]))
        time.sleep(0.05)

watcher = threading.Thread(target=watch)
watcher.start()
build(make_mixture(Path(sys.argv[1])), Path(sys.argv[1]) / "store", workers=2, progress=False)
done.set()
watcher.join()
print(most)
"""


def make_mixture(folder: Path) -> Mixture:
    """Return a mixture of pictures as they come from a camera, which are written unless they are there."""
    path = folder / "pictures.parquet"
    if not path.exists():
        header = b"BM" + (54 + ROW_BYTES).to_bytes(4, "little") + bytes(4)
        header += (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
        header += SIDE.to_bytes(4, "little") * 2 + (1).to_bytes(2, "little")
        header += (24).to_bytes(2, "little") + bytes(24)
        schema = pa.schema({"id": pa.int64(), "image": pa.binary(), "label": pa.string()})
        with pa_parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            for first in range(0, NUM_ROWS, 40):
                rows = [
                    {"id": i, "image": header + bytes([i % 256]) * ROW_BYTES, "label": str(i % 3)}
                    for i in range(first, min(first + 40, NUM_ROWS))
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    task = Task(
        "pictures",
        "[IMAGE:image,size=32] -> [TEXT:label]",
        source=Source("pictures", str(path)),
        holdout=0.1,
        key="id",
    )
    return Mixture([task], bpe_size=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures are."""
    path = tmp_path_factory.mktemp("large")
    make_mixture(path)
    assert NUM_ROWS * ROW_BYTES > 10 * LIMIT_BYTES
    return path


def test_worker_processes_stay_below_a_tenth_of_the_source(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        cwd=Path(__file__).parents[2] / "examples",
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 50 << 20 < int(done.stdout) < LIMIT_BYTES, done.stdout


def test_workers_of_a_cluster_with_a_limit_build_ten_times_as_much(folder: Path) -> None:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=LIMIT_BYTES, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        report = build(make_mixture(folder), folder / "cluster", client=client, progress=False)
    assert (report.rows, report.rejects) == (NUM_ROWS, 0)
    assert verify(Store.open(folder / "cluster")).problems == ()
