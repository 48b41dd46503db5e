"""A picture that stands alone: one SVG file with its own style, for light and dark, and no script.

Colours are written out, since few programs but browsers know variables in style sheets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Final

from ..view_form import View
from .pictures import first_picture
from .printable import printable
from .svg import draw

_VARIABLE: Final = re.compile(r"--([\w-]+):\s*([^;]+);")


def render_svg(view: View) -> str:
    """Return ``view`` as an SVG file, folded where that is easier to read."""
    picture = draw(view, first_picture(view))
    head, _, body = picture.partition(">")
    width, height = re.findall(r"\d+", head.partition('viewBox="0 0 ')[2])[:2]
    title = escape(printable(view["title"]))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'{head} width="{width}" height="{height}"><title>{title}</title>\n'
        f"<style>{_write_style()}</style>\n"
        f'<rect class="ground" width="{width}" height="{height}"/>{body}\n'
    )


def _write_style() -> str:
    palette, rules = _read("palette.css"), _read("picture.css")
    rules += ".ground { fill: var(--ground); }\n.mark { stroke-linejoin: round; }\n"
    light, _, dark = palette.partition("@media")
    colours = dict(_VARIABLE.findall(light))
    night = _resolve(rules, colours | dict(_VARIABLE.findall(dark)))
    return f"\n{_resolve(rules, colours)}@media (prefers-color-scheme: dark) {{\n{night}}}\n"


def _resolve(rules: str, colours: Mapping[str, str]) -> str:
    return re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], rules)


def _read(name: str) -> str:
    return files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")
