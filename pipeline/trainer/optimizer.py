"""The optimizer: how a gradient changes parameters, by their kind.

*Matrices* are the two-dimensional parameters of layers, low-rank pairs aside; *tables* are all others of two
dimensions or more, which embed, score, or see what comes in; *vectors* are gains and offsets. AdamW learns all
of them, or all but the matrices where Muon learns those. Vectors do not decay.

Muon's step is scaled to be as large as one of AdamW, so both have one learning rate and one decay.

Parameters of one scope, or of one modality in it, *rest* in a step in which nothing was learned for them, as an
adapter of pictures does while the task that has any is away: moments go on later where they were. Moved by what
moments remember, they would drift, and in a long absence decay to nothing.

Source: AdamW, arXiv:1711.05101; Muon, https://kellerjordan.github.io/posts/muon/; its scale, Moonlight,
section 2.2 (arXiv:2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from ...ops.device.lora import DOWN, UP
from ..model.program import LAYERS
from ..settings import TrainConfig
from .sharding import norms_of

BETAS: Final = (0.9, 0.98)
"""Decays of AdamW's moments."""

Kind = Literal["matrix", "table", "vector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One parameter that is learned.

    Attributes:
        name: Its name in the program.
        parameter: The parameter.
        kind: What it is.
        factor: Factor on the learning rate.
        owner: What it is for: parameters of one owner rest together.
    """

    name: str
    parameter: nn.Parameter
    kind: Kind
    factor: float = 1.0
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW and Muon, each with the parameters that it learns, as one.

    Attributes:
        parts: Those of the two that have parameters, for each owner of these.
        names: Name of each parameter, in the order in which its part has it.
    """

    parts: Sequence[torch.optim.Optimizer]
    names: Sequence[Sequence[str]]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts, as torch keeps them."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def num_learned(self) -> dict[str, int]:
        """Number of parameters that AdamW and Muon learn, by the name of the class."""
        numbers: dict[str, int] = {}
        for part in self.parts:
            name, number = type(part).__name__, sum(p.numel() for p in _parameters(part))
            numbers[name] = numbers.get(name, 0) + number
        return numbers

    def set_rate(self, rate: float) -> None:
        """Let ``rate`` be the learning rate, times the factor of each group."""
        for group in self.param_groups:
            group["lr"] = rate * group["factor"]

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def norms(self) -> Tensor:
        """Return the norm of the gradients of each part, the same on all ranks; shape ``(P,)``."""
        return norms_of([_gradients(part) for part in self.parts])

    def step(self, norms_P: Tensor, is_bad: Tensor) -> None:
        """Change the parameters by their gradients, or nothing at all where ``is_bad``, shape ``()``.

        A part whose gradients had a norm of nothing rests. Parts are told on the device: a look at the number
        would make the host wait for it.
        """
        rests_P = torch.logical_or(is_bad, norms_P == 0)
        for part, rests in zip(self.parts, rests_P, strict=True):
            if not _gradients(part):
                continue
            if isinstance(part, torch.optim.Muon):
                _step_unless(part, rests)
            else:
                told: Any = part
                told.found_inf = rests.to(torch.float32)
                part.step()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return what the parts keep of each parameter by name; nothing of one that never had a gradient."""
        return {
            name: dict(part.state[parameter])
            for part, names in zip(self.parts, self.names, strict=True)
            for name, parameter in zip(names, _parameters(part), strict=True)
            if part.state.get(parameter)
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep a copy of what `state_dict` gave, of parameters that are there."""
        for part, names in zip(self.parts, self.names, strict=True):
            own = {
                place: {key: kept.clone() for key, kept in state[name].items()}
                for place, name in enumerate(names)
                if name in state
            }
            groups = part.state_dict()["param_groups"]
            part.load_state_dict({"state": own, "param_groups": groups})


def make_optimizer(members: Sequence[Member], config: TrainConfig) -> Optimizer:
    """Return an optimizer of ``members``.

    In the order of their names: a task that is added may move parameters in a program, but not in the
    optimizer.
    """
    ordered = sorted(members, key=lambda each: each.name)
    for_muon = "matrix" if config.optimizer == "muon" else ""
    by_part: dict[tuple[bool, str], list[Member]] = {}
    for member in ordered:
        by_part.setdefault((member.kind == for_muon, member.owner), []).append(member)
    parts: list[torch.optim.Optimizer] = []
    names: list[list[str]] = []
    rate, decay = config.learning_rate, config.weight_decay
    for (is_by_muon, _), own in sorted(by_part.items()):
        groups, told = _group(own, decay)
        names.append(told)
        if is_by_muon:
            parts.append(torch.optim.Muon(groups, lr=rate, adjust_lr_fn="match_rms_adamw"))
        else:
            parts.append(torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True))
    return Optimizer(parts, names)


