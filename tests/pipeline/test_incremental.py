"""Only what changed is computed, whatever it was that changed, and `why` says so beforehand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from taskloom.graph.view import Status
from taskloom.ops.artifact import load_artifact
from taskloom.ops.host.bpe import Bpe
from taskloom.pipeline import Mixture, Source, Task, build, plan, why
from taskloom.pipeline.builder.dataset import known_columns, open_dataset, pinned_artifacts
from taskloom.storage.store import Store

from .rows import SLOTS, Row, digit_rows, run, write_parquet

NUM_FILES = 16
NUM_COLUMNS = 4
DIGITS = "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"
NAMES = "name [IMAGE:image] -> [TEXT:note]"
LONG_AGO_NS = 10**10


def write_rows(path: Path, rows: list[Row]) -> Path:
    """Write rows as a file that was not touched for a while."""
    write_parquet(path, rows)
    before = time.time_ns() - LONG_AGO_NS
    os.utime(path, ns=(before, before))
    return path


def mixture(folder: Path, files: Any = "*.parquet", **changes: Any) -> Mixture:
    """Return two tasks over the files of ``folder`` that share their pictures and splits: four columns."""
    given: dict[str, Any] = {"digits": DIGITS, "names": NAMES, "weights": (1.0, 1.0)} | changes
    listed = [str(folder / name) for name in ([files] if isinstance(files, str) else files)]
    source = Source("digits", listed[0] if isinstance(files, str) else listed)
    tasks = [
        Task(name, given[name], source=source, holdout=0.2, key="id", weight=weight)
        for name, weight in zip(("digits", "names"), given["weights"], strict=True)
    ]
    return Mixture(tasks[: given.get("number", 2)], slots=SLOTS, bpe_size=300)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 16 files, each a partition, and a store over them; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("incremental")
    for number in range(NUM_FILES):
        write_rows(folder / f"{number:02}.parquet", digit_rows(6, 6 * number))
    report = run(mixture(folder), folder / "store", workers=2)
    assert report.partitions == NUM_COLUMNS * NUM_FILES
    return folder


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    """A copy of the folder, times included, whose store has seen its files where they are now."""
    shutil.copytree(built, tmp_path / "own")
    assert run(mixture(tmp_path / "own"), tmp_path / "own" / "store").partitions == 0
    return tmp_path / "own"


def inodes(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return which file has each name below ``folder``, when it was written and how large it is."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(folder)): (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        for path, stat in stats.items()
        if path.name != ".lock"
    }


def of_columns(files: dict[str, Any]) -> dict[str, Any]:
    return {name: it for name, it in files.items() if name.startswith("columns/")}


def build_and_compare(changed: Mixture, store: Path, *, partitions: int, columns: int) -> list[str]:
    """Build what ``why`` says is lacking; return its reasons. No file that was there is touched."""
    found = why(changed, store)
    lacking = {c.column: c.missing for c in found if c.status is not Status.CACHED}
    assert lacking == dict.fromkeys(lacking, partitions)
    assert len(lacking) == columns
    before = of_columns(inodes(store))
    report = run(changed, store)
    assert report.partitions == partitions * columns
    after = of_columns(inodes(store))
    assert {name: after[name] for name in before} == before
    receipts = [name for name in after.keys() - before.keys() if name.endswith(".receipt")]
    assert len(receipts) == partitions * columns
    assert all(c.status is Status.CACHED for c in why(changed, store))
    return sorted({c.reason for c in found if c.status is not Status.CACHED})


def test_building_again_computes_no_row_and_touches_no_file(own: Path) -> None:
    before = inodes(own / "store")
    report = run(mixture(own), own / "store")
    assert (report.partitions, report.rows) == (0, 0)
    assert inodes(own / "store") == before


def test_one_changed_file_of_sixteen_builds_one_partition_of_each_column(own: Path) -> None:
    write_rows(own / "07.parquet", digit_rows(9, 200))
    reasons = build_and_compare(mixture(own), own / "store", partitions=1, columns=NUM_COLUMNS)
    told = "1 of 16 partitions to build: 07.parquet changed: it had 6 rows, it has 9"
    assert reasons == [told]


def test_files_appended_and_inserted_build_only_themselves(own: Path) -> None:
    write_rows(own / "99.parquet", digit_rows(5, 300))
    write_rows(own / "03-more.parquet", digit_rows(4, 310))
    reasons = build_and_compare(mixture(own), own / "store", partitions=2, columns=NUM_COLUMNS)
    told = "2 of 18 partitions to build: 03-more.parquet was added, 99.parquet was added"
    assert reasons == [told]


def test_files_in_another_order_build_nothing_and_rows_follow_their_files(own: Path) -> None:
    names = [f"{number:02}.parquet" for number in range(NUM_FILES)]
    changed = mixture(own, names[::-1])
    assert build_and_compare(changed, own / "store", partitions=0, columns=0) == []
    store = Store.open(own / "store")
    dataset = open_dataset(changed, store)
    (image,) = (
        value
        for value, port in dataset.plan.stored_of("digits").items()
        if port.startswith("source")
    )
    backwards: Any = dataset.columns["digits", image.column_id].gather(np.arange(6 * NUM_FILES))
    run(mixture(own, names), store.path)
    again = open_dataset(mixture(own, names), store)
    forwards: Any = again.columns["digits", image.column_id].gather(np.arange(6 * NUM_FILES))
    blocks = forwards.reshape(NUM_FILES, 6, *forwards.shape[1:])[::-1]
    assert (backwards == blocks.reshape(backwards.shape)).all()


def test_files_left_out_build_nothing(own: Path) -> None:
    names = [f"{number:02}.parquet" for number in range(0, NUM_FILES, 2)]
    assert build_and_compare(mixture(own, names), own / "store", partitions=0, columns=0) == []


def test_a_file_that_was_written_anew_with_the_same_bytes_builds_nothing(own: Path) -> None:
    path = own / "04.parquet"
    path.write_bytes(path.read_bytes())
    assert build_and_compare(mixture(own), own / "store", partitions=0, columns=0) == []


def test_a_new_slot_builds_one_column_of_every_partition(own: Path) -> None:
    changed = mixture(own, digits=DIGITS.replace("describe?", "describe? [TEXT:id]"))
    reasons = build_and_compare(changed, own / "store", partitions=NUM_FILES, columns=1)
    assert reasons == ["never built"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"digits": "which digit is [IMAGE:image] ? -> [TEXT:label,closed_set]"}, id="prompt"
        ),
        pytest.param({"weights": (0.1, 7.0)}, id="weights"),
        pytest.param({"number": 1}, id="a task less"),
        pytest.param({"names": [NAMES, "call it [IMAGE:image] -> [TEXT:note]"]}, id="template"),
    ],
)
def test_another_mixture_of_the_same_columns_encodes_no_row_and_rewrites_no_byte(
    own: Path, changes: dict[str, Any]
) -> None:
    before = inodes(own / "store")
    changed = mixture(own, **changes)
    assert build_and_compare(changed, own / "store", partitions=0, columns=0) == []
    after = inodes(own / "store")
    # Nothing but the record of what the tasks were built as, which is for people.
    touched = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert touched <= {"tasks/digits.json", "tasks/names.json"}


def test_a_project_mixed_anew_from_two_tasks_shares_every_column(own: Path) -> None:
    both = mixture(own)
    for tasks in ([both["names"]], [both["names"], both["digits"]]):
        changed = Mixture(tasks, slots=SLOTS, bpe_size=300)
        assert build_and_compare(changed, own / "store", partitions=0, columns=0) == []


def keys_of(planned: Any) -> dict[str, str]:
    return {node.address: node.key for node in planned.graph if node.address != "pack"}


def test_a_tokenizer_that_was_used_changes_no_key_and_no_file(own: Path) -> None:
    store = Store.open(own / "store")
    content = store.artifact_content(store.artifacts()["bpe-main"].digest)
    used = Bpe(content)
    before = open_dataset(mixture(own), store).plan
    used.encode(pa.array(["what does the image describe?"] * 50))

    def load(kind: str, digest: str) -> object:
        return used if kind == "bpe" else load_artifact(kind, store.artifact_content(digest))

    planned = plan(
        mixture(own),
        columns=known_columns(mixture(own), store),
        pinned=pinned_artifacts(store),
        load=load,
    )
    assert keys_of(planned) == keys_of(before)
    assert keys_of(open_dataset(mixture(own), store).plan) == keys_of(before)
    files = inodes(own / "store")
    assert run(mixture(own), own / "store").partitions == 0
    assert inodes(own / "store") == files


KEYS = """
{imports}
import sys
from taskloom.pipeline import Mixture, Task, plan

