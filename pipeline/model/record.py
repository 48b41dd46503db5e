"""What a checkpoint must hold so that a model works anywhere, without the store it was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...graph.errors import CheckpointError, Problem
from ...ops.device.config import ModelConfig
from ...storage.capacity import Capacity
from ...storage.checkpoint import latest_checkpoint, read_record
from ...storage.resume import LoaderState
from ..loader.stream import Stream
from ..planner.planning import Plan, plan
from ..settings import TrainConfig
from ..task import Mixture
from ..versions import installed_version

SOURCE_TOKENS = 2048
"""Tokens that every model can read at once, however short the rows it was trained on."""


def model_record(mixture: Mixture, stream: Stream) -> dict[str, Any]:
    """Return the instructions, sizes, graph, op versions, vocabulary and artifacts of a model."""
    used = set(used_artifacts(stream))
    # Not folded: plain text is read with ops, too.
    answering = plan(mixture, "infer", model=stream.model, pinned=stream.pinned)
    return {
        "taskloom": installed_version("taskloom"),
        "tasks": {task.name: _plain(task.instruction) for task in mixture.tasks},
        "slots": {modality: dict(values) for modality, values in mixture.slots.items()},
        "bpe_size": mixture.bpe_size,
        "model": asdict(stream.model),
        "source_tokens": max(SOURCE_TOKENS, stream.capacity.source),
        "pinned": {name: asdict(pin) for name, pin in stream.pinned.items() if name in used},
        "vocabulary": describe_vocabulary(stream.plan),
        "ops": {n.op: n.version for n in (*stream.plan.graph, *answering.graph)},
        "graph": str(stream.plan.graph),
    }


def _plain(instruction: str | Sequence[str]) -> str | list[str]:
    """Return one instruction as text, several as a list, as they are read back."""
    return instruction if isinstance(instruction, str) else list(instruction)


def run_record(mixture: Mixture, stream: Stream) -> dict[str, Any]:
    """Return what every checkpoint of a run records: its model, and what it is a run of."""
    # Settings of which no parameter depends; threads and device change no more than rounding.
    free = {"log_every", "checkpoint_every", "keep_checkpoints", "threads", "device", "compile"}
    # How a run is watched; where it is evaluated changes nothing of what is learned, but may end it.
    free |= {"log_to", "evaluate_every", "evaluate_rows", "evaluate_share", "metric", "stop_after"}
    free |= {"profile"}
    free |= {"activations"}
    # What a run begins with is no longer asked for when it goes on.
    free |= {"loader_timeout_s", "loader_workers", "weights"}
    free |= {"keep_every", "keep_best", "mirror", "sharding", "rank_timeout_s"}
    return {
        **model_record(mixture, stream),
        "settings": {k: v for k, v in asdict(stream.config).items() if k not in free},
        "rows": {
            task.name: {
                "holdout": task.holdout,
                "valid": task.valid,
                "key": task.key or "",
                "where": list(task.filters),
                "number": len(stream.rows[task.name]),
            }
            for task in mixture.tasks
        },
        "mixture": stream.blend.to_json(),
        "losses": stream.losses,
        "digest": stream.digest,
    }


def run_capacity(run: Path) -> Capacity | None:
    """Return the shape of the packs of the run in directory ``run``; None where there is none."""
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        return None
    return Capacity(**read_record(checkpoint)["loader"]["capacity"])


def describe_vocabulary(plan: Plan) -> list[list[Any]]:
    """Return the names and sizes of the blocks of ids."""
    return [[block.name, block.size] for block in plan.vocabulary.blocks]


def used_artifacts(stream: Stream) -> dict[str, bytes]:
    """Return the content of the artifacts that the plan uses, by name."""
    digests = {str(n.params["digest"]) for n in stream.plan.graph if n.op == "load_artifacts"}
    return {
        name: stream.store.artifact_content(pin.digest)
        for name, pin in stream.pinned.items()
        if pin.digest in digests
    }


def refuse_other_run(origin: object, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that record ``was``, as it was read from ``origin``, is of a run that ``now`` can go on with.

    Both are a `run_record` and the state of the loader. Weights may be others, and tasks more or fewer; the
    tasks that both have must be the same.

    Raises:
        CheckpointError: It is of another; every difference is named.
    """
    now = json.loads(json.dumps(now))  # as it would be read back
    # Sizes and settings that came after the run was begun are as they were without them.
    was = {**was, "model": {**asdict(ModelConfig()), **was["model"]}}
    begun = {k: v for k, v in asdict(TrainConfig()).items() if k in now["settings"]}
    was["settings"] = {**begun, **was["settings"]}
    following = _FOLLOWING if was["tasks"] == now["tasks"] else _FOLLOWING[:1]
    told = [line for name in _CHOSEN for line in _tell_chosen(name, was, now)]
    told = told or [line for name in following for line in _tell((name,), was.get(name), now[name])]
    if not told and not _have_same_rows(was["loader"], now["loader"]):
        told = ["the rows, or their lengths, are not those that it began with"]
    if told:
        problems = [Problem("T0722", f"{origin} holds another run: {line}") for line in told]
        help_ = (
            "train into another directory, there with `weights` to begin with what this one has learned, "
            "or with what this one was begun with"
        )
        raise CheckpointError(*problems[:-1], replace(problems[-1], help=help_))


