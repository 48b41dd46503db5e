"""A picture as SVG: boxes, edges and lanes, with classes that the page's style sheet gives colours to.

Everything that a view holds passes `printable` and `escape` on its way here. Boxes and edges carry the
numbers of the nodes and boxes they stand for, which is all that the page's script knows of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Final

from ..view_form import Status, View
from .fold import Picture
from .label import Label, make_label
from .layout import BOX_WIDTH, Band, Layout, Point, lay_out
from .printable import clip, clip_middle, measure

_HEIGHT: Final = 66
_FOOT_HEIGHT: Final = 24
_INDENT: Final = 16
_INNER_WIDTH: Final = BOX_WIDTH - 2 * _INDENT
_LARGE_PX: Final = 7.6  # advance of a character of an address, 12.5 px in any monospaced font
_SMALL_PX: Final = 6.7  # the same at 11 px
_BADGE_PX: Final = 6.4

MARKS: Final[Mapping[str, str]] = {
    Status.CACHED: '<circle cx="6" cy="6" r="4.5"/>',
    Status.STALE: '<path d="M6 1 11.2 10.5H.8Z"/>',
    Status.MISSING: '<rect x="1.7" y="1.7" width="8.6" height="8.6" rx="1"/>',
    Status.UNKNOWN: '<path d="M6 .8 11.2 6 6 11.2 .8 6Z"/>',
    "stored": '<path d="M1.5 3v6c0 2.4 9 2.4 9 0V3M1.5 3c0 2.4 9 2.4 9 0S1.5.6 1.5 3Z"/>',
}
"""The shape of each mark, 12 px square, filled or not by its class."""


def draw(view: View, picture: Picture, name: str) -> str:
    """Return ``picture`` as an SVG element with the id ``name``."""
    labels = [make_label(view, box) for box in picture.boxes]
    stages = [view["nodes"][box[0]]["stage"] for box in picture.boxes]
    order = {lane["stage"]: number for number, lane in enumerate(view["lanes"])}
    heights = [_HEIGHT + (_FOOT_HEIGHT if _has_foot(label) else 0) for label in labels]
    layout = lay_out(heights, [order[stage] for stage in stages], picture.edges)
    lines = [
        f'<svg class="picture" id="{name}" xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 {layout.width:.0f} {layout.height:.0f}" role="group"'
        f' aria-label="graph, {len(picture.boxes)} boxes">',
        *(_draw_band(view, number, band) for number, band in layout.bands.items()),
        '<g class="edges">',
        *(_draw_edge(layout, edge, route) for edge, route in layout.routes.items()),
        "</g>",
        *(_draw_head(view, number, band) for number, band in layout.bands.items()),
    ]
    for label, box, stage, height, corner in zip(
        labels, picture.boxes, stages, heights, layout.corners, strict=True
    ):
        classes = " ".join(["box", stage, *(["stored"] if label.stored else []), *label.states])
        members = " ".join(map(str, box))
        lines.append(
            f'<g class="{classes}" data-members="{members}" role="button" tabindex="-1"'
            f' transform="translate({corner.x:.1f} {corner.y:.1f})">'
        )
        lines += _draw_box(label, len(box), height)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>"])


def draw_mark(word: str, x: float = 0, y: float = 0) -> str:
    """Return the mark of a state or of a stored column, its corner at ``x`` and ``y``."""
    return f'<g class="mark {word}" transform="translate({x:g} {y:g})">{MARKS[word]}</g>'


def _draw_band(view: View, number: int, band: Band) -> str:
    stage = view["lanes"][number]["stage"]
    # Wider than any window, so that panning shows no end of it.
    return (
        f'<rect class="band {stage}" x="-100000" width="400000"'
        f' y="{band.top:.1f}" height="{band.bottom - band.top:.1f}"/>'
    )


def _draw_head(view: View, number: int, band: Band) -> str:
    lane = view["lanes"][number]
    nodes = [node for node in view["nodes"] if node["stage"] == lane["stage"]]
    columns = sum(output["stored"] is not None for node in nodes for output in node["outputs"])
    about = f"{lane['about']} · {len(nodes):,} node{'s' if len(nodes) > 1 else ''}"
    if columns:
        about += f", {columns:,} stored column{'s' if columns > 1 else ''}"
    return (
        f'<g class="head {lane["stage"]}" transform="translate(0 {band.top:.1f})">'
        f'<text x="24" y="30"><tspan class="name">{lane["stage"]}</tspan>'
        f'<tspan class="about" dx="12">{escape(about)}</tspan></text></g>'
    )


def _draw_edge(layout: Layout, edge: tuple[int, int], route: Sequence[Point]) -> str:
    steps = [f"M{route[0].x:.1f} {route[0].y:.1f}"]
    for number, (here, there) in enumerate(pairwise(route)):
        if number % 2 == 0:
            steps.append(f"V{there.y:.1f}")
        else:
            bow = (there.y - here.y) * 0.55
            steps.append(
                f"C{here.x:.1f} {here.y + bow:.1f} {there.x:.1f} {there.y - bow:.1f}"
                f" {there.x:.1f} {there.y:.1f}"
            )
    maker, user = edge
    # Edges meet boxes vertically, so an arrow is two strokes, drawn with the edge itself.
    is_down = layout.corners[maker].y < layout.corners[user].y
    x, y = route[-1] if is_down else route[0]
    tail = y - 6 if is_down else y + 6
    steps.append(f"M{x - 4:.1f} {tail:.1f}L{x:.1f} {y:.1f} {x + 4:.1f} {tail:.1f}")
    return f'<path class="edge" data-ends="{maker} {user}" d="{"".join(steps)}"/>'


def _has_foot(label: Label) -> bool:
    return bool(label.stored or label.states or label.scope)


def _draw_box(label: Label, num_members: int, height: int) -> Iterator[str]:
    facts = [label.address, label.op, *(["stored"] if label.stored else []), *label.states]
    many = f"{num_members:,} nodes: " if num_members > 1 else ""
    yield f"<title>{escape(many + ', '.join(facts))}</title>"
    for behind in (8, 4) if num_members > 1 else ():
        yield f'<rect class="behind" x="{behind}" y="{behind}" {_size(height)}/>'
    yield f'<rect class="card" {_size(height)}/>'
    yield f'<rect class="lane" x="0" y="10" width="4" height="{height - 20}" rx="2"/>'
    badge = f"\u00d7{num_members:,}" if num_members > 1 else ""
    if len(label.tasks) > 1:
        badge = f"{len(label.tasks):,} tasks"
    used = yield from _draw_badge(badge)
    way, leaf = _split(clip_middle(label.address, int((_INNER_WIDTH - used) / _LARGE_PX)))
    yield (
        f'<text class="address" x="{_INDENT}" y="23"><tspan class="way">{escape(way)}</tspan>'
        f"{escape(leaf)}</text>"
    )
    width = int(_INNER_WIDTH / _SMALL_PX)
    params = clip(" ".join(label.params), max(width - measure(label.op) - 1, 1))
    yield (
        f'<text class="op" x="{_INDENT}" y="41">{escape(label.op)}'
        f'<tspan class="params" dx="6">{escape(params)}</tspan></text>'
    )
    yield f'<text class="type" x="{_INDENT}" y="57">{escape(clip(label.type, width))}</text>'
    if _has_foot(label):
        yield from _draw_foot(label)


def _draw_badge(badge: str) -> Iterator[str]:
    """Draw ``badge`` in the upper right corner and return the width that it takes."""
    if not badge:
        return 0.0
    width = _BADGE_PX * len(badge) + 12
    x = BOX_WIDTH - width - 10
    yield f'<rect class="badge" x="{x:.1f}" y="10" width="{width:.1f}" height="18" rx="9"/>'
    yield f'<text class="badge" x="{x + width / 2:.1f}" y="22.7">{badge}</text>'
    return width


def _draw_foot(label: Label) -> Iterator[str]:
    yield f'<path class="rule" d="M{_INDENT} {_HEIGHT + 0.5}H{BOX_WIDTH - _INDENT}"/>'
    y = _HEIGHT + 6
    if label.stored:
        yield draw_mark("stored", _INDENT, y)
        yield f'<text class="foot" x="{_INDENT + 17}" y="{y + 10}">stored</text>'
    elif label.scope:
        scope = clip(f"θ {label.scope}", int(_INNER_WIDTH / _SMALL_PX))
        yield f'<text class="foot" x="{_INDENT}" y="{y + 10}">{escape(scope)}</text>'
    x = BOX_WIDTH - _INDENT
    is_many = sum(label.states.values()) > 1
    # What needs attention stands first, at the right end.
    for status in [s for s in reversed(Status) if s in label.states][:2]:
        text = f"{label.states[status]:,} {status}" if is_many else status.value
        x -= measure(text) * _BADGE_PX
        yield f'<text class="foot {status}" x="{x:.1f}" y="{y + 10}">{text}</text>'
        yield draw_mark(status, x - 16, y)
        x -= 26


def _split(address: str) -> tuple[str, str]:
    """Return ``address`` as the way to its last step, and that step."""
    cut = address.rfind("/") + 1 or address.rfind(".") + 1
    return address[:cut], address[cut:]


def _size(height: int) -> str:
    return f'width="{BOX_WIDTH:g}" height="{height}" rx="9"'
