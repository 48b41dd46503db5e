"""A box in a few lines of text, for renderers that lay text out themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..view_form import ChangeKind
from .label import Label
from .printable import clip
from .quantity import write_bytes, write_rows, write_seconds, write_share

_MAX_LINE: Final = 44


def write_lines(label: Label) -> list[str]:
    """Return what is said of a box, line by line; nothing is escaped but what is not printable."""
    return [clip(line, _MAX_LINE) for line in _write(label)]


def _write(label: Label) -> Iterator[str]:
    yield label.address + (f" (x{label.num_members:,})" if label.num_members > 1 else "")
    yield " ".join([label.op, *(() if label.facts else label.params)])
    yield from label.facts
    yield label.type
    if figures := label.figures:
        yield f"{write_seconds(figures.seconds)}, {write_share(figures.share)} of its lane"
        rejects = f", {figures.rejects:,} rejected" if figures.rejects else ""
        rows = write_rows(figures.rows_in, figures.rows_out)
        yield f"{rows} rows{rejects}, {write_bytes(figures.bytes)}"
    words = ["stored"] if label.stored else []
    words += [
        f"{number:,} {word}" if len(label.states) > 1 else word
        for word, number in label.states.items()
    ]
    words += [kind for kind in label.changes if kind != ChangeKind.SAME]
    words += [f"parameters {label.scope}"] if label.scope else []
    if words:
        yield ", ".join(words)
