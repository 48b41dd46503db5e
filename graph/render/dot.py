"""A view as DOT, the language of Graphviz: lanes are clusters, states and changes are styles and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..view_form import ChangeKind, Status, View
from .card import card_classes
from .label import Label
from .lines import write_lines
from .pictures import first_picture
from .printable import printable
from .svg import edge_changes, edge_widths, make_labels

_STYLES: Final[Mapping[str, str]] = {
    "stored": 'color="#2867b2" penwidth=1.6',
    Status.STALE: 'color="#b84708" penwidth=2.6',
    Status.MISSING: 'color="#a3262f" style="rounded,filled,dashed"',
    Status.UNKNOWN: 'style="rounded,filled,dotted"',
    ChangeKind.ADDED: 'color="#1c7c4b" penwidth=2.6',
    ChangeKind.REMOVED: 'color="#a3262f" style="rounded,filled,dashed"',
    ChangeKind.CHANGED: 'color="#b84708" penwidth=2.6',
    ChangeKind.FOLLOWS: 'color="#9a5b00" penwidth=1.8',
    ChangeKind.MOVED: 'color="#1a66d6" style="rounded,filled,dotted"',
}

_TINTS: Final[Mapping[str, str]] = {
    "offline": "#eef4fb",
    "online": "#fcf5e8",
    "device": "#f5f1fc",
}

_HEAD: Final = """\
  rankdir=TB
  newrank=true
  fontname="Helvetica"
  fontsize=14
  labeljust=l
  node [shape=box style="rounded,filled" fillcolor=white color="#8f9298" fontname="Courier" fontsize=10]
  edge [color="#8f9298" arrowsize=0.7]"""


def render_dot(view: View) -> str:
    """Return ``view`` as a DOT graph, folded where that is easier to read."""
    picture = first_picture(view)
    labels = make_labels(view, picture)
    widths, changes = edge_widths(labels), edge_changes(view, picture)
    lines = [
        f"digraph {_quote(view['title'])} {{",
        f"  label={_quote_lines([view['title'], *view['remarks']])}",
        _HEAD,
    ]
    for lane in view["lanes"]:
        stage, tint = lane["stage"], _TINTS[lane["stage"]]
        about = _quote(f"{stage}: {lane['about']}")
        lines.append(f"  subgraph cluster_{stage} {{")
        lines.append(f'    label={about} style=filled fillcolor="{tint}" color="{tint}"')
        lines += [
            f"    b{number} [{_describe(label)}]"
            for number, label in enumerate(labels)
            if view["nodes"][picture.boxes[number][0]]["stage"] == stage
        ]
        lines.append("  }")
    for maker, user in sorted(picture.edges):
        style = f" [penwidth={widths[maker]:.1f}{_edge_style(changes.get((maker, user), ''))}]"
        lines.append(f"  b{maker} -> b{user}{style}")
    return "\n".join([*lines, "}"]) + "\n"


def _describe(label: Label) -> str:
    text = "".join(_escape(line) + "\\l" for line in write_lines(label))
    # Of several classes the last counts: changes outdo states, states outdo stored.
    styles = [_STYLES[name] for name in card_classes(label) if name in _STYLES]
    return " ".join([f'label="{text}"', *styles[-1:]])


def _edge_style(change: str) -> str:
    return {"added": ' color="#1c7c4b"', "removed": ' color="#a3262f" style=dashed'}.get(change, "")


def _quote(text: str) -> str:
    return f'"{_escape(printable(text))}"'


def _quote_lines(texts: Sequence[str]) -> str:
    return '"' + "\\l".join(_escape(printable(text)) for text in texts) + '\\l"'


def _escape(text: str) -> str:
    # In labels, Graphviz reads \N, \G and others as names, and &lt; as a character.
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
