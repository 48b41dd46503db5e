"""Packages of ops: what each distribution says to try its ops on, and the lock it keeps.

The lock lies in the package's folder and is installed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..graph.errors import PlanError, Problem, suggest
from .example import Examples, load_examples
from .lock import check_lock, lock_path, read_lock, update_lock, write_lock
from .plugin import OURS, find_installed
from .source import OURS as OUR_PACKAGE

_OUR_EXAMPLES: Final = (
    "taskloom.ops.host.examples:EXAMPLES",
    "taskloom.ops.device.examples:EXAMPLES",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpPackage:
    """The ops of one distribution.

    Attributes:
        name: Its package.
        origin: Its distribution, with the version.
        places: Where its examples are.
    """

    name: str
    origin: str
    places: tuple[str, ...]

    def examples(self) -> Examples:
        """Return the examples of its ops.

        Raises:
            PlanError: They cannot be imported.
        """
        try:
            return tuple(example for place in self.places for example in load_examples(place))
        except Exception as error:  # a stranger's module may raise anything
            message = f"the examples of {self.origin} cannot be imported"
            help_ = f"{', '.join(self.places)}: {type(error).__name__}: {error}"
            raise PlanError.of("T0277", message, help_) from error

    @property
    def lock_path(self) -> Path:
        """Where its lock is."""
        return lock_path(self.name)

    def check(self) -> list[Problem]:
        """Return one problem for every op whose code is not that of its version."""
        return check_lock(read_lock(self.lock_path), self.examples())

    def lock(self, *, same_output: Sequence[str] = ()) -> Path:
        """Note the ops as they are now; return where.

        Args:
            same_output: Ops whose code moved under its version and computes what it did.

        Raises:
            PlanError: The code of another op moved under its version, or the output of one did.
        """
        path = self.lock_path
        write_lock(path, update_lock(read_lock(path), self.examples(), same_output=same_output))
        return path


def find_packages() -> tuple[OpPackage, ...]:
    """Return taskloom's own package of ops, and that of every plug-in that has examples."""
    found = [OpPackage(name=OUR_PACKAGE, origin=OURS, places=_OUR_EXAMPLES)]
    for origin, plugin in find_installed().plugins:
        if plugin.examples:
            name = plugin.examples.partition(":")[0].partition(".")[0]
            found.append(OpPackage(name=name, origin=origin, places=(plugin.examples,)))
    return tuple(found)


def find_package(name: str) -> OpPackage:
    """Return the package of ops whose own name, or whose distribution's, is ``name``.

    Raises:
        PlanError: There is none.
    """
    packages = find_packages()
    for package in packages:
        if name in (package.name, package.origin.partition(" ")[0]):
            return package
    known = [package.origin.partition(" ")[0] for package in packages]
    message = f'no package of ops with examples is called "{name}"'
    problem = Problem("T0277", message, suggest(name, known))
    raise PlanError(problem, *find_installed().broken)
