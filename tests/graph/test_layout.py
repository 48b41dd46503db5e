"""Pictures are small enough to read, boxes never overlap, and edges run between them."""

from __future__ import annotations

import graphlib
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from taskloom.graph.passes.cut import Stage
from taskloom.graph.render.fold import MAX_BOXES, Picture, fold, unfold
from taskloom.graph.render.layout import BOX_WIDTH, Layout, Point, lay_out
from taskloom.graph.render.order import count_crossings, neighbours, order_ranks
from taskloom.graph.render.spread import fit_row
from taskloom.graph.view import make_view
from taskloom.graph.view_form import EdgeView, LaneView, NodeView, OutputView, View

from .plans import plan_like_tasks

Edges = list[tuple[int, int]]
STAGES = list(Stage)


@st.composite
def graphs(draw: st.DrawFn, max_size: int = 24) -> tuple[list[int], Edges]:
    """Draw the lanes of some boxes, and edges that never lead to a higher lane."""
    lanes = sorted(draw(st.lists(st.integers(0, 2), min_size=1, max_size=max_size)))
    pairs = [(i, j) for j in range(len(lanes)) for i in range(j)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=60)) if pairs else []
    return lanes, edges


def make_graph_view(lanes: list[int], edges: Edges, ops: list[str]) -> View:
    """Return a view with one node per lane of ``lanes``."""
    nodes = [
        NodeView(
            address=f"node_{i}",
            addresses=[f"node_{i}"],
            op=op,
            version=1,
            params={},
            changed=[],
            outputs=[
                OutputView(
                    port="out",
                    type="any<any[] scalar>@host/rows",
                    stored=None,
                    bytes_per_row=None,
                )
            ],
            key=str(i),
            rows="rows",
            stage=STAGES[lane],
            segment=None,
            scope="",
            state=None,
            measure=None,
            previews=[],
            change=None,
            sites=[],
        )
        for i, (lane, op) in enumerate(zip(lanes, ops, strict=True))
    ]
    return View(
        format=2,
        title="",
        project="",
        remarks=[],
        digest="",
        lanes=[LaneView(stage=STAGES[lane], about="") for lane in sorted(set(lanes))],
        nodes=nodes,
        edges=[EdgeView(maker=i, output="out", user=j, input="in", change=None) for i, j in edges],
        segments=[],
        results=[],
        instructions=[],
        diff=None,
    )


def assert_drawable(picture: Picture, num_nodes: int) -> None:
    """Check that boxes share out the nodes, and that edges make no cycle."""
    assert sorted(number for box in picture.boxes for number in box) == list(range(num_nodes))
    users: dict[int, set[int]] = {}
    for maker, user in picture.edges:
        users.setdefault(user, set()).add(maker)
    graphlib.TopologicalSorter(users).prepare()


@settings(max_examples=60)
@given(graphs(), st.integers(3, 30), st.data())
def test_any_graph_folds_to_as_few_boxes_as_asked(
    graph: tuple[list[int], Edges], max_boxes: int, data: st.DataObject
) -> None:
    lanes, edges = graph
    ops = data.draw(st.lists(st.sampled_from("ab"), min_size=len(lanes), max_size=len(lanes)))
    view = make_graph_view(lanes, edges, ops)
    picture = fold(view, max_boxes=max_boxes)
    assert_drawable(picture, len(lanes))
    assert len(picture.boxes) <= max_boxes
    for box in picture.boxes:
        assert len({lanes[number] for number in box}) == 1


@pytest.mark.parametrize("number", [30, 200])
def test_tasks_of_one_shape_fold_to_the_boxes_of_three(number: int) -> None:
    def count(number: int) -> int:
        planned = plan_like_tasks(number)
        view = make_view(planned.graph, title="", stages=planned.cut.stages)
        picture = fold(view)
        assert_drawable(picture, len(planned.graph))
        return len(picture.boxes)

    assert count(number) == count(3) < 25


def test_a_long_chain_of_unlike_nodes_is_still_drawn() -> None:
    size = 3 * MAX_BOXES
    view = make_graph_view(
        [0] * size, list(pairwise(range(size))), [f"op_{i}" for i in range(size)]
    )
    assert len(unfold(view).boxes) == size
    assert len(fold(view).boxes) <= MAX_BOXES


