"""What a graph may use in this environment: taskloom's ops and recipes, and those of plug-ins.

Device ops are imported when they are asked for: planning a task imports no module that it does without, and a
worker process no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint
from typing import Any

from ..graph.errors import PlanError, Problem, suggest
from ..graph.op import Catalogue, OpClass
from ..graph.recipe import Recipe
from ..graph.type import Place
from .plugin import GROUP, Installed, advise, find_installed
from .protocol import find_op_fault


class UnknownOpError(PlanError, KeyError):
    """No op of this environment has the name that is asked for."""

    def __str__(self) -> str:
        return PlanError.__str__(self)


class OpTable(Mapping[str, OpClass]):
    """The classes of ops by name; those that are only named are imported when they are asked for."""

    def __init__(self, installed: Installed, *, has_device: bool) -> None:
        self._installed = installed
        self._classes = dict(installed.host_ops)
        self._places = installed.device_ops if has_device else {}
        self._names = sorted([*self._classes, *self._places])

    def __getitem__(self, name: str) -> OpClass:
        """Return the class of an op.

        Raises:
            UnknownOpError: There is none of that name.
            PlanError: It cannot be imported.
        """
        if name not in self._classes:
            if name not in self._places:
                raise self._unknown(name)
            self._classes[name] = self._import(name)
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _import(self, name: str) -> OpClass:
        place, origin = self._places[name], self._installed.origin(name)
        try:
            found: Any = EntryPoint(name, place, GROUP).load()
        except Exception as error:  # a stranger's module may raise anything
            message = f'the device op "{name}" of {origin} cannot be imported'
            help_ = f"{place} raises {type(error).__name__}: {error}\n{advise(origin)}"
            raise PlanError.of("T0270", message, help_) from error
        fault = find_op_fault(found, Place.DEVICE)
        if not fault and found.traits.name != name:
            fault = f'its traits name it "{found.traits.name}"'
        if fault:
            message = f'the device op "{name}" of {origin} breaks the protocol of ops'
            raise PlanError.of("T0272", message, f"{fault}\n{advise(origin)}")
        return found

    def _unknown(self, name: str) -> UnknownOpError:
        help_ = f"{suggest(name, self._names)}\nwhat brings it must be installed wherever it runs"
        problem = Problem("T0205", f'op "{name}" is not in the catalogue', help_)
        return UnknownOpError(problem, *self._installed.broken)


def host_catalogue() -> Catalogue:
    """Return the host ops of this environment; none of them imports torch."""
    return _table(tuple(sys.path), has_device=False)


def whole_catalogue() -> Catalogue:
    """Return the host and device ops of this environment."""
    return _table(tuple(sys.path), has_device=True)


def recipes() -> Mapping[str, Recipe]:
    """Return the recipe of each modality of this environment."""
    return find_installed().recipes


@lru_cache(maxsize=8)
def _table(path: tuple[str, ...], *, has_device: bool) -> OpTable:
    del path  # what is installed is what is found on it
    return OpTable(find_installed(), has_device=has_device)
