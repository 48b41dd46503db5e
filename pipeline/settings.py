"""Settings of a training run, free of torch so that a project file can be read without it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args, get_type_hints

from ..graph.errors import Problem, TrainingError, suggest

LONGEST_TILE: Final = 128
"""Lengths of streams are multiples of it, so that every tile packs may be aligned to divides them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: Optimizer steps.
        weights: Checkpoint to begin with, such as one that was imported; what it lacks begins anew.
        seed: Of initialisation, order of rows and dropout.
        source_tokens: Length of a pack's source stream.
        target_tokens: Length of a pack's target stream; as long as the mixture needs if 0.
        packs_per_step: Packs whose gradients are added up in one step.
        learning_rate: The highest one.
        warmup: Share of the steps over which the rate rises from zero.
        final_rate: What is left of the rate at the end, as a share.
        weight_decay: AdamW's, on matrices only.
        clip: Largest norm of the gradient; 0 for no limit.
        max_document: Longest source side in tokens; longer rows are counted and left out.
        log_every: Steps between two lines of the log.
        checkpoint_every: Steps between two checkpoints.
        keep_checkpoints: Checkpoints that are kept, the last ones.
        keep_every: Steps whose multiples keep their checkpoints for good; none if 0.
        keep_best: Metric of the evaluation whose best checkpoint is kept as well; none if empty.
        mirror: URL to which every checkpoint is copied as well, such as ``"s3://bucket/run"``; a run that has
            none on this machine goes on with what is there.
        sharding: What several ranks divide among them besides the packs: ``"none"``, or ``"full"`` for
            parameters, gradients and the optimizer's state, where a model is too large for one.
        rank_timeout_s: Seconds without a sign after which one of several ranks is given up, and the run ends.
        precision: What a step computes in: ``"float32"`` or ``"bfloat16"``. Parameters are learned and kept in
            float32 either way.
        compile: ``"auto"`` compiles on a GPU; ``"on"`` and ``"off"`` decide it.
        device: ``"auto"`` takes a GPU where there is one.
        threads: Threads of torch on the host; its own choice if 0.
        loader_timeout_s: Seconds to wait for the packs of one step before the loader is given up.
        loader_workers: Threads that compute what is new in every pass, or processes where an op needs them;
            what suits the machine if 0.
    """

    steps: int = 1000
    weights: str = ""
    seed: int = 0
    source_tokens: int = 2048
    target_tokens: int = 0
    packs_per_step: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    final_rate: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    max_document: int = 512
    log_every: int = 20
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    keep_every: int = 0
    keep_best: str = ""
    mirror: str = ""
    sharding: Literal["none", "full"] = "none"
    rank_timeout_s: float = 25.0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["auto", "on", "off"] = "auto"
    device: str = "auto"
    threads: int = 0
    loader_timeout_s: float = 600.0
    loader_workers: int = 0

    def __post_init__(self) -> None:
        if problems := tuple(self._out_of_range()):
            raise TrainingError(*problems)

    def _out_of_range(self) -> Iterator[Problem]:
        known: Any = get_type_hints(type(self))
        for field in fields(self):
            value, type_ = getattr(self, field.name), known[field.name]
            if choices := get_args(type_):
                if value not in choices:
                    message = f'{field.name} is one of {", ".join(choices)}, got "{value}"'
                    yield Problem("T0730", message, suggest(str(value), choices))
            elif isinstance(value, bool) or not isinstance(value, _ACCEPTED[type_]):
                yield Problem("T0730", f"{field.name} must be {_KINDS[type_]}, got {value!r}")
            elif not isinstance(value, str):
                yield from _refuse_range(field.name, value)
        lengths = {name: getattr(self, name) for name in ("source_tokens", "target_tokens")}
        for name, value in lengths.items():
            if isinstance(value, int) and value % LONGEST_TILE:
                yield Problem("T0730", f"{name} must be a multiple of {LONGEST_TILE}, got {value}")


_LEAST: Final = {
    "steps": 1,
    "source_tokens": LONGEST_TILE,
    "packs_per_step": 1,
    "max_document": 1,
    "log_every": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "rank_timeout_s": 3,
    "loader_timeout_s": 1,
}
_SHARES: Final = ("warmup", "final_rate")
_KINDS: Final = {int: "a whole number", float: "a number", str: "text"}
_ACCEPTED: Final = {int: int, float: int | float, str: str}


def _refuse_range(name: str, value: float) -> Iterator[Problem]:
    low = _LEAST.get(name, 0)
    if not (math.isfinite(value) and value >= low):
        yield Problem("T0730", f"{name} must be at least {low}, got {value}")
    elif name in _SHARES and value > 1:
        yield Problem("T0730", f"{name} is a share and must be at most 1, got {value}")
