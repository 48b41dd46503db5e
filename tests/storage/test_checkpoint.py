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
    keep_last,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)

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
    parts.update(changes)
    write_checkpoint(path, **parts)
    return path


def names_in(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path / "model"), with_training=True)
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
    (path / "training.pt").write_bytes(b"damaged")
    assert read_checkpoint(path).training is None
    with pytest.raises(CheckpointError, match=r"T0702.*training\.pt"):
        read_checkpoint(path, with_training=True)


def test_a_checkpoint_without_training_reads_as_none(tmp_path: Path) -> None:
    path = write(tmp_path / "model", training=None)
    assert read_checkpoint(path, with_training=True).training is None


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name) for name in ("first", "second"))
    for name in ("model.safetensors", "record.json", "artifacts/bpe-main"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


FILES = ["model.safetensors", "training.pt", "record.json", "artifacts/answers.v2"]


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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_truncate, r"model\.safetensors is damaged: it has 20 bytes", id="truncated"),
        pytest.param(_remove_record, r"record\.json is damaged: No such file", id="file gone"),
        pytest.param(_garble_manifest, r"manifest\.json is not understood", id="manifest"),
        pytest.param(_empty_manifest, r"does not name model\.safetensors", id="nothing named"),
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
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(CheckpointError, match=r"T0703.*format 2, this version reads up to 1"):
        read_checkpoint(path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"T0705.*exists already"):
        write(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"artifacts": {"../bpe": b""}}, 'named "../bpe"', id="artifact name"),
        pytest.param(
            {"training": {"state": [1, Path("x")]}}, r"training\['state'\]\[1\] is a", id="object"
        ),
    ],
)
def test_what_would_not_come_back_is_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=f"T0706.*{message}"):
        write(tmp_path / "model", **changes)
    assert not names_in(tmp_path)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
from pathlib import Path
import torch
from taskloom.storage.checkpoint import write_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_checkpoint(Path({str(tmp_path)!r}) / "model", tensors={{}}, record={{}},
                 artifacts={{"big": bytes(10_000)}})
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


@pytest.mark.parametrize(("number", "left"), [(2, [20, 100]), (5, [9, 20, 100]), (1, [100])])
def test_keeping_the_last_removes_the_others(tmp_path: Path, number: int, left: list[int]) -> None:
    for step in (9, 100, 20):
        write(checkpoint_path(tmp_path, step), training=None)
    (tmp_path / "log.jsonl").touch()
    keep_last(tmp_path, number)
    kept = [checkpoint_path(tmp_path, step).name for step in left]
    assert names_in(tmp_path) == ["log.jsonl", *kept]


KILLED = """
import multiprocessing, os, random, signal, sys, time
from pathlib import Path
import torch
from taskloom.storage.checkpoint import *

run_dir = Path(sys.argv[1])

def write_on(start, stop):
    for step in range(start, stop):
        write_checkpoint(
            checkpoint_path(run_dir, step),
            tensors={"step": torch.full((20_000,), step)},
            training={"step": step},
            record={"step": step},
            artifacts={"step": str(step).encode()},
        )
        keep_last(run_dir, 2)

random.seed(0)
start = time.perf_counter()
write_on(1, 4)
duration = (time.perf_counter() - start) / 3
last = 3
for _ in range(12):
    child = multiprocessing.get_context("fork").Process(target=write_on, args=(last + 1, 10**6))
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
keep_last(run_dir, 2)
print(last, len(os.listdir(run_dir)))
"""


def test_killed_at_any_moment_the_latest_checkpoint_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    num_written, num_left = map(int, run.stdout.split())
    assert num_written > 6
    assert num_left <= 2
