"""Types of edges: what a value is, how it lies in memory, where, and for which rows.

A *kind* says what the numbers mean: a modality (``image``), an id block (``text``), ``any`` for what a source
holds before a recipe has looked at it. A *row set* names the rows an edge carries: the rows of a source
(``digits``), the items that a node made of them (``digits*5c1f0a77b3d2``), the rows of a device batch
(``pack``), or none at all for a constant.

Why row sets: without them a side that was filtered or expanded alone joins its other side without complaint,
and pairs the wrong rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from .errors import Problem, TypeMismatchError

ANY = "any"
CONSTANT_ROWS = ""

_EXPANDED = "*"


class Layout(StrEnum):
    """How the values of many rows lie in memory."""

    SCALAR = "scalar"
    RAGGED = "ragged"
    DENSE = "dense"
    PACKED = "packed"
    CONST = "const"
    ANY = "any"  # on ports only


class Place(StrEnum):
    """Which side of the machine computes."""

    HOST = "host"
    DEVICE = "device"


def expand_rows(rows: str, key: str) -> str:
    """Return the row set of the items that the node of plan key ``key`` makes of ``rows``."""
    return f"{rows}{_EXPANDED}{key[:12]}"


def parent_rows(rows: str) -> str:
    """Return the row set that the items ``rows`` were made of; ``rows`` itself if it is nobody's items."""
    return rows.rpartition(_EXPANDED)[0] or rows


def source_of(rows: str) -> str:
    """Return the name of the source that ``rows`` come from, however often they were expanded."""
    return rows.partition(_EXPANDED)[0]


@dataclass(frozen=True, slots=True)
class Type:
    """The type of one edge.

    Attributes:
        kind: Modality or id block in lower case.
        dtype: Arrow or NumPy name of the element type, such as ``"uint8"`` or ``"string"``.
        shape: Shape of one row's value; a string is a named dimension whose size varies by row.
        layout: How rows lie in memory.
        place: Host or device.
        rows: Row set; empty for a constant.
    """

    kind: str
    dtype: str
    shape: tuple[int | str, ...] = ()
    layout: Layout = Layout.SCALAR
    place: Place = Place.HOST
    rows: str = CONSTANT_ROWS

    def __str__(self) -> str:
        axes = ",".join(map(str, self.shape))
        rows = f"/{self.rows}" if self.rows else ""
        return f"{self.kind}<{self.dtype}[{axes}] {self.layout}>@{self.place}{rows}"

    @property
    def row_bytes(self) -> int | None:
        """Bytes of one row of a dense type, None for others."""
        sizes = [axis for axis in self.shape if isinstance(axis, int)]
        if self.layout is not Layout.DENSE or len(sizes) != len(self.shape):
            return None
        bits = "".join(c for c in self.dtype if c.isdecimal())
        return math.prod(sizes) * (int(bits) // 8 if bits else 1)

    @classmethod
    def parse(cls, text: str) -> Type:
        """Return the type that ``str`` wrote as ``text``."""
        match = _TYPE.fullmatch(text)
        if match is None:
            raise TypeMismatchError.of("T0208", f'"{text}" is not a type')
        axes = [axis for axis in match["shape"].split(",") if axis]
        shape = tuple(int(axis) if axis.isdecimal() else axis for axis in axes)
        return cls(
            match["kind"],
            match["dtype"],
            shape,
            Layout(match["layout"]),
            Place(match["place"]),
            match["rows"] or CONSTANT_ROWS,
        )


@dataclass(frozen=True, slots=True)
class Port:
    """What an op accepts or gives on one of its edges: a type without place and rows.

    ``any`` as kind or dtype accepts every one, on an input. A string in ``shape`` is a named dimension: all
    uses of a name in one signature stand for one size. A port of kind ``any`` takes any shape.
    """

    kind: str
    dtype: str
    shape: tuple[int | str, ...] = ()
    layout: Layout = Layout.SCALAR
    is_optional: bool = False

    def __str__(self) -> str:
        return f"{self.kind}<{self.dtype}[{','.join(map(str, self.shape))}] {self.layout}>"


@dataclass(frozen=True, slots=True)
class Signature:
    """The ports of an op, by name, in the order of its call.

    Attributes:
        inputs: One port per argument.
        outputs: One port per result; the usual single result is called ``out``.
        variadic: Port of every further input, for ops that take any number of them.
    """

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    variadic: Port | None = None


def unify(port: Port, given: Type, place: Place, sizes: dict[str, int | str]) -> str:
    """Return why ``given`` does not fit ``port`` of an op at ``place``, or an empty text.

    Named dimensions are bound in ``sizes``. A constant fits wherever a scalar, ragged or dense value of its
    kind and dtype does: it is the same for every row. Packed values cross from host to device; nothing else
    does, and nothing comes back.
    """
    wrong: list[str] = []
    if port.kind not in (ANY, given.kind):
        wrong.append("kind")
    if port.dtype not in (ANY, given.dtype):
        wrong.append("dtype")
    if given.layout is not Layout.CONST and port.layout not in (Layout.ANY, given.layout):
        wrong.append("layout")
    if len(port.shape) == len(given.shape):
        pairs = zip(port.shape, given.shape, strict=True)
        wrong += [f"dimension {want}" for want, got in pairs if not _fits(want, got, sizes)]
    elif port.kind != ANY:
        wrong.append("number of dimensions")
    crosses = place is Place.DEVICE and given.layout is Layout.PACKED
    if given.place is not place and not crosses:
        wrong.append("place")
    return ", ".join(wrong)


def mismatch(what: str, want: Port, got: Type, place: Place, wrong: str) -> TypeMismatchError:
    """Return the error for an edge into an op at ``place`` whose ends differ in ``wrong``."""
    message = f"{what}: {wrong} {'differ' if ', ' in wrong else 'differs'}"
    expected = f"expected: {want}@{place}\ngot:      {got}"
    return TypeMismatchError(Problem("T0201", message, help=expected))


def _fits(want: int | str, got: int | str, sizes: dict[str, int | str]) -> bool:
    return got == (want if isinstance(want, int) else sizes.setdefault(want, got))


_TYPE = re.compile(
    r"(?P<kind>\w+)<(?P<dtype>.*?)\[(?P<shape>[\w,]*)\] (?P<layout>\w+)>@(?P<place>\w+)"
    r"(?:/(?P<rows>.+))?",
    re.DOTALL,
)
