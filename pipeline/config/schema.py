"""The JSON schema of project files, from the models that read them and the table of modalities.

An editor that knows it completes keys and attributes, says what each is for, and underlines what the file would
be refused for. What depends on more than one key is only told when the file is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ...graph.attribute import Attribute, AttributeType
from ...graph.modality import MODALITIES, Modality
from .sections import Sections

_TYPES: Final[Mapping[AttributeType, str]] = {
    bool: "boolean",
    float: "number",
    int: "integer",
    str: "string",
}


def project_schema(modalities: Mapping[str, Modality] = MODALITIES) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a project file.

    Args:
        modalities: What slots may hold, and their attributes.
    """
    schema = _without_titles(Sections.model_json_schema())
    schema["properties"]["slots"] |= {
        "properties": {name: _modality(one) for name, one in modalities.items()},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "taskloom project",
        **schema,
    }


def describe_keys(schema: Mapping[str, Any], definition: str = "") -> dict[str, str]:
    """Return what each key of a project file says, those of one of its sections if ``definition`` names it."""
    section = schema["$defs"][definition] if definition else schema
    return {key: one.get("description", "") for key, one in section["properties"].items()}


def _modality(modality: Modality) -> dict[str, Any]:
    return {
        "type": "object",
        "description": modality.doc,
        "properties": {name: _attribute(one) for name, one in modality.attributes.items()},
        "additionalProperties": False,
    }


def _attribute(spec: Attribute) -> dict[str, Any]:
    side = f" Of {spec.side} slots only." if spec.side else ""
    least, most = (
        ("exclusiveMinimum", "exclusiveMaximum") if spec.is_open else ("minimum", "maximum")
    )
    facts = {
        least: spec.low,
        most: spec.high,
        "enum": list(spec.choices) or None,
        "default": spec.default,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return {"type": _TYPES[spec.type], "description": f"{spec.doc}{side}", **known}


def _without_titles(schema: Any) -> Any:
    """Return ``schema`` without the titles that pydantic makes of names; editors would show them as news."""
    if isinstance(schema, list):
        return [_without_titles(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    is_title = isinstance(schema.get("title"), str)
    return {k: _without_titles(v) for k, v in schema.items() if not (k == "title" and is_title)}
