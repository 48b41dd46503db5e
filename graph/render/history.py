"""The history of a graph as text for a terminal: side by side where there is room, else one after another.

A line begins with what became of its node: ``-`` removed, ``+`` added, ``~`` the same work under another key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ..passes.history import History, LineView, PassView
from .printable import clip, pad, printable
from .quantity import count

WIDE: Final = 140
"""Columns of a terminal from which on before and after stand side by side."""

_MAX_LINES: Final = 20
_KEY: Final = 12


def write_history(history: History, *, width: int = 80, max_lines: int = _MAX_LINES) -> str:
    """Return ``history`` as text, without any control character but the line feed.

    Args:
        history: What became of the graph.
        width: Columns of the terminal.
        max_lines: Most lines that a pass takes for each kind of change; how many more there are is said.
    """
    passes = history["passes"]
    first, last = passes[0], passes[-1]
    title = printable(history["title"])
    lines = [f"{title}   {first['nodes']:,} nodes planned, {last['nodes']:,} left"]
    for each in passes:
        lines += ["", _summarize(each)]
        lines += [f"  skipped: {each['skipped']}"] if each["skipped"] else []
        lines += _columns(each, width, max_lines) if width >= WIDE else _unified(each, max_lines)
    lines += ["", *_write_cut(history, max_lines), "", *_write_segments(history, max_lines)]
    return "\n".join(printable(line).rstrip() for line in lines) + "\n"


def _summarize(each: PassView) -> str:
    changes = {kind: len(each[kind]) for kind in ("removed", "added", "renamed")}
    told = [f"{number:,} {kind}" for kind, number in changes.items() if number]
    return f"{each['name']:8} {count(each['nodes'], 'node')}   {', '.join(told)}"


def _unified(each: PassView, max_lines: int) -> Iterator[str]:
    for sign, kind in (("-", each["removed"]), ("+", each["added"])):
        yield from _limit([f"  {sign} {_tell(line)}" for line in kind], max_lines)
    yield from _limit([f"  ~ {before} -> {after}" for before, after in _renamed(each)], max_lines)


def _columns(each: PassView, width: int, max_lines: int) -> Iterator[str]:
    half = (width - 3) // 2
    added = {line["address"]: line for line in each["added"]}
    pairs = [(line, added.pop(line["address"], None)) for line in each["removed"]]
    rows = [("- " + _tell(old), "+ " + _tell(new) if new else "") for old, new in pairs]
    rows += [("", "+ " + _tell(new)) for new in added.values()]
    rows += [(f"~ {before}", f"~ {after}") for before, after in _renamed(each)]
    yield from _limit([_row(left, right, half) for left, right in rows], 2 * max_lines)


def _row(left: str, right: str, half: int) -> str:
    left, right = (clip(printable(text), half - 2) for text in (left, right))
    return f"  {pad(left, half - 2)} | {right}"


def _tell(line: LineView) -> str:
    return f"{line['address']}   {line['text']}"


def _renamed(each: PassView) -> Iterator[tuple[str, str]]:
    for one in each["renamed"]:
        yield f"{one['address']}   {one['before'][:_KEY]}", one["after"][:_KEY]


def _write_cut(history: History, max_lines: int) -> Iterator[str]:
    stages = ", ".join(f"{number:,} {stage}" for stage, number in history["stages"].items())
    yield f"{'cut':8} {stages}   {len(history['stored']):,} stored"
    stored = [f"  {one['address']}   {one['reason']}" for one in history["stored"]]
    yield from _limit(stored, max_lines)


def _write_segments(history: History, max_lines: int) -> Iterator[str]:
    yield f"{'segment':8} {count(len(history['segments']), 'segment')}"
    told = [
        f"  {one['rows']} in a {'process' if one['in_process'] else 'thread'}   {', '.join(one['nodes'])}"
        for one in history["segments"]
    ]
    yield from _limit(told, max_lines)


def _limit(lines: Sequence[str], max_lines: int) -> Sequence[str]:
    if len(lines) <= max_lines:
        return lines
    return [*lines[: max_lines - 1], f"    and {len(lines) - max_lines + 1:,} more"]
