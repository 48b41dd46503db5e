"""What stands in a pack is what the templates say, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import LoaderError
from taskloom.storage.capacity import Capacity
from taskloom.storage.one_pass import pack_documents
from taskloom.storage.pack import Pack
from taskloom.storage.template import (
    ConstPiece,
    IdsPiece,
    Lesson,
    Piece,
    Template,
    TensorPiece,
)

from .documents import (
    PAD,
    DenseColumn,
    Mixture,
    RaggedColumn,
    SlowDocument,
    make_mixture,
    mixtures,
    read_slowly,
)


def pack_all(mixture: Mixture) -> list[Pack]:
    packs = pack_documents(
        mixture.templates, mixture.rows, mixture.columns, mixture.capacity, pad_id=PAD
    )
    assert not len(packs.left_out)
    return list(packs)


@settings(max_examples=40)
@given(mixtures())
def test_every_document_reads_as_its_template_says(mixture: Mixture) -> None:
    for pack in pack_all(mixture):
        for number, (task, row) in enumerate(pack.rows.tolist()):
            document = read_slowly(mixture.templates[task], mixture.columns, row)
            _check_source(pack, number, document)
            _check_target(pack, number, task, document)


def _check_source(pack: Pack, number: int, document: SlowDocument) -> None:
    start, end = pack.source_ranges[number].tolist()
    length = len(document.source)
    assert pack.source_ids[start:end].tolist() == document.source
    places = [*range(document.middle), *range(length - document.middle)]
    assert pack.source_positions[start:end].tolist() == places
    middle = document.middle
    halves = [(start, start + middle), (start + middle, end)]
    ranges = [half for half in halves for _ in range(half[0], half[1])]
    assert pack.source_lo[start:end].tolist() == [lo for lo, _ in ranges]
    assert pack.source_hi[start:end].tolist() == [hi for _, hi in ranges]
    if middle:
        assert [[list(half) for half in halves]] == [
            pair for pair in pack.pair_ranges.tolist() if pair[0][0] == start and pair[1][1] == end
        ]
    for values, place in document.tensors:
        (slot,) = np.flatnonzero(pack.places["image"][:, 0] == start + place)
        wanted = np.arange(start + place, start + place + 4)
        np.testing.assert_array_equal(pack.places["image"][slot], wanted)
        np.testing.assert_array_equal(pack.tensors["image"][slot], values)


def _check_target(pack: Pack, number: int, task: int, document: SlowDocument) -> None:
    start, end = pack.target_ranges[number].tolist()
    length = max(len(document.target) - 1, 0)
    assert pack.target_ids[start:end].tolist() == document.target[:-1]
    assert pack.labels[start:end].tolist() == document.target[1:]
    assert pack.weights[start:end].tolist() == document.weights[1:]
    losses = [task if weight else 0 for weight in document.weights[1:]]
    assert pack.loss_ids[start:end].tolist() == losses
    assert pack.target_positions[start:end].tolist() == list(range(length))
    assert pack.target_lo[start:end].tolist() == [start] * length
    assert pack.target_hi[start:end].tolist() == list(range(start + 1, end + 1))
    assert pack.cross_lo[start:end].tolist() == [pack.source_ranges[number, 0]] * length
    assert pack.cross_hi[start:end].tolist() == [pack.source_ranges[number, 1]] * length


@settings(max_examples=40)
@given(mixtures())
def test_positions_of_no_document_are_empty(mixture: Mixture) -> None:
    for pack in pack_all(mixture):
        for prefix, ranges in (("source", pack.source_ranges), ("target", pack.target_ranges)):
            unused = np.ones(getattr(mixture.capacity, prefix), np.bool_)
            for start, end in ranges:
                unused[start:end] = False
            assert (getattr(pack, f"{prefix}_ids")[unused] == PAD).all()
            for name in (f"{prefix}_lo", f"{prefix}_hi", f"{prefix}_positions"):
                assert not getattr(pack, name)[unused].any()
        assert (pack.labels[unused] == PAD).all()
        for array in (pack.weights, pack.cross_lo, pack.cross_hi):
            assert not array[unused].any()
        for lane, places in pack.places.items():
            is_free = places[:, 0] == mixture.capacity.source
            assert (places[is_free] == mixture.capacity.source).all()
            assert not pack.tensors[lane][is_free].any()


@settings(max_examples=40)
@given(mixtures())
def test_every_row_is_packed_once_in_static_shapes(mixture: Mixture) -> None:
    packs = pack_all(mixture)
    seen = sorted(tuple(row) for pack in packs for row in pack.rows.tolist())
    names = [template.task for template in mixture.templates]
    assert seen == sorted(
        (task, row) for task, name in enumerate(names) for row in mixture.rows[name].tolist()
    )
    assert len({_shape(pack) for pack in packs}) == 1


def _shape(pack: Pack) -> tuple[object, ...]:
    streams = (pack.source_ids, pack.target_ids, pack.weights, *pack.tensors.values())
    return tuple((array.shape, array.dtype) for array in (*streams, *pack.places.values()))


def test_a_small_pack_by_hand() -> None:
    template = Template(
        task="caption",
        source_name="photos",
        source=(
            TensorPiece(column="image", lane="image", length=2),
            IdsPiece(column="question", offset=100),
        ),
        target=(
            ConstPiece(ids=(1,)),
            IdsPiece(column="answer", offset=100, lesson=Lesson(0)),
            ConstPiece(ids=(2,), lesson=Lesson(0)),
        ),
    )
    columns = {
        ("photos", "image"): DenseColumn(np.array([[7], [8]], np.uint8)),
        ("photos", "question"): RaggedColumn([np.array([3, 4]), np.array([5])]),
        ("photos", "answer"): RaggedColumn([np.array([6]), np.array([], np.int64)]),
    }
    capacity = Capacity(source=8, target=8, tensors={"image": 3}, tile=4)
    rows = {"caption": np.array([0, 1])}
    (pack,) = pack_documents([template], rows, columns, capacity)
    assert pack.rows.tolist() == [[0, 0], [0, 1]]
    assert pack.source_ids.tolist() == [0, 0, 103, 104, 0, 0, 105, 0]
    assert pack.source_positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert pack.source_lo.tolist() == [0, 0, 0, 0, 4, 4, 4, 0]
    assert pack.source_hi.tolist() == [4, 4, 4, 4, 7, 7, 7, 0]
    assert pack.target_ids.tolist() == [1, 106, 1, 0, 0, 0, 0, 0]
    assert pack.labels.tolist() == [106, 2, 2, 0, 0, 0, 0, 0]
    assert pack.weights.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert pack.target_lo.tolist() == [0, 0, 2, 0, 0, 0, 0, 0]
    assert pack.target_hi.tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert pack.cross_lo.tolist() == [0, 0, 4, 0, 0, 0, 0, 0]
    assert pack.cross_hi.tolist() == [4, 4, 7, 0, 0, 0, 0, 0]
    assert pack.tensors["image"].tolist() == [[7], [8], [0]]
    assert pack.places["image"].tolist() == [[0, 1], [4, 5], [8, 8]]


def test_documents_that_fit_no_pack_are_named_not_cut() -> None:
    mixture = make_mixture([40, 40], has_images=False, tile=8)
    capacity = replace(mixture.capacity, max_source=12)
    packs = pack_documents(mixture.templates, mixture.rows, mixture.columns, capacity)
    packed = {tuple(row) for pack in packs for row in pack.rows.tolist()}
    left_out = {tuple(row) for row in packs.left_out.tolist()}
    assert not packed & left_out
    assert len(packed) + len(left_out) == 80
    for task, row in left_out:
        assert len(read_slowly(mixture.templates[task], mixture.columns, row).source) > 12
    for task, row in packed:
        assert len(read_slowly(mixture.templates[task], mixture.columns, row).source) <= 12


def test_tasks_without_rows_are_passed_over() -> None:
    mixture = make_mixture([5, 5])
    rows = mixture.rows | {"task0": np.empty(0, np.int64)}
    packs = pack_documents(mixture.templates, rows, mixture.columns, mixture.capacity)
    assert {int(task) for pack in packs for task in pack.rows[:, 0]} == {1}


def test_a_column_that_differs_from_its_sidecar_is_named() -> None:
    mixture = make_mixture([5], has_images=False)
    mixture.columns["source0", "text"].lengths[:] += 1
    with pytest.raises(LoaderError, match=r'T0605.*column "text" has other lengths'):
        pack_all(mixture)


def test_tensors_of_one_lane_must_be_alike() -> None:
    mixture = make_mixture([5, 5, 5])
    other = DenseColumn(np.zeros((8, 3, 3, 3), np.uint8))
    with pytest.raises(LoaderError, match=r"T0605.*task0: uint8 \(2, 2, 3\).*task2: uint8 \(3, 3"):
        pack_all(mixture.with_column("source2", "image", other))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        pytest.param((ConstPiece(ids=()),), "does not begin with", id="no first id"),
        pytest.param((IdsPiece(column="a"),), "does not begin with", id="column first"),
        pytest.param(
            (ConstPiece(ids=(1,)), TensorPiece(column="a", lane="image", length=2)),
            "target side holds a tensor",
            id="tensor",
        ),
    ],
)
def test_an_impossible_template_is_refused(target: tuple[Piece, ...], message: str) -> None:
    with pytest.raises(LoaderError, match=rf'T0606.*"caption".*{message}'):
        Template(task="caption", source_name="photos", source=(), target=target)


def test_a_row_without_a_value_is_refused() -> None:
    mixture = make_mixture([5])
    row = int(mixture.rows["task0"][2])
    mixture.columns["source0", "answer"].valid[row] = False
    with pytest.raises(LoaderError, match=rf'T0604.*"task0".*1 of 5 rows .* first row {row}'):
        pack_all(mixture)
