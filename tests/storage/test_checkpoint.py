"""A checkpoint is whole or absent, comes back as it was, and says what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from taskloom.graph.errors import CheckpointError
from taskloom.storage.checkpoint import (
    checkpoint_path,
    keep_only,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from taskloom.storage.files import encode_json
from taskloom.storage.manifest import Manifest, describe_files
from taskloom.storage.saving import begin_checkpoint

TENSORS = {
    "vocabulary.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "encoder.scale": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
}
TRAINING = {
    "optimizer": {"state": {0: {"step": 3, "average": torch.ones(3)}}, "groups": [{"lr": 1e-3}]},
    "generator": torch.get_rng_state(),
    "betas": (0.9, 0.98),
    "best": None,
}
RECORD = {"tasks": {"digits": "[IMAGE:image] what? -> [TEXT:label]"}, "note": "naïve"}
ARTIFACTS = {"bpe-main": b"{}", "answers.v2": bytes(range(256))}


def write(path: Path, **changes: Any) -> Path:
    parts = dict[str, Any](tensors=TENSORS, record=RECORD, artifacts=ARTIFACTS, training=TRAINING)
    begin_checkpoint(path, **parts | changes).wait()
    return path


def write_model(path: Path) -> Path:
    write_checkpoint(path, tensors=TENSORS, record=RECORD, artifacts=ARTIFACTS)
    return path


def write_as_before(path: Path) -> Path:
    """Write what earlier versions wrote: format 1, with all that resuming needs in one file of torch."""
    write_model(path)
    torch.save(TRAINING, path / "training.pt")
    (path / "manifest.json").unlink()
    (path / "manifest.json").write_bytes(Manifest(1, describe_files(path)).encode())
    return path


def names_in(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


@pytest.mark.parametrize("write_some", [write, write_as_before], ids=["now", "before"])
def test_a_checkpoint_comes_back_as_it_was(
    tmp_path: Path, write_some: Callable[[Path], Path]
) -> None:
    read = read_checkpoint(write_some(tmp_path / "model"), with_training=True)
    assert read.record == RECORD
    assert read.artifacts == ARTIFACTS
    assert read.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read.tensors[name].dtype == tensor.dtype
        assert torch.equal(read.tensors[name], tensor)
    assert _spell(read.training) == _spell(TRAINING)
    assert names_in(tmp_path) == ["model"]


def _spell(value: Any) -> Any:
    """Return ``value`` with tensors as lists, so that it can be compared."""
    if isinstance(value, dict):
        return {key: _spell(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_spell(item) for item in value)
    return ("tensor", value.dtype, value.tolist()) if isinstance(value, torch.Tensor) else value


def test_inference_does_not_read_what_only_resuming_needs(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    (path / "training.safetensors").write_bytes(b"damaged")
    assert read_checkpoint(path).training is None
    with pytest.raises(CheckpointError, match=r"T0702.*training\.safetensors"):
        read_checkpoint(path, with_training=True)


@pytest.mark.parametrize("training", [None, {"only": 1.5, "numbers": [2, (True, "x")]}])
def test_what_resuming_needs_may_be_nothing_and_hold_no_tensor(
    tmp_path: Path, training: Any
) -> None:
    path = write(tmp_path / "model", training=training)
    assert read_checkpoint(path, with_training=True).training == training


def test_a_model_alone_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    assert read_checkpoint(path, with_training=True).training is None
    assert names_in(path) == ["artifacts", "manifest.json", "model.safetensors", "record.json"]


@pytest.mark.parametrize("write_some", [write, write_model], ids=["run", "model"])
@pytest.mark.parametrize(
    ("umask", "rights"),
    [pytest.param(0o022, 0o644, id="all"), pytest.param(0o077, 0o600, id="own")],
)
def test_who_may_read_a_folder_may_read_all_files_of_a_checkpoint(
    tmp_path: Path, write_some: Callable[[Path], Path], umask: int, rights: int
) -> None:
    before = os.umask(umask)
    try:
        path = write_some(tmp_path / "model")
    finally:
        os.umask(before)
    found = {each.name: each.stat().st_mode & 0o777 for each in path.rglob("*") if each.is_file()}
    assert set(found.values()) == {rights}, found


def test_what_changes_while_a_checkpoint_is_written_is_kept_as_it_was(tmp_path: Path) -> None:
    tensors = {"grows": torch.zeros(1_000_000)}
    writing = begin_checkpoint(
        tmp_path / "model", tensors=tensors, record={}, artifacts={}, training={"t": tensors}
    )
    tensors["grows"] += 1
    writing.wait()
    read = read_checkpoint(tmp_path / "model", with_training=True)
    assert not read.tensors["grows"].any()
    assert not read.training["t"]["grows"].any()


def test_nothing_of_a_checkpoint_is_unpickled(tmp_path: Path) -> None:
    """Pickles run code when they are read; there are none."""
    path = write(tmp_path / "model")
    kinds = {each.suffix for each in path.rglob("*") if each.is_file()} - {".v2", ""}
    assert kinds == {".json", ".safetensors"}


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name) for name in ("first", "second"))
    for name in ("model.safetensors", "record.json", "artifacts/bpe-main"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


FILES = [
    "model.safetensors",
    "training.safetensors",
    "training.json",
    "index.json",
    "record.json",
    "artifacts/answers.v2",
]


@settings(max_examples=40)
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, where: float, bit: int
) -> None:
    path = write(tmp_path_factory.mktemp("run") / "model")
    content = bytearray((path / name).read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"T0702.*{name} is damaged: its checksum"):
        read_checkpoint(path, with_training=True)


def _truncate(path: Path) -> None:
    os.truncate(path / "model.safetensors", 20)


def _remove_record(path: Path) -> None:
    (path / "record.json").unlink()


def _garble_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("{")


def _empty_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"format": 1, "files": {}}')


def _lose_a_piece(path: Path) -> None:
    index = json.loads((path / "index.json").read_bytes())
    index["model"]["vocabulary.weight"]["pieces"] = []
    (path / "index.json").write_bytes(encode_json(index))
    (path / "manifest.json").unlink()
    (path / "manifest.json").write_bytes(Manifest(2, describe_files(path)).encode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_truncate, r"model\.safetensors is damaged: it has 20 bytes", id="truncated"),
        pytest.param(_remove_record, r"record\.json is damaged: No such file", id="file gone"),
        pytest.param(_garble_manifest, r"manifest\.json is not understood", id="manifest"),
        pytest.param(_empty_manifest, r"does not name record\.json", id="nothing named"),
        pytest.param(_lose_a_piece, r"the pieces of vocabulary.weight are not all", id="piece"),
    ],
)
def test_a_damaged_checkpoint_names_the_file(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = write(tmp_path / "model")
    damage(path)
    with pytest.raises(CheckpointError, match=f"T0702.*{message}"):
        read_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"T0701.*no checkpoint at .*/nowhere"):
        read_checkpoint(tmp_path / "nowhere")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 3}))
    with pytest.raises(CheckpointError, match=r"T0703.*format 3, this version reads up to 2"):
        read_checkpoint(path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"T0705.*exists already"):
        write(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"artifacts": {"../bpe": b""}}, 'named "../bpe"', id="artifact name"),
        pytest.param({"training": {"state": [1, Path("x")]}}, r"state/1 is a \w*Path", id="object"),
    ],
)
def test_what_would_not_come_back_is_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=f"T0706.*{message}"):
        write(tmp_path / "model", **changes)
    assert not names_in(tmp_path)


@pytest.mark.parametrize(
    ("module", "function", "rest"),
    [
        pytest.param("checkpoint", "write_checkpoint", ")", id="at once"),
        pytest.param("saving", "begin_checkpoint", ", training=None).wait()", id="behind"),
    ],
)
def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, module: str, function: str, rest: str
) -> None:
    script = f"""
