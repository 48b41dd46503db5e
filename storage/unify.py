"""Types that unite others: what a column is when its parts were read, or written, in different types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

is_type = pa.types


def plain_type(type_: pa.DataType) -> pa.DataType:
    """Return ``type_`` without the forms that matter to its file only: views, dictionaries, large offsets."""
    if is_type.is_dictionary(type_):
        return plain_type(type_.value_type)
    if is_type.is_large_string(type_) or is_type.is_string_view(type_):
        return pa.string()
    if is_type.is_large_binary(type_) or is_type.is_binary_view(type_):
        return pa.binary()
    if is_type.is_list(type_) or is_type.is_large_list(type_):
        return pa.list_(plain_type(type_.value_type))
    if is_type.is_struct(type_):
        return pa.struct([(f.name, plain_type(f.type)) for f in _fields(type_)])
    return type_


def unify_types(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both, or nothing if there is none worth having.

    Numbers unite to the wider, whole numbers and floats to float; truth values are no numbers.
    """
    if one.equals(other) or is_type.is_null(other):
        return one
    if is_type.is_null(one):
        return other
    if _is_number(one) and _is_number(other):
        wide = np.promote_types(one.to_pandas_dtype(), other.to_pandas_dtype())
        return pa.from_numpy_dtype(wide)
    if is_type.is_list(one) and is_type.is_list(other):
        item = unify_types(one.value_type, other.value_type)
        return None if item is None else pa.list_(item)
    if is_type.is_struct(one) and is_type.is_struct(other):
        return _unify_structs(one, other)
    return None


def cast_array(array: Any, type_: pa.DataType) -> Any:
    """Return ``array`` in ``type_``, which `plain_type` or `unify_types` gave.

    Raises:
        pa.ArrowException: A value does not fit.
    """
    if array.type.equals(type_):
        return array
    if is_type.is_null(array.type):
        return pa.nulls(len(array), type_)
    if is_type.is_struct(type_):
        return _cast_struct(array, type_)
    if is_type.is_list(type_) and _holds_struct(type_):
        return _cast_list(array, type_)
    return pc.cast(array, type_)


def map_items(array: Any, convert: Callable[[Any], Any]) -> Any:
    """Return a list array whose items are what ``convert`` makes of those of ``array``, in order."""
    if is_type.is_fixed_size_list(array.type):
        array = pc.cast(array, pa.list_(array.type.value_type))
    lengths = pc.fill_null(pc.call_function("list_value_length", [array]), 0)
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(lengths.to_numpy(zero_copy_only=False), out=offsets[1:])
    mask = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), convert(array.flatten()), mask=mask)


def map_struct(array: Any, convert: Callable[[str, Any], Any]) -> Any:
    """Return a struct array whose fields are what ``convert`` makes of their names and those of ``array``."""
    names = [field.name for field in _fields(array.type)]
    children = [convert(name, array.field(name)) for name in names]
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(children, names=names, mask=mask)


def _is_number(type_: pa.DataType) -> bool:
    return is_type.is_integer(type_) or is_type.is_floating(type_)


def _fields(type_: Any) -> list[pa.Field]:
    return [type_.field(i) for i in range(type_.num_fields)]


def _unify_structs(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = {field.name: field.type for field in _fields(one)}
    for field in _fields(other):
        united = unify_types(types.get(field.name, pa.null()), field.type)
        if united is None:
            return None
        types[field.name] = united
    return pa.struct(list(types.items()))


def _holds_struct(type_: Any) -> bool:
    item = type_.value_type
    return is_type.is_struct(item) or (is_type.is_list(item) and _holds_struct(item))


def _each_chunk(cast: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(array: Any, type_: Any) -> Any:
        if isinstance(array, pa.ChunkedArray):
            return pa.chunked_array([cast(chunk, type_) for chunk in array.chunks], type_)
        return cast(array, type_)

    return apply


@_each_chunk
def _cast_struct(array: Any, type_: Any) -> Any:
    names = {field.name for field in _fields(array.type)}
    children = [
        cast_array(array.field(field.name), field.type)
        if field.name in names
        else pa.nulls(len(array), field.type)
        for field in _fields(type_)
    ]
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(children, fields=_fields(type_), mask=mask)


@_each_chunk
def _cast_list(array: Any, type_: Any) -> Any:
    return map_items(array, lambda items: cast_array(items, type_.value_type))
