"""A loss that is no number names the rows that made it so, exactly, and the parameters that they met."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taskloom.graph.errors import TrainingError
from taskloom.pipeline import train
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.trainer.documents import MAX_TOLD
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.run_log import NOT_FINITE
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint
from taskloom.storage.saving import begin_checkpoint

from .stores import CONFIG, MODEL, are_equal, make_mixture

HUGE = 1e25
"""What no norm survives that reads it, while the scores it gives are large but finite."""

STEADY = replace(MODEL, dropout=0.0)
TABLE = "scopes.vocabulary.weight_VC"


def go(store: Path, out: Path, **settings: Any) -> Any:
    given: dict[str, Any] = {"model": STEADY, "config": CONFIG, "progress": False} | settings
    return train(make_mixture(has_rows=False), store, out=out, **given)


def poison(run: Path, number: int) -> dict[str, Any]:
    """Spoil the row of one id in the last checkpoint."""
    path = latest_checkpoint(run)
    assert path is not None
    saved = read_checkpoint(path, with_training=True)
    table = saved.tensors[TABLE].clone()
    table[number] = HUGE
    table[number, ::2] = -HUGE
    tensors: Any = {**saved.tensors, TABLE: table}
    shutil.rmtree(path)
    training: Any = saved.training
    begin_checkpoint(
        path, tensors=tensors, training=training, record=saved.record, artifacts=saved.artifacts
    ).wait()
    return tensors


def ids_read(stream: Stream, step: int) -> dict[tuple[int, int], set[int]]:
    """Return the ids that each document of a step reads, by task and row."""
    with stream.loader() as loader:
        *_, packs = islice(loader, step)
    return {
        (task, row): {*pack.source_ids[slice(*source)].tolist()}
        | {*pack.target_ids[slice(*target)].tolist()}
        for pack in packs
        for (task, row), source, target in zip(
            pack.rows.tolist(), pack.source_ranges, pack.target_ranges, strict=True
        )
    }


def test_the_rows_that_are_named_are_exactly_those_that_read_the_spoilt_id(
    store_dir: Path, stream: Stream, tmp_path: Path
) -> None:
    go(store_dir, tmp_path, stop_at=4)
    read = ids_read(stream, 5)
    users = Counter(number for ids in read.values() for number in ids if number >= 4)
    chosen = max(number for number, times in users.items() if 2 <= times <= len(read) // 3)
    tensors = poison(tmp_path, chosen)
    with pytest.raises(TrainingError) as caught:
        go(store_dir, tmp_path)
    (problem,) = caught.value.problems
    assert re.fullmatch(r"the loss of .* is no longer a finite number at step 5", problem.message)
    assert "step 4 was the last good one\n" in problem.help
    told = json.loads((tmp_path / NOT_FINITE).read_text("utf-8"))
    assert (told["step"], told["is_narrowed"]) == (5, True)
    assert told["num_documents"] == len(read)
    expected: set[tuple[str, str]] = set()
    for (task, row), ids in read.items():
        (partition,) = stream.store.source(stream.templates[task].source_name).partitions
        if chosen in ids:
            expected.add((stream.templates[task].task, f"{partition.id}:{row}"))
    assert {(each["task"], each["row"]) for each in told["documents"]} == expected
    assert 1 < len(expected) < len(read)
    for task, row in sorted(expected)[:MAX_TOLD]:
        assert f"\n  {task} {row}" in problem.help
    advice = "lower learning_rate, which is 0.003, and train into another directory"
    assert problem.help.endswith(f"is still good\n{advice}")
    # The step that went wrong has changed nothing: what was saved before it is what it met.
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert are_equal(dict(read_checkpoint(path).tensors), tensors)


def test_a_run_that_diverges_by_itself_blames_no_row(store_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        go(store_dir, tmp_path, learning_rate=1e38, clip=0.0)
    told = json.loads((tmp_path / NOT_FINITE).read_text("utf-8"))
    assert len(told["documents"]) == told["num_documents"] > MAX_TOLD
    (problem,) = caught.value.problems
    every = f"each of its {told['num_documents']} documents is wrong alone, so the parameters are"
    assert f"{every}: all are in {tmp_path / NOT_FINITE}\n" in problem.help
    assert re.match(r"step \d+ was the last good one\n", problem.help)
    assert problem.help.endswith("\nset clip to 1, and train into another directory")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.device)])
def test_steps_after_a_bad_one_change_nothing(stream: Stream, device: str) -> None:
    learner = Learner.make(stream.plan, CONFIG, torch.device(device))
    with stream.loader() as loader:
        packs = iter(loader)
        learner.take(next(packs))
        before = {name: p.clone() for name, p in learner.program.state_dict().items()}
        bad = [replace(p, weights=np.full_like(p.weights, np.nan)) for p in next(packs)]
        learner.take(bad)
        learner.take(next(packs))
    assert (learner.step, learner.sound_step) == (3, 1)
    assert are_equal(before, dict(learner.program.state_dict()))
