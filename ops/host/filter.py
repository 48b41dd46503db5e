"""Filters: a boolean column that says which rows a task keeps.

A filter rewrites nothing; its column stands beside the others over the same rows. A missing value is
never kept, whatever is asked of it: who wants rows without a value says so in the source.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import Any, ClassVar, Final, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...graph.errors import OpError, PlanError, Problem, Site, Span, suggest
from ...graph.op import Plain, Traits, canonical
from ...graph.type import ANY, Port, Signature
from ..by_hand import takes_columns

COMPARISONS: Final[Mapping[str, Callable[[pa.Array, pa.Scalar], pa.Array]]] = MappingProxyType(
    {
        "==": pc.equal,
        "!=": pc.not_equal,
        "<": pc.less,
        "<=": pc.less_equal,
        ">": pc.greater,
        ">=": pc.greater_equal,
    }
)
OPERATORS: Final = (*COMPARISONS, "in", "is_true")

_EXAMPLES = """\
write one of: rating >= 0.5, lang == 'en', lang in ['en', 'de'], is_clean, not is_noisy
a column whose name has spaces stands between backticks"""

_COLUMN = r"(?:`(?P<quoted>[^`]+)`|(?P<plain>[^\W\d][\w.]*))"
_FLAG = re.compile(rf"(?P<negation>not\s+)?{_COLUMN}")
_COMPARISON = re.compile(rf"{_COLUMN}\s*(?P<operator>==|!=|<=|>=|<|>|\bin\b)\s*(?P<value>[^=\s].*)")
_WORDS = MappingProxyType({"true": True, "false": False})


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareValues:
    """Compare every value of a column with one constant.

    Attributes:
        operator: One of `OPERATORS`.
        value: The constant: a number, a text or a boolean; several of these for ``in``; None for
            ``is_true``.
    """

    operator: str
    value: Plain = None
    traits: ClassVar[Traits] = Traits("compare_values", version=1, accepts_null=True)

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            message = f'unknown operator "{self.operator}"'
            raise OpError.of("T0307", message, suggest(self.operator, OPERATORS))
        # Lists become tuples, so that the op can be hashed.
        object.__setattr__(self, "value", canonical(self.value, "compare_values.value"))
        wanted, is_fit = {
            "in": ("several numbers or texts", isinstance(self.value, tuple)),
            "is_true": ("nothing", self.value is None),
        }.get(
            self.operator, ("a number, text or boolean", isinstance(self.value, int | float | str))
        )
        if not is_fit:
            raise OpError.of("T0307", f"{self.operator} compares with {wanted}, got {self.value!r}")

    @property
    def signature(self) -> Signature:
        """Any value in, whether to keep its row out."""
        return Signature(inputs={"values": Port(ANY, ANY)}, outputs={"out": Port("keep", "bool")})

    @takes_columns
    def __call__(self, values: pa.Array) -> pa.Array:
        """Return whether each value passes; missing values never do.

        Raises:
            OpError: Values of this type cannot be compared with the constant.
        """
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_null(values.type):
            return pa.array(np.zeros(len(values), np.bool_))
        return pc.fill_null(self._compare(values), fill_value=False)

    def _compare(self, values: pa.Array) -> pa.Array:
        if self.operator == "is_true":
            if not pa.types.is_boolean(values.type):
                self._refuse(values.type)
            return values
        if self.operator == "in":
            assert isinstance(self.value, tuple), "checked when the op was made"
            none = pa.array(np.zeros(len(values), np.bool_))
            return reduce(pc.or_kleene, (self._apply("==", values, v) for v in self.value), none)
        return self._apply(self.operator, values, self.value)

    def _apply(self, operator: str, values: pa.Array, value: Plain) -> pa.Array:
        if _family(values.type) != _family_of(value):
            self._refuse(values.type)
        try:
            return COMPARISONS[operator](values, pa.scalar(value))
        except (pa.ArrowException, OverflowError):
            self._refuse(values.type)

    def _refuse(self, dtype: pa.DataType) -> NoReturn:
        said = self.operator if self.value is None else f"{self.operator} {self.value!r}"
        message = f'values of type {dtype} cannot be asked whether they are "{said}"'
        help_ = "compare numbers with numbers, text with text; only booleans are true by themselves"
        raise OpError.of("T0308", message, help_)


def parse_where(text: str) -> tuple[str, CompareValues]:
    """Return the column and the comparison that a condition such as ``rating >= 0.5`` asks for.

    Raises:
        PlanError: The condition is not understood; the part at fault is underlined.
    """
    if match := _FLAG.fullmatch(text.strip()):
        column = match["quoted"] or match["plain"]
        if match["negation"]:
            return column, CompareValues(operator="==", value=False)
        return column, CompareValues(operator="is_true")
    start = len(text) - len(text.lstrip())
    match = _COMPARISON.fullmatch(text.strip())
    if match is None:
        raise _not_understood(text, Span(start, max(start, len(text.rstrip()))))
    try:
        value = _parse_value(match["value"])
        op = CompareValues(operator=match["operator"], value=value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        span = Span(start + match.start("value"), start + match.end("value"))
        raise _not_understood(text, span) from None
    return match["quoted"] or match["plain"], op


def _parse_value(text: str) -> Plain:
    value: Any = _WORDS.get(text) if text in _WORDS else ast.literal_eval(text)
    return tuple(value) if isinstance(value, list) else value


def _not_understood(text: str, span: Span) -> PlanError:
    site = Site("where", text, span)
    return PlanError(Problem("T0210", "a condition is not understood", _EXAMPLES, (site,)))


def _family(dtype: pa.DataType) -> str:
    """Return what values of ``dtype`` may be compared with."""
    types = pa.types
    if types.is_boolean(dtype):
        return "boolean"
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype):
        return "number"
    is_text = types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype)
    return "text" if is_text else str(dtype)


def _family_of(value: Plain) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text"
