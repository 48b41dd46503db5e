"""Bad rows: which rows of one call cannot be computed, and why.

A call computes many rows at once, so it may find many bad ones at once. It names all of them by
*offset*, their position in the arrays of that call; the caller, who knows where the arrays came
from, turns offsets into row ids and adds the name of the column.

`Problem.column` of a bad row describes the value alone, such as ``11 bytes, starts b'notajpeg'``:
an op never learns what its column is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import pyarrow as pa

from ..graph.errors import Problem, RowError, Site

MAX_SHOWN = 40
"""Characters of a text or number that a description quotes."""


class RowErrors(RowError):  # noqa: N818 - one error, many rows
    """Some rows of a call cannot be computed.

    Attributes:
        reasons: What is wrong with each bad row, by offset in the arrays of the call.
    """

    def __init__(self, reasons: Mapping[int, Problem]) -> None:
        ordered = {offset: reasons[offset] for offset in sorted(reasons)}
        super().__init__(*ordered.values())
        # Pickle rebuilds an error as cls(*args).
        self.args = (ordered,)
        self.reasons: Mapping[int, Problem] = ordered

    @classmethod
    def of(cls, code: str, message: str, help: str = "") -> Self:  # noqa: A002 - the word users see
        """Return the error for a call whose first row alone is bad."""
        return cls({0: Problem(code, message, help)})

    def __str__(self) -> str:
        rows = self.reasons.items()
        return "\n".join(str(replace(p, row=p.row or f"{i} of the call")) for i, p in rows)

    def at(self, **place: str | tuple[Site, ...]) -> Self:
        """Return the same error with places filled in where empty."""
        placed = RowError(*self.reasons.values()).at(**place)
        return type(self)(dict(zip(self.reasons, placed.problems, strict=True)))


def bad_row(code: str, message: str, value: object, help: str = "") -> Problem:  # noqa: A002
    """Return the problem of one bad row, with a description of ``value`` in place of its column."""
    return Problem(code, message, help, column=describe_value(value))


def describe_value(value: Any) -> str:
    """Return a few words that let a person recognise ``value``, however large it is.

    Bytes show their number and the first eight; long texts their length and beginning; numbers and
    short texts show themselves.
    """
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    if isinstance(value, bytes):
        return f"{len(value):,} bytes" + (f", starts {value[:8]!r}" if value else "")
    if isinstance(value, str) and len(value) > MAX_SHOWN:
        return f"{len(value):,} characters, starts {value[:24]!r}"
    if isinstance(value, str | bool | int | float) or value is None:
        return repr(value)[:MAX_SHOWN]
    return f"a {type(value).__name__}"
