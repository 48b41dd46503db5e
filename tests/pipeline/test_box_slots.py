"""A BOX slot finds the picture of its boxes: beside it, around its group, or as a size in the row itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskloom.graph.errors import PlanError
from taskloom.pipeline import Mixture, Source, Task, build, plan
from taskloom.pipeline.builder.dataset import Dataset, open_dataset
from taskloom.storage.store import Store

from .rows import SLOTS, encode_png

WIDE, HIGH = (encode_png(np.zeros(shape, np.uint8)) for shape in ((10, 40, 3), (40, 10, 3)))


def open_task(folder: Path, instruction: str, *rows: dict[str, Any]) -> tuple[Dataset, int]:
    """Build a task and return its columns, and how many rows were refused."""
    task = Task("boxes", instruction, source=Source("rows", list(rows)))
    mixture = Mixture([task], slots=SLOTS, bpe_size=300)
    report = build(mixture, folder / "store", progress=False)
    return open_dataset(mixture, Store.open(folder / "store")), report.rejects


def bins_of(dataset: Dataset) -> list[list[int]]:
    """Return the ids of all boxes that were stored."""
    graph = dataset.plan.graph
    (value,) = (v for v in dataset.plan.stored_of("boxes") if graph.type_of(v).kind == "bin")
    (column,) = (c for (_, name), c in dataset.columns.items() if name == value.column_id)
    values, _ = column.gather(np.flatnonzero(column.valid))
    return np.asarray(values).reshape(-1, 4).tolist()


def test_a_box_lies_in_the_first_picture_of_the_instruction(tmp_path: Path) -> None:
    row = {"b": [0, 0, 20, 10], "one": WIDE, "two": HIGH, "t": "x"}
    instruction = "[BOX:b] of [IMAGE:one] and [IMAGE:two] -> [TEXT:t]"
    dataset, _ = open_task(tmp_path, instruction, row)
    assert bins_of(dataset) == [[0, 0, 500, 999]]


def test_boxes_of_a_group_lie_in_the_picture_around_it(tmp_path: Path) -> None:
    rows = [
        {"img": WIDE, "b": [[0, 0, 40, 10], [0, 0, 20, 5]], "t": ["x", "y"]},
        {"img": HIGH, "b": [[0, 0, 10, 20]], "t": ["z"]},
    ]
    dataset, _ = open_task(tmp_path, "[IMAGE:img] -> ([BOX:b] [TEXT:t] ;)*", *rows)
    assert bins_of(dataset) == [[0, 0, 999, 999], [0, 0, 500, 500], [0, 0, 999, 500]]


def test_a_picture_in_the_group_comes_before_one_around_it(tmp_path: Path) -> None:
    row = {"img": WIDE, "each": [HIGH, WIDE], "b": [[0, 0, 10, 40], [0, 0, 40, 5]], "t": "x"}
    instruction = "[IMAGE:img] and ([IMAGE:each] [BOX:b])* -> [TEXT:t]"
    dataset, _ = open_task(tmp_path, instruction, row)
    assert bins_of(dataset) == [[0, 0, 999, 999], [0, 0, 999, 500]]


def test_a_box_without_a_picture_brings_its_size(tmp_path: Path) -> None:
    rows = [{"b": "0,0,5,5,10,5", "t": "x"}, {"b": "0,0,5,5", "t": "y"}]
    dataset, rejects = open_task(tmp_path, "where is [TEXT:t]? -> [BOX:b]", *rows)
    assert rejects == 1
    assert bins_of(dataset) == [[0, 0, 500, 999]]


def test_bos_and_eos_are_left_out_where_a_box_is_read_alone() -> None:
    task = Task("boxes", "[IMAGE:img] [BOX:b,disable_auto_boseos] -> [BOX:b]")
    (document,) = plan(task).documents("boxes")
    params: Any = document.params
    assert [set(entry) & {"special", "slot"} for entry in params["source"]] == [{"slot"}] * 2
    with pytest.raises(PlanError, match=r"T0215.*BOS and EOS"):
        plan(Task("boxes", "[IMAGE:img] -> [BOX:b,disable_auto_boseos]"))
