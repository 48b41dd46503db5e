"""Ops in words: what is installed, and what a person needs to call one of them."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Final

from ...graph.errors import PlanError
from ...graph.op import Rows
from ...graph.type import Port
from ...ops.catalogue import host_catalogue, whole_catalogue
from ...ops.example import Example
from ...ops.lock import check_lock, read_lock
from ...ops.package import OpPackage, find_packages
from ...ops.plugin import find_installed

TRAITS: Final = ("is_random", "is_online", "is_isolated", "accepts_null")
"""Traits that are told where an op has them."""


def describe_ops() -> list[dict[str, Any]]:
    """Return name, version, place, rows, traits and distribution of every op, by name.

    An op that cannot be imported has no version.
    """
    installed, catalogue = find_installed(), whole_catalogue()
    rows: list[dict[str, Any]] = []
    for name in catalogue:
        row = {"name": name, "version": "-", "place": "device", "rows": "-", "traits": ""}
        try:
            traits = catalogue[name].traits
        except PlanError:
            row["traits"] = "cannot be imported"
        else:
            told = [one.partition("_")[2] for one in TRAITS if getattr(traits, one)]
            row |= {"version": traits.version, "place": str(traits.place)}
            row |= {"rows": str(traits.rows), "traits": ",".join(told)}
        rows.append({**row, "distribution": installed.origin(name)})
    return rows


def explain_op(name: str) -> str:
    """Return what the op ``name`` does, its parameters and ports, its lock and a call by hand.

    Raises:
        PlanError: There is no such op, or it cannot be imported.
    """
    op: Any = whole_catalogue()[name]
    traits, origin = op.traits, find_installed().origin(name)
    lines = [f"{name} {traits.version}   {traits.place}, of {origin}", ""]
    lines += inspect.cleandoc(op.__doc__ or "no description").splitlines()
    lines += ["", "parameters", *(_parameters(op) or ["  none"])]
    package = next((one for one in find_packages() if one.origin == origin), None)
    example = _find_example(package, op)
    if example is not None:
        signature = example.op.signature
        ports = {**signature.inputs, **({"...": signature.variadic} if signature.variadic else {})}
        lines += ["", "in", *(_ports(ports) or ["  nothing"]), "out", *_ports(signature.outputs)]
        lines += ["", "by hand", *_call(op, example)]
    lines += ["", f"lock: {_lock_state(package, example)}"]
    return "\n".join(lines)


def _parameters(op: Any) -> list[str]:
    lines: list[str] = []
    for field in dataclasses.fields(op):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        tail = "" if value is dataclasses.MISSING else f" = {value!r}"
        lines.append(f"  {field.name}: {field.type}{tail}")
    return lines


def _ports(ports: dict[str, Port] | Any) -> list[str]:
    return [
        f"  {name}: {port}{' (may be left out)' if port.is_optional else ''}"
        for name, port in ports.items()
    ]


def _call(op: Any, example: Example) -> list[str]:
    """Return lines that make the op and call it on values such as those of ``example``."""
    given = ", ".join(
        f"{field.name}={getattr(example.op, field.name)!r}"
        for field in dataclasses.fields(example.op)
        if getattr(example.op, field.name) != field.default
    )
    lines = [
        f"  >>> from {op.__module__} import {op.__name__}",
        f"  >>> op = {op.__name__}({given})",
    ]
    arguments = ", ".join(f"{port}={port}" for port in (*example.rows, *example.constants))
    if example.is_device:
        return [*lines, f"  >>> op(op.module(), {arguments})   # torch tensors"]
    if not example.is_computed:
        return [*lines, "  the loader or the store does what it says"]
    if op.traits.rows is Rows.FIT:
        return [*lines, f"  >>> op.finish(op.observe({arguments}))   # Arrow arrays"]
    if op.traits.rows is Rows.READ:
        return [*lines, "  >>> op(batch)   # a pyarrow.RecordBatch"]
    keys = ", keys=keys" if op.traits.is_random else ""
    lines += [f"  >>> op({arguments}{keys})   # Arrow arrays, or lists"]
    if keys:
        lines += ["  keys: one for each row, of taskloom.ops.draw.make_keys"]
    return lines


def _find_example(package: OpPackage | None, op: Any) -> Example | None:
    if package is None:
        return None
    is_host = op.traits.name in host_catalogue()
    places = package.places[: 1 if is_host else None]
    examples = dataclasses.replace(package, places=places).examples()
    return next((one for one in examples if type(one.op) is op), None)


def _lock_state(package: OpPackage | None, example: Example | None) -> str:
    if package is None or example is None:
        return "none; there is no example of it"
    lock = read_lock(package.lock_path)
    own = {name: noted for name, noted in lock.items() if name == example.name}
    wrong = check_lock(own, [example])
    return wrong[0].message if wrong else "the code is that of its version"
