"""Plug-ins: ops and recipes that other distributions bring.

A distribution names a `Plugin` in the entry point group ``taskloom.ops``::

    [project.entry-points."taskloom.ops"]
    spectrum = "taskloom_spectrum:PLUGIN"

Whoever plans or builds imports its host ops and recipes, worker processes among them. Its device ops are only
named, and imported when a program needs them: no worker imports torch.

A plug-in that is broken is left out whole. It stops nothing that does without it; where something is missing,
its problem is told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar

from ..graph.errors import Problem, TaskloomError
from ..graph.op import OpClass
from ..graph.recipe import Recipe
from ..graph.type import Place
from .device.catalogue import DEVICE_CATALOGUE
from .host.catalogue import HOST_CATALOGUE
from .protocol import find_op_fault, find_recipe_fault
from .recipe.catalogue import RECIPES

GROUP: Final = "taskloom.ops"
"""The entry point group."""

OURS: Final = "taskloom"

MISSING: Final = frozenset({"T0103", "T0205", "T0219", "T0231", "T0803"})
"""Codes of what may come of a plug-in that is not there."""

E = TypeVar("E", bound=TaskloomError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What a distribution adds.

    Attributes:
        host_ops: Classes of host ops.
        device_ops: Where the class of each device op is, as ``"module:Class"``, by the op's name.
        recipes: The recipe of each modality, whose name is upper case: one of the language's, or a new one.
        examples: Where examples of all its ops are, as ``"module:NAME"``; they are imported by tests and locks
            alone.
    """

    host_ops: tuple[OpClass, ...] = ()
    device_ops: Mapping[str, str] = field(default_factory=dict[str, str])
    recipes: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])
    examples: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What this environment holds, taskloom's own and that of every sound plug-in.

    Attributes:
        host_ops: The classes of host ops, by name.
        device_ops: Where the class of each device op is, by name.
        recipes: The recipe of each modality: taskloom's in the order of its table, others by name.
        origins: The distribution of each op and modality of a plug-in.
        plugins: The sound plug-ins, each with its distribution.
        broken: What is wrong with the plug-ins that were left out.
    """

    host_ops: Mapping[str, OpClass]
    device_ops: Mapping[str, str]
    recipes: Mapping[str, Recipe]
    origins: Mapping[str, str]
    plugins: tuple[tuple[str, Plugin], ...]
    broken: tuple[Problem, ...]

    def origin(self, name: str) -> str:
        """Return the distribution that brings the op or modality ``name``."""
        return self.origins.get(name, OURS)


def find_installed() -> Installed:
    """Return what this environment holds; it is read once for each ``sys.path``."""
    return _read(tuple(sys.path))


def tell_broken(error: E) -> E:
    """Return ``error`` with the problems of broken plug-ins, if one of them may bring what it misses."""
    broken = find_installed().broken
    if not broken or MISSING.isdisjoint(problem.code for problem in error.problems):
        return error
    return type(error)(*dict.fromkeys((*error.problems, *broken)))


def advise(origin: str) -> str:
    """Return what to do about a distribution that is broken."""
    return f"mend it, or do without: pip uninstall {origin.partition(' ')[0]}"


@lru_cache(maxsize=4)
def _read(path: tuple[str, ...]) -> Installed:
    del path  # entry points are those of sys.path, which it is
    found = [_Found.of(point) for point in sorted(entry_points(group=GROUP), key=_order)]
    twice = _find_twice(found)
    sound = [one for one in found if not one.problem and one.origin not in twice]
    host_ops = dict(HOST_CATALOGUE)
    device_ops = dict(DEVICE_CATALOGUE)
    added: dict[str, Recipe] = {}
    origins: dict[str, str] = {}
    for one in sound:
        host_ops |= {op.traits.name: op for op in one.plugin.host_ops}
        device_ops |= one.plugin.device_ops
        added |= one.plugin.recipes
        origins |= dict.fromkeys(one.names, one.origin)
    return Installed(
        host_ops=host_ops,
        device_ops=device_ops,
        recipes={**RECIPES, **dict(sorted(added.items()))},
        origins=origins,
        plugins=tuple((one.origin, one.plugin) for one in sound),
        broken=(*(one.problem for one in found if one.problem), *twice.values()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One entry point, and what it turned out to be."""

    origin: str
    plugin: Plugin = field(default_factory=Plugin)
    problem: Problem | None = None

    @classmethod
    def of(cls, point: EntryPoint) -> _Found:
        dist = point.dist
        origin = point.name if dist is None else f"{dist.name} {dist.version}"
        try:
            plugin: Any = point.load()
        except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
            message = f"the plug-in {point.name} of {origin} cannot be imported"
            help_ = f"{point.value} raises {type(error).__name__}: {error}\n{advise(origin)}"
            return cls(origin=origin, problem=Problem("T0270", message, help_))
        if not isinstance(plugin, Plugin):
            message = f"the plug-in {point.name} of {origin} is no Plugin"
            help_ = f"{point.value} is a {type(plugin).__name__}\n{advise(origin)}"
            return cls(origin=origin, problem=Problem("T0270", message, help_))
        if fault := next(_faults(plugin), None):
            message = f"the plug-in {point.name} of {origin} breaks the protocol of ops"
            help_ = f"{fault}\n{advise(origin)}"
            return cls(origin=origin, problem=Problem("T0272", message, help_))
        return cls(origin=origin, plugin=plugin)

    @property
    def names(self) -> list[str]:
        """Names of its ops and modalities; a name that it gives twice stands here twice."""
        host = [op.traits.name for op in self.plugin.host_ops]
        return [*host, *self.plugin.device_ops, *self.plugin.recipes]


def _find_twice(found: list[_Found]) -> dict[str, Problem]:
    """Return the plug-ins that bring a name that something else has, and the problem of each.

    All of them are left out: which one computes must not depend on who comes first.
    """
    owners: dict[str, list[str]] = {}
    for name in (*HOST_CATALOGUE, *DEVICE_CATALOGUE, *RECIPES):
        owners[name] = [OURS]
    for one in found:
        for name in one.names:
            owners.setdefault(name, []).append(one.origin)
    problems: dict[str, Problem] = {}
    for name, origins in sorted(owners.items()):
        for origin in origins if len(origins) > 1 else ():
            if origin != OURS:
                others = list(origins)
                others.remove(origin)
                message = f'{origin} brings "{name}", which {", ".join(others)} has too'
                problems.setdefault(origin, Problem("T0271", message, advise(origin)))
    return problems


def _faults(plugin: Plugin) -> Iterator[str]:
    for op in plugin.host_ops:
        if fault := find_op_fault(op, Place.HOST):
            yield fault
    for name, place in plugin.device_ops.items():
        module, _, attribute = place.partition(":")
        if not (module and attribute):
            yield f'device op {name} is at "{place}", which is not "module:Class"'
    for modality, recipe in plugin.recipes.items():
        if fault := find_recipe_fault(modality, recipe):
            yield fault


def _order(point: EntryPoint) -> tuple[str, str]:
    return ("" if point.dist is None else point.dist.name, point.name)
