"""Attributes of slots: what a recipe understands, and what a slot gives, made one.

An instruction's text knows words and numbers; a recipe declares which attributes its slots have, of which type
and in which range. Whatever passes here needs no further check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from .errors import InstructionError, Problem, Site, suggest
from .syntax import AttributeValue, GivenAttribute, Slot

AttributeType: TypeAlias = type[int] | type[float] | type[str] | type[bool]

PROBLEMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "T0120": "unknown attribute",
        "T0121": "attribute of the wrong type",
        "T0122": "attribute out of range",
        "T0123": "attribute not among its choices",
    }
)
"""What can be wrong with a slot's attributes, by code."""

_WORDS: Final[Mapping[AttributeType, str]] = MappingProxyType(
    {int: "a whole number", float: "a number", str: "text", bool: "a flag"}
)
_FLAGS: Final = MappingProxyType({"true": True, "false": False})


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute that the slots of a recipe understand.

    Attributes:
        name: Its key in a slot.
        type: Type of its value; ``bool`` is a flag, set by the key alone.
        low: Least value of a number, itself included.
        high: Greatest value of a number, itself included.
        choices: The values it may have; any, if empty.
        default: Value where a slot does not give it; with None it is absent then, a flag False.
        doc: What it does, in one sentence.
    """

    name: str
    type: AttributeType
    _: KW_ONLY
    low: float | None = None
    high: float | None = None
    choices: tuple[AttributeValue, ...] = ()
    default: AttributeValue | None = None
    doc: str = ""


def resolve_attributes(
    slot: Slot, specs: Iterable[Attribute], site: Site
) -> dict[str, AttributeValue]:
    """Return the value of every attribute of ``slot`` that has one, by name.

    Args:
        slot: The slot that gives values.
        specs: The attributes that slots of its kind understand.
        site: The slot's place; a message points at the attribute inside it.

    Raises:
        InstructionError: With one problem for each attribute that is unknown, of the wrong type or out of
            range.
    """
    known = {spec.name: spec for spec in specs}
    values: dict[str, AttributeValue] = {
        name: False if spec.default is None else spec.default
        for name, spec in known.items()
        if spec.default is not None or spec.type is bool
    }
    problems: list[Problem] = []
    for given in slot.attributes:
        value = _resolve(given, slot.modality, known)
        if isinstance(value, Problem):
            problems.append(replace(value, sites=(replace(site, span=given.span),)))
        else:
            values[given.key] = value
    if problems:
        raise InstructionError(*problems)
    return values


def _resolve(
    given: GivenAttribute, modality: str, known: Mapping[str, Attribute]
) -> AttributeValue | Problem:
    spec = known.get(given.key)
    if spec is None:
        message = f'{modality} slots have no attribute "{given.key}"'
        return Problem("T0120", message, suggest(given.key, known))
    value = _convert(given.value, spec.type)
    if value is None:
        return _refuse_type(given, spec)
    if not isinstance(value, str) and not _is_inside(value, spec):
        message = f"{spec.name} must be {_range(spec)}, got {value}"
        return Problem("T0122", message, spec.doc)
    if spec.choices and value not in spec.choices:
        choices = list(map(str, spec.choices))
        message = f'{spec.name} must be one of {", ".join(choices)}, got "{value}"'
        return Problem("T0123", message, _advise(suggest(str(value), choices), spec))
    return value


def _convert(value: AttributeValue, wanted: AttributeType) -> AttributeValue | None:
    """Return ``value`` as the type that is wanted, or None if it is of another one."""
    if wanted is bool:
        return value if isinstance(value, bool) else _FLAGS.get(str(value))
    if isinstance(value, bool):
        return None
    if wanted is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, wanted) else None


def _refuse_type(given: GivenAttribute, spec: Attribute) -> Problem:
    if spec.type is bool:
        hint = f"write {spec.name} alone, or {spec.name}=false"
    elif spec.type is str and given.value is not True:
        hint = "put the value in quotes"
    else:
        hint = f"write {spec.name}=… with {_WORDS[spec.type]}"
    got = "no value" if given.value is True else str(given).partition("=")[2]
    message = f"{spec.name} must be {_WORDS[spec.type]}, got {got}"
    return Problem("T0121", message, _advise(hint, spec))


def _is_inside(value: float, spec: Attribute) -> bool:
    return (spec.low is None or spec.low <= value) and (spec.high is None or value <= spec.high)


def _range(spec: Attribute) -> str:
    if spec.low is None:
        return f"at most {spec.high}"
    return f"at least {spec.low}" if spec.high is None else f"from {spec.low} to {spec.high}"


def _advise(hint: str, spec: Attribute) -> str:
    return f"{hint}\n{spec.doc}" if spec.doc else hint
