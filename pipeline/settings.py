"""Settings of a training run, free of torch so that a project file can be read without it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from ..graph.errors import Problem, TrainingError, suggest

SERVICES: Final = ("tensorboard", "wandb", "mlflow")
"""Services that ``log_to`` may name, and extras of the same names."""

LONGEST_TILE: Final = 128
"""Lengths of streams are multiples of it, so that every tile packs may be aligned to divides them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRule:
    """How the parameters of a scope are learned.

    Attributes:
        learn: ``"full"``; ``"frozen"``, where they stay as they are; ``"lora"``, where they stay and low-rank
            pairs beside the matrices of linear layers are learned.
        rate: The learning rate, as a factor on that of the run.
        rank: Channels between the two matrices of a pair.
        alpha: What a pair adds is multiplied by this over the rank.
    """

    learn: Literal["full", "frozen", "lora"] = "full"
    rate: float = 1.0
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        if problems := tuple(_out_of_range(self)):
            raise TrainingError(*problems)


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
        scopes: Which parameters are learned, and how fast, by patterns of their names: ``"encoder.*"``. Of
            several that meet a parameter, the last one holds.
        optimizer: ``"adamw"``, or ``"muon"`` for the matrices of layers and AdamW for all else.
        learning_rate: The highest one.
        warmup: Steps over which the rate rises from zero: a number of them or, below 1, a share.
        schedule: How it falls after that: ``"cosine"``, ``"polynomial"``, or ``"constant"``, where it does not.
        power: Of the steps that are left, for ``"polynomial"``; at 1 the rate falls in a straight line.
        final_rate: What is left of the rate at the end, as a share, unless it is constant.
        weight_decay: Share of the rate by which parameters shrink in a step; gains and offsets do not.
        balance: How much the loss of each task counts: ``"static"``, as many labels as it has; ``"initial"``,
            each over its first; ``"uncertainty"``; ``"famo"``, so that all fall alike.
        ema: Decay of an exponential moving average of the parameters, which is then what a run comes to; 0 for
            none.
        clip: Largest norm of the gradient; 0 for no limit.
        max_document: Longest source side in tokens; longer rows are counted and left out.
        log_every: Steps between two lines of the log.
        log_to: Where else its lines go: ``"tensorboard"``, ``"wandb"``, ``"mlflow"``, or several of these with
            commas between them. Each is an extra of its own.
        evaluate_every: Steps between two evaluations on rows of the split ``valid``; 0 for none.
        evaluate_rows: Most rows of each task that are evaluated, the same ones every time.
        evaluate_share: Most of the run's time that evaluating may take: an evaluation that would take more
            waits for a later turn. 1 evaluates at every turn, so that the steps do not depend on the machine.
        metric: What evaluations are compared by: ``corrected``, ``score`` or ``loss``, in the mean over the
            tasks, or of one, such as ``"caption.loss"``.
        stop_after: Evaluations in a row without a better ``metric`` after which training stops; 0 for never.
        profile: Steps to trace, such as ``"20:23"`` for steps 20 to 22: ``trace.json`` in the run's directory,
            for Perfetto or ``chrome://tracing``.
        checkpoint_every: Steps between two checkpoints.
        keep_checkpoints: Checkpoints that are kept, the last ones.
        keep_every: Steps whose multiples keep their checkpoints for good; none if 0.
        keep_best: Metric of the evaluation whose best checkpoint is kept as well; none if empty.
        mirror: URL to which every checkpoint is copied as well, and the log and samples with it, such as
            ``"s3://bucket/run"``; a run that has none on this machine goes on with what is there.
        sharding: What several ranks divide among them besides the packs: ``"none"``, or ``"full"`` for
            parameters, gradients and the optimizer's state, where a model is too large for one.
        rank_timeout_s: Seconds without a sign after which one of several ranks is given up, and the run ends.
        precision: What a step computes in: ``"float32"`` or ``"bfloat16"``. Parameters are learned and kept in
            float32 either way.
        activations: What each layer does with what its gradient needs: ``"keep"`` keeps it; ``"recompute"``
            (activation checkpointing) keeps what the layer reads and computes the rest again, for less memory
            and about a third more time; ``"offload"`` keeps what it reads in the memory of the host besides.
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
    scopes: Mapping[str, ScopeRule] = field(default_factory=dict[str, ScopeRule])
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    warmup: float = 0.05
    schedule: Literal["cosine", "polynomial", "constant"] = "cosine"
    power: float = 1.0
    final_rate: float = 0.05
    weight_decay: float = 0.05
    balance: Literal["static", "initial", "uncertainty", "famo"] = "static"
    ema: float = 0.0
    clip: float = 1.0
    max_document: int = 512
    log_every: int = 20
    log_to: str = ""
    evaluate_every: int = 250
    evaluate_rows: int = 64
    evaluate_share: float = 0.05
    metric: str = "corrected"
    stop_after: int = 0
    profile: str = ""
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    keep_every: int = 0
    keep_best: str = ""
    mirror: str = ""
    sharding: Literal["none", "full"] = "none"
    rank_timeout_s: float = 25.0
    precision: Literal["float32", "bfloat16"] = "float32"
    activations: Literal["keep", "recompute", "offload"] = "keep"
    compile: Literal["auto", "on", "off"] = "auto"
    device: str = "auto"
    threads: int = 0
    loader_timeout_s: float = 600.0
    loader_workers: int = 0

    def __post_init__(self) -> None:
        problems = [*_out_of_range(self), *_refuse_words(self.log_to, self.profile)]
        for name in ("source_tokens", "target_tokens"):
            value = getattr(self, name)
            if isinstance(value, int) and value % LONGEST_TILE:
                message = f"{name} must be a multiple of {LONGEST_TILE}, got {value}"
                problems.append(Problem("T0730", message))
        rules: dict[str, ScopeRule] = {}
        if not _has_keys(self.scopes):
            message = f"scopes must be rules by pattern, got {self.scopes!r}"
            raise TrainingError(*problems, Problem("T0730", message, _RULES))
        for pattern, rule in self.scopes.items():
            try:
                rules[pattern] = _read_rule(rule)
            except TrainingError as error:
                place = f'scopes "{pattern}"'
                problems += [replace(p, message=f"{place}: {p.message}") for p in error.problems]
        if problems:
            raise TrainingError(*problems)
        object.__setattr__(self, "scopes", rules)


