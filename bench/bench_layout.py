"""What maintained layout libraries draw of our pictures, against the layout we have.

Every contestant is handed the same vertices, bends included, with the ranks that keep lanes apart
where it takes ranks at all. Told are crossings of straight links between the same two ranks, width
in px, how far sideways a link leads, the share of links that lead one rank down as was asked, and the
time of a second run. What is not installed is left out.

    python bench/bench_layout.py [--out FILE] VIEW.json…
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

from report import tell

from taskloom.graph.reading import read_view
from taskloom.graph.render.card import card_height
from taskloom.graph.render.layout import BOX_WIDTH, rank_boxes
from taskloom.graph.render.order import order_ranks
from taskloom.graph.render.pictures import first_picture
from taskloom.graph.render.spread import spread
from taskloom.graph.render.svg import make_labels

GAP, BEND = 28.0, 14.0
Places: TypeAlias = Mapping[int, tuple[float, float]]
"""Centre and rank of each vertex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A picture as vertices in ranks; those from ``num_boxes`` on are bends of edges."""

    ranks: list[int]
    links: list[tuple[int, int]]
    num_boxes: int
    height: float

    @property
    def widths(self) -> list[float]:
        """Width of each vertex, the space around it included, in px."""
        boxes, bends = self.num_boxes, len(self.ranks) - self.num_boxes
        return [BOX_WIDTH + GAP] * boxes + [BEND] * bends


def read_case(path: Path) -> Case:
    """Return the first picture of a view, each edge with a bend in every rank that it passes."""
    view = read_view(path.read_text("utf-8"))
    picture = first_picture(view)
    order = [lane["stage"] for lane in view["lanes"]]
    lanes = [order.index(view["nodes"][box[0]]["stage"]) for box in picture.boxes]
    ranks = rank_boxes(lanes, picture.edges)
    num_boxes = len(ranks)
    bends: dict[tuple[int, int], int] = {}
    links: dict[tuple[int, int], None] = {}
    for maker, user in picture.edges:
        last = maker
        for rank in range(ranks[maker] + 1, ranks[user]):
            bend = bends.setdefault((maker, rank), len(ranks))
            ranks += [rank] if bend == len(ranks) else []
            links[last, bend] = None
            last = bend
        links[last, user] = None
    height = max(map(card_height, make_labels(view, picture)))
    return Case(ranks=ranks, links=list(links), num_boxes=num_boxes, height=height)


def lay_out_ours(case: Case) -> Places:
    is_bend = [number >= case.num_boxes for number in range(len(case.ranks))]
    xs = spread(order_ranks(case.ranks, case.links), case.links, case.widths, is_bend)
    return {number: (x, case.ranks[number]) for number, x in enumerate(xs)}


def lay_out_igraph(case: Case) -> Places:
    igraph: Any = importlib.import_module("igraph")
    graph = igraph.Graph(n=len(case.ranks), edges=case.links, directed=True)
    layout: Any = graph.layout_sugiyama(layers=case.ranks, hgap=BOX_WIDTH + GAP)
    layout = layout[0] if isinstance(layout, tuple) else layout
    return {number: (layout[number][0], case.ranks[number]) for number in range(len(case.ranks))}


def lay_out_fast_sugiyama(case: Case) -> Places:
    library: Any = importlib.import_module("fast_sugiyama")
    parts = library.from_edges(case.links, vertex_spacing=BOX_WIDTH + GAP, check_layout=False)
    places: dict[int, tuple[float, float]] = {}
    start = 0.0
    for vertices, width, height, _ in parts:
        for number, (x, y) in vertices:
            if number < len(case.ranks):
                places[number] = (start + x, round((height - y) / (BOX_WIDTH + GAP)))
        start += width + BOX_WIDTH + GAP
    return places


def lay_out_grandalf(case: Case) -> Places:
    graphs: Any = importlib.import_module("grandalf.graphs")
    layouts: Any = importlib.import_module("grandalf.layouts")
    vertices = [graphs.Vertex(number) for number in range(len(case.ranks))]
    for vertex, width in zip(vertices, case.widths, strict=True):
        vertex.view = layouts.VertexViewer(w=width, h=case.height)
    edges = [graphs.Edge(vertices[upper], vertices[lower]) for upper, lower in case.links]
    places: dict[int, tuple[float, float]] = {}
    start = 0.0
    for part in graphs.Graph(vertices, edges).C:
        layout = layouts.SugiyamaLayout(part)
        layout.init_all()
        layout.draw(10)
        lefts = [vertex.view.xy[0] for vertex in part.sV]
        for vertex in part.sV:
            rank = layout.grx[vertex].rank
            places[vertex.data] = (start + vertex.view.xy[0] - min(lefts), rank)
        start += max(lefts) - min(lefts) + BOX_WIDTH + GAP
    return places


def lay_out_dot(case: Case) -> Places:
    lines = ["digraph {", f"nodesep={2 / 72}", "node [shape=box fixedsize=true]"]
    lines += [
        f"{number} [width={width / 72} height={case.height / 72}]"
        for number, width in enumerate(case.widths)
    ]
    for rank in set(case.ranks):
        same = "; ".join(str(number) for number, other in enumerate(case.ranks) if other == rank)
        lines.append(f"{{rank=same; {same}}}")
    lines += [f"{upper} -> {lower}" for upper, lower in case.links]
    command = ["dot", "-Tplain"]
    text = "\n".join([*lines, "}"])
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    places: dict[int, tuple[float, float]] = {}
    for line in done.stdout.splitlines():
        word, *rest = line.split()
        if word == "node":
            places[int(rest[0])] = (float(rest[1]) * 72, case.ranks[int(rest[0])])
    return places


CONTESTANTS: Mapping[str, Callable[[Case], Places]] = {
    "ours": lay_out_ours,
    "igraph": lay_out_igraph,
    "fast-sugiyama": lay_out_fast_sugiyama,
    "grandalf": lay_out_grandalf,
    "dot": lay_out_dot,
}
MODULES = {"igraph": "igraph", "fast-sugiyama": "fast_sugiyama", "grandalf": "grandalf"}


def judge(case: Case, lay_out: Callable[[Case], Places]) -> dict[str, float]:
    """Return what a reader would see of one layout, and how long it took."""
    lay_out(case)  # imports what it needs
    began = time.perf_counter()
    places = lay_out(case)
    seconds = time.perf_counter() - began
    crossings = sum(_cross(places, one, other) for one, other in combinations(case.links, 2))
    edges = [
        places[number][0] + side * width / 2
        for number, width in enumerate(case.widths)
        if number in places
        for side in (-1, 1)
    ]
    kept = sum(places[lower][1] - places[upper][1] == 1 for upper, lower in case.links)
    slant = sum(abs(places[upper][0] - places[lower][0]) for upper, lower in case.links)
    return {
        "crossings": crossings,
        "width_px": round(max(edges) - min(edges)),
        "sideways_px_per_link": round(slant / len(case.links)),
        "links_in_their_ranks": round(kept / len(case.links), 3),
        "ms": round(1000 * seconds, 1),
    }


def _cross(places: Places, one: tuple[int, int], other: tuple[int, int]) -> bool:
    (a, b), (c, d) = ([places[end] for end in link] for link in (one, other))
    is_beside = (a[1], b[1]) == (c[1], d[1])
    return is_beside and (a[0] - c[0]) * (b[0] - d[0]) < 0


def is_installed(name: str) -> bool:
    if name == "dot":
        return shutil.which("dot") is not None
    try:
        importlib.import_module(MODULES.get(name, "json"))
    except ImportError:
        return False
    return True


def measure(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the figures of every contestant that is installed, by picture."""
    report: dict[str, Any] = {}
    for path in paths:
        case = read_case(path)
        figures = {n: judge(case, lay) for n, lay in CONTESTANTS.items() if is_installed(n)}
        size = {"boxes": case.num_boxes, "bends": len(case.ranks) - case.num_boxes}
        report[path.stem] = size | figures
    return report


def main() -> None:
    """Measure the given views and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("views", nargs="+", type=Path, help="views as JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    tell(measure(options.views), options.out)


if __name__ == "__main__":
    main()
