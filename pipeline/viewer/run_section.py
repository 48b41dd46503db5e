"""What sections of a run's page share: their frame, their legends, and words that are escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ...graph.render.printable import printable


def section(title: str, note: str, body: str) -> str:
    """Return a section of the page."""
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{body}</section>'


def legend(names: Mapping[str, str]) -> str:
    """Return what marks stand for: the class of each, by what it means."""
    entries = "".join(
        f'<span><i class="key {kind}"></i>{text_of(name)}</span>' for name, kind in names.items()
    )
    return f'<div class="legend">{entries}</div>'


def text_of(text: str) -> str:
    """Return ``text`` as HTML: nothing in it is markup, and all of it is visible."""
    return escape(printable(text))
