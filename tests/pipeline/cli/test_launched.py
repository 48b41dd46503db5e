"""The command line, started by torch's launcher as the documentation says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from taskloom.storage.checkpoint import list_checkpoints, read_checkpoint, step_of

from ...command_line import TERMINAL
from ..train.launching import LAUNCH_S, launch
from .conftest import Project

SETTINGS = (
    "train: {packs_per_step: 2, sharding: full, ema: 0.9, evaluate_every: 4, evaluate_share: 1.0,"
    " stop_after: 2, metric: loss, keep_best: loss, keep_checkpoints: 1, learning_rate: 0.0,"
    " steps: 60, source_tokens: 512, log_every: 4, compile: off}"
)
"""Nothing is learned, so that nothing is better than the first evaluation."""


@pytest.mark.slow
def test_ranks_that_train_a_project_stop_as_one_and_leave_a_run_like_any_other(
    project: Project,
) -> None:
    project.change("holdout: 0.2", "holdout: 0.2\n    valid: 0.2")
    start = project.file.read_text("utf-8").index("train: {")
    project.file.write_text(project.file.read_text("utf-8")[:start] + SETTINGS, "utf-8")
    built = project.taskloom("build", "project.yaml")
    assert built.code == 0, built.err

    command = [str(Path(sys.executable).with_name("taskloom")), "train", "project.yaml"]
    process = launch(command, 2, env=TERMINAL, cwd=project.folder)
    out, err = process.communicate(timeout=LAUNCH_S)
    assert process.returncode == 0, err
    told = out + err
    assert told.count("stopped at step 12: loss was best at step 4") == 1, told
    kept = list_checkpoints(project.folder / "run")
    assert [step_of(path) for path in kept] == [4, 12], "the best beside the last"

    evaluated = project.taskloom("evaluate", "project.yaml", "--json")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.json.keys() == {"digits", "parity"}
    done = project.taskloom("consolidate", "run", "alone")
    assert done.code == 0, done.err
    whole, alone = (read_checkpoint(path) for path in (kept[-1], project.folder / "alone"))
    assert whole.tensors.keys() == alone.tensors.keys()
    assert all(torch.equal(alone.tensors[name], each) for name, each in whole.tensors.items())
