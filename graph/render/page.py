"""One HTML page that shows a planned graph: no network, one file, opened from wherever it lies.

The pictures are drawn here; the script only pans, searches and selects. Its policy (CSP) lets the page
run this one script, known by its digest, and load nothing: words of users that slipped through
escaping could still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from ..view_form import ChangeKind, View
from .mark import draw_mark
from .pictures import pictures
from .printable import printable
from .svg import draw

_STYLES: Final = ("palette.css", "page.css", "picture.css", "canvas.css")
_SCRIPTS: Final = ("model.js", "panel.js", "figures.js", "canvas.js", "open.js", "page.js")


def render_page(view: View) -> str:
    """Return ``view`` as an HTML page."""
    style = "".join(map(_read, _STYLES))
    script = "(() => {\n'use strict';\n" + "".join(map(_read, _SCRIPTS)) + "})();\n"
    return Template(_read("page.html")).substitute(
        title=escape(printable(view["title"])),
        summary=escape(_summarize(view)),
        digest=escape(printable(view["digest"])),
        pictures="\n".join(draw(view, picture, name) for name, picture in pictures(view).items()),
        legend=_draw_legend(view),
        # Where a script stands, HTML ends at "</script", and "<!--" changes what ends it.
        view=json.dumps(view).replace("<", "\\u003c"),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
    )


def _has_columns(view: View) -> bool:
    return any(o["stored"] is not None for node in view["nodes"] for o in node["outputs"])


def _summarize(view: View) -> str:
    columns = sum(o["stored"] is not None for node in view["nodes"] for o in node["outputs"])
    facts = {
        "instruction": len(view["instructions"]),
        "node": len(view["nodes"]),
        "stored column": columns,
        "segment": len(view["segments"]),
    }
    return " · ".join(f"{n:,} {noun}{'' if n == 1 else 's'}" for noun, n in facts.items() if n)


def _draw_legend(view: View) -> str:
    words = {"stored": "a column of the store"} if _has_columns(view) else {}
    words |= {str(s["status"]): str(s["status"]) for n in view["nodes"] if (s := n["state"])}
    if any(m["rejects"] for node in view["nodes"] if (m := node["measure"])):
        words["rejects"] = "rows rejected"
    changes = {str(c["kind"]) for node in view["nodes"] if (c := node["change"])}
    words |= {kind.value: _CHANGES[kind] for kind in ChangeKind if kind in changes}
    entries = [_draw_entry(draw_mark(word), text) for word, text in words.items()]
    if any(node["measure"] for node in view["nodes"]):
        entries += [_draw_entry(shape, text, "swatch", 26) for shape, text in _FIGURES.items()]
    return "\n".join(entries)


def _draw_entry(shape: str, text: str, name: str = "sign", width: int = 12) -> str:
    return (
        f'<span class="entry"><svg class="{name}" viewBox="0 0 {width} 12" width="{width}" height="12"'
        f' aria-hidden="true">{shape}</svg>{text}</span>'
    )


_CHANGES: Final[Mapping[ChangeKind, str]] = {
    ChangeKind.ADDED: "added",
    ChangeKind.REMOVED: "removed",
    ChangeKind.CHANGED: "changed",
    ChangeKind.FOLLOWS: "follows a change",
    ChangeKind.MOVED: "moved only",
    ChangeKind.SAME: "as it was",
}

_FIGURES: Final[Mapping[str, str]] = {
    '<rect class="track" y="3" width="26" height="5" rx="2.5"/>'
    '<rect class="heat" y="3" width="17" height="5" rx="2.5"/>': "part of the lane's time",
    '<path stroke-width="1.4" d="M0 6H8"/><path stroke-width="6" d="M10 6H26"/>': "few bytes, many bytes",
}


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")
