"""Boxes that a model writes lie in the picture of their row, and those that it reads are the ones given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskloom.graph.errors import RowError
from taskloom.graph.vocabulary import PAD
from taskloom.pipeline import Mixture, Run, Task, build, evaluate, train
from taskloom.pipeline.builder.dataset import open_dataset
from taskloom.pipeline.loader.given_rows import RowReader
from taskloom.pipeline.planner.spelling import place_boxes
from taskloom.pipeline.planner.target import make_target
from taskloom.storage.capacity import Capacity
from taskloom.storage.one_pass import pack_documents
from taskloom.storage.store import Store

from ..rows import encode_png
from .stores import CONFIG, MODEL

COLOURS = ("red", "green", "blue")
SHAPES = [(24, 40), (60, 30), (32, 32)]
FIND = "[IMAGE:img] where is it? -> [BOX:box]"
NAME = "[IMAGE:img] which colour has [BOX:box]? -> [TEXT:colour,closed_set]"
TELL = "[IMAGE:img] what is where? -> [BOX:box] is [TEXT:colour]"
LIST = "[IMAGE:img] what is where? -> ([BOX:boxes] [TEXT:colours] ;)*"


def draw_rows(number: int) -> list[dict[str, Any]]:
    """Return pictures of one bright box each, in three sizes."""
    rng = np.random.default_rng(seed=0)
    rows: list[dict[str, Any]] = []
    for index in range(number):
        height, width = SHAPES[index % 3]
        x0, x1 = sorted(rng.choice(width + 1, 2, replace=False).tolist())
        y0, y1 = sorted(rng.choice(height + 1, 2, replace=False).tolist())
        pixels, colour = np.zeros((height, width, 3), np.uint8), int(rng.integers(3))
        pixels[y0:y1, x0:x1, colour] = 255
        box = [x0, y0, x1, y1]
        rows.append(
            {
                "id": index,
                "img": encode_png(pixels),
                "box": ",".join(map(str, box)),
                "colour": COLOURS[colour],
                "boxes": [box] * (index % 3 + 1),
                "colours": [COLOURS[colour]] * (index % 3 + 1),
            }
        )
    return rows


ROWS = draw_rows(90)


def make_mixture() -> Mixture:
    texts = {"find": FIND, "name": NAME, "tell": TELL, "list": LIST}
    tasks = [Task(name, text, source=ROWS, holdout=0.2, key="id") for name, text in texts.items()]
    return Mixture(tasks, bpe_size=300, slots={"IMAGE": {"size": 16, "patch": 8}})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks, built."""
    path = tmp_path_factory.mktemp("boxes") / "store"
    build(make_mixture(), path, progress=False)
    return path


@pytest.fixture(scope="module")
def boxes(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learned little more than what a target looks like."""
    out = tmp_path_factory.mktemp("boxes") / "run"
    return train(
        make_mixture(), store, out=out, model=MODEL, config=CONFIG, steps=30, progress=False
    )


def assert_inside(text: str | None, row: dict[str, Any]) -> None:
    """Check that ``text`` is a box on the grid of the row's picture."""
    assert text is not None
    height, width = SHAPES[row["id"] % 3]
    corners = [float(number) for number in text.split(",")]
    places = np.array(corners) / [width, height, width, height] * 999
    np.testing.assert_allclose(places, np.rint(places), atol=1e-2)
    assert ((np.rint(places) >= 0) & (np.rint(places) <= 999)).all()


def test_a_written_box_is_in_pixels_of_its_picture(boxes: Run) -> None:
    for row, answer in zip(ROWS[:12], boxes.model.infer("find", ROWS[:12]), strict=True):
        assert answer.values == {"box": answer.text}
        assert_inside(answer.text, row)


def test_a_box_ends_by_itself_before_what_follows_it(boxes: Run) -> None:
    for row, answer in zip(ROWS[:12], boxes.model.infer("tell", ROWS[:12]), strict=True):
        assert set(answer.values) == {"box", "colour"}
        assert_inside(str(answer.values["box"]), row)


@pytest.mark.parametrize("task", ["find", "tell", "list"])
def test_what_a_model_learns_to_write_is_read_back_as_the_boxes_of_the_row(
    boxes: Run, store: Path, task: str
) -> None:
    dataset = open_dataset(make_mixture(), Store.open(store))
    stored = dataset.rows(task, "train")
    capacity = Capacity(source=2048, target=8192, tensors={"image_16_8": 90}, tile=64)
    rows = {task: stored.usable}
    packs = pack_documents(list(stored.templates), rows, dataset.columns, capacity, pad_id=PAD)
    writer = boxes.model.writer(task)
    target = make_target(writer.plan, task, boxes.model.load_artifact, writer.bpe)
    num_read = 0
    for pack in packs:
        ranges = zip(pack.rows.tolist(), pack.target_ranges.tolist(), strict=True)
        for (_, number), (start, stop) in ranges:
            values, _ = target.read(pack.labels[start:stop].tolist())
            assert_read(values, ROWS[number])
            num_read += 1
    assert num_read == len(stored.usable) > 60


def assert_read(values: Mapping[str, str | list[str]], row: dict[str, Any]) -> None:
    """Check that ``values`` are those of ``row``, boxes nearly so."""
    height, width = SHAPES[row["id"] % 3]
    sizes = dict.fromkeys(values.keys() & {"box", "boxes"}, (width, height))
    placed = place_boxes(values, sizes)
    for slot, value in placed.items():
        if slot not in sizes:
            assert value == row[slot]
            continue
        texts = [value] if isinstance(value, str) else value
        found = [[float(corner) for corner in text.split(",")] for text in texts]
        given = row["boxes"][: len(found)]
        assert slot == "box" or len(found) == len(row["boxes"])
        np.testing.assert_allclose(found, given, rtol=0, atol=0.5 * 60 / 999 + 1e-3)


def test_a_box_that_is_read_is_the_one_that_was_given(boxes: Run) -> None:
    writer = boxes.model.writer("name")
    reader = RowReader.make(writer.plan, writer.task, boxes.model.load_artifact)
    (batch,) = reader.batches([{"img": row["img"], "box": row["box"]} for row in ROWS])
    columns, problems = reader.read(batch, 0)
    assert not problems
    (name,) = (
        name
        for name, value in reader.wanted.items()
        if writer.plan.graph.type_of(value).kind == "bin"
    )
    gathered = columns[name].gather(np.arange(len(ROWS)))
    assert isinstance(gathered, tuple), "ids are ragged"
    for bins, row in zip(gathered[0].reshape(-1, 4).tolist(), ROWS, strict=True):
        height, width = SHAPES[row["id"] % 3]
        shares = np.array(row["box"].split(","), float) / [width, height, width, height]
        assert bins == np.rint(shares * 999).astype(int).tolist()


def test_a_box_outside_its_picture_is_not_answered(boxes: Run) -> None:
    with pytest.raises(RowError, match=r"T0256.*leaves its picture of 40 x 24 pixels"):
        boxes.model.infer("name", [{"img": ROWS[0]["img"], "box": "0,0,41,24"}])


def test_every_task_is_scored(boxes: Run, store: Path) -> None:
    scores = evaluate(boxes.model, make_mixture(), store)
    names = {score.task for score in scores}
    assert names == {"find", "name", "tell.box", "tell.colour", "list.boxes", "list.colours"}
    assert all(score.evaluated == score.expected for score in scores)
