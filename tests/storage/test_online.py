"""What is computed in every pass is a function of row and pass, and what it leaves empty is padding."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import LoaderError
from taskloom.storage.capacity import Capacity
from taskloom.storage.online import OnlineColumn
from taskloom.storage.pack import Pack
from taskloom.storage.template import (
    ConstPiece,
    Gathered,
    GroupPiece,
    IdsPiece,
    Lesson,
    Piece,
    Template,
    TensorPiece,
)

from .documents import PAD, DenseColumn, Ints, Mixture, RaggedColumn, digest, make_ids, take
from .passes import Brighten, Repeat, count_kept

OPEN, CLOSE = 600, 601


def make_mixture(num_rows: int, compute: Any, *, in_group: bool = False) -> Mixture:
    """Return one task whose source is an image and a text that are computed in every pass."""
    rng = np.random.default_rng(num_rows)
    counts = rng.integers(0, 3, num_rows)
    text = make_ids(rng, int(counts.sum()) if in_group else num_rows, 0, 9)
    drawn = IdsPiece(column="drawn", offset=1000)
    tensor = TensorPiece(column="pixels", lane="image", length=2)
    inner = (ConstPiece(ids=(OPEN,)), drawn, ConstPiece(ids=(CLOSE,)))
    middle: tuple[Piece, ...] = inner
    if in_group:
        middle = (GroupPiece(count="count", pieces=inner),)
    lesson = Lesson(0)
    target = (ConstPiece(ids=(1,)), IdsPiece(column="answer", offset=0, lesson=lesson))
    columns = {
        "drawn": OnlineColumn((text,), compute),
        "pixels": OnlineColumn((DenseColumn(np.zeros((num_rows, 3), np.uint8)),), Brighten()),
        "answer": make_ids(rng, num_rows, 1, 5),
        "count": DenseColumn(counts),
    }
    return Mixture(
        templates=(Template(task="t", source_name="s", source=(tensor, *middle), target=target),),
        rows={"t": np.arange(num_rows)},
        columns={("s", name): column for name, column in columns.items()},
        capacity=Capacity(source=64, target=32, tensors={"image": 16}, tile=8),
    )


def read_documents(pack: Pack) -> list[tuple[int, list[int], int]]:
    """Return row, source ids and the number in the image of each document, in order."""
    places = pack.places["image"][:, 0].tolist()
    found: list[tuple[int, list[int], int]] = []
    for (_, row), (start, stop) in zip(
        pack.rows.tolist(), pack.source_ranges.tolist(), strict=True
    ):
        image = pack.tensors["image"][places.index(start)]
        found.append((row, pack.source_ids[start:stop].tolist(), int(image[0])))
    return found


@settings(max_examples=12, deadline=None)
@given(num_rows=st.integers(1, 30), is_exact=st.booleans())
def test_every_row_is_what_it_is_in_its_pass(num_rows: int, *, is_exact: bool) -> None:
    mixture = make_mixture(num_rows, Repeat(is_exact))
    column: Any = mixture.columns["s", "drawn"]
    lengths = column.inputs[0].lengths.astype(np.int64)
    seen: dict[int, list[int]] = defaultdict(list)
    for (pack,) in take(mixture.loader(window_size=9), 30):
        for row, ids, pass_number in read_documents(pack):
            here = (np.array([row]), np.array([pass_number]))
            kept = int(count_kept(*here, lengths[[row]])[0])
            assert ids == [PAD, PAD, OPEN, *[1000 + pass_number] * kept, CLOSE]
            seen[row].append(pass_number)
    # Packs of a window are shuffled, so a row may meet a later pass a little before an earlier one.
    for passes in seen.values():
        assert len(set(passes)) == len(passes)


@settings(max_examples=12, deadline=None)
@given(num_rows=st.integers(1, 30), is_exact=st.booleans(), in_group=st.booleans())
def test_what_is_shorter_than_planned_leaves_padding_that_nothing_sees(
    num_rows: int, *, is_exact: bool, in_group: bool
) -> None:
    mixture = make_mixture(num_rows, Repeat(is_exact), in_group=in_group)
    for (pack,) in take(mixture.loader(window_size=9), 12):
        owned = np.zeros(len(pack.source_ids), np.bool_)
        for start, stop in pack.source_ranges.tolist():
            assert not owned[start:stop].any()
            owned[start:stop] = True
            assert (pack.source_lo[start:stop] == start).all()
            assert (pack.source_hi[start:stop] == stop).all()
            ids = pack.source_ids[start + 2 : stop].tolist()
            assert ids.count(OPEN) == ids.count(CLOSE)
            assert PAD not in ids  # no gap inside a document
        assert (pack.source_ids[~owned] == PAD).all()
        assert not pack.source_hi[~owned].any()
        for (start, stop), (first, last) in zip(
            pack.source_ranges.tolist(), pack.target_ranges.tolist(), strict=True
        ):
            assert (pack.cross_lo[first:last] == start).all()
            assert (pack.cross_hi[first:last] == stop).all()


@settings(max_examples=8, deadline=None)
@given(
    num_rows=st.integers(1, 30),
    prefetch=st.integers(0, 2),
    packs_per_step=st.integers(1, 3),
    stop=st.integers(0, 5),
)
def test_thread_step_and_resumption_change_nothing(
    num_rows: int, prefetch: int, packs_per_step: int, stop: int
) -> None:
    mixture = make_mixture(num_rows, Repeat())
    expected = [digest(step) for step in take(mixture.loader(window_size=9), 18)]
    how: dict[str, Any] = {"window_size": 9, "prefetch": prefetch, "packs_per_step": packs_per_step}
    with mixture.loader(**how) as loader:
        before = [pack for step in islice(loader, stop) for pack in step]
        state = loader.state()
    after = take(mixture.loader(state, **how), 18 // packs_per_step - stop)
    packs = [*before, *(pack for step in after for pack in step)]
    assert [digest((pack,)) for pack in packs] == expected[: len(packs)]


def test_more_values_than_were_planned_are_refused() -> None:
    mixture = make_mixture(20, Repeat(is_exact=False, promise=3))
    with pytest.raises(LoaderError, match=r'task "t": row \d+ takes') as caught:
        take(mixture.loader(window_size=9), 20)
    assert caught.value.problems[0].code == "T0605"


class Hang:
    """Never ends until it is told to."""

    def __init__(self) -> None:
        self.doing = ""
        self.end = threading.Event()

    def plan_lengths(self, lengths: Sequence[Ints], rows: Any, passes: Any) -> Ints:
        del rows, passes
        return lengths[0]

    def __call__(self, gathered: Sequence[Gathered], rows: Ints, passes: Ints) -> Gathered:
        self.doing = f"t.text/mask (mask_spans), {len(rows + passes)} rows"
        self.end.wait()
        self.doing = ""
        return gathered[0]


def test_a_computation_that_hangs_is_given_up_and_named() -> None:
    hang = Hang()
    mixture = make_mixture(20, hang)
    try:
        with (
            pytest.raises(LoaderError, match=r"t\.text/mask \(mask_spans\), \d+ rows") as caught,
            mixture.loader(prefetch=2, patience_s=0.2) as loader,
        ):
            next(iter(loader))
        assert hang.doing, "somebody waited for the thread"
    finally:
        hang.end.set()
    problem = caught.value.problems[0]
    assert problem.code == "T0620"
    assert "test_online.py" in problem.help  # where in the code it is


def test_a_row_that_may_be_too_long_in_some_pass_is_in_none() -> None:
    mixture = make_mixture(30, Repeat())
    column: Any = mixture.columns["s", "drawn"]
    short = Capacity(source=16, target=32, tensors={"image": 4}, tile=8, max_source=9)
    packs = [p for (p,) in take(replace(mixture, capacity=short).loader(), 40)]
    seen = {row for pack in packs for row in pack.rows[:, 1].tolist()}
    lengths: npt.NDArray[np.uint32] = column.inputs[0].lengths
    assert seen == set(np.flatnonzero(lengths + 4 <= 9).tolist())


def test_a_missing_value_of_any_input_is_a_missing_value() -> None:
    left, right = RaggedColumn([np.arange(2)] * 3), RaggedColumn([np.arange(2)] * 3)
    left.valid[0] = right.valid[2] = False
    assert OnlineColumn((left, right), Repeat()).valid.tolist() == [False, True, False]
