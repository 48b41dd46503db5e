"""A source ten times what a worker may take is built within that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.storage.store import Store

from .rows import tree

pytestmark = pytest.mark.slow

LIMIT_BYTES = 400 << 20
SIDE = 512
ROW_BYTES = SIDE * SIDE * 3
NUM_ROWS = 10 * LIMIT_BYTES // ROW_BYTES + 1

SCRIPT = """
import resource, sys
from pathlib import Path
from tests.pipeline.test_build_memory import make_mixture
from taskloom.pipeline import build

build(make_mixture(Path(sys.argv[1])), Path(sys.argv[1]) / "store", workers=2, progress=False)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
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


def test_a_source_ten_times_the_limit_of_a_worker_is_built_under_it(tmp_path: Path) -> None:
    make_mixture(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=Path(__file__).parents[2] / "examples",
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert np.prod([NUM_ROWS, ROW_BYTES]) > 10 * LIMIT_BYTES
    assert int(done.stdout) < LIMIT_BYTES

    distributed: Any = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=LIMIT_BYTES, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        build(make_mixture(tmp_path), tmp_path / "cluster", client=client, progress=False)
    assert tree(tmp_path / "cluster") == tree(tmp_path / "store")
    assert Store.open(tmp_path / "cluster").source("pictures").num_rows == NUM_ROWS
