"""Marks: the shapes that tell states and changes apart where colours cannot be seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..view_form import ChangeKind, Status

MARKS: Final[Mapping[str, str]] = {
    Status.CACHED: '<circle cx="6" cy="6" r="4.5"/>',
    Status.STALE: '<path d="M6 1 11.2 10.5H.8Z"/>',
    Status.MISSING: '<rect x="1.7" y="1.7" width="8.6" height="8.6" rx="1"/>',
    Status.UNKNOWN: '<path d="M6 .8 11.2 6 6 11.2 .8 6Z"/>',
    "stored": '<path d="M1.5 3v6c0 2.4 9 2.4 9 0V3M1.5 3c0 2.4 9 2.4 9 0S1.5.6 1.5 3Z"/>',
    "rejects": '<path d="M2 2 10 10M10 2 2 10"/>',
    ChangeKind.ADDED: '<path d="M6 1v10M1 6h10"/>',
    ChangeKind.REMOVED: '<path d="M1 6h10"/>',
    ChangeKind.CHANGED: '<path d="M1 7.5C2.5 2.5 4.5 3 6 6s3.5 3.5 5-1.5"/>',
    ChangeKind.FOLLOWS: '<path d="M6 .8v10M2 7l4 4 4-4"/>',
    ChangeKind.MOVED: '<path d="M.8 6h10M7 2l4 4-4 4"/>',
    ChangeKind.SAME: '<path d="M1.5 4h9M1.5 8h9"/>',
}
"""The shape of each mark, 12 px square, filled or not by its class."""


def draw_mark(word: str, x: float = 0, y: float = 0) -> str:
    """Return the mark of a state, a change or a stored column, its corner at ``x`` and ``y``."""
    return f'<g class="mark {word}" transform="translate({x:g} {y:g})">{MARKS[word]}</g>'
