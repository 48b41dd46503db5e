"""One HTML page that shows a planned graph: no network, one file, opened from wherever it lies.

The pictures are drawn here; the script only pans, searches and selects. Its policy (CSP) lets the page
run this one script, known by its digest, and load nothing: words of users that slipped through
escaping could still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from ..view_form import View
from .fold import MAX_BOXES, Picture, fold, is_large, unfold
from .printable import printable
from .svg import draw, draw_mark

_STYLES: Final = ("page.css", "picture.css")
_SCRIPTS: Final = ("model.js", "panel.js", "canvas.js", "page.js")


def render_page(view: View) -> str:
    """Return ``view`` as an HTML page."""
    style = "".join(map(_read, _STYLES))
    script = "(() => {\n'use strict';\n" + "".join(map(_read, _SCRIPTS)) + "})();\n"
    return Template(_read("page.html")).substitute(
        title=escape(printable(view["title"])),
        summary=escape(_summarize(view)),
        digest=view["digest"],
        pictures="\n".join(draw(view, picture, name) for name, picture in _pictures(view).items()),
        legend=_draw_legend(view),
        # Where a script stands, HTML ends at "</script", and "<!--" changes what ends it.
        view=json.dumps(view).replace("<", "\\u003c"),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
    )


def _pictures(view: View) -> dict[str, Picture]:
    """Return the pictures by name, the one to begin with first."""
    folded = fold(view)
    if len(view["nodes"]) > MAX_BOXES:
        return {"folded": folded}
    full = unfold(view)
    if len(folded.boxes) == len(full.boxes):
        return {"full": full}
    pictures = {"folded": folded, "full": full}
    return pictures if is_large(view) else dict(reversed(pictures.items()))


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
    words = {"stored": "a column of the store"} if _summarize(view).count("stored") else {}
    states = dict.fromkeys(s["status"] for node in view["nodes"] if (s := node["state"]))
    words |= {state.value: state.value for state in states}
    return "\n".join(
        f'<span class="entry"><svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">'
        f"{draw_mark(word)}</svg>{text}</span>"
        for word, text in words.items()
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")
