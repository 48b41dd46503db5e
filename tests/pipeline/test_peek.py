"""Any node of a plan runs on any rows, computes no more than it needs, and gives what a person can hold."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from taskloom.graph.errors import PlanError, RowError, SourceError
from taskloom.graph.type import Type
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Plan, Source, Task, build, plan, train
from taskloom.pipeline.planner.sample import Document
from taskloom.pipeline.viewer.inspection import open_plan
from taskloom.pipeline.viewer.trace import trace_row
from taskloom.storage.pack import Pack

from .rows import DIGITS, WORDS, Row, digit_rows, digits_task, mix, write_jsonl, write_parquet

SMALL = ModelConfig(width=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, ffn_width=32)
ROWS = digit_rows(12)


def two_tasks() -> Mixture:
    words = [{"id": str(i), "note": f"naïve {i} 😀", "label": str(i % 3)} for i in range(30)]
    return mix(
        digits_task(Source("digits", digit_rows(30)), where="id != '?'"),
        digits_task(Source("words", words), WORDS, name="words"),
    )


@pytest.fixture(scope="module")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peek") / "store"
    build(two_tasks(), path, progress=False, workers=1)
    return path


@pytest.fixture(scope="module")
def planned(store_dir: Path) -> Plan:
    """Both tasks as the store holds them, with a small model."""
    return open_plan(two_tasks(), store_dir, model=SMALL)


def pixels(row: Mapping[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB"))


def test_pictures_are_arrays_before_and_after_their_sizes_agree() -> None:
    unbuilt = plan(mix(Task("digits", DIGITS)))
    decoded = unbuilt["digits.image/decode"].head(ROWS, 3)
    assert [np.array_equal(a, pixels(row)) for a, row in zip(decoded, ROWS, strict=False)] == [
        True
    ] * 3
    resized = unbuilt["digits.image/resize"].head(ROWS, 2)
    assert [(array.shape, array.dtype) for array in resized] == [((16, 16, 3), np.uint8)] * 2


def test_texts_ids_numbers_and_constants_are_pythons(planned: Plan) -> None:
    rows = [{"id": 7, "note": "  naïve\t😀 ", "label": "2"}]
    assert planned["words.note"].values(rows) == ["  naïve\t😀 "]
    assert planned["words.note/normalize"].values(rows) == ["naïve 😀"]
    assert planned["words/split"].values(rows)[0] in (0, 1, 2)
    (ids,) = planned["words.note/encode"].values(rows)
    assert isinstance(ids, list)
    assert all(type(number) is int for number in ids)
    assert planned["words.text@0/encode"].head([])[0]
    assert planned["digits/where.id/compare"].values([{"id": "?"}, {"id": "a"}]) == [False, True]


def test_only_the_columns_that_the_node_needs_are_asked_for(planned: Plan) -> None:
    assert planned["digits.label/normalize"].values([{"label": " a "}]) == ["a"]
    with pytest.raises(SourceError, match="T0212"):
        planned["digits.label/normalize"].values([{"labels": "a"}])


@pytest.mark.parametrize(
    "kind", ["rows", "function", "iterator", "jsonl", "parquet", "split", "source", "task"]
)
def test_head_takes_whatever_a_source_is_made_of(kind: str, tmp_path: Path) -> None:
    rows: list[Row] = [{"id": i, "label": f"l{i}"} for i in range(5)]
    sources: dict[str, Any] = {
        "rows": rows,
        "function": lambda: iter(rows),
        "iterator": iter(rows),
        "jsonl": str(write_jsonl(tmp_path / "rows.jsonl", rows)),
        "parquet": write_parquet(tmp_path / "rows.parquet", rows),
        "split": {"train": rows[:2], "test": rows[2:]},
        "source": Source("s", rows),
        "task": Task("t", DIGITS, source=Source("s", rows)),
    }
    unbuilt = plan(mix(Task("digits", DIGITS)))
    assert unbuilt["digits.label/normalize"].head(sources[kind], 3) == ["l0", "l1", "l2"]
    if kind == "split":
        assert unbuilt["digits/split/read"].head(sources[kind], 3) == [0, 0, 2]


def test_no_more_rows_are_read_than_are_asked_for() -> None:
    def endless() -> Iterator[Row]:
        for number in range(4):
            yield {"label": str(number)}
        raise AssertionError("a fifth row was asked for")

    unbuilt = plan(mix(Task("digits", DIGITS)))
    assert unbuilt["digits.label"].head(endless, 4) == ["0", "1", "2", "3"]


def test_a_bad_row_is_named_or_stands_in_its_place() -> None:
    unbuilt = plan(mix(Task("digits", DIGITS)))
    rows = [ROWS[0], {"image": b"notajpeg"}, ROWS[2]]
    with pytest.raises(RowError, match=r"T0301.*\n.*row 1 "):
        unbuilt["digits.image/resize"].values(rows)
    good, bad, last = unbuilt["digits.image/resize"].values(rows, on_error="return")
    assert isinstance(bad, RowError)
    assert good.shape == last.shape


def test_a_document_is_what_the_model_reads_and_is_asked_for(planned: Plan) -> None:
    first, second = planned["digits/document"].values(ROWS[:2])
    assert isinstance(first, Document)
    assert first.tensors == ((0, "image_16_8", 4),)
    assert len(first.source_ids) == len(second.source_ids) > 4
    assert first.labels[:-1] == first.target_ids[1:]
    assert set(first.weights) == {1.0}
    offset = planned.vocabulary.offset("text")
    (label,) = planned["digits.label/encode"].values(ROWS[:1])
    assert [number - offset for number in first.labels[:-1]] == label


def test_nodes_of_the_device_half_give_the_positions_of_each_row(planned: Plan) -> None:
    documents = planned["words/document"].head(two_tasks()["words"], 3)
    states = planned["encoder"].head(two_tasks()["words"], 3, task="words")
    assert [tuple(state.shape) for state in states] == [
        (len(document.source_ids), 16) for document in documents
    ]
    patches = planned["source/image_16_8"].values(ROWS[:3], task="digits")
    assert [tuple(each.shape) for each in patches] == [(1, 4, 16)] * 3
    (pack,) = planned["pack"].values(ROWS[:3], task="digits")
    assert isinstance(pack, Pack)
    assert sorted(pack.rows[:, 1].tolist()) == [0, 1, 2]
    learned = pack.loss_ids[pack.weights > 0].tolist()
    assert set(learned) == {planned.scored.index(("digits", "label"))}


def test_a_row_gives_the_same_tensors_alone_and_beside_others(planned: Plan) -> None:
    together = planned["decoder"].values(ROWS[:5], task="digits")
    for row, state in zip(ROWS, together, strict=False):
        (alone,) = planned["decoder"].values([row], task="digits")
        torch.testing.assert_close(alone, state, rtol=1e-4, atol=1e-5)


def test_bad_rows_leave_the_others_in_their_places_behind_the_pack(planned: Plan) -> None:
    rows = [ROWS[0], ROWS[1] | {"image": b"notajpeg"}, ROWS[2]]
    first, bad, last = planned["encoder"].values(rows, task="digits", on_error="return")
    assert isinstance(bad, RowError)
    whole = planned["encoder"].values([ROWS[0], ROWS[2]], task="digits")
    torch.testing.assert_close([first, last], whole, rtol=1e-4, atol=1e-5)


def test_the_loss_is_one_for_each_pack_and_sums_over_tasks(planned: Plan) -> None:
    (made,) = planned["loss"].values(ROWS[:3], task="digits")
    position = planned.scored.index(("digits", "label"))
    assert made["loss_weights"][position] == made["loss_weights"].sum() > 0
    assert made["out"].isfinite()


def test_parameters_are_those_of_the_run_that_is_named_and_fixed_ones_otherwise(
    planned: Plan, store_dir: Path, tmp_path: Path
) -> None:
    train(two_tasks(), store_dir, out=tmp_path, model=SMALL, steps=3, progress=False, threads=1)
    encoder = planned["encoder"]
    fresh, again = (encoder.values(ROWS[:1], task="digits")[0] for _ in range(2))
    assert torch.equal(fresh, again)
    trained = encoder.values(ROWS[:1], task="digits", model=tmp_path)[0]
    assert not torch.allclose(fresh, trained)


def test_an_unknown_address_names_the_nearest(planned: Plan) -> None:
    with pytest.raises(PlanError, match=r"did you mean digits\.image/resize"):
        planned["digits.image/resiz"]


def test_what_is_still_to_be_fitted_is_named_with_what_to_do() -> None:
    unbuilt = plan(mix(Task("digits", DIGITS)))
    for address in ("digits.label/encode", "digits/document", "encoder"):
        with pytest.raises(PlanError, match="T0238") as caught:
            unbuilt[address].head(ROWS)
        assert "bpe-main" in str(caught.value)
        assert "build first" in str(caught.value)


def test_several_tasks_need_a_name_behind_the_pack(planned: Plan) -> None:
    with pytest.raises(PlanError, match=r'T0815.*2 tasks(.|\n)*task="digits"'):
        planned["encoder"].values(ROWS[:1])
    with pytest.raises(PlanError, match="did you mean digits"):
        planned["encoder"].values(ROWS[:1], task="digit")


def test_every_template_of_a_task_shows_its_own_document(tmp_path: Path) -> None:
    rows = [{"id": i, "note": f"note {i}", "label": str(i % 3)} for i in range(30)]
    written = ["[TEXT:note] which one? -> [TEXT:label]", "label this: [TEXT:note] -> [TEXT:label]"]
    mixture = mix(Task("words", written, source=Source("words", rows), holdout=0.1, key="id"))
    build(mixture, tmp_path / "store", progress=False, workers=1)
    both = open_plan(mixture, tmp_path / "store", model=SMALL)
    (note,) = both["words.note/encode"].values(rows[5:6])
    (first,) = both["words/document"].values(rows[5:6])
    (second,) = both["words:2/document"].values(rows[5:6])
    offset = both.vocabulary.offset("text")
    ids = [offset + number for number in note]
    assert first.source_ids[1 : 1 + len(ids)] == ids
    assert second.source_ids[-1 - len(ids) : -1] == ids
    assert first.labels == second.labels

    trace = trace_row(both, "words", pa.Table.from_pylist(rows[5:6]), row="5")
    shown = [step.node.address for step in trace.steps if step.node.op == "compose_documents"]
    assert shown == ["words/document", "words:2/document"]
    assert trace.problems == ()


def test_a_handle_says_what_it_is(planned: Plan) -> None:
    handle = planned["digits.image/resize"]
    assert handle.key == planned.graph["digits.image/resize"].key
    assert isinstance(handle.type, Type)
    assert repr(handle) == (
        "<digits.image/resize: resize_images height=16 width=16 resample=bicubic -> "
        "image<uint8[16,16,3] dense>@host/digits>"
    )
