"""Digests of the code of ops: what it says, not how it is written.

The digest of an op is that of its class and of everything of its package that the class reaches: helpers,
classes and constants, those that they reach in turn, and through imports those of other modules. Comments,
docstrings, annotations and formatting do not count; decorators and defaults do. Nothing is run.

A *package* is the part of a module's name up to the first dot, and ``taskloom.ops`` for taskloom's own. What an
op reaches beyond it, such as a library or `taskloom.graph`, has versions of its own.

``ast.dump`` spells one tree differently from Python to Python, so trees are written down here: a node is its
class and those of its fields that are not empty, without the few that only some versions have, and text in an
f-string is one piece. Python 3.11, 3.12 and 3.13 agree; a test holds the digest of a module that uses what they
differ in.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

OURS: Final = "taskloom.ops"
DIGEST_BYTES: Final = 16

# What says nothing of a computation: use and place of a name, annotations, spellings of a literal.
_SILENT: Final = frozenset(
    {"ctx", "annotation", "returns", "type_comment", "type_params", "kind", "simple"}
)


def digest_class(module: str, name: str) -> str:
    """Return the digest of class ``name`` of ``module`` and all that it reaches in its package.

    Raises:
        OSError: A source file cannot be read.
        SyntaxError: It is no Python.
    """
    sources = _Sources(_package_of(module))
    written = sorted(_write(node) for node in sources.reach(module, name))
    return hashlib.blake2b("\n".join(written).encode(), digest_size=DIGEST_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class _Module:
    """What a module binds at its top level.

    Attributes:
        definitions: The statements that define each name.
        imports: Module, and name in it, that each imported name stands for; an empty name is the module.
    """

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict[str, list[ast.stmt]])
    imports: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


@dataclass(slots=True)
class _Sources:
    """The modules of one package, read as they are needed."""

    package: str
    modules: dict[str, _Module] = field(default_factory=dict[str, _Module])

    def reach(self, module: str, name: str) -> list[ast.stmt]:
        """Return the statements that define ``name`` of ``module``, and all that they reach."""
        found: dict[tuple[str, str], list[ast.stmt]] = {}
        waiting = [(module, name)]
        while waiting:
            place = waiting.pop()
            if place in found:
                continue
            known = self._read(place[0])
            found[place] = known.definitions.get(place[1], [])
            if place[1] in known.imports:
                waiting += self._imported(known.imports[place[1]], [])
            for statement in found[place]:
                waiting += self._used(place[0], statement)
        return [statement for statements in found.values() for statement in statements]

    def _used(self, module: str, statement: ast.stmt) -> Iterator[tuple[str, str]]:
        """Yield the names of the package that ``statement`` mentions, wherever they are defined."""
        known = self._read(module)
        for node in _walk(statement):
            if isinstance(node, ast.Name):
                if node.id in known.definitions:
                    yield module, node.id
                elif node.id in known.imports:
                    yield from self._imported(known.imports[node.id], [])
            elif isinstance(node, ast.Attribute):
                head, *path = _dotted(node)
                if head in known.imports:
                    yield from self._imported(known.imports[head], path)

    def _imported(self, target: tuple[str, str], path: list[str]) -> Iterator[tuple[str, str]]:
        """Yield the definition that an import, and attributes of what it imports, lead to."""
        module, name = target
        names = [*([name] if name else []), *path]
        while names and self._is_module(f"{module}.{names[0]}"):
            module = f"{module}.{names.pop(0)}"
        if names and self._is_module(module):
            yield module, names[0]

    def _is_module(self, module: str) -> bool:
        if module != self.package and not module.startswith(f"{self.package}."):
            return False
        return module in self.modules or _find(module) is not None

    def _read(self, module: str) -> _Module:
        if module not in self.modules:
            path = _find(module)
            assert path is not None, "asked for only where it is found"
            tree = ast.parse(path.read_text("utf-8"))
            is_package = path.name == "__init__.py"
            self.modules[module] = _list_names(tree.body, module, is_package=is_package)
        return self.modules[module]


def _package_of(module: str) -> str:
    return OURS if module.startswith(f"{OURS}.") else module.partition(".")[0]


def _find(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    has_source = spec is not None and spec.origin is not None and spec.origin.endswith(".py")
    return Path(spec.origin) if has_source and spec and spec.origin else None


def _list_names(body: Iterable[ast.stmt], module: str, *, is_package: bool) -> _Module:
    names = _Module()
    for statement in _flatten(body):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                whole = (alias.name if alias.asname else alias.name.partition(".")[0], "")
                names.imports[alias.asname or whole[0]] = whole
        elif isinstance(statement, ast.ImportFrom):
            origin = _absolute(statement, module, is_package=is_package)
            for alias in statement.names:
                names.imports[alias.asname or alias.name] = (origin, alias.name)
        else:
            for name in _bound(statement):
                names.definitions.setdefault(name, []).append(statement)
    return names


def _flatten(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those under a condition among them."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for name in ("body", "orelse", "handlers", "finalbody"):
                for inner in getattr(statement, name, []):
                    yield from _flatten(
                        inner.body if isinstance(inner, ast.ExceptHandler) else [inner]
                    )
        else:
            yield statement


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets: list[ast.expr] = getattr(statement, "targets", []) or [
        target for target in [getattr(statement, "target", None)] if target is not None
    ]
    return [
        node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)
    ]


def _absolute(statement: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.split(".")
    kept = len(parts) - statement.level + is_package
    return ".".join([*parts[:kept], *([statement.module] if statement.module else [])])


def _dotted(node: ast.expr) -> list[str]:
    """Return ``["a", "b"]`` of ``a.b``; a head of another kind is an empty text."""
    if isinstance(node, ast.Attribute):
        return [*_dotted(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def _walk(node: Any) -> Iterator[ast.AST]:
    """Yield ``node`` and all below it but annotations, in which names may stand that nothing runs."""
    if isinstance(node, list):
        for one in node:
            yield from _walk(one)
    elif isinstance(node, ast.AST):
        yield node
        for name, value in ast.iter_fields(node):
            if name not in _SILENT:
                yield from _walk(value)


def _without_docstring(node: ast.AST, body: Any) -> Any:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or not body:
        return body
    match body[0]:
        case ast.Expr(value=ast.Constant(value=str())):
            return body[1:]
        case _:
            return body


def _write(node: Any) -> str:
    """Return one spelling of a tree, the same in every version of Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_write, node))}]"
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__}:{node!r}"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr({','.join(_write_pieces(node))})"
    fields = [
        f"{name}={_write(_without_docstring(node, value) if name == 'body' else value)}"
        for name, value in ast.iter_fields(node)
        if name not in _SILENT and value not in (None, []) and not _is_empty_spec(value)
    ]
    if isinstance(node, ast.Constant):
        fields = [_write(node.value)]
    return f"{type(node).__name__}({','.join(fields)})"


def _write_pieces(node: ast.JoinedStr) -> Iterator[str]:
    """Yield the parts of an f-string, neighbouring text as one."""
    text = ""
    for value in node.values:
        if isinstance(value, ast.Constant):
            text += str(value.value)
            continue
        if text:
            yield repr(text)
        text = ""
        yield _write(value)
    if text:
        yield repr(text)


def _is_empty_spec(value: Any) -> bool:
    return isinstance(value, ast.JoinedStr) and not value.values
