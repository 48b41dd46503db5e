"""Groups: the lists of a row item by item, and items back in the rows that they were made of.

The executor lays items and rows out: an op that expands gives one list for each row, an op that groups is given
one. In between, ops work on items as they work on rows.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...graph.errors import OpError, Problem
from ...graph.op import Plain, Rows, Traits
from ...graph.type import ANY, Layout, Port, Signature
from ..by_hand import takes_columns
from ..errors import RowErrors

ITEMS: Final = Port("items", "struct")


@dataclass(frozen=True, slots=True)
class UnnestLists:
    """Go through the lists of a row together: the first of each, then the second of each, and so on."""

    traits: ClassVar[Traits] = Traits("unnest_lists", version=1, rows=Rows.EXPAND)

    @property
    def signature(self) -> Signature:
        """Lists of one length in each row in, a struct for each place in them out."""
        return Signature(inputs={}, outputs={"out": ITEMS}, variadic=Port(ANY, ANY))

    def __call__(self, **lists: pa.Array) -> pa.Array:
        """Return a list of structs for each row; field ``0`` holds the item of the first list.

        Raises:
            OpError: A column holds no lists.
            RowErrors: The lists of a row differ in length.
        """
        columns = [_as_list(array) for array in lists.values()]
        lengths = [np.asarray(pc.list_value_length(column), np.int64) for column in columns]
        differs = np.logical_or.reduce([each != lengths[0] for each in lengths])
        if differs.any():
            bad = np.flatnonzero(differs).tolist()
            raise RowErrors({row: _unequal([int(each[row]) for each in lengths]) for row in bad})
        offsets = np.concatenate([[0], np.cumsum(lengths[0])])
        names = [str(number) for number in range(len(columns))]
        items = pa.StructArray.from_arrays([column.flatten() for column in columns], names)
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), items)


@dataclass(frozen=True, slots=True, kw_only=True)
class PickItems:
    """Pick what one of the lists had at each place.

    Attributes:
        number: Which list, from 0.
        dtype: Arrow's name of the items' type; ``"any"`` where it is not known.
    """

    number: int
    dtype: str = ANY
    traits: ClassVar[Traits] = Traits("pick_items", version=1)

    @property
    def signature(self) -> Signature:
        """Structs in, one of their fields out."""
        return Signature(inputs={"items": ITEMS}, outputs={"out": Port(ANY, self.dtype)})

    @takes_columns
    def __call__(self, items: pa.Array) -> pa.Array:
        """Return field ``number`` of ``items``."""
        return items.field(self.number)


@dataclass(frozen=True, slots=True)
class RepeatValues:
    """Give each item what the row has that it was made of."""

    traits: ClassVar[Traits] = Traits(
        "repeat_values", version=1, rows=Rows.REPEAT, accepts_null=True
    )

    @property
    def signature(self) -> Signature:
        """A value of each row, and the items, in; the value for each item out."""
        inputs = {"values": Port("split", "uint8"), "items": ITEMS}
        return Signature(inputs=inputs, outputs={"out": Port("split", "uint8")})

    @takes_columns
    def __call__(self, values: pa.Array, items: pa.Array) -> pa.Array:
        """Return ``values``, which the executor has repeated for each of ``items``."""
        assert len(values) == len(items), "values are repeated before they come here"
        return values


@dataclass(frozen=True, slots=True)
class CountItems:
    """Count the items of each row: the map by which they find back."""

    traits: ClassVar[Traits] = Traits("count_items", version=1, rows=Rows.GROUP)

    @property
    def signature(self) -> Signature:
        """The items in, their number for each row out."""
        return Signature(inputs={"items": ITEMS}, outputs={"out": Port("count", "uint32")})

    @takes_columns
    def __call__(self, items: pa.Array) -> pa.Array:
        """Return the length of each list of ``items``."""
        return pc.list_value_length(items).cast(pa.uint32())


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupItems:
    """Join the parts of each item, and the items of each row one after another.

    The loader does it, from stored columns; this class says what goes in and what comes out.

    Attributes:
        items: What an item is made of, in the form of a side of `ComposeDocuments`.
    """

    items: tuple[Mapping[str, Plain], ...]
    traits: ClassVar[Traits] = Traits("group_items", version=1, rows=Rows.GROUP, is_online=True)

    @property
    def signature(self) -> Signature:
        """The number of each row's items and the parts of these in, the ids and tensors of each row out."""
        return Signature(
            inputs={"count": Port("count", "uint32", is_optional=True)},
            outputs={"out": Port("group", "int32", ("T",), Layout.RAGGED)},
            variadic=Port(ANY, ANY, (), Layout.ANY),
        )


def _as_list(array: pa.Array) -> pa.Array:
    types = pa.types
    if types.is_list(array.type) or types.is_large_list(array.type):
        return array
    if types.is_fixed_size_list(array.type):
        return array.cast(pa.list_(array.type.value_type))
    if types.is_null(array.type):
        return array.cast(pa.list_(pa.null()))
    message = f"a group repeats over lists, and the column holds {array.type}"
    raise OpError.of("T0308", message, "give each row a list, or write the slot outside the group")


def _unequal(lengths: list[int]) -> Problem:
    told = " and ".join(f"{length:,}" for length in lengths)
    message = f"the lists of a group hold {told} items"
    return Problem("T0330", message, "give each list one item for every item of the others")
