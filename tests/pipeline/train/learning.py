"""Learners that begin alike, and runs that are trained whole and in parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.trainer.learner import Learner
from taskloom.storage.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint

from .stores import CONFIG, continue_run

CPU = torch.device("cpu")


def make_learner(stream: Stream, **settings: Any) -> Learner:
    """Return a learner of ``stream``; its parameters are the same each time."""
    torch.manual_seed(0)
    return Learner.make(stream.plan, replace(CONFIG, **settings), CPU)


def read_last(out: Path) -> Checkpoint:
    """Return the last checkpoint of the run in ``out``, with what resuming needs."""
    path = latest_checkpoint(out)
    assert path is not None
    return read_checkpoint(path, with_training=True)


def train_whole_and_in_parts(
    store: Path, folder: Path, stop: int, **settings: Any
) -> tuple[Checkpoint, Checkpoint]:
    """Train a run in ``folder / "whole"``, and one in ``folder / "parts"`` that is stopped and gone on with.

    Returns:
        The last checkpoint of each.
    """
    continue_run(store, folder / "whole", **settings)
    continue_run(store, folder / "parts", stop_at=stop, **settings)
    continue_run(store, folder / "parts", **settings)
    return read_last(folder / "whole"), read_last(folder / "parts")
