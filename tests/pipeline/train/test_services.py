"""Services hear the numbers of the log by the same names, offline, and a run that goes on is one run there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from taskloom.pipeline.trainer.listener.service import flatten
from taskloom.pipeline.trainer.run_log import read_log

TRAIN = """
import json, sys
from stores import continue_run
continue_run(sys.argv[1], sys.argv[2], evaluate_every=20, evaluate_share=1.0, **json.loads(sys.argv[3]))
"""

TENSORBOARD = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
tags = events.Tags()
found = {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]}
print(json.dumps({"numbers": found, "texts": tags["tensors"]}))
"""

WANDB = """
import json, struct, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2
def records(data):  # LevelDB's log: blocks of 32 KiB, parts of records with checksum, length and kind before
    at, whole = 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + length]
        at += 7 + length
        whole = part if kind in (1, 2) else whole + part
        if kind in (1, 4):
            yield whole
found, ids = {}, []
for path in sorted(Path(sys.argv[1]).glob("wandb/offline-run-*/run-*.wandb")):
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            ids.append(record.run.run_id)
        if record.WhichOneof("record_type") == "history":
            told = record.history.item
            items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in told}
            for name, value in items.items():
                if isinstance(value, float | int):
                    found.setdefault(name, []).append([items["_step"], value])
print(json.dumps({"numbers": found, "runs": sorted(set(ids))}))
"""

MLFLOW = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient()
(experiment,) = client.search_experiments(filter_string="name = 'taskloom'")
runs = client.search_runs([experiment.experiment_id])
run = runs[0]
found = {
    name: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, name)]
    for name in run.data.metrics
}
told = {"status": run.info.status, "params": run.data.params, "runs": len(runs)}
print(json.dumps({"numbers": found, **told}))
"""


def python(code: str, *arguments: str, folder: Path) -> str:
    """Run ``code`` in a process that no service can reach out of, and return what it prints."""
    env = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "T0783" not in done.stderr, done.stderr
    return done.stdout


def train_twice(store: Path, folder: Path, service: str) -> Path:
    """Train 40 steps in two goes, so that the second goes on with the first; return the run."""
    for settings in ({"stop_at": 25}, {}):
        given = {"log_to": service, "steps": 40, **settings}
        python(TRAIN, str(store), str(folder / "run"), json.dumps(given), folder=folder)
    return folder / "run"


def expected(run: Path) -> dict[str, list[list[float]]]:
    """Return the numbers of the log by name, each with its step."""
    found: dict[str, list[list[float]]] = {}
    for line in read_log(run):
        for name, value in flatten(line).items():
            found.setdefault(name, []).append([line["step"], value])
    return found


def assert_same_numbers(found: dict[str, Any], run: Path) -> None:
    wanted = expected(run)
    assert {"train/loss", "loss/digits", "gradient_share/spell", "valid_corrected/digits"} <= set(
        wanted
    )
    for name, numbers in wanted.items():
        assert sorted(found[name]) == [
            [step, pytest.approx(value, rel=1e-5, abs=1e-6)] for step, value in numbers
        ], name


def needs(module: str) -> pytest.MarkDecorator:
    is_missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(is_missing, reason=f"needs the extra {module}")


def test_numbers_have_names_that_services_group(run: Any) -> None:
    names = set(flatten(read_log(run.path)[-1]))
    assert {
        "train/loss",
        "train/rate",
        "loss/digits",
        "token_share/spell",
        "memory/host_bytes",
    } <= names
    # MLflow's files have these names: none may be a folder of others.
    assert all(len(name.split("/")) == 2 for name in names)


@pytest.mark.slow
@needs("tensorboard")
def test_tensorboard_shows_what_the_log_says(store_dir: Path, tmp_path: Path) -> None:
    run = train_twice(store_dir, tmp_path, "tensorboard")
    told = json.loads(python(TENSORBOARD, str(run / "tensorboard"), folder=tmp_path))
    assert_same_numbers(told["numbers"], run)
    assert {"header/text_summary", "samples/text_summary"} <= set(told["texts"])


@pytest.mark.slow
@needs("wandb")
def test_wandb_keeps_what_the_log_says_as_one_run(store_dir: Path, tmp_path: Path) -> None:
    run = train_twice(store_dir, tmp_path, "wandb")
    told = json.loads(python(WANDB, str(run), folder=tmp_path))
    assert_same_numbers(told["numbers"], run)
    assert told["runs"] == [(run / "wandb-id").read_text("utf-8")]


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_keeps_what_the_log_says_as_one_run(store_dir: Path, tmp_path: Path) -> None:
    run = train_twice(store_dir, tmp_path, "mlflow")
    told = json.loads(python(MLFLOW, folder=tmp_path))
    assert_same_numbers(told["numbers"], run)
    assert (told["status"], told["runs"]) == ("FINISHED", 1)
    assert told["params"]["settings.steps"] == "40"
