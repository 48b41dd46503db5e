"""YAML read strictly: each key once, numbers and words as YAML 1.2 has them, the line of every value.

PyYAML follows YAML 1.1, where ``on`` is a boolean, ``1e-3`` a text, ``010`` eight and ``2024-01-01`` a date,
and where the second of two equal keys silently wins. None of that holds here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import yaml

from ...graph.errors import Problem, ProjectError

Location: TypeAlias = tuple[str, ...]
"""The keys, and positions in lists, that lead to a value."""

_TAGS: Final[Mapping[str, tuple[str, str]]] = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
"""Plain words that are no text, by tag: the pattern of the word, and what it may begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlFile:
    """What a YAML file holds, and where.

    Attributes:
        path: The file.
        content: Its keys and values.
        lines: The line of every value, counted from 1.
        repeated: Where a key is given for another time, with its line.
    """

    path: Path
    content: Mapping[str, Any]
    lines: Mapping[Location, int]
    repeated: tuple[tuple[Location, int], ...]

    def place(self, location: Iterable[object] = ()) -> str:
        """Return file, line and key of ``location``, for the beginning of a message."""
        keys = tuple(map(str, location))
        known = next((keys[:i] for i in range(len(keys), 0, -1) if keys[:i] in self.lines), ())
        file = f"{self.path}:{self.lines[known]}" if known else str(self.path)
        return f"{file}: {'.'.join(keys)}" if keys else file


def read_yaml(path: Path) -> YamlFile:
    """Read a file of one mapping.

    Raises:
        ProjectError: There is no such file, it cannot be read, or it is not YAML or holds no keys.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ProjectError.of("T0801", f"there is no project file {path}") from None
    except UnicodeDecodeError:
        raise ProjectError.of("T0801", f"{path} is not text in UTF-8") from None
    except OSError as error:
        raise ProjectError.of("T0801", f"cannot read {path}: {error.strerror}") from None
    walk = _Walk()
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        walk.visit(root, ())  # now: constructing joins merged mappings to the nodes
        content: object = None if root is None else loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ProjectError(_not_yaml(error, path)) from None
    except RecursionError:
        raise ProjectError.of("T0802", f"{path} is nested too deeply") from None
    if not isinstance(content, dict):
        help_ = "it begins with keys such as store:, out: and tasks:"
        raise ProjectError.of("T0802", f"{path} holds no keys", help_)
    return YamlFile(path=path, content=content, lines=walk.lines, repeated=tuple(walk.repeated))


class _Loader(yaml.SafeLoader):
    # PyYAML's own table is that of YAML 1.1.
    yaml_implicit_resolvers: ClassVar[Any] = {}


for _name, (_pattern, _first) in _TAGS.items():
    _tag = f"tag:yaml.org,2002:{_name}"
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})$"), list(_first))
_Loader.yaml_implicit_resolvers[""] = _Loader.yaml_implicit_resolvers.pop("\0")
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


class _Walk:
    """The lines of all values, gathered from the nodes of a file."""

    def __init__(self) -> None:
        self.lines: dict[Location, int] = {}
        self.repeated: list[tuple[Location, int]] = []
        self._above: set[int] = set()

    def visit(self, node: Any, location: Location) -> None:
        """Note the places of everything in ``node``, which stands at ``location``."""
        if id(node) in self._above:
            return  # an alias to what it stands in
        self._above.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self._enter(value, (*location, str(key.value)), key.start_mark.line + 1)
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                self._enter(value, (*location, str(position)), value.start_mark.line + 1)
        self._above.discard(id(node))

    def _enter(self, value: Any, location: Location, line: int) -> None:
        if location in self.lines:
            self.repeated.append((location, line))
        self.lines.setdefault(location, line)
        self.visit(value, location)


def _not_yaml(error: yaml.YAMLError, path: Path) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line, column = error.problem_mark.line + 1, error.problem_mark.column + 1
        context = error.context or ""
        if context and error.context_mark is not None:
            context += f" that begins in line {error.context_mark.line + 1}"
        return Problem("T0802", f"{path}:{line}:{column}: {error.problem}", context)
    return Problem("T0802", f"{path} is not YAML: {str(error).splitlines()[0]}")
