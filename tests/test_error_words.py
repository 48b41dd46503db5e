"""Messages of errors keep to a few rules, wherever they are written.

They are read out of the code: every call whose first argument is a code has the message, or a name that was
given it, in second place. What only running code can know stands as ``{…}``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("graph", "ops", "storage", "pipeline")
CODE = re.compile(r"T0[1-9]\d\d")


class Message(NamedTuple):
    """One message, with where it is written."""

    place: str
    text: str


NAMED = "artifact|block|column|field|mixture|named|op|output|port|setting|slot|source|task|tasks"
RULES = {
    "begins with a capital": re.compile(r"(?!\w+Error: )[A-Z][a-z]"),  # an error's own name may
    "ends with a full stop": re.compile(r".*[.!…]\Z", re.DOTALL),
    "says no more than that something is wrong": re.compile(
        r".*\b(invalid|illegal|failed|failure|bad (value|input|argument)|an? error)\b",
        re.IGNORECASE,
    ),
    "has a line break": re.compile(r".*\n"),
    "quotes with something else than double quotes": re.compile(
        r".*(`|'\{|\{\w*name!r\}|\{key!r\})"
    ),
    # A path-like {source}/{key} and a number need no quotes.
    "names without quotes": re.compile(rf".*\b({NAMED}) \{{(?!number)[^}}]*\}}(?!/)"),
}


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    """Every message of the four rooms, and each one that is not found, as an empty text."""
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return [m for p in paths for m in find_messages(p.read_text("utf-8"), str(p.relative_to(ROOT)))]


def find_messages(code: str, name: str) -> Iterator[Message]:
    tree = ast.parse(code)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and len(call.args) > 1 and _is_code(call.args[0]):
            around = [f for f in functions if f.lineno <= call.lineno <= (f.end_lineno or 0)]
            inner = max(around, key=lambda function: function.lineno, default=tree)
            for text in _texts(call.args[1], inner) or [""]:
                yield Message(f"{name}:{call.lineno}", text)


def _is_code(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and bool(CODE.fullmatch(str(node.value)))


def _texts(node: ast.expr, function: ast.AST) -> list[str]:
    """Return all that ``node`` may say; nothing if only running code knows."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(map(_part, node.values))]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, function) + _texts(node.orelse, function)
    if isinstance(node, ast.BinOp):
        after = _texts(node.right, function) or ["{…}"]
        return [a + b for a in _texts(node.left, function) or ["{…}"] for b in after]
    if isinstance(node, ast.Name):
        return [text for value in _given(node.id, function) for text in _texts(value, function)]
    return []


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}{'!r' if node.conversion == ord('r') else ''}}}"
    return str(node.value) if isinstance(node, ast.Constant) else "{…}"


def _given(name: str, function: ast.AST) -> Iterator[ast.expr]:
    """Yield what ``name`` is given in ``function``, alone or along with others."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield node.value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=False)
                yield from (v for t, v in pairs if isinstance(t, ast.Name) and t.id == name)


def test_almost_every_message_is_found(messages: list[Message]) -> None:
    found = [message for message in messages if message.text]
    assert len(found) > 0.95 * len(messages) > 200


@pytest.mark.parametrize("rule", RULES)
def test_no_message(rule: str, messages: list[Message]) -> None:
    found = [message for message in messages if RULES[rule].match(message.text)]
    assert not found, "\n".join(f"{place}: {text}" for place, text in found)


def test_no_message_that_a_page_shows_breaks_a_rule() -> None:
    for path in (ROOT / "docs" / "errors").glob("T*.md"):
        shown = re.findall(r"error\[T\d+\]: (.*)$", path.read_text("utf-8"), re.MULTILINE)
        for text in (text.replace("...", "{}") for text in shown):  # what differs each time
            assert not [rule for rule, pattern in RULES.items() if pattern.match(text)], text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Unknown modality", "begins with a capital"),
        ("unknown modality.", "ends with a full stop"),
        ("invalid box", "says no more than that something is wrong"),
        ("one thing\nand another", "has a line break"),
        ("unknown modality '{name}'", "quotes with something else than double quotes"),
        ("the source has no column {column}", "names without quotes"),
    ],
)
def test_a_message_that_breaks_a_rule_is_found(text: str, rule: str) -> None:
    for code in (f'E.of("T0103", f{text!r})', f'm, h = f{text!r}, ""\nE(P("T0103", m, h))'):
        (message,) = find_messages(code, "a.py")
        assert [name for name, pattern in RULES.items() if pattern.match(message.text)] == [rule]