def owners_of(program: nn.Module) -> dict[str, str]:
    """Return what each parameter of ``program`` is for, by its name.

    Modules in a dict are each for what they are called by there: scopes, and modalities inside them.
    """
    called = {
        f"{name}.{key}" if name else key
        for name, module in program.named_modules()
        if isinstance(module, nn.ModuleDict | nn.ParameterDict)
        for key in module
    }
    owners: dict[str, str] = {}
    for name, _ in program.named_parameters():
        leading = accumulate(name.split("."), "{}.{}".format)
        owners[name] = ".".join(each.rpartition(".")[2] for each in leading if each in called)
    return owners


def kinds_of(program: nn.Module) -> dict[str, Kind]:
    """Return the kind of each parameter of ``program``, by its name."""
    matrices = {
        id(parameter)
        for module in program.modules()
        if isinstance(module, LAYERS)
        for name, parameter in module.named_parameters()
        if parameter.ndim == 2 and not name.endswith((DOWN, UP))
    }
    kinds: dict[str, Kind] = {}
    for name, parameter in program.named_parameters():
        is_matrix = id(parameter) in matrices
        kinds[name] = "matrix" if is_matrix else "table" if parameter.ndim >= 2 else "vector"
    return kinds


def _group(
    members: Sequence[Member], weight_decay: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return ``members`` in groups for torch, those that decay first, and their names in that order."""

    def place(member: Member) -> tuple[bool, float]:
        return member.kind == "vector", member.factor

    ordered = sorted(members, key=place)
    groups = [
        {
            "params": [each.parameter for each in own],
            "weight_decay": 0.0 if is_vector else weight_decay,
            "factor": factor,
        }
        for (is_vector, factor), own in groupby(ordered, key=place)
    ]
    return groups, [each.name for each in ordered]


@torch.no_grad()
def _step_unless(muon: torch.optim.Muon, is_bad: Tensor) -> None:
    """Take a step of ``muon`` that changes nothing where ``is_bad``; unlike AdamW it knows no ``found_inf``."""
    learned = [parameter for parameter in _parameters(muon) if parameter.grad is not None]
    before = [parameter.clone() for parameter in learned]
    for parameter in learned:
        gradient = parameter.grad
        assert gradient is not None
        # A gradient that is the momentum itself leaves that as it is: it is the mean of both.
        momentum = muon.state[parameter].get("momentum_buffer", torch.zeros_like(gradient))
        torch.where(is_bad, momentum, gradient, out=gradient)
    muon.step()
    for parameter, was in zip(learned, before, strict=True):
        parameter.copy_(torch.where(is_bad, was, parameter))


def _gradients(part: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradients that ``part`` would learn from."""
    return [p.grad for p in _parameters(part) if p.grad is not None]


def _parameters(part: torch.optim.Optimizer) -> Iterator[Any]:
    """Yield the parameters of ``part`` in the order in which it numbers them."""
    for group in part.param_groups:
        yield from group["params"]
