"""Like parts share a box, cheap chains too, and nothing that a reader must see is folded away."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from taskloom.graph.render.chain import LOW_IMPACT, MIN_LENGTH, fold_chains
from taskloom.graph.render.fold import fold, unfold
from taskloom.graph.render.label import make_label
from taskloom.graph.render.quantity import (
    write_amount,
    write_bar,
    write_bytes,
    write_seconds,
    write_share,
)
from taskloom.graph.render.refine import number_looks, refine
from taskloom.graph.view_form import ChangeKind, ChangeView, MeasureView, View

from .plans import Planning, Task, plan_like_tasks
from .test_layout import Edges, assert_drawable, graphs, make_graph_view


def refine_slowly(looks: Sequence[Hashable], edges: Edges) -> list[int]:
    """Return colours by looking at every node again until nothing changes."""
    colours = number_looks(looks)
    while True:
        refined = number_looks(
            (
                colour,
                frozenset(colours[i] for i, j in edges if j == node),
                frozenset(colours[j] for i, j in edges if i == node),
            )
            for node, colour in enumerate(colours)
        )
        if max(refined, default=0) == max(colours, default=0):
            return colours
        colours = refined


@settings(max_examples=200)
@given(graphs(), st.data())
def test_refinement_finds_the_coarsest_colours(
    graph: tuple[list[int], Edges], data: st.DataObject
) -> None:
    lanes, edges = graph
    looks = data.draw(st.lists(st.sampled_from("ab"), min_size=len(lanes), max_size=len(lanes)))
    above = [[("in", i) for i, j in edges if j == node] for node in range(len(lanes))]
    below = [[("in", j) for i, j in edges if i == node] for node in range(len(lanes))]
    colours = refine(looks, above, below)
    assert number_looks(colours) == number_looks(refine_slowly(looks, edges))


def test_a_thousand_tasks_over_twenty_sources_fold_to_fewer_than_forty_boxes() -> None:
    tasks = [
        Task(
            name=f"task_{i:04}",
            source=f"source_{i % 20:02}",
            prompt=f"question number {i}",
            question="question" if i % 3 else "",
            answer=f"answer_{i % 7}",
        )
        for i in range(1000)
    ]
    view = Planning().plan(tasks).view()
    picture = fold(view)
    assert_drawable(picture, len(view["nodes"]))
    assert 15 < len(picture.boxes) < 40


def test_tasks_of_different_shapes_share_what_they_do_to_their_images() -> None:
    ops = [op for i in range(21) for op in ("read", "resize", f"document_{i}")]
    edges = [pair for i in range(0, 63, 3) for pair in ((i, i + 1), (i + 1, i + 2))]
    view = make_graph_view([0, 0, 1] * 21, edges, ops)
    picture = fold(view)
    assert_drawable(picture, 63)
    assert sorted(map(len, picture.boxes)) == [1] * 21 + [21, 21]
    few = make_graph_view([0, 0, 1] * 3, edges[:6], ops[:9])
    assert len(fold(few).boxes) == 9


def measure(view: View, shares: Sequence[float]) -> View:
    """Return ``view`` with the shares of its nodes."""
    for node, share in zip(view["nodes"], shares, strict=True):
        node["measure"] = MeasureView(
            calls=1,
            rows_in=10,
            rows_out=9,
            rejects=0,
            bytes=100,
            seconds=share,
            backward_seconds=0.0,
            stored_bytes=0,
            writing_seconds=0.0,
            share=share,
        )
    return view


def chain_of(size: int, shares: Sequence[float]) -> View:
    edges = list(pairwise(range(size)))
    return measure(make_graph_view([0] * size, edges, [f"op_{i}" for i in range(size)]), shares)


def test_a_cheap_chain_becomes_one_box_that_knows_its_ops() -> None:
    view = chain_of(9, [0.5, *[0.001] * 7, 0.493])
    picture = fold_chains(view, unfold(view))
    assert picture.boxes == ((0,), tuple(range(1, 8)), (8,))
    assert picture.edges == ((0, 1), (1, 2))
    label = make_label(view, picture, 1)
    assert label.address == "low-impact chain, 7 ops"
    assert label.op == "op_1 → op_2 → op_3 → op_4 → op_5 → op_6 → op_7"
    assert label.figures
    assert label.figures.seconds == pytest.approx(0.007)
    assert (label.figures.rows_in, label.figures.rows_out, label.figures.bytes) == (10, 9, 100)


def test_what_must_be_seen_is_no_part_of_a_cheap_chain() -> None:
    def count(view: View) -> int:
        return len(fold_chains(view, unfold(view)).boxes)

    assert count(chain_of(5, [0.001] * 5)) == 1
    refused = chain_of(5, [0.001] * 5)
    assert refused["nodes"][2]["measure"]
    refused["nodes"][2]["measure"]["rejects"] = 1
    idle = chain_of(5, [0.001] * 5)
    idle["nodes"][2]["measure"] = None
    changed = chain_of(5, [0.001] * 5)
    changed["nodes"][2]["change"] = ChangeView(
        kind=ChangeKind.CHANGED, facts=[], rebuilds=False, rows=None, bytes=None
    )
    assert [count(view) for view in (refused, idle, changed)] == [5, 5, 5]


@settings(max_examples=100)
@given(graphs(), st.data())
def test_chains_are_cheap_and_long_and_make_no_cycle(
    graph: tuple[list[int], Edges], data: st.DataObject
) -> None:
    lanes, edges = graph
    shares = data.draw(
        st.lists(st.sampled_from([0.0, 0.004, 0.2]), min_size=len(lanes), max_size=len(lanes))
    )
    view = measure(make_graph_view(lanes, edges, ["op"] * len(lanes)), shares)
    picture = fold_chains(view, unfold(view))
    assert_drawable(picture, len(lanes))
    assert all(maker < user for maker, user in picture.edges)
    for number, parts in picture.chains.items():
        assert len(parts) >= MIN_LENGTH
        assert sum(shares[node] for node in picture.boxes[number]) < LOW_IMPACT
        assert len({lanes[node] for node in picture.boxes[number]}) == 1


def test_like_tasks_keep_their_cheap_chain_together() -> None:
    view = plan_like_tasks(5).view()
    measure(view, [0.0] * len(view["nodes"]))
    picture = fold_chains(view, fold(view))
    chains = [make_label(view, picture, number) for number in picture.chains]
    assert any(label.num_members == 5 and label.num_ops >= 3 for label in chains)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 µs"),
        (4.2e-5, "42 µs"),
        (0.00966, "9.66 ms"),
        (0.966, "966 ms"),
        (0.99996, "1.00 s"),
        (3.157, "3.16 s"),
        (99.99, "100 s"),
        (1234.0, "1,234 s"),
        (7200.0, "2.0 h"),
    ],
)
def test_times_have_three_digits(seconds: float, text: str) -> None:
    assert write_seconds(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (11_744_051, "11.2 MiB"),
        (2**60, "1,024 PiB"),
    ],
)
def test_bytes_have_three_digits(number: int, text: str) -> None:
    assert write_bytes(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0.00 FLOP"),
        (42, "42.0 FLOP"),
        (999.4, "999 FLOP"),
        (999.5, "1.00 kFLOP"),
        (12_345_678, "12.3 MFLOP"),
        (3e24, "3,000 ZFLOP"),
    ],
)
def test_amounts_have_three_digits_and_a_power_of_a_thousand(number: float, text: str) -> None:
    assert write_amount(number, "FLOP") == text


@given(st.floats(0.0, 1.0))
def test_bars_are_as_long_as_their_share(share: float) -> None:
    bar = write_bar(share, 10)
    assert abs(len(bar) - 10 * share) <= 1
    assert write_share(share).endswith("%")