_RULES: Final = 'such as {"encoder": {"learn": "frozen"}}'


def _read_rule(rule: ScopeRule | Mapping[str, Any]) -> ScopeRule:
    """Return a rule that may be plain data, as project files and records have it."""
    if isinstance(rule, ScopeRule):
        return rule
    if not _has_keys(rule):
        raise TrainingError.of("T0730", f"a rule must hold keys, got {rule!r}", _RULES)
    known = [each.name for each in fields(ScopeRule)]
    if unknown := [name for name in rule if name not in known]:
        raise TrainingError.of("T0730", f'there is no "{unknown[0]}"', suggest(unknown[0], known))
    return ScopeRule(**rule)


def _has_keys(value: object) -> bool:
    """Return whether what somebody gave as rules, or as a rule, has keys."""
    return isinstance(value, Mapping)


def _out_of_range(settings: ScopeRule | TrainConfig) -> Iterator[Problem]:
    known: Any = get_type_hints(type(settings))
    for each in fields(settings):
        value, type_ = getattr(settings, each.name), known[each.name]
        if get_origin(type_) is Literal:
            choices = get_args(type_)
            if value not in choices:
                message = f'{each.name} is one of {", ".join(choices)}, got "{value}"'
                yield Problem("T0730", message, suggest(str(value), choices))
        elif type_ in _ACCEPTED:
            if isinstance(value, bool) or not isinstance(value, _ACCEPTED[type_]):
                yield Problem("T0730", f"{each.name} must be {_KINDS[type_]}, got {value!r}")
            elif not isinstance(value, str):
                yield from _refuse_range(each.name, value)


_LEAST: Final = {
    "steps": 1,
    "rank": 1,
    "source_tokens": LONGEST_TILE,
    "packs_per_step": 1,
    "max_document": 1,
    "log_every": 1,
    "evaluate_rows": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "rank_timeout_s": 3,
    "loader_timeout_s": 1,
}
_MOST_SEED: Final = 2**63 - 1
_SHARES: Final = ("final_rate", "evaluate_share")
_KINDS: Final = {int: "a whole number", float: "a number", str: "text"}
_ACCEPTED: Final = {int: int, float: int | float, str: str}


def _refuse_range(name: str, value: float) -> Iterator[Problem]:
    low = _LEAST.get(name, 0)
    if not (math.isfinite(value) and value >= low):
        yield Problem("T0730", f"{name} must be at least {low}, got {value}")
    elif name in _SHARES and value > 1:
        yield Problem("T0730", f"{name} is a share and must be at most 1, got {value}")
    elif name == "seed" and value > _MOST_SEED:
        yield Problem("T0730", f"seed must be below 2**63, got {value}")
    elif name == "ema" and value >= 1:
        yield Problem("T0730", f"ema must be below 1, got {value}")


def _refuse_words(log_to: object, profile: object) -> Iterator[Problem]:
    """Yield what is wrong with settings that name services and steps."""
    if isinstance(log_to, str):
        for name in split_words(log_to):
            if name not in SERVICES:
                yield Problem("T0730", f'log_to names "{name}"', suggest(name, SERVICES))
    if isinstance(profile, str) and profile and profiled_steps(profile) is None:
        message = f'profile must be two steps, FIRST:END, got "{profile}"'
        yield Problem("T0730", message, "20:23 traces steps 20, 21 and 22")


def split_words(text: str) -> list[str]:
    """Return the words of ``text``, which has commas between them."""
    return [word for part in text.split(",") if (word := part.strip())]


def profiled_steps(profile: str) -> range | None:
    """Return the steps that the setting ``profile`` names, counted from 1; None if it names none."""
    first, colon, end = profile.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and 0 < int(first) < int(end)):
        return None
    return range(int(first), int(end))
