"""What the graph knows of an op: its traits and its signature, and nothing of how it computes.

An op is a frozen dataclass whose fields are its parameters. Parameters are plain data, because they are part
of the plan key of every node that uses the op.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cache
from typing import Any, ClassVar, Final, Protocol, TypeAlias, cast

from .errors import PlanError
from .type import Place, Signature

Plain: TypeAlias = "bool | int | float | str | tuple[Plain, ...] | Mapping[str, Plain] | None"
"""Data with one spelling in JSON: what parameters are made of."""


class Rows(StrEnum):
    """How the rows that come out of an op relate to the rows that go in."""

    READ = "read"  # makes the rows of a source
    SAME = "same"
    EXPAND = "expand"  # gives a list for each row; what follows has a row for each item
    REPEAT = "repeat"  # gives each item what the row has that it was made of
    GROUP = "group"  # items go back to the rows they were made of
    FIT = "fit"  # reads many rows, gives one constant
    JOIN = "join"  # many row sets become packs


@dataclass(frozen=True, slots=True)
class Traits:
    """What the planner must know of an op beside its ports.

    Attributes:
        name: Key in the catalogue: a verb and its plural object.
        version: Raised whenever equal inputs may give other outputs than before.
        place: Where it computes.
        rows: What happens to rows.
        is_random: Whether results depend on a draw; such ops never run offline.
        is_online: Whether it belongs to the loader, which composes documents and packs them.
        releases_gil: Whether threads gain anything; if not, it runs in worker processes.
        is_isolated: Whether native code parses bytes from outside; such ops always run in worker processes.
        is_cheap: Whether computing it in every epoch costs about as much as reading its result, as a cast does.
        accepts_null: Whether missing values are given to it; otherwise a missing value is a bad row.
        libraries: Distributions whose version may change what it gives, such as ``"pillow"``; a store notes
            which ones had a hand in a column.
    """

    name: str
    version: int
    place: Place = Place.HOST
    rows: Rows = Rows.SAME
    is_random: bool = False
    is_online: bool = False
    releases_gil: bool = True
    is_isolated: bool = False
    is_cheap: bool = False
    accepts_null: bool = False
    libraries: tuple[str, ...] = ()

    @property
    def needs_process(self) -> bool:
        """Whether it runs in worker processes: it holds the GIL, or may take a process down with it."""
        return self.is_isolated or not self.releases_gil


class Op(Protocol):
    """A versioned, typed computation."""

    traits: ClassVar[Traits]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def signature(self) -> Signature:
        """The ports of this op, given its parameters."""
        ...


class RandomOp(Op, Protocol):
    """An op whose results depend on a draw, in training alone.

    A call has one more argument, ``keys``: 64 bits for each row, of which all that is drawn for the row is a
    function. So the order of rows, the size of a call and the number of workers change nothing.
    """

    def evaluation(self) -> Op | None:
        """Return the op that stands in its place where nothing is drawn; None for the values as they are."""
        ...

    def plan_lengths(self, lengths: Any, *, keys: Any) -> Any:
        """Return the length that each row will have, or an upper bound, from those of its input.

        ``keys`` of None asks for a bound over all draws: a document must fit a pack in every pass.
        """
        ...


class OpClass(Protocol):
    """The class of an op: its traits, and how to make one from parameters."""

    @property
    def traits(self) -> Traits:
        """What the planner must know."""
        ...

    def __call__(self, *args: Any, **params: Any) -> Op:
        """Return the op with ``params``."""
        ...


Catalogue: TypeAlias = Mapping[str, OpClass]
"""The table of ops: the class of each, by name."""


def parameters(op: Op) -> dict[str, Plain]:
    """Return the fields of ``op`` as plain data, spelled as the fields are declared: 1 in a ``float`` is 1.0.

    Raises:
        PlanError: A field holds something that has no canonical spelling, such as an object or NaN, or
            something else than it declares, such as 1.0 in an ``int``.
    """
    given: dict[str, Plain] = {}
    for field in dataclasses.fields(op):
        where = f"{op.traits.name}.{field.name}"
        value = canonical(getattr(op, field.name), where)
        declared = (
            field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
        )
        given[field.name] = _declared(value, declared, where)
    return given


def scalars(op: Op) -> tuple[object, ...] | None:
    """Return the fields of ``op`` with their exact types, or None where some field is no scalar.

    Ops of one class that give equal tuples have equal parameters. Equal ops may not: ``1 == 1.0 == True``.
    """
    values = [getattr(op, name) for name in op.__dataclass_fields__ if name != "traits"]
    types = [*map(type, values)]
    return (*types, *values) if _FLAT.issuperset(types) else None


def canonical(value: object, where: str) -> Plain:
    """Return ``value`` as plain data: sequences as tuples, mappings with sorted keys, enums as their values.

    What runs is made of the result, so equal results can be one key: -0.0 is 0.0, and 1 is not 1.0.

    Raises:
        PlanError: ``value`` holds something without a canonical spelling; ``where`` is named.
    """
    kind = type(value)  # exactly: a number of NumPy is a float to isinstance, and spelled otherwise
    if value is None or kind is bool or kind is int or (kind is str and _is_unicode(value)):
        return cast("Plain", value)
    if kind is float and math.isfinite(value := cast("float", value)):
        return value + 0.0
    if kind is not dict and isinstance(value, Enum):
        return canonical(value.value, where)
    if kind is not dict and isinstance(value, list | tuple):
        return tuple(
            item if _is_plain(item) else canonical(item, f"{where}[{i}]")
            for i, item in enumerate(value)
        )
    if kind is dict or isinstance(value, Mapping):
        named = cast("Mapping[Any, Any]", value)
        if all(map(_is_key, named)):
            return {
                key: item if _is_plain(item := named[key]) else canonical(item, f"{where}.{key}")
                for key in sorted(named)
            }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return canonical(fields, where)
    raise PlanError.of(
        "T0202",
        f"parameter {where} has no canonical form: {kind.__name__} {ascii(value)[:60]}",
        "parameters are numbers (finite), text, booleans, None, and lists or mappings of these",
    )


def _is_plain(value: object) -> bool:
    """Return whether ``value`` is obviously in its canonical form, as most are."""
    kind = type(value)
    return kind is int or kind is bool or value is None or (kind is str and str(value).isascii())


def _is_key(value: object) -> bool:
    return type(value) is str and _is_unicode(value)


def _is_unicode(text: object) -> bool:
    """Return whether a text can be written at all: half of a surrogate pair cannot."""
    return str(text).isascii() or not any("\ud800" <= c <= "\udfff" for c in str(text))


_FLAT: Final = frozenset((bool, int, float, str, type(None)))
_SCALARS: Final[Mapping[str, type]] = {"bool": bool, "int": int, "float": float, "str": str}
_MANY: Final = re.compile(r"(?:tuple|Sequence)\[(?P<item>[^\[\],]+)(?:, \.\.\.)?\]")
_MAX_EXACT: Final = 1 << 53  # integers up to here have an exact float


@cache
def _read_declared(declared: str) -> tuple[str, tuple[type | None, ...]]:
    """Return what a field declares of its items, if it holds many, and the scalars that it may be."""
    declared = declared.removesuffix(" | None")
    many = _MANY.fullmatch(declared)
    kinds = tuple(_SCALARS.get(name.strip()) for name in declared.split("|"))
    return many["item"] if many else "", kinds


def _declared(value: Plain, declared: str, where: str) -> Plain:
    """Return ``value`` as a field that declares scalars, or many of them, holds it; others hold anything."""
    item, kinds = _read_declared(declared)
    if item and isinstance(value, tuple):
        return tuple(_declared(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if value is None or None in kinds or type(value) in kinds:
        return value
    if type(value) is int and float in kinds and abs(value) <= _MAX_EXACT:
        return float(value)
    message = (
        f"parameter {where} is declared {declared}, got {type(value).__name__} {ascii(value)[:60]}"
    )
    raise PlanError.of("T0202", message, "1 and 1.0 would be two keys for one value")
