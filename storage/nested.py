"""Nested data as two things that nobody has to trust: tensors by name, and JSON that says where they stand.

Dicts, lists and tuples of tensors, numbers, texts, booleans and None come back as they were, keys that are
numbers included. A tensor goes by its path, such as ``optimizer/state/0/exp_avg``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..graph.errors import CheckpointError

_PLAIN = (bool, int, float, str)


def split_nested(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return ``value`` as JSON, and its tensors by their paths.

    Raises:
        CheckpointError: A part of it is something else (T0706).
    """
    tensors: dict[str, Tensor] = {}
    return _split(value, "", tensors), tensors


def join_nested(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `split_nested` made ``plain`` and ``tensors`` of.

    Raises:
        ValueError: It is none of those.
        KeyError: A tensor is missing.
    """
    match plain:
        case {"dict": pairs}:
            return {key: join_nested(item, tensors) for key, item in pairs}
        case {"list": items}:
            return [join_nested(item, tensors) for item in items]
        case {"tuple": items}:
            return tuple(join_nested(item, tensors) for item in items)
        case {"tensor": path}:
            return tensors[path]
        case bool() | int() | float() | str() | None:
            return plain
        case _:
            message = f"a {type(plain).__name__} is no part of nested data"
            raise ValueError(message)


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if type(value) in (dict, OrderedDict):
        # As pairs: JSON would turn keys that are numbers into texts.
        pairs = [[key, _split(item, _join(path, key), tensors)] for key, item in value.items()]
        return {"dict": pairs}
    if type(value) in (list, tuple):
        items = [_split(item, _join(path, n), tensors) for n, item in enumerate(value)]
        return {type(value).__name__: items}
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if value is not None and type(value) not in _PLAIN:
        message = f"{path or 'it'} is a {type(value).__name__}, which a checkpoint cannot keep"
        raise CheckpointError.of("T0706", message, "turn it into tensors, numbers and texts")
    return value


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


__all__ = ["join_nested", "split_nested"]
