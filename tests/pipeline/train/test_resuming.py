"""Packs made again are compared with the log, from every checkpoint, and the first that differs is named."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import CheckpointError, TrainingError
from taskloom.pipeline import Run
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.trainer.resuming import ResumeReport, verify_resume
from taskloom.pipeline.trainer.run_log import NAME, read_log
from taskloom.storage.checkpoint import list_checkpoints
from taskloom.storage.pack import fingerprint

from .stores import CONFIG, MODEL, continue_run, make_mixture


def verify(store: Path, out: Path, **settings: Any) -> ResumeReport:
    mixture = make_mixture(has_rows=False)
    return verify_resume(mixture, store, out=out, model=MODEL, config=CONFIG, **settings)


@pytest.fixture
def out(run: Run, tmp_path: Path) -> Path:
    """A run of 60 steps with checkpoints at 40 and 60, to be changed."""
    return Path(shutil.copytree(run.path, tmp_path / "copy"))


def rewrite_log(out: Path, change: Any) -> None:
    lines = read_log(out)
    for line in lines:
        change(line)
    (out / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def test_every_step_is_made_again_and_said_in_plain_words(store_dir: Path, out: Path) -> None:
    report = verify(store_dir, out)
    assert [(each.start, each.stop) for each in report.compared] == [(0, 40), (40, 60)]
    assert [each.is_met for each in report.compared] == [True, True]
    assert str(report).splitlines()[1:] == [
        "  from the beginning: steps 1 to 40, 40 compared with the log;"
        " it comes to the state of the next checkpoint",
        "  from the checkpoint of step 40: steps 41 to 60, 20 compared with the log;"
        " it comes to the state of the next checkpoint",
    ]
    few = verify(store_dir, out, num_steps=3)
    assert [(each.start, each.stop, each.is_met) for each in few.compared] == [
        (0, 3, None),
        (40, 43, None),
    ]


def test_a_run_in_parts_has_the_same_log_of_packs(
    store_dir: Path, run: Run, tmp_path: Path
) -> None:
    for stop in (7, 33, 60):
        continue_run(store_dir, tmp_path, stop_at=stop)
    whole, parts = ([line["packs"] for line in read_log(each)] for each in (run.path, tmp_path))
    assert parts == whole
    assert [len(prints) for prints in whole] == [10] * 6


def test_the_first_step_that_differs_is_named(store_dir: Path, out: Path) -> None:
    def change(line: dict[str, Any]) -> None:
        if line["step"] == 50:
            line["packs"][3:5] = ["0" * 16, "1" * 16]

    rewrite_log(out, change)
    with pytest.raises(TrainingError, match="resumed at the checkpoint of step 40") as caught:
        verify(store_dir, out)
    (problem,) = caught.value.problems
    assert problem.code == "T0734"
    assert re.search(r"other packs at step 44 ", problem.message)


def test_a_checkpoint_whose_position_is_another_is_found(store_dir: Path, out: Path) -> None:
    (path,) = (p for p in list_checkpoints(out) if p.name.endswith("40"))
    record = path / "record.json"
    content = json.loads(record.read_bytes())
    content["loader"]["pack"] += 1
    record.write_text(json.dumps(content), "utf-8")
    with pytest.raises((TrainingError, CheckpointError), match=r"step.40|record\.json"):
        verify(store_dir, out)


def test_a_log_without_fingerprints_is_not_called_the_same(store_dir: Path, out: Path) -> None:
    rewrite_log(out, lambda line: line.pop("packs"))
    with pytest.raises(TrainingError, match="nothing of") as caught:
        verify(store_dir, out, num_steps=2)
    assert caught.value.problems[0].code == "T0735"


def test_a_run_without_a_log_has_nothing_to_compare(store_dir: Path, out: Path) -> None:
    (out / "log.jsonl").unlink()
    with pytest.raises(TrainingError, match="T0784"):
        verify(store_dir, out)


def test_a_run_of_other_settings_is_refused(store_dir: Path, out: Path) -> None:
    mixture = replace(make_mixture(has_rows=False), bpe_size=301)
    with pytest.raises(CheckpointError, match="bpe_size"):
        verify_resume(mixture, store_dir, out=out, model=MODEL, config=CONFIG)


def test_a_fingerprint_is_of_every_byte(stream: Stream) -> None:
    with stream.loader() as loader:
        packs = next(iter(loader))
    told = fingerprint(packs)
    assert told == fingerprint(packs)
    for array in (packs[0].weights, packs[0].rows, *packs[0].tensors.values()):
        array.reshape(-1).view("uint8")[-1] ^= 1
        assert fingerprint(packs) != told
        array.reshape(-1).view("uint8")[-1] ^= 1
    assert fingerprint(packs) == told