tasks = [Task("digits", sys.argv[1]), Task("names", sys.argv[2])]
for node in plan(Mixture(tasks)).graph:
    print(node.address, node.key)
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import torch, dask, taskloom.storage.loader",
        pytest.param("", marks=pytest.mark.slow),
        pytest.param(
            "import taskloom.ops.host.split, taskloom.ops.host.image, taskloom.ops.host.bpe",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_import_order_and_hash_seed_change_no_key(imports: str) -> None:
    command = [sys.executable, "-c", KEYS.format(imports=imports), DIGITS, NAMES]
    env = os.environ | {"PYTHONHASHSEED": str(len(imports))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    planned = plan(Mixture([Task("digits", DIGITS), Task("names", NAMES)]))
    here = [f"{node.address} {node.key}" for node in planned.graph]
    assert "digits.image/resize" in done.stdout
    assert done.stdout.splitlines() == here


def test_the_number_of_workers_changes_no_key(own: Path) -> None:
    shutil.rmtree(own / "store")
    run(mixture(own, ["00.parquet", "01.parquet"]), own / "store", workers=1)
    for workers in (2, 5):
        report = run(mixture(own, ["00.parquet", "01.parquet"]), own / "store", workers=workers)
        assert report.partitions == 0


def test_a_build_with_nothing_to_do_takes_a_fifth_of_a_second(own: Path) -> None:
    # In CPU time, which other work on the machine stretches little; the bench tells it in wall time.
    spent: list[float] = []
    for _ in range(5):
        start = time.process_time()
        build(mixture(own), own / "store", progress=False)
        spent.append(time.process_time() - start)
    assert min(spent) <= 0.2
