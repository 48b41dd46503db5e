"""Scopes: which parameters of a run are learned, and how fast, by patterns of their names.

Parameters go by their scope, then by their place in it: ``encoder.layers.0.ffn.up.weight``. A pattern is
compared with each leading part of a name, so that ``encoder`` is all of the encoder, ``encoder.layers.0`` its
first layer and ``*.ffn`` every feed-forward part. Of several that meet a parameter, the last one holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Final

from ...graph.errors import Problem, TrainingError
from ..model.importing import SCOPES
from ..model.lora import add_lora
from ..model.program import Program
from ..settings import ScopeRule

MAX_TOLD: Final = 40
"""Scopes that an error lists."""

_PLAIN: Final = ScopeRule()


def assign_rules(program: Program, patterns: Mapping[str, ScopeRule]) -> dict[str, ScopeRule]:
    """Return how each parameter of ``program`` is learned, by its name there, as ``patterns`` say.

    Raises:
        TrainingError: A pattern is met by no parameter (T0770), or no parameter is left to learn (T0771).
    """
    parts = {name: [*_leading(name)] for name, _ in program.named_parameters()}
    rules = dict.fromkeys(parts, _PLAIN)
    unmet: list[Problem] = []
    for pattern, rule in patterns.items():
        met = [n for n, own in parts.items() if any(fnmatchcase(each, pattern) for each in own)]
        if not met:
            unmet.append(_refuse(pattern, program))
        rules |= dict.fromkeys(met, rule)
    if unmet:
        raise TrainingError(*unmet)
    if all(rule.learn == "frozen" for rule in rules.values()):
        help_ = "let a pattern after the others say what is learned: `learn: full`"
        raise TrainingError.of("T0771", "every parameter is frozen: nothing is learned", help_)
    return rules


def apply_rules(program: Program, patterns: Mapping[str, ScopeRule]) -> dict[str, ScopeRule]:
    """Let of ``program`` learn what ``patterns`` say, and return the rule of each parameter.

    There are low-rank pairs among them that came in, drawn from torch's global random numbers.

    Raises:
        TrainingError: As of `assign_rules`; or what is to have pairs has no linear layer (T0790), or no scale
            (T0791).
    """
    rules = assign_rules(program, patterns)
    by_size: dict[tuple[int, float], list[str]] = {}
    for name, parameter in program.named_parameters():
        rule = rules[name]
        parameter.requires_grad_(rule.learn == "full")
        if rule.learn == "lora":
            by_size.setdefault((rule.rank, rule.alpha), []).append(name)
    for (rank, alpha), names in by_size.items():
        add_lora(program, names, rank=rank, alpha=alpha)
    # A pair has the rule of the weight that it is beside.
    beside = {
        name: rules[f"{name.rpartition('.')[0]}.weight"]
        for name, _ in program.named_parameters()
        if name not in rules
    }
    return {**rules, **beside}


def _leading(name: str) -> Iterator[str]:
    """Yield each leading part of a parameter's ``name``, from its scope on: ``a``, ``a.b``, ``a.b.c``."""
    scope, _, place = name.removeprefix(SCOPES).partition(".")
    parts = [*scope.split("__"), *place.split(".")]
    yield from accumulate(parts, "{}.{}".format)


def _refuse(pattern: str, program: Program) -> Problem:
    known = sorted(program.num_parameters)
    more = f" and {len(known) - MAX_TOLD:,} more" if len(known) > MAX_TOLD else ""
    help_ = f"scopes are {', '.join(known[:MAX_TOLD])}{more}"
    return Problem("T0770", f'no parameter is of scope "{pattern}"', help_)
