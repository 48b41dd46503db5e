"""What is kept of a learner, and how one goes on from what was kept of another.

Whoever reads a checkpoint finds whole tensors, by the names that parameters have in the program, whether one
rank learned them or many that shared them. So all ranks come along wherever parameters are put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ...graph.errors import CheckpointError
from ...graph.planned import name_scored
from ...ops.device.lora import UP
from ...storage.checkpoint import Checkpoint
from ..model.importing import Taken, take_over
from ..model.precision import refresh
from ..model.program import Program
from .learner import Learner
from .sharding import is_share, like_own, make_whole, take_share
from .tally import Tally

_OTHER: Final = (
    "a task with parameters of its own joins and leaves by a Schedule that names it from the beginning\n"
    "or train into another directory, there with `weights` to begin with what this run has learned"
)


def keep_training(learner: Learner) -> dict[str, Any]:
    """Return what going on needs beside the result, as a checkpoint can keep it; on all ranks."""
    training: dict[str, Any] = {
        "optimizer": learner.optimizer.state_dict(),
        "tally": learner.tally.of_all(learner.ranks).to_plain(),
    }
    if learner.average is not None:
        training["learned"] = dict(learner.program.state_dict())
    if learner.balance is not None:
        training["balance"] = learner.balance.to_plain()
    return training


def restore(learner: Learner, checkpoint: Checkpoint) -> None:
    """Let ``learner`` go on where ``checkpoint`` was written.

    Raises:
        CheckpointError: It holds other parameters, or nothing to go on with.
    """
    if checkpoint.training is None:
        raise refuse_model(checkpoint.path)
    training: Any = checkpoint.training
    try:
        _load(learner.result, checkpoint.tensors, checkpoint.path)
    except CheckpointError as error:
        raise CheckpointError(*(replace(each, help=_OTHER) for each in error.problems)) from None
    if learner.average is not None:
        _load(learner.program, training["learned"], checkpoint.path)
    refresh(learner.working, learner.program)
    own = dict(learner.program.named_parameters())
    learner.optimizer.load_state_dict(
        {
            name: {key: take_share(kept, own.get(name)) for key, kept in state.items()}
            for name, state in training["optimizer"].items()
        }
    )
    learner.step = checkpoint.record["step"]
    names = (checkpoint.record["losses"], name_scored(learner.plan.scored))
    learner.tally = Tally.from_plain(training["tally"], learner.device, *names).share(learner.ranks)
    if learner.balance is not None:
        learner.balance.restore(training["balance"], names[0])


def refuse_model(path: Path) -> CheckpointError:
    """Return what to raise where a run is to go on with what is a model alone."""
    message = f"{path} holds a model, but no optimizer to train it with"
    help_ = "train into another directory, with `weights` to begin with this one"
    return CheckpointError.of("T0724", message, help_)


def begin_with(learner: Learner, weights: Path, artifacts: Mapping[str, bytes]) -> Taken:
    """Take over the parameters of a checkpoint, as far as both have them, for use with ``artifacts``.

    Raises:
        CheckpointError: There is no checkpoint, or a tensor has another size there (T0743).
    """
    whole = _make_whole(learner, learner.program)
    taken = take_over(whole, learner.plan.vocabulary, weights, artifacts)
    if whole is not learner.program:
        own = learner.program.state_dict()
        learner.program.load(own | like_own(whole.state_dict(), own), weights)
    refresh(learner.working, learner.program)
    if learner.average is not None:
        learner.average.begin_at(learner.program)
    return taken


def whole_result(learner: Learner) -> Program:
    """Return the result with all of its parameters, low-rank pairs folded into theirs; on all ranks."""
    return _make_whole(learner, learner.result)


def _make_whole(learner: Learner, program: Program) -> Program:
    own = program.state_dict()
    if not any(is_share(tensor) or name.endswith(UP) for name, tensor in own.items()):
        return program
    with torch.device("meta"):
        whole = Program(learner.plan)
    whole.load({name: make_whole(tensor) for name, tensor in own.items()}, "the run")
    return whole


def _load(program: Program, tensors: Mapping[str, Tensor], path: Path) -> None:
    program.load(like_own(tensors, program.state_dict()), path)
