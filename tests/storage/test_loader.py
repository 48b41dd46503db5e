"""The stream is a function of its inputs: it resumes exactly, keeps its shares, and says its faults."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings

from taskloom.graph.errors import LoaderError
from taskloom.graph.type import Layout, Type
from taskloom.storage.column import open_writer
from taskloom.storage.length import measure_documents
from taskloom.storage.loader import Loader, to_torch
from taskloom.storage.reader import ColumnReader, open_column
from taskloom.storage.store import Store
from taskloom.storage.template import Column, ConstPiece

from .documents import DenseColumn, Mixture, Step, digest, make_mixture, mixtures, take


@settings(max_examples=40)
@given(
    mixture=mixtures(),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    packs_per_step=st.integers(1, 3),
    window_size=st.integers(1, 80),
    stops=st.lists(st.integers(0, 12), min_size=1, max_size=4),
)
def test_a_stream_that_is_interrupted_goes_on_bit_for_bit(
    mixture: Mixture,
    weights: list[float],
    packs_per_step: int,
    window_size: int,
    stops: list[int],
) -> None:
    given_weights = {each.task: w for each, w in zip(mixture.templates, weights, strict=False)}
    kept: dict[str, Any] = {
        "packs_per_step": packs_per_step,
        "window_size": window_size,
        "weights": given_weights,
        "seed": 3,
    }
    whole = take(mixture.loader(**kept), sum(stops) + 2)
    state, resumed = None, list[Step]()
    for num_steps in [*stops, 2]:
        loader = mixture.loader(state, **kept)
        resumed += take(loader, num_steps)
        state = json.loads(json.dumps(loader.state()))
        assert state["step"] == len(resumed)
    assert [*map(digest, resumed)] == [*map(digest, whole)]


@settings(max_examples=40)
@given(
    mixture=mixtures(),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    window_size=st.integers(1, 80),
)
def test_windows_keep_shares_and_passes(
    mixture: Mixture, weights: list[float], window_size: int
) -> None:
    names = [template.task for template in mixture.templates]
    loader = mixture.loader(
        weights=dict(zip(names, weights, strict=False)), window_size=window_size
    )
    shares = np.array(weights[: len(names)]) / sum(weights[: len(names)])
    seen = [Counter[int]() for _ in names]
    for window in _split_windows(loader, 25):
        for task, row in window:
            seen[task][row] += 1
        counts = np.array([counter.total() for counter in seen])
        assert np.abs(counts - counts.sum() * shares).max() < 1
        for name, counter in zip(names, seen, strict=True):
            num_passes, cursor = divmod(counter.total(), len(mixture.rows[name]))
            times = Counter(counter[row] for row in mixture.rows[name].tolist())
            rest = len(mixture.rows[name]) - cursor
            assert times == +Counter({num_passes: rest, num_passes + 1: cursor})
            assert counter.keys() <= set(mixture.rows[name].tolist())


def _split_windows(loader: Loader, num_steps: int) -> list[list[tuple[int, int]]]:
    """Return the documents of each whole window in the first steps."""
    windows: dict[int, list[tuple[int, int]]] = {}
    with loader:
        for (pack,) in islice(loader, num_steps):
            documents = windows.setdefault(loader.state()["window"], [])
            documents += [(task, row) for task, row in pack.rows.tolist()]
    return list(windows.values())[:-1]


def test_seeds_make_different_streams() -> None:
    mixture = make_mixture([50, 50])
    first, second = (take(mixture.loader(seed=seed), 3) for seed in (0, 1))
    assert [*map(digest, first)] != [*map(digest, second)]


def test_packs_of_a_window_are_shuffled() -> None:
    mixture = make_mixture([400], has_images=False)
    sizes = [len(pack.rows) for (pack,) in take(mixture.loader(), 40)]
    order = [later - sooner for sooner, later in pairwise(sizes)]
    assert min(order) < 0 < max(order)


def test_rare_tasks_are_mixed_in_and_their_rows_come_round() -> None:
    mixture = make_mixture([2, 300], has_images=False)
    loader = mixture.loader(weights={"task0": 1, "task1": 9}, window_size=64)
    seen = Counter((task, row) for (pack,) in take(loader, 60) for task, row in pack.rows.tolist())
    rare = [number for (task, _), number in seen.items() if task == 0]
    assert max(rare) - min(rare) <= 2
    assert abs(sum(rare) / seen.total() - 0.1) < 0.02


def test_templates_take_turns_and_each_row_is_seen_once_in_a_pass() -> None:
    mixture = make_mixture([60], has_images=False)
    (only,) = mixture.templates
    templates = tuple(replace(only, number=i, num_templates=3) for i in range(3))
    several = replace(mixture, templates=templates)
    seen = [row for (pack,) in take(several.loader(), 80) for row in map(tuple, pack.rows.tolist())]
    num_passes = len(seen) // 60
    assert num_passes > 2
    for row in mixture.rows["task0"].tolist():
        number = sum(1 for _, other in seen if other == row)
        assert num_passes - 1 <= number <= num_passes + 1
    with_each = Counter(template for template, _ in seen)
    assert max(with_each.values()) - min(with_each.values()) <= 3 + 60
    assert {template for template, row in seen if row == seen[0][1]} != {seen[0][0]}
    assert [task.name for task in several.loader().report.tasks] == ["task0"]


def test_rows_that_fit_with_one_template_and_not_with_another_are_left_out() -> None:
    mixture = make_mixture([60], has_images=False)
    (only,) = mixture.templates
    long = replace(only, source=(ConstPiece(ids=(7,) * 30), *only.source))
    templates = (replace(only, num_templates=2), replace(long, number=1, num_templates=2))
    loader = replace(
        mixture, templates=templates, capacity=replace(mixture.capacity, max_source=40)
    ).loader()
    lengths = measure_documents(long, mixture.columns, mixture.rows["task0"]).source_lengths
    assert [task.num_left_out for task in loader.report.tasks] == [int((lengths > 40).sum())]
    rows = {row for (pack,) in take(loader, 40) for _, row in pack.rows.tolist()}
    assert rows == set(mixture.rows["task0"][lengths <= 40].tolist())


def test_over_long_rows_are_counted_and_never_seen() -> None:
    mixture = make_mixture([80, 80], has_images=False, tile=8)
    capacity = replace(mixture.capacity, max_source=12)
    loader = replace(mixture, capacity=capacity).loader()
    packs = [pack for (pack,) in take(loader, 40)]
    longest = max(int(np.diff(pack.source_ranges).max()) for pack in packs)
    assert longest <= 12
    lengths = [
        measure_documents(t, mixture.columns, mixture.rows[t.task]).source_lengths
        for t in mixture.templates
    ]
    left_out = [int((length > 12).sum()) for length in lengths]
    assert [task.num_left_out for task in loader.report.tasks] == left_out
    assert f"task0: {left_out[0]} of 80 rows are left out, longer than 12 source or 64 target" in (
        "\n".join(loader.header(10))
    )


def test_the_header_tells_shares_epochs_and_fill() -> None:
    mixture = make_mixture([100, 300], has_images=False, tile=8)
    loader = mixture.loader(packs_per_step=2)
    header = loader.header(60, source_flops=1, target_flops=3)
    packs = [pack for step in take(loader, 60) for pack in step]
    samples = Counter(int(task) for pack in packs for task in pack.rows[:, 0])
    epochs = samples[0] / 100
    assert header[0].startswith("task0: 25% of samples, ")
    assert header[0].endswith(" epochs in 60 steps")
    assert float(header[0].split(" tokens, ")[1].split()[0]) == pytest.approx(epochs, rel=0.1)
    source = np.mean([(pack.source_hi > 0).mean() for pack in packs])
    target = np.mean([(pack.target_hi > 0).mean() for pack in packs])
    assert loader.report.fill["source"] == pytest.approx(source, abs=0.03)
    assert loader.report.fill["target"] == pytest.approx(target, abs=0.03)
    assert loader.report.weigh_fill(1, 3) == pytest.approx((source + 3 * target) / 4, abs=0.03)
    assert header[-1].startswith(
        f"packs are filled: source {loader.report.fill['source']:.1%} of 64"
    )


def test_all_faulty_tasks_are_named_together() -> None:
    mixture = make_mixture([20, 20, 20], has_images=False)
    rows = mixture.rows | {"task1": np.empty(0, np.int64)}
    capacity = replace(mixture.capacity, max_target=1)
    with pytest.raises(LoaderError) as caught:
        replace(mixture, rows=rows, capacity=capacity).loader()
    messages = [(problem.code, problem.message) for problem in caught.value.problems]
    assert messages == [
        ("T0602", 'none of the 20 documents of task "task0" fits a pack'),
        ("T0601", 'task "task1" has no rows'),
        ("T0602", 'none of the 20 documents of task "task2" fits a pack'),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"weights": {"task0": 1}}, 'task "task1" needs a positive', id="missing"),
        pytest.param({"weights": {"task0": 1, "task1": 0}}, "weight, got 0", id="zero"),
        pytest.param(
            {"weights": {"task0": 1, "task1": 1, "taks1": 1}}, "did you mean task1", id="unknown"
        ),
        pytest.param({"packs_per_step": 0}, "packs_per_step must be at least 1", id="packs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LoaderError, match=message):
        make_mixture([5, 5]).loader(**changes)


@pytest.mark.parametrize("state", [{}, {"format": 99}, {"format": 3, "seed": 0}])
def test_what_is_no_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(LoaderError, match="T0607"):
        make_mixture([5]).loader(state)


def test_tensors_share_memory_with_the_pack_and_keep_its_names() -> None:
    ((pack,),) = take(make_mixture([30]).loader(), 1)
    tensors = to_torch(pack)
    streams = {"source_ids", "source_positions", "source_lo", "source_hi", "target_ids", "labels"}
    streams |= {
        "weights",
        "loss_ids",
        "pair_ranges",
        "pair_loss_ids",
        "target_positions",
        "target_lo",
        "target_hi",
    }
    assert set(tensors) == streams | {"cross_lo", "cross_hi", "image", "image_places"}
    assert tensors["source_ids"].dtype == torch.int32
    assert tensors["image"].dtype == torch.uint8
    pack.source_ids[0] = 77
    assert tensors["source_ids"][0] == 77


def test_dense_columns_may_be_of_any_type() -> None:
    mixture = make_mixture([30])
    latents = DenseColumn(np.random.default_rng(0).normal(size=(33, 5)).astype(np.float32))
    ((pack,),) = take(mixture.with_column("source0", "image", latents).loader(), 1)
    task, row = pack.rows[0].tolist()
    slot = int(np.flatnonzero(pack.places["image"][:, 0] == pack.source_ranges[0, 0] + 1)[0])
    assert task == 0
    np.testing.assert_array_equal(pack.tensors["image"][slot], latents.values[row])


def test_columns_in_files_give_the_stream_of_columns_in_memory(tmp_path: Path) -> None:
    mixture = make_mixture([300, 200])
    store = Store.create(tmp_path / "store")
    columns = {
        (source_name, key): _write_and_open(store, source_name, key, column)
        for (source_name, key), column in mixture.columns.items()
    }
    stored = replace(mixture, columns=columns)
    assert {name: type(column) for name, column in columns.items()} == dict.fromkeys(
        columns, ColumnReader
    )
    in_memory, in_files = (take(each.loader(prefetch=2), 40) for each in (mixture, stored))
    assert [*map(digest, in_files)] == [*map(digest, in_memory)]


def _write_and_open(store: Store, source_name: str, key: str, column: Column) -> Column:
    """Write ``column`` as two partitions of unequal size."""
    parts = {"aa": np.arange(120), "bb": np.arange(120, column.num_rows)}
    for partition, rows in parts.items():
        gathered = column.gather(rows)
        if isinstance(gathered, tuple):
            values, offsets = gathered
            array = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
            type_ = Type("text", "uint16", ("T",), Layout.RAGGED)
        elif gathered.ndim == 1:
            array, type_ = pa.array(gathered), Type("count", "uint32")
        else:
            array = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(gathered))
            type_ = Type("image", "uint8", gathered.shape[1:], Layout.DENSE)
        with open_writer(store, source_name, key, partition, type_) as writer:
            writer.write(array)
            writer.commit()
    return open_column(store, source_name, key, list(parts))
