"""A picture as SVG: boxes, edges and lanes, with classes that a style sheet gives colours to.

Everything that a view holds passes `printable` and `escape` on its way here. Boxes and edges carry the
numbers of the nodes and boxes they stand for, which is all that the page's script knows of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Final

from ..view_form import View
from .card import card_classes, card_height, draw_card, is_folded
from .figures import Figures, lane_measures
from .fold import Box, Picture
from .label import Label, make_label
from .layout import Band, Layout, Point, lay_out
from .quantity import count, write_seconds

_THIN_PX: Final = 1.4
_THICK_PX: Final = 6.0


def draw(view: View, picture: Picture, name: str = "") -> str:
    """Return ``picture`` as an SVG element; with a ``name``, its id, it can be used by the page's script."""
    labels = make_labels(view, picture)
    stages = [view["nodes"][box[0]]["stage"] for box in picture.boxes]
    order = {lane["stage"]: number for number, lane in enumerate(view["lanes"])}
    heights = [card_height(label) for label in labels]
    layout = lay_out(heights, [order[stage] for stage in stages], picture.edges)
    widths, changes = edge_widths(labels), edge_changes(view, picture)
    identity = f' id="{name}"' if name else ""
    lines = [
        f'<svg class="picture"{identity} xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 {layout.width:.0f} {layout.height:.0f}" role="{"group" if name else "img"}"'
        f' aria-label="graph, {len(picture.boxes)} boxes">',
        *(_draw_band(view, number, band) for number, band in layout.bands.items()),
        '<g class="edges">',
        *(
            _draw_edge(layout, edge, route, widths[edge[0]], changes.get(edge, ""))
            for edge, route in layout.routes.items()
        ),
        "</g>",
        *(_draw_head(view, number, band) for number, band in layout.bands.items()),
    ]
    for number, label in enumerate(labels):
        classes = " ".join(["box", stages[number], *card_classes(label)])
        corner = layout.corners[number]
        place = f'class="{classes}" transform="translate({corner.x:.1f} {corner.y:.1f})"'
        use = _make_usable(label, picture.boxes[number], layout.feet[number]) if name else ""
        lines += [f"<g {place}{use}>", *draw_card(label), "</g>"]
    return "\n".join([*lines, "</svg>"])


def make_labels(view: View, picture: Picture) -> list[Label]:
    """Return the label of every box of ``picture``."""
    return [make_label(view, picture, box) for box in range(len(picture.boxes))]


def _make_usable(label: Label, box: Box, foot: float) -> str:
    """Return the attributes by which the page's script chooses, opens and moves a box."""
    members = " ".join(map(str, box))
    ops = f' data-ops="{label.num_ops}"' if label.num_ops > 1 else ""
    opens = ' aria-expanded="false"' if is_folded(label) else ""
    return (
        f' data-members="{members}"{ops} data-foot="{foot:.1f}" role="button" tabindex="-1"{opens}'
    )


def _draw_band(view: View, number: int, band: Band) -> str:
    stage = view["lanes"][number]["stage"]
    # Wider than any window, so that panning shows no end of it.
    return (
        f'<rect class="band {stage}" x="-100000" width="400000"'
        f' y="{band.top:.1f}" height="{band.bottom - band.top:.1f}"/>'
    )


def _draw_head(view: View, number: int, band: Band) -> str:
    lane = view["lanes"][number]
    return (
        f'<g class="head {lane["stage"]}" transform="translate(0 {band.top:.1f})">'
        f'<text x="24" y="30"><tspan class="name">{lane["stage"]}</tspan>'
        f'<tspan class="about" dx="12">{escape(describe_lane(view, number))}</tspan></text></g>'
    )


def describe_lane(view: View, number: int) -> str:
    """Return what happens in a lane, how much there is of it, and how long it took."""
    lane = view["lanes"][number]
    nodes = [node for node in view["nodes"] if node["stage"] == lane["stage"]]
    columns = sum(output["stored"] is not None for node in nodes for output in node["outputs"])
    facts = [f"{lane['about']} · {count(len(nodes), 'node')}"]
    facts += [count(columns, "stored column")] if columns else []
    if measures := lane_measures(view, lane["stage"]):
        facts.append(write_seconds(sum(measure["seconds"] for measure in measures)))
    return ", ".join(facts)


def edge_widths(labels: Sequence[Label]) -> list[float]:
    """Return the width of the edges from each box, in px: by bytes, on a scale of powers."""
    sizes = [_num_bytes(label.figures) for label in labels]
    most = math.log2(max(sizes, default=0) + 1)
    least = math.log2(min([size for size in sizes if size], default=0) + 1)
    return [
        _THIN_PX + (_THICK_PX - _THIN_PX) * (math.log2(size + 1) - least) / (most - least)
        if size and most > least
        else _THIN_PX
        for size in sizes
    ]


def _num_bytes(figures: Figures | None) -> int:
    return figures.bytes if figures else 0


def edge_changes(view: View, picture: Picture) -> dict[tuple[int, int], str]:
    """Return what became of every edge of a diff that stands for edges of one kind."""
    if view["diff"] is None:
        return {}
    places = {node: number for number, box in enumerate(picture.boxes) for node in box}
    kinds: dict[tuple[int, int], set[str]] = {}
    for edge in view["edges"]:
        ends = places[edge["maker"]], places[edge["user"]]
        kinds.setdefault(ends, set()).add(edge["change"] or "")
    return {ends: words.pop() for ends, words in kinds.items() if len(words) == 1}


def _draw_edge(
    layout: Layout, edge: tuple[int, int], route: Sequence[Point], width: float, change: str
) -> str:
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
    wing = 4 + width / 2
    tail = y - 1.5 * wing if is_down else y + 1.5 * wing
    steps.append(f"M{x - wing:.1f} {tail:.1f}L{x:.1f} {y:.1f} {x + wing:.1f} {tail:.1f}")
    thick = f' stroke-width="{width:.1f}"' if width > _THIN_PX else ""
    return f'<path class="{f"edge {change}".strip()}" data-ends="{maker} {user}"{thick} d="{"".join(steps)}"/>'
