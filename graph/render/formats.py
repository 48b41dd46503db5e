"""The files that a view can be written as, by the ending of their name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from ..explain import explain
from ..view_form import View
from .dot import render_dot
from .mermaid import render_mermaid
from .page import render_page
from .picture_file import render_svg


def render_json(view: View) -> str:
    """Return ``view`` as JSON, which `read_view` reads."""
    return json.dumps(view, indent=1, allow_nan=False) + "\n"


FORMATS: Final[Mapping[str, Callable[[View], str]]] = {
    ".html": render_page,
    ".svg": render_svg,
    ".dot": render_dot,
    ".mmd": render_mermaid,
    ".json": render_json,
    ".txt": explain,
}
"""Page, picture, Graphviz, Mermaid, data and text: each a function of the view and of nothing else."""
