"""A view as a Mermaid flowchart, for README files: GitHub draws it where it stands.

Everything but letters, digits and a few harmless signs is written as an entity, so no text of a user can end
its quotes or begin a directive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..view_form import ChangeKind, Status, View
from .card import card_classes
from .lines import write_lines
from .pictures import first_picture
from .printable import printable
from .svg import edge_changes, edge_widths, make_labels

FOLD_ABOVE: Final = 60
"""A graph with more nodes is always folded: GitHub draws no more than a few hundred edges."""

_CLASSES: Final[Mapping[str, str]] = {
    "stored": "stroke:#2867b2,stroke-width:2px",
    Status.STALE: "stroke:#b84708,stroke-width:3px",
    Status.MISSING: "stroke:#a3262f,stroke-dasharray:6 4",
    Status.UNKNOWN: "stroke-dasharray:2 3",
    ChangeKind.ADDED: "stroke:#1c7c4b,stroke-width:3px",
    ChangeKind.REMOVED: "stroke:#a3262f,stroke-dasharray:6 4",
    ChangeKind.CHANGED: "stroke:#b84708,stroke-width:3px",
    ChangeKind.FOLLOWS: "stroke:#9a5b00,stroke-width:2px",
    ChangeKind.MOVED: "stroke:#1a66d6,stroke-dasharray:2 3",
}

_SAFE: Final = frozenset(" .,:/=*_()+-|→…\u00d7·")
_ARROWS: Final = {"added": "==>", "removed": "-.->"}
_THICK: Final = 3.5


def render_mermaid(view: View) -> str:
    """Return ``view`` as a Mermaid flowchart, folded if it has more than `FOLD_ABOVE` nodes."""
    picture = first_picture(view, is_folded=True if len(view["nodes"]) > FOLD_ABOVE else None)
    labels = make_labels(view, picture)
    widths, changes = edge_widths(labels), edge_changes(view, picture)
    notes = [view["title"], *view["remarks"]]
    lines = [*(f"%% {_escape(printable(note))}" for note in notes), "flowchart TB"]
    members: dict[str, list[int]] = {}
    for lane in view["lanes"]:
        stage = lane["stage"]
        about = _escape(f"{stage}: {lane['about']}")
        lines.append(f'  subgraph {stage}["{about}"]')
        for number, label in enumerate(labels):
            if view["nodes"][picture.boxes[number][0]]["stage"] == stage:
                text = "<br/>".join(map(_escape, write_lines(label)))
                lines.append(f'    b{number}["{text}"]')
                for name in [name for name in card_classes(label) if name in _CLASSES][-1:]:
                    members.setdefault(name, []).append(number)
        lines.append("  end")
    for maker, user in sorted(picture.edges):
        arrow = "==>" if widths[maker] > _THICK else "-->"
        arrow = _ARROWS.get(changes.get((maker, user), ""), arrow)
        lines.append(f"  b{maker} {arrow} b{user}")
    for name, numbers in members.items():
        lines.append(f"  classDef {name} {_CLASSES[name]}")
        lines.append(f"  class {','.join(f'b{number}' for number in numbers)} {name}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return "".join(c if c.isalnum() or c in _SAFE else f"#{ord(c)};" for c in text)