def passes(layout: Layout, edge: tuple[int, int]) -> list[Point]:
    """Return points all along the route of ``edge``, its straight and its curved parts."""
    route = layout.routes[edge]
    points: list[Point] = []
    for number, (here, there) in enumerate(pairwise(route)):
        for t in (k / 12 for k in range(13)):
            y = here.y + (there.y - here.y) * t
            if number % 2 == 0:
                assert here.x == there.x
                points.append(Point(here.x, y))
            else:
                bow = (there.y - here.y) * 0.55
                ys = (here.y, here.y + bow, there.y - bow, there.y)
                weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
                x = here.x * (weights[0] + weights[1]) + there.x * (weights[2] + weights[3])
                points.append(Point(x, sum(w * y for w, y in zip(weights, ys, strict=True))))
    return points


@settings(max_examples=60)
@given(graphs(), st.data())
def test_no_box_lies_on_another_and_no_edge_runs_across_one(
    graph: tuple[list[int], Edges], data: st.DataObject
) -> None:
    lanes, edges = graph
    sizes = st.lists(st.sampled_from([66.0, 90.0]), min_size=len(lanes), max_size=len(lanes))
    heights = data.draw(sizes)
    layout = lay_out(heights, lanes, edges)
    boxes = list(zip(layout.corners, heights, strict=True))
    for number, (corner, height) in enumerate(boxes):
        for other, other_height in boxes[:number]:
            is_beside = abs(corner.x - other.x) >= BOX_WIDTH
            is_apart = corner.y >= other.y + other_height or other.y >= corner.y + height
            assert is_beside or is_apart
    for edge in edges:
        for x, y in passes(layout, edge):
            for corner, height in boxes:
                is_inside = corner.x + 1 < x < corner.x + BOX_WIDTH - 1
                assert not (is_inside and corner.y + 1 < y < corner.y + height - 1)


@settings(max_examples=60)
@given(graphs())
def test_makers_stand_above_users_and_boxes_in_their_lane(graph: tuple[list[int], Edges]) -> None:
    lanes, edges = graph
    layout = lay_out([66.0] * len(lanes), lanes, edges)
    for maker, user in edges:
        assert layout.corners[maker].y + 66 < layout.corners[user].y
    for lane, corner in zip(lanes, layout.corners, strict=True):
        assert layout.bands[lane].top < corner.y < corner.y + 66 < layout.bands[lane].bottom
        assert 0 <= corner.x <= layout.width - BOX_WIDTH
    bands = [layout.bands[lane] for lane in sorted(layout.bands)]
    assert all(upper.bottom <= lower.top for upper, lower in pairwise(bands))


def test_an_edge_back_to_the_host_is_drawn_upwards() -> None:
    layout = lay_out([66.0, 66.0], [2, 0], [(0, 1)])
    assert layout.corners[0].y > layout.corners[1].y
    assert layout.routes[0, 1][0].y < layout.routes[0, 1][-1].y


@given(graphs())
def test_crossings_are_counted_pair_by_pair(graph: tuple[list[int], Edges]) -> None:
    lanes, edges = graph
    links = [(i, j) for i, j in edges if lanes[j] == lanes[i] + 1]
    rows = [[v for v, lane in enumerate(lanes) if lane == rank] for rank in range(max(lanes) + 1)]
    crossings = sum(
        lanes[a] == lanes[c] and (a - c) * (b - d) < 0
        for n, (a, b) in enumerate(links)
        for c, d in links[:n]
    )
    _, below = neighbours(len(lanes), links)
    assert count_crossings(rows, below) == crossings


def test_two_crossed_chains_are_untangled() -> None:
    links = [(0, 3), (1, 2), (2, 5), (3, 4)]
    rows = order_ranks([0, 0, 1, 1, 2, 2], links)
    assert count_crossings(rows, neighbours(6, links)[1]) == 0


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.5, 9.0)), min_size=1, max_size=12))
def test_fitted_places_are_the_nearest_that_keep_their_distance(
    wishes: list[tuple[float, float]],
) -> None:
    wished, weights = zip(*wishes, strict=True)
    distances = [10.0] * (len(wished) - 1)
    placed = fit_row(wished, weights, distances)
    assert all(right - left >= 10.0 - 1e-6 for left, right in pairwise(placed))

    def cost(places: list[float]) -> float:
        return sum(w * (p - x) ** 2 for w, p, x in zip(weights, places, wished, strict=True))

    # Of a convex cost, a place that no small allowed step betters is the least.
    for start in range(len(placed)):
        for stop in range(start + 1, len(placed) + 1):
            for step in (-1e-3, 1e-3):
                moved = [p + step * (start <= i < stop) for i, p in enumerate(placed)]
                if all(right - left >= 10.0 for left, right in pairwise(moved)):
                    assert cost(moved) >= cost(placed) - 1e-6
