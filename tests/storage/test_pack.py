"""A plan holds every document once, keeps every promise of a pack, and fills what binds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from taskloom.graph.errors import LoaderError
from taskloom.storage.capacity import Capacity
from taskloom.storage.pack import tile_documents
from taskloom.storage.position import Position
from taskloom.storage.propose import propose_capacity
from taskloom.storage.report import StreamReport
from taskloom.storage.template import ConstPiece, Documents, Template
from taskloom.storage.window import Window
from taskloom.storage.window_planner import WindowPlanner

Ints = npt.NDArray[np.int64]
Lengths = Callable[[np.random.Generator, int], tuple[Ints, Ints]]


@st.composite
def packings(draw: st.DrawFn) -> tuple[Capacity, Ints, Ints, Ints]:
    """Draw a capacity and documents that fit it alone: source, target and tensors of each."""
    tile = draw(st.sampled_from([1, 4, 16]))
    num_lanes = draw(st.integers(0, 2))
    capacity = Capacity(
        source=tile * draw(st.integers(0, 12)),
        target=tile * draw(st.integers(0, 12)),
        tensors={f"lane{lane}": draw(st.integers(1, 5)) for lane in range(num_lanes)},
        tile=tile,
    )
    num_documents = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = rng.uniform(0, 1, 2) * [capacity.source + 1, capacity.target + 1]
    source, target = rng.integers(0, np.ceil(longest).astype(int)[:, None] + 1, (2, num_documents))
    source, target = source.clip(max=capacity.source), target.clip(max=capacity.target)
    lanes = [rng.integers(0, limit + 1, num_documents) for limit in capacity.limits]
    return capacity, source, target, np.array(lanes, np.int64).reshape(num_lanes, num_documents)


@given(packings(), st.integers(1, 5))
def test_a_placement_keeps_every_promise(
    packing: tuple[Capacity, Ints, Ints, Ints], num_packs: int
) -> None:
    capacity, source, target, tensors = packing
    placed = tile_documents(source, target, tensors, capacity).place(num_packs)
    assert sorted(placed.order.tolist()) == list(range(len(source)))
    assert (np.diff(placed.packs[placed.order]) >= 0).all()
    streams = [
        (placed.source_starts, source, capacity.source),
        (placed.target_starts, target, capacity.target),
    ]
    for pack in range(placed.num_packs):
        inside = placed.order[placed.packs[placed.order] == pack]
        for lane, limit in zip(tensors, capacity.limits, strict=True):
            assert lane[inside].sum() <= limit
        for starts, lengths, size in streams:
            ends = (starts + lengths)[inside]
            assert (starts[inside][1:] >= ends[:-1]).all(), "documents overlap or change order"
            assert (ends <= size).all()
            used = lengths[inside] > 0
            start, end = starts[inside][used], ends[used]
            assert (
                (start % capacity.tile == 0)
                | (start // capacity.tile == (end - 1) // capacity.tile)
            ).all()


def test_short_documents_with_too_many_tensors_for_a_pack_still_share_tiles() -> None:
    # As labels of pictures: 21 targets are one tile, and 6 pictures a pack.
    capacity = Capacity(source=512, target=128, tensors={"images": 6}, tile=64)
    source, target = np.full(240, 10), np.full(240, 3)
    tiling = tile_documents(source, target, np.ones((1, 240), np.int64), capacity)
    assert tiling.place(240 // 6).num_packs <= 240 // 6 + 1


def short(rng: np.random.Generator, size: int) -> tuple[Ints, Ints]:
    """Reviews and questions: 20 to 45 ids, answered in a few."""
    return rng.integers(20, 46, size), rng.integers(2, 8, size)


def mixed(rng: np.random.Generator, size: int) -> tuple[Ints, Ints]:
    """Captions to paragraphs: 16 to 400 ids, most of them short."""
    source = np.exp(rng.normal(4.3, 0.8, size)).clip(16, 400).astype(np.int64)
    return source, np.exp(rng.normal(2.5, 0.6, size)).clip(3, 60).astype(np.int64)


def long(rng: np.random.Generator, size: int) -> tuple[Ints, Ints]:
    """Articles: up to the whole stream, half of them over 400 ids."""
    source = np.exp(rng.normal(6, 1, size)).clip(16, 4096).astype(np.int64)
    return source, rng.integers(4, 200, size)


def make_documents(lengths: Lengths) -> Documents:
    source, target = lengths(np.random.default_rng(0), 20_000)
    template = Template(
        task="only",
        source_name="source",
        source=(),
        target=(ConstPiece(ids=(1,)),),
    )
    return Documents(
        template=template,
        rows=np.arange(len(source)),
        source_lengths=source.astype(np.int32),
        target_lengths=target.astype(np.int32),
        tensors={},
    )


def plan_windows(lengths: Lengths, capacity: Capacity, num_windows: int) -> list[Window]:
    weights = {"only": 1.0}
    planner = WindowPlanner([make_documents(lengths)], capacity, weights, seed=0, window_size=4096)
    windows: list[Window] = []
    position = Position.start(1)
    for number in range(num_windows):
        windows.append(planner.plan(number, position, weights))
        position = windows[-1].after
    return windows


@pytest.mark.parametrize(
    ("lengths", "target", "tile"),
    [
        pytest.param(short, 896, 64, id="short"),
        pytest.param(mixed, 1024, 128, id="mixed"),
        pytest.param(long, 1664, 32, id="long"),
    ],
)
def test_the_binding_capacity_is_filled(lengths: Lengths, target: int, tile: int) -> None:
    windows = plan_windows(lengths, Capacity(source=4096, target=target, tile=tile), 3)
    packs = [pack for window in windows for pack in window.packs]
    used = sum(int(pack.source_lengths.sum()) for pack in packs)
    assert used / (4096 * len(packs)) >= 0.95


@pytest.mark.parametrize("lengths", [short, mixed, long])
def test_a_proposed_capacity_holds_all_and_wastes_little(lengths: Lengths) -> None:
    documents = make_documents(lengths)
    capacity = propose_capacity([documents], 4096, tiles=(64, 128))
    assert capacity.fits(documents).all()
    packs = plan_windows(lengths, capacity, 1)[0].packs
    report = StreamReport.of(packs, [documents], [0], capacity)
    roomy = replace(capacity, target=4096)
    packs = plan_windows(lengths, roomy, 1)[0].packs
    wasteful = StreamReport.of(packs, [documents], [0], roomy)
    assert report.weigh_fill(1, 1) > 1.3 * wasteful.weigh_fill(1, 1)
    assert report.weigh_fill(1, 1) > 0.7


def test_packs_of_mixed_lengths_are_alike() -> None:
    packs = plan_windows(mixed, Capacity(source=4096, target=1024, tile=128), 1)[0].packs
    sizes = [len(pack) for pack in packs]
    assert np.std(sizes) < 0.15 * np.mean(sizes)


def test_no_pack_of_a_window_is_left_half_empty() -> None:
    packs = plan_windows(short, Capacity(source=4096, target=896), 1)[0].packs
    assert min(pack.source_lengths.sum() for pack in packs) > 0.9 * 4096


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"source": 100, "target": 64}, "source must be a multiple", id="tile"),
        pytest.param({"source": 64, "target": -64}, "target must not be negative", id="sign"),
        pytest.param(
            {"source": 64, "target": 64, "tensors": {"image": 0}}, 'lane "image"', id="lane"
        ),
        pytest.param({"source": 64, "target": 64, "tile": 0}, "tile must be", id="no tile"),
    ],
)
def test_an_impossible_capacity_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(LoaderError, match=message):
        Capacity(**settings)  # pyright: ignore[reportArgumentType]
