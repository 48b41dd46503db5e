"""Settings of a search as words of the command line: ``beams=5``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from ...graph.errors import ProjectError, suggest
from ...ops.device.decode.search import Search


def set_keys(search: Search, words: Sequence[str]) -> Search:
    """Return ``search`` with each ``KEY=VALUE`` of ``words``; values are those of a project file.

    Raises:
        ProjectError: A word has no ``=``, or its key is none of a search.
        PlanError: The settings make no sense.
    """
    kinds = {field.name: str(field.type) for field in fields(search)}
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in kinds:
            help_ = suggest(key, kinds) if equals else "write it as KEY=VALUE, such as beams=5"
            raise ProjectError.of("T0806", f'--decode has no "{word}"', help_)
        given[key] = _parse(value, kinds[key])
    return replace(search, **given)


def _parse(value: str, kind: str) -> Any:
    """Return the value of a setting; as it is if it is none of its kind, for the search to refuse."""
    if kind == "str":
        return value
    if kind == "bool":
        return {"true": True, "false": False}.get(value, value)
    try:
        return float(value) if kind == "float" else int(value)
    except ValueError:
        return value