def tell_other_model(was: Mapping[str, Any], model: ModelConfig) -> Iterator[str]:
    """Say in what ``model`` computes something else with the same parameters than that in record ``was``."""
    before, now = was.get("model", {}), asdict(model)
    for name in _NOT_IN_PARAMETERS:
        if name in before:
            yield from _tell((name,), before[name], now[name])


def refuse_other_ops(origin: object, record: Mapping[str, Any], plan: Plan) -> None:
    """Check that the ops of this taskloom compute what those of the model in ``record`` did.

    Raises:
        CheckpointError: An op is not known here, is older than the model's, or is used to answer and is newer.
    """
    made_with: Mapping[str, int] = record["ops"]
    used = {node.op for node in plan.graph}
    told: list[str] = []
    for name, was in made_with.items():
        if name not in plan.catalogue:
            told.append(f"it was made with op {name}, which this taskloom lacks")
        elif was > (now := plan.catalogue[name].traits.version) or (was < now and name in used):
            told.append(f"it was made with version {was} of op {name}, this taskloom has {now}")
    told += [
        f"it was made without op {name}, which this taskloom answers with"
        for name in sorted(used - set(made_with))
    ]
    if told:
        help_ = f"taskloom {record['taskloom']} made it: use that one, or train again"
        raise CheckpointError(*(Problem("T0723", f"{origin}: {line}", help_) for line in told))


_CHOSEN = ("settings", "tasks", "rows", "slots", "bpe_size", "model", "pinned", "ops")
_BY_TASK = ("tasks", "rows", "pinned", "ops")
_NOT_IN_PARAMETERS = ("position", "num_heads", "pre_norm", "attn_scale_factor", "absolute_position")
_FOLLOWING = ("vocabulary", "digest")


def _tell(path: tuple[str, ...], was: Any, now: Any) -> Iterator[str]:
    """Say in what two pieces of plain data differ."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*was, *now]):
            yield from _tell((*path, name), was.get(name), now.get(name))
    elif was != now:
        before, after = ("nothing" if value in (None, "", []) else value for value in (was, now))
        yield f"{' '.join(path)} was {before}, is {after}"


def _tell_chosen(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Say in what ``name`` differs; of what there is one for each task, only where both have it."""
    before, after = was.get(name), now[name]
    if name in _BY_TASK and isinstance(before, Mapping):
        shared = [each for each in before if each in after]
        if shared or name != "tasks":
            before, after = ({each: of[each] for each in shared} for of in (before, after))
    yield from _tell((name,), before, after)


def _have_same_rows(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the tasks that two states of a loader share have the same rows, in packs of the same shape."""
    before, after = (LoaderState.from_json(each) for each in (was, now))
    known = {task.name: task.digest for task in (*before.tasks, *before.away)}
    return before.capacity == after.capacity and all(
        known.get(task.name, task.digest) == task.digest for task in after.tasks
    )