import resource, signal, sys
from pathlib import Path
import torch
from taskloom.storage.{module} import {function}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
{function}(Path({str(tmp_path)!r}) / "model", tensors={{}}, record={{}},
    artifacts={{"big": bytes(10_000)}}{rest}
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "T0704" in run.stderr
    assert "cannot write checkpoint" in run.stderr
    assert not names_in(tmp_path)


def test_the_latest_is_of_the_highest_step(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for step in (9, 100, 20):
        write(checkpoint_path(tmp_path, step))
    (tmp_path / "step-best").mkdir()
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 100)


@pytest.mark.parametrize("left", [[20, 100], [9, 20, 100], [9]])
def test_keeping_some_removes_the_others(tmp_path: Path, left: list[int]) -> None:
    for step in (9, 100, 20):
        write_model(checkpoint_path(tmp_path, step))
    (tmp_path / "log.jsonl").touch()
    keep_only(tmp_path, left)
    kept = [checkpoint_path(tmp_path, step).name for step in left]
    assert names_in(tmp_path) == ["log.jsonl", *kept]


KILLED = """
import multiprocessing, os, random, signal, sys, time
from pathlib import Path
import torch
from taskloom.storage.checkpoint import *
from taskloom.storage.saving import begin_checkpoint

run_dir = Path(sys.argv[1])

def write_on(start, stop):
    for step in range(start, stop):
        begin_checkpoint(
            checkpoint_path(run_dir, step),
            tensors={"step": torch.full((20_000,), step)},
            training={"step": step},
            record={"step": step},
            artifacts={"step": str(step).encode()},
            then=lambda: keep_only(run_dir, {step, step - 1}),
        ).wait()

# Threads are not forked: this process starts none, and saves nothing itself.
torch.set_num_threads(1)
random.seed(0)
fork = multiprocessing.get_context("fork").Process
start = time.perf_counter()
first = fork(target=write_on, args=(1, 4))
first.start()
first.join()
duration = (time.perf_counter() - start) / 3
last = 3
for _ in range(12):
    child = fork(target=write_on, args=(last + 1, 10**6))
    child.start()
    time.sleep(random.uniform(0, 6 * duration))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    for path in run_dir.glob("step-*"):
        read = read_checkpoint(path, with_training=True)
        step = read.record["step"]
        assert read.training == {"step": step} and read.artifacts == {"step": str(step).encode()}
        assert read.tensors["step"].unique().tolist() == [step]
    path = latest_checkpoint(run_dir)
    step = int(path.name[5:]) if path else 0
    assert step >= last, (step, last)
    last = step
keep_only(run_dir, {last, last - 1})
print(last, len(os.listdir(run_dir)))
"""


def test_killed_at_any_moment_the_latest_checkpoint_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    num_written, num_left = map(int, run.stdout.split())
    assert num_written > 6
    assert num_left <= 2
