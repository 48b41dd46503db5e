"""A denoising task learns from masks that are new in every pass, and are the same in every run."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import OpError, PlanError
from taskloom.graph.op import Traits
from taskloom.ops.host.noise import MaskSpans
from taskloom.pipeline import Mixture, Model, Source, Task, build, evaluate, plan, train
from taskloom.pipeline.loader.crew import Crew
from taskloom.pipeline.loader.online import add_online_columns
from taskloom.pipeline.loader.online_segment import Segment
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.pipeline.viewer.inspection import open_plan
from taskloom.pipeline.viewer.trace import trace_row
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint
from taskloom.storage.loader import to_torch
from taskloom.storage.online import OnlineColumn
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .stores import MODEL, are_equal, spell_numbers

MASKED = "fill in [TEXT:words,mask_ratio=0.4,replace_length=1,noise_ratio=0.1] -> [TEXT:words]"
CONFIG = TrainConfig(
    steps=16, source_tokens=256, log_every=2, checkpoint_every=4, keep_checkpoints=9, threads=1
)


def make_mixture(*names: str, instruction: str = MASKED) -> Mixture:
    """Return tasks that all do the same, over one source."""
    source = Source("numbers", spell_numbers())
    tasks = [
        Task(name, instruction, source=source, holdout=0.2, key="number")
        for name in names or ("denoise",)
    ]
    return Mixture(tasks, bpe_size=300)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("denoise") / "store"
    build(make_mixture("denoise", "again"), path, progress=False)
    return Store.open(path)


@pytest.fixture(scope="module")
def stream(store: Store) -> Stream:
    return open_denoise(store)


def open_denoise(store: Store, mixture: Mixture | None = None, **changes: Any) -> Stream:
    return open_stream(mixture or make_mixture(), store, MODEL, replace(CONFIG, **changes))


def drawn_of(stream: Stream, task: str = "denoise") -> OnlineColumn:
    """Return the column of ``task`` that is drawn."""
    (found,) = (c for (_, name), c in stream.columns.items() if name.endswith(f"@{task}"))
    assert isinstance(found, OnlineColumn)
    return found


def read_rows(column: OnlineColumn, rows: list[int], passes: list[int]) -> list[list[int]]:
    gathered = column.gather_in(np.array(rows, np.int64), np.array(passes, np.int64))
    assert isinstance(gathered, tuple)
    values, offsets = gathered
    return [values[a:b].tolist() for a, b in pairwise(offsets)]


def digest(pack: Pack) -> tuple[bytes, ...]:
    return tuple(tensor.numpy().tobytes() for tensor in to_torch(pack).values())


def take_packs(stream: Stream, number: int, state: Any = None) -> list[tuple[bytes, ...]]:
    with stream.loader(state) as loader:
        packs = (pack for step in loader for pack in step)
        return [digest(pack) for pack in islice(packs, number)]


@settings(max_examples=15, deadline=None)
@given(seen=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 3)), min_size=1), data=st.data())
def test_a_row_is_what_seed_task_pass_and_row_say(
    stream: Stream, seen: list[tuple[int, int]], data: st.DataObject
) -> None:
    column = drawn_of(stream)
    rows, passes = map(list, zip(*seen, strict=True))
    together = read_rows(column, rows, passes)
    cut = data.draw(st.integers(0, len(rows)))
    apart = read_rows(column, rows[:cut], passes[:cut]) + read_rows(
        column, rows[cut:], passes[cut:]
    )
    assert together == apart
    planned = column.plan_lengths(np.array(rows), np.array(passes))
    assert planned.tolist() == [len(ids) for ids in together]
    assert (planned <= column.lengths[rows]).all()


def test_pass_seed_and_task_each_draw_other_numbers(store: Store) -> None:
    rows = list(range(100))
    both = make_mixture("denoise", "again")
    stream = open_denoise(store, both)
    first = read_rows(drawn_of(stream), rows, [0] * 100)
    others = [
        read_rows(drawn_of(stream), rows, [1] * 100),
        read_rows(drawn_of(stream, "again"), rows, [0] * 100),
        read_rows(drawn_of(open_denoise(store, both, seed=1)), rows, [0] * 100),
    ]
    for other in others:
        assert sum(a != b for a, b in zip(first, other, strict=True)) > 50
    # What other tasks there are, and in what order, says nothing.
    for names in (("denoise",), ("again", "denoise")):
        alone = drawn_of(open_denoise(store, make_mixture(*names)))
        assert read_rows(alone, rows, [0] * 100) == first


def test_a_mask_has_an_id_behind_all_others_and_no_id_moves() -> None:
    plain = plan(Task("t", "[TEXT:a] -> [TEXT:a]")).vocabulary
    for mode in ("train", "infer"):
        masked = plan(Task("t", "[TEXT:a,mask_ratio=0.3] -> [TEXT:a]"), mode).vocabulary
        assert masked.blocks[:-1] == plain.blocks
        assert masked.offset("mask") == plain.size
        assert masked.size == plain.size + 1


def test_what_is_stored_is_what_is_stored_without_masks() -> None:
    plain, masked = (
        plan(Task("t", f"[TEXT:a{more}] -> [TEXT:a]"))
        for more in ("", ",mask_ratio=0.3,noise_ratio=0.1")
    )
    assert {v.column_id for v in masked.cut.stored} == {v.column_id for v in plain.cut.stored}


def test_sources_are_masked_and_targets_whole(store: Store) -> None:
    stream = open_denoise(store)
    mask = stream.plan.vocabulary.offset("mask")
    with stream.loader() as loader:
        packs = [pack for step in islice(loader, 6) for pack in step]
    assert all((pack.source_ids == mask).any() for pack in packs)
    assert not any((pack.target_ids == mask).any() for pack in packs)
    assert not any((pack.labels == mask).any() for pack in packs)
    assert max(int(pack.source_ids.max()) for pack in packs) == mask


def test_steps_and_prefetching_change_no_pack(store: Store) -> None:
    expected = take_packs(open_denoise(store), 12)
    stream = open_denoise(store, packs_per_step=3)
    assert take_packs(stream, 12) == expected
    with stream.loader() as loader:
        next(iter(loader))
        state = loader.state()
    assert take_packs(stream, 9, state) == expected[3:]


def test_a_denoising_run_that_is_stopped_goes_on_to_the_bit(store: Store, tmp_path: Path) -> None:
    mixture, kept = make_mixture(), []
    for out, stops in ((tmp_path / "whole", [16]), (tmp_path / "parts", [7, 16])):
        for stop in stops:
            train(mixture, store, out=out, model=MODEL, config=CONFIG, progress=False, stop_at=stop)
        path = latest_checkpoint(out)
        assert path is not None
        losses = [line["loss"] for line in read_log(out)]
        kept.append((read_checkpoint(path, with_training=True), losses))
    (whole, losses), (parts, others) = kept
    assert are_equal(whole.tensors, parts.tensors)
    assert losses == others


def test_who_is_asked_reads_no_noise(store: Store, tmp_path: Path) -> None:
    mixture = make_mixture()
    run = train(mixture, store, out=tmp_path, model=MODEL, config=CONFIG, progress=False)
    assert evaluate(run.model, mixture, store)["denoise"].evaluated > 0
    model = Model.load(tmp_path)
    rows = [{"words": "twenty one", "number": "21"}]
    assert model.infer("denoise", rows) == model.infer("denoise", rows)
    # An instruction without a mask is followed with the same ids.
    assert model.infer("fill in [TEXT:words] -> [TEXT:words]", rows)[0].text is not None
    planned = open_plan(mixture, store)
    given = planned["denoise.words/encode"].head(rows)
    assert planned["denoise.words/mask"].head(rows) == given
    (document,) = planned["denoise/document"].head(rows)
    offset = planned.vocabulary.offset("text")
    assert document.source_ids[-len(given[0]) - 1 : -1] == [offset + i for i in given[0]]


def test_peek_says_that_it_shows_no_draw(store: Store) -> None:
    planned = open_plan(make_mixture(), store)
    table = pa.table({"words": ["twenty one"], "number": ["21"]})
    steps = {s.node.op: s for s in trace_row(planned, "denoise", table, row="0").steps}
    for op in ("replace_ids", "mask_spans"):
        assert "as it is in evaluation" in steps[op].note
        assert steps[op].preview is not None
    assert steps["encode_texts"].note == ""


class _Refuse:
    """Masks as an op does, until it meets a row of so many ids."""

    def __init__(self, op: Any, num_ids: int) -> None:
        self._op, self._num_ids = op, num_ids
        self.traits = op.traits

    def __call__(self, ids: pa.Array, *, keys: npt.NDArray[np.uint64]) -> pa.Array:
        if self._num_ids in ids.value_lengths().to_pylist():
            raise ZeroDivisionError("an op with a mistake")
        return self._op(ids, keys=keys)


def test_an_op_that_fails_is_named_with_task_and_row(store: Store) -> None:
    column = drawn_of(open_denoise(store))
    shared: Any = column.compute
    segment = shared.segment
    assert isinstance(segment, Segment)
    lengths: Any = column.inputs[0].lengths
    row = int(lengths.argmax())
    first = segment.calls[0]
    segment.calls = (replace(first, op=_Refuse(first.op, int(lengths[row]))), *segment.calls[1:])
    with pytest.raises(OpError) as caught:
        read_rows(column, [*range(100)], [2] * 100)
    problem = caught.value.problems[0]
    assert (problem.code, problem.address) == ("T0303", "denoise.words/noise")
    ((partition, _),) = segment.partitions
    assert problem.row == f"{partition}:{row}"
    assert "pass 2 and seed 0" in problem.help
    assert problem.sites[0].text == MASKED


def test_what_is_written_is_not_masked() -> None:
    with pytest.raises(PlanError) as caught:
        plan(Task("t", "[TEXT:a] -> [TEXT:b,mask_ratio=0.3]"))
    assert caught.value.problems[0].code == "T0215"


class _DropIds(MaskSpans):
    traits: ClassVar[Traits] = Traits("mask_spans", version=2)


def test_an_op_of_unknown_length_is_refused_where_it_runs_in_every_epoch(store: Store) -> None:
    stream = open_denoise(store)
    planned = stream.dataset.plan
    planned = replace(planned, catalogue={**planned.catalogue, "mask_spans": _DropIds})
    with pytest.raises(PlanError) as caught:
        add_online_columns(planned, stream.dataset.columns, 0, Crew())
    problem = caught.value.problems[0]
    assert (problem.code, problem.address) == ("T0237", "denoise.words/mask")
