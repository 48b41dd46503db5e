"""Groups, pairs, several targets and templates, and sides that are empty: from rows to what a model answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskloom.graph.errors import PlanError
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Model, Run, Task, build, evaluate, plan, train
from taskloom.pipeline.builder.dataset import open_dataset
from taskloom.pipeline.loader.stream import open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.storage.ledger import read_ledger
from taskloom.storage.store import Store

MODEL = ModelConfig(width=48, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, ffn_width=96)
CONFIG = TrainConfig(steps=8, source_tokens=256, learning_rate=3e-3, log_every=4)
WORDS = ("cat", "dog", "bird", "fish", "horse")


def picture(number: int) -> np.ndarray[Any, Any]:
    return np.full((6, 8, 3), 40 * number, np.uint8)


def make_rows(number: int = 60) -> list[dict[str, Any]]:
    """Rows with lists of pictures and words, and what they say."""
    rng = np.random.default_rng(seed=0)
    rows: list[dict[str, Any]] = []
    for row in range(number):
        which = rng.integers(0, len(WORDS), rng.integers(0, 4)).tolist()
        rows.append(
            {
                "id": row,
                "pictures": [picture(i) for i in which],
                "words": [WORDS[i] for i in which],
                "first": WORDS[which[0]] if which else "none",
                "count": len(which),
                "picture": picture(row % 5),
                "name": WORDS[row % 5],
            }
        )
    return rows


def mix(*tasks: Task) -> Mixture:
    return Mixture(tasks, slots={"IMAGE": {"size": 8, "patch": 4}}, bpe_size=300)


def make_task(name: str, instruction: Any, rows: list[dict[str, Any]], **more: Any) -> Task:
    return Task(name, instruction, source=rows, holdout=0.2, key="id", **more)


def run_all(task: Task, path: Path, steps: int = CONFIG.steps) -> tuple[Run, Mixture, Store]:
    mixture = mix(task)
    build(mixture, path / "store", progress=False)
    store = Store.open(path / "store")
    run = train(
        mixture, store, out=path / "run", model=MODEL, config=CONFIG, steps=steps, progress=False
    )
    return run, mixture, store


def first_target(mixture: Mixture, store: Store, task: str) -> tuple[list[int], list[float]]:
    """Return labels and weights of the first document of a run."""
    stream = open_stream(mixture, store, MODEL, CONFIG)
    with stream.loader() as loader:
        (pack,) = next(iter(loader))
    number = [template.task for template in stream.templates].index(task)
    first = pack.rows[:, 0].tolist().index(number)
    start, stop = pack.target_ranges[first].tolist()
    return pack.labels[start:stop].tolist(), pack.weights[start:stop].tolist()


def test_a_group_on_the_target_side_is_learned_written_and_scored(tmp_path: Path) -> None:
    rows = make_rows()
    task = make_task("name", "[IMAGE:picture] has -> ([TEXT:words] ;)*", rows)
    run, mixture, store = run_all(task, tmp_path)
    (answer,) = run.model.infer("name", [{"picture": picture(1)}])
    assert isinstance(answer.values["words"], list)
    scores = evaluate(run.model, mixture, store)
    assert scores["name"].expected == scores["name"].evaluated > 0


def test_items_of_a_group_are_stored_once_for_each_item_and_found_by_row(tmp_path: Path) -> None:
    rows = make_rows()
    task = make_task("read", "([IMAGE:pictures] [TEXT:words])* how many? -> [TEXT:count]", rows)
    _, mixture, store = run_all(task, tmp_path)
    dataset = open_dataset(mixture, store)
    numbers = {
        dataset.plan.graph.nodes[value.node].address: dataset.columns["read", value.column_id]
        for value in dataset.plan.cut.stored
    }
    num_items = sum(len(row["words"]) for row in rows)
    assert numbers["read.pictures/resize"].num_rows == num_items
    assert numbers["read.words/encode"].num_rows == num_items
    counts = numbers["read.pictures+words/count"].scalars().tolist()
    assert counts == [row["count"] for row in rows]
    pixels = np.asarray(numbers["read.pictures/resize"].gather(np.arange(num_items)))
    wanted = [int(image[0, 0, 0]) for row in rows for image in row["pictures"]]
    assert pixels[:, 0, 0, 0].tolist() == wanted


def test_rows_of_pictures_and_words_are_read_as_they_stand(tmp_path: Path) -> None:
    rows = make_rows()
    task = make_task("read", "([IMAGE:pictures] [TEXT:words])* how many? -> [TEXT:count]", rows)
    run, *_ = run_all(task, tmp_path)
    asked = [{key: row[key] for key in ("pictures", "words")} for row in rows[:6]]
    answers = run.model.infer("read", asked)
    assert [answer.error for answer in answers] == [None] * 6
    assert run.model.infer("read", asked[2:3])[0].text == answers[2].text


def test_a_bad_item_spoils_its_row_alone_and_is_told_with_its_place(tmp_path: Path) -> None:
    rows = make_rows(20)
    spoiled = next(i for i, row in enumerate(rows) if len(row["pictures"]) > 1)
    rows[spoiled]["pictures"][1] = b"notajpeg"
    for row in rows:  # one type for all
        row["pictures"] = [as_png(p) if isinstance(p, np.ndarray) else p for p in row["pictures"]]
    uneven = next(i for i, row in enumerate(rows) if i > spoiled and row["words"])
    rows[uneven]["words"] = [*rows[uneven]["words"], "one too many"]
    task = make_task("read", "([IMAGE:pictures] [TEXT:words])* how many? -> [TEXT:count]", rows)
    mixture = mix(task)
    report = build(mixture, tmp_path / "store", progress=False)
    store = Store.open(tmp_path / "store")
    told = {e["offset"]: (e["code"], e["column"]) for e in read_ledger(store).to_pylist()}
    assert told == {
        spoiled: ("T0301", "pictures (item 2, 8 bytes, starts b'notajpeg')"),
        uneven: ("T0330", "pictures, words"),
    }
    assert report.rejects == 2
    dataset = open_dataset(mixture, store)
    usable = {*dataset.rows("read", "train").usable, *dataset.rows("read", "test").usable}
    assert usable == {*range(20)} - {spoiled, uneven}


def as_png(pixels: Any) -> bytes:
    import io  # noqa: PLC0415 - only here

    from PIL import Image  # noqa: PLC0415 - only here

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_several_targets_have_losses_and_scores_of_their_own(tmp_path: Path) -> None:
    rows = make_rows()
    text = "[IMAGE:picture] is -> [TEXT:name,closed_set] of [TEXT:count,loss_weight=0.25] animals"
    run, mixture, store = run_all(make_task("tell", text, rows), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert set(lines[-1]["tasks"]) == {"tell.name", "tell.count"}
    _, weights = first_target(mixture, store, "tell")
    assert set(weights) == {1.0, 0.0, 0.25}
    (answer,) = run.model.infer("tell", [{"picture": picture(2)}])
    assert answer.values["name"] in WORDS
    assert set(answer.values) == {"name", "count"}
    assert (answer.text or "").startswith(str(answer.values["name"]))
    assert {score.task for score in evaluate(run.model, mixture, store)} == {
        "tell.name",
        "tell.count",
    }


def test_what_has_no_loss_is_given_to_the_model_in_training_and_in_answers(tmp_path: Path) -> None:
    rows = make_rows()
    text = "[IMAGE:picture] -> the first is [TEXT:first,no_loss] and [TEXT:name,closed_set]"
    run, mixture, store = run_all(make_task("tell", text, rows), tmp_path)
    labels, weights = first_target(mixture, store, "tell")
    assert 0 < sum(weights) < len(labels)
    answers = run.model.infer("tell", [{"picture": picture(2), "first": w} for w in WORDS])
    assert {answer.text for answer in answers} <= set(WORDS)
    assert {tuple(answer.values) for answer in answers} == {("name",)}


def test_templates_share_their_columns_and_all_of_them_are_learned(tmp_path: Path) -> None:
    rows = make_rows()
    templates = [
        "[IMAGE:picture] what is it? -> [TEXT:name]",
        "name this: [IMAGE:picture] -> it is [TEXT:name]",
    ]
    task = make_task("tell", templates, rows)
    assert len(plan(mix(task)).cut.stored) == len(
        plan(mix(make_task("tell", templates[:1], rows))).cut.stored
    )
    run, mixture, store = run_all(task, tmp_path)
    assert run.header[0].startswith("tell: 100% of samples")
    stream = open_stream(mixture, store, MODEL, CONFIG)
    with stream.loader() as loader:
        packs = [pack for step in islice(loader, 6) for pack in step]
    assert {number for pack in packs for number in pack.rows[:, 0].tolist()} == {0, 1}
    assert evaluate(run.model, mixture, store)["tell"].expected > 0


def test_a_model_writes_with_nothing_to_read(tmp_path: Path) -> None:
    run, mixture, store = run_all(make_task("say", "-> [TEXT:name]", make_rows()), tmp_path, 60)
    answers = run.model.infer("say", [{}, {}])
    assert answers[0].text == answers[1].text
    assert answers[0].text in WORDS
    score = evaluate(run.model, mixture, store)["say"]
    assert score.evaluated == score.expected > 0


def test_a_model_that_only_reads_gives_states_and_nothing_to_train_or_write() -> None:
    task = Task("look", "what is in [IMAGE:picture]? ->")
    assert set(plan(mix(task), "infer").graph.outputs) >= {"memory"}
    with pytest.raises(PlanError, match=r'T0250.*"look" learns nothing'):
        plan(mix(task))


def test_pairs_are_learned_to_belong_together(tmp_path: Path) -> None:
    rows = make_rows(100)
    task = make_task("match", "[ [IMAGE:picture] | [TEXT:name] ] ->", rows)
    run, *_ = run_all(task, tmp_path, steps=80)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["tasks"]["match"]["loss"] for line in lines]
    assert losses[-1] < 0.8 * losses[0]
    for loaded in (Model.load(run.path, int8=True), Model.load(run.path)):
        assert "pairs" in loaded.program.num_parameters
    with pytest.raises(PlanError, match=r'T0233.*"match" writes nothing'):
        loaded.infer("match", [{"picture": picture(1), "name": "cat"}])


def test_pairs_and_writing_are_learned_side_by_side(tmp_path: Path) -> None:
    rows = make_rows()
    match = make_task("match", "[ [IMAGE:picture] | [TEXT:name] ] ->", rows)
    tell = make_task("tell", "[IMAGE:picture] -> [TEXT:name]", rows)
    mixture = mix(match, tell)
    build(mixture, tmp_path / "store", progress=False)
    run = train(
        mixture,
        tmp_path / "store",
        out=tmp_path / "run",
        model=MODEL,
        config=CONFIG,
        progress=False,
    )
    lines: list[Mapping[str, Any]] = [
        json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()
    ]
    assert set(lines[-1]["tasks"]) == {"match", "tell"}
    assert all(each["loss"] > 0 for each in lines[-1]["tasks"].values())
    assert run.model.infer("tell", [{"picture": picture(1)}])[0].error is None
