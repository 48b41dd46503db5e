"""The JSON schema of a view, derived from the types in `graph.view`, so the two cannot drift."""

from __future__ import annotations

from enum import StrEnum
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from ..view_form import View

_NAMES: Final[dict[object, str]] = {
    bool: "boolean",
    dict: "object",
    float: "number",
    int: "integer",
    NoneType: "null",
    str: "string",
}


def view_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a `View`."""
    definitions: dict[str, Any] = {}
    reference = _schema(View, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "taskloom view",
        **reference,
        "$defs": definitions,
    }


def _schema(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one annotation; those of TypedDicts are added to ``definitions``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _schema(arguments[0], definitions) | {"description": arguments[1]}
    if origin is UnionType:
        return {"anyOf": [_schema(arm, definitions) for arm in arguments]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if is_typeddict(annotation):
        return _define(annotation, definitions)
    if words := _words(annotation):
        return {"enum": words}
    return {"type": _NAMES[origin or annotation]}


def _words(annotation: Any) -> list[str]:
    """Return the words that alone are allowed, none where any text is."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return [member.value for member in annotation]
    return []


def _define(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    name = annotation.__name__
    if name not in definitions:
        hints = get_type_hints(annotation, include_extras=True)
        definitions[name] = {
            "type": "object",
            "description": annotation.__doc__,
            "properties": {key: _schema(hint, definitions) for key, hint in hints.items()},
            "required": list(hints),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}
