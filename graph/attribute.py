"""Attributes of slots: what each is called, which values it takes, on which side it may stand.

An instruction's text knows words and numbers; an *attribute* says which of them make sense. `check_attribute`
makes one of the other: the language asks it for every slot of a text, planning for what a project file or a
caller adds. Whatever passes needs no further check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from .errors import Problem, suggest
from .syntax import AttributeValue, GivenAttribute

AttributeType: TypeAlias = type[int] | type[float] | type[str] | type[bool]

PROBLEMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "T0121": "attribute of the wrong type",
        "T0122": "attribute out of range",
        "T0123": "attribute not among its choices",
        "T0215": "attribute on the wrong side",
    }
)
"""What can be wrong with an attribute that is known, by code."""

_WORDS: Final[Mapping[AttributeType, str]] = MappingProxyType(
    {int: "a whole number", float: "a number", str: "text", bool: "a flag"}
)
_FLAGS: Final = MappingProxyType({"true": True, "false": False})


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute that the slots of a modality understand.

    Attributes:
        name: Its key in a slot.
        type: Type of its value; ``bool`` is a flag, set by the key alone.
        low: Least value of a number, itself included.
        high: Greatest value of a number, itself included.
        is_open: Whether ``low`` and ``high`` are left out themselves.
        choices: The values it may have; any, if empty.
        default: Value where a slot does not give it; with None it is absent then, a flag False.
        side: The only side of the arrow where it may stand; either, if None.
        doc: What it does, in one sentence.
    """

    name: str
    type: AttributeType
    _: KW_ONLY
    low: float | None = None
    high: float | None = None
    is_open: bool = False
    choices: tuple[AttributeValue, ...] = ()
    default: AttributeValue | None = None
    side: Literal["source", "target"] | None = None
    doc: str = ""

    @property
    def kind(self) -> str:
        """Its type in words, such as ``"a whole number"``."""
        return _WORDS[self.type]

    @property
    def range(self) -> str:
        """Its range in words, such as ``"from 1 to 8"``; empty if there is none."""
        if self.low is None:
            least, most = "", "below" if self.is_open else "at most"
            return "" if self.high is None else f"{most} {self.high}"
        least = "above" if self.is_open else "at least"
        if self.high is None:
            return f"{least} {self.low}"
        if self.is_open:
            return f"above {self.low} and below {self.high}"
        return f"from {self.low} to {self.high}"

    def may_stand(self, *, is_source: bool) -> bool:
        """Return whether source slots, or target slots, may have it."""
        return self.side is None or (self.side == "source") == is_source


def check_attribute(
    given: GivenAttribute, spec: Attribute, *, is_source: bool
) -> AttributeValue | Problem:
    """Return the value of a slot's attribute in its type, or what is wrong with it; its place is not filled in.

    Args:
        given: What the slot says.
        spec: The attribute of that name.
        is_source: Whether the slot stands left of the arrow.
    """
    if not spec.may_stand(is_source=is_source):
        message = f"{spec.name} belongs to a {spec.side} slot"
        where = "right" if is_source else "left"
        advice = f"drop it here: a {spec.side} slot stands {where} of the arrow"
        return Problem("T0215", message, _advise(advice, spec))
    value = _convert(given.value, spec.type)
    if value is None:
        return _refuse_type(given, spec)
    if not isinstance(value, str) and not _is_inside(value, spec):
        message = f"{spec.name} must be {spec.range}, got {value}"
        return Problem("T0122", message, spec.doc)
    if spec.choices and value not in spec.choices:
        choices = list(map(str, spec.choices))
        one_of = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        message = f'{spec.name} must be {one_of}, got "{value}"'
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
        hint = f"write {spec.name}=… with {spec.kind}"
    got = "no value" if given.value is True else str(given).partition("=")[2]
    return Problem("T0121", f"{spec.name} must be {spec.kind}, got {got}", _advise(hint, spec))


def _is_inside(value: float, spec: Attribute) -> bool:
    if spec.is_open:
        is_above, is_below = (
            spec.low is None or spec.low < value,
            spec.high is None or value < spec.high,
        )
    else:
        is_above, is_below = (
            spec.low is None or spec.low <= value,
            spec.high is None or value <= spec.high,
        )
    return is_above and is_below


def _advise(hint: str, spec: Attribute) -> str:
    return f"{hint}\n{spec.doc}" if spec.doc else hint
