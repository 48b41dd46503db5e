"""Calls by hand: lists become columns, and a column of another type is refused in words.

In a build both ends of every edge are checked when it is planned. Whoever calls an op in a session has no plan;
this check costs a call, which has thousands of rows, a few microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa

from ..graph.errors import OpError
from ..graph.type import ANY, Layout, Port

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


def takes_columns(call: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Return the ``__call__`` of a host op, with its columns checked against the ports of its signature.

    Lists, NumPy arrays and chunked arrays become Arrow arrays of the port's type. Ports of any type take any,
    constants such as artifacts pass.

    Raises:
        OpError: What is given is no column, or one of another type.
    """
    inner: Any = call

    @wraps(call)
    def checked(op: S, *args: P.args, **kwargs: P.kwargs) -> R:
        named: Any = op
        name, ports = named.traits.name, named.signature.inputs
        columns = [
            _as_column(name, port, ports[port], values)
            for port, values in zip(ports, args, strict=False)
        ]
        rest: Any = {
            port: _as_column(name, port, ports[port], values) if port in ports else values
            for port, values in kwargs.items()
        }
        given: Any = (*columns, *args[len(columns) :])
        return inner(op, *given, **rest)

    return checked


def arrow_type(port: Port) -> pa.DataType | None:
    """Return the Arrow type that a port promises, None if it leaves that open."""
    if port.dtype in (ANY, "struct", "artifact"):
        return None
    if port.layout is Layout.DENSE:
        return pa.fixed_shape_tensor(pa.type_for_alias(port.dtype), port.shape)
    if port.layout is Layout.RAGGED and len(port.shape) > 1:
        sizes = pa.list_(pa.int32(), len(port.shape))
        return pa.struct([("data", pa.large_binary()), ("shape", sizes)])
    element = pa.type_for_alias(port.dtype)
    return pa.list_(element) if port.layout is Layout.RAGGED else element


def _as_column(op: str, name: str, port: Port, values: Any) -> Any:
    if port.layout is Layout.CONST:
        return values
    wanted = arrow_type(port)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    elif isinstance(values, list | tuple | np.ndarray):
        values = _make_column(op, name, port, values)
    if not isinstance(values, pa.Array):
        raise _refuse(op, name, port, f"a {type(values).__name__} that is no column")
    if wanted is not None and _plain(values.type) != _plain(wanted):
        raise _refuse(op, name, port, f"a column of {values.type}")
    return values


def _make_column(op: str, name: str, port: Port, values: Any) -> pa.Array:
    wanted = arrow_type(port)
    is_tensor = isinstance(wanted, pa.BaseExtensionType)
    storage: Any = wanted.storage_type if is_tensor and wanted is not None else wanted
    try:
        made = pa.array(values, storage)
    except (pa.ArrowException, TypeError, ValueError):
        of = "" if wanted is None else f" of {wanted}"
        raise _refuse(op, name, port, f"a list that is no column{of}") from None
    return made if not is_tensor else pa.ExtensionArray.from_storage(wanted, made)


def _plain(dtype: pa.DataType) -> Any:
    """Return ``dtype`` without what makes no difference to an op: how offsets are counted, names of items."""
    types = pa.types
    if types.is_list(dtype) or types.is_large_list(dtype):
        return ("list", _plain(dtype.value_type))
    if types.is_large_string(dtype) or types.is_string(dtype):
        return "string"
    return dtype


def _refuse(op: str, name: str, port: Port, got: str) -> OpError:
    wanted = arrow_type(port)
    is_named = wanted is not None and not pa.types.is_nested(wanted)
    example = f"; such as pa.array([...], pa.{wanted}())" if is_named else ""
    help_ = f"{port} is wanted{example}\ntaskloom ops show {op}"
    return OpError.of("T0314", f'{op} cannot read "{name}": {got}', help_)
