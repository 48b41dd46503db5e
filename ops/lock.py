"""The lock: what the code of every op was when its version was given, and what it computed.

A version says that equal inputs give equal outputs as before, and stored columns rely on it. The lock file of a
package notes for each of its ops the version, the digest of the code (`taskloom.ops.source`), and the *golden*:
what its examples give. Code that moved under an unchanged version is either a change, and wants a new version;
or it computes the same as before, and then the golden can show it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..graph.errors import PlanError, Problem, suggest
from .canonical import DIGEST_BYTES, digest_values
from .example import Example
from .source import digest_class

FORMAT: Final = 1
LOCK_NAME: Final = "ops.lock"

TOLERANCE: Final = 1e-4
"""How far a number of a device op's golden may lie from another machine's, relative to 1 or its size."""

Golden: TypeAlias = "str | tuple[float, ...]"
"""Digest of what a host op's examples give; a few numbers that say the same of tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """What a lock notes of one op.

    Attributes:
        version: Its version.
        code: Digest of its code.
        golden: What its examples give.
    """

    version: int
    code: str
    golden: Golden


Lock: TypeAlias = Mapping[str, Locked]
"""What is noted of each op of a package, by name."""


def lock_path(package: str) -> Path:
    """Return where the lock of ``package`` is, such as ``taskloom.ops``: in its folder.

    Raises:
        PlanError: There is no such package.
    """
    try:
        spec = find_spec(package)
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise PlanError.of("T0277", f'"{package}" is no package that can be imported')
    return Path(next(iter(spec.submodule_search_locations))) / LOCK_NAME


def read_lock(path: Path) -> Lock:
    """Return the lock at ``path``; without a file, an empty one.

    Raises:
        PlanError: It is no lock of this format.
    """
    try:
        content: Any = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT:
            help_ = f"its format is {content['format']}, this taskloom reads {FORMAT}"
            raise PlanError.of("T0276", f"{path} is of another format", help_)
        return {name: _read_locked(noted) for name, noted in content["ops"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError.of("T0276", f"{path} is no lock of ops", f"{error!r:.200}") from None


def write_lock(path: Path, lock: Lock) -> None:
    """Write ``lock``: one op a line, so that two branches meet in the lines they share.

    Raises:
        PlanError: It cannot be written.
    """
    lines = [f"    {json.dumps(name)}: {json.dumps(asdict(lock[name]))}" for name in sorted(lock)]
    text = f'{{\n  "format": {FORMAT},\n  "ops": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise PlanError.of("T0276", f"{path} cannot be written", str(error)) from None


def check_lock(lock: Lock, examples: Sequence[Example]) -> list[Problem]:
    """Return one problem for every op whose code is not that of its version."""
    ops = _classes(examples)
    problems = [problem for name, op in ops.items() if (problem := _check(lock, name, op))]
    gone = sorted(lock.keys() - ops.keys())
    return problems + [_problem(name, "is in the lock, and is gone", _LOCK) for name in gone]


def update_lock(
    lock: Lock, examples: Sequence[Example], *, same_output: Sequence[str] = ()
) -> dict[str, Locked]:
    """Return the lock of the ops as they are now.

    Args:
        lock: What was noted before.
        examples: Examples of every op of the package.
        same_output: Ops whose code may have moved under its version, if the golden is what it was.

    Raises:
        PlanError: The code of another op moved under its version, or a golden differs from what it was.
    """
    ops = _classes(examples)
    problems = [_unknown(name, ops) for name in same_output if name not in ops]
    updated: dict[str, Locked] = {}
    for name, op in ops.items():
        own = [one for one in examples if one.name == name]
        noted = _note(lock.get(name), name, op, own, accepts=name in same_output)
        if isinstance(noted, Problem):
            problems.append(noted)
        else:
            updated[name] = noted
    if problems:
        raise PlanError(*problems)
    return updated


def compute_golden(examples: Sequence[Example]) -> Golden:
    """Return what the examples of one op give: a digest, or numbers of tensors."""
    if examples[0].is_device:
        from .device.trial import run_example  # noqa: PLC0415 - host ops do without torch

        made = (tensor for one in examples for tensor in run_example(one))
        return tuple(number for tensor in made for number in _summarize(tensor))
    digests = [digest_values(one.call()) if one.is_computed else "" for one in examples]
    return hashlib.blake2b("\n".join(digests).encode(), digest_size=DIGEST_BYTES).hexdigest()


def is_same(left: Golden, right: Golden) -> bool:
    """Return whether two goldens say that outputs are equal."""
    if isinstance(left, str) or isinstance(right, str):
        return left == right
    close = (
        math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for a, b in zip(left, right, strict=False)
    )
    return len(left) == len(right) and all(close)


def _note(
    before: Locked | None, name: str, op: Any, examples: Sequence[Example], *, accepts: bool
) -> Locked | Problem:
    """Return what the lock notes of an op, or why it cannot."""
    version, code = op.traits.version, digest_class(op.__module__, op.__qualname__)
    now = Locked(version=version, code=code, golden="")
    if before is None or version > before.version:
        return replace(now, golden=compute_golden(examples))
    if version < before.version:
        return _older(name, version, before)
    has_moved = code != before.code
    if has_moved and not accepts:
        return _moved(name)
    golden = compute_golden(examples)
    if is_same(golden, before.golden):
        return replace(now, golden=before.golden)  # no number moves by less than the tolerance
    if has_moved:
        return _problem(name, "gives other outputs than before", _RAISE, code="T0275")
    return replace(now, golden=golden)  # the examples are others


def _check(lock: Lock, name: str, op: Any) -> Problem | None:
    noted = lock.get(name)
    if noted is None:
        return _problem(name, "is not in the lock", _LOCK)
    if op.traits.version < noted.version:
        return _older(name, op.traits.version, noted)
    if noted.version != op.traits.version:
        return _problem(name, f"has version {op.traits.version}, the lock {noted.version}", _LOCK)
    if noted.code != digest_class(op.__module__, op.__qualname__):
        return _moved(name)
    return None


def _classes(examples: Sequence[Example]) -> dict[str, Any]:
    return {one.name: type(one.op) for one in sorted(examples, key=lambda one: one.name)}


def _summarize(tensor: Any) -> tuple[float, ...]:
    """Return a few numbers that change when the tensor does: sums under weights that no order hides."""
    values = tensor.detach().double().flatten()
    places = values.new_tensor(range(len(values)))
    sums = (values.sum(), values.abs().sum(), (values * (places * 0.7).cos()).sum())
    return tuple(round(float(one), 6) for one in (*sums, *values[:2]))


def _read_locked(noted: Any) -> Locked:
    golden = noted["golden"]
    locked = Locked(version=int(noted["version"]), code=str(noted["code"]), golden=str(golden))
    return replace(locked, golden=tuple(map(float, golden))) if isinstance(golden, list) else locked


def _moved(name: str) -> Problem:
    help_ = f"{_RAISE}\nor accept it: taskloom ops lock --same-output {name}"
    return _problem(name, "has other code than its version had", help_)


def _older(name: str, version: int, noted: Locked) -> Problem:
    return _problem(
        name, f"went back from version {noted.version} to {version}", "versions only rise"
    )


def _unknown(name: str, ops: Mapping[str, Any]) -> Problem:
    return _problem(name, "has no example in this package", suggest(name, list(ops)), code="T0278")


def _problem(name: str, what: str, advice: str, code: str = "T0274") -> Problem:
    return Problem(code, f'op "{name}" {what}', advice)


_LOCK: Final = "note it: taskloom ops lock"
_RAISE: Final = "raise its version, then: taskloom ops lock"
