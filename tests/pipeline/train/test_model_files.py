"""A checkpoint that cannot be what it says is refused, with what is wrong and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.graph.errors import CheckpointError, TrainingError
from taskloom.pipeline import Model, Run
from taskloom.storage.checkpoint import Checkpoint, read_checkpoint
from taskloom.storage.saving import begin_checkpoint

from .stores import MODEL, continue_run

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def saved(run: Run) -> Checkpoint:
    """What the run's last checkpoint holds."""
    return read_checkpoint(run.path / "step-00000060", with_training=True)


@pytest.fixture
def rewrite(saved: Checkpoint, tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint again, with some of its parts exchanged."""

    def write(change: Change | None = None, **parts: Any) -> Path:
        record = dict(saved.record)
        if change is not None:
            change(record)
        whole: dict[str, Any] = {
            "tensors": saved.tensors,
            "record": record,
            "artifacts": saved.artifacts,
            "training": saved.training,
        }
        begin_checkpoint(tmp_path / "step-00000060", **(whole | parts)).wait()
        return tmp_path

    return write


def test_a_model_is_loaded_from_its_run_or_from_a_checkpoint(run: Run) -> None:
    ours = dict(Model.load(run.path).program.state_dict())
    same = dict(Model.load(run.path / "step-00000060").program.state_dict())
    older = dict(Model.load(run.path / "step-00000040").program.state_dict())
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    assert not all(torch.equal(ours[name], older[name]) for name in ours)


def test_loading_uses_up_no_random_numbers(run: Run) -> None:
    before = torch.get_rng_state()
    Model.load(run.path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_knows_what_it_was_trained_on(run: Run) -> None:
    model = Model.load(run.path)
    assert [task.name for task in model.mixture.tasks] == ["digits", "spell"]
    assert model.config == MODEL
    assert model.source_tokens == 2048
    assert not model.program.training


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=f"there is no checkpoint at {path}"):
            Model.load(path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "record.json", "artifacts/bpe-main", "manifest.json"]
)
def test_a_damaged_checkpoint_is_refused(name: str, run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "step-00000060"
    shutil.copytree(run.path / "step-00000060", copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{copy}.* is damaged"):
        Model.load(tmp_path)


def test_parameters_of_another_vocabulary_are_refused_with_their_sizes(
    saved: Checkpoint, rewrite: Callable[..., Path]
) -> None:
    table = saved.tensors["scopes.vocabulary.weight_VC"]
    tensors = saved.tensors | {"scopes.vocabulary.weight_VC": table[:-50].clone()}
    with pytest.raises(CheckpointError) as caught:
        Model.load(rewrite(tensors=tensors))
    assert "scopes.vocabulary.weight_VC is (254, 16) in" in str(caught.value)
    assert "(304, 16) here" in str(caught.value)


def test_a_vocabulary_larger_than_its_parameters_is_refused(rewrite: Callable[..., Path]) -> None:
    def shrink(record: dict[str, Any]) -> None:
        record["bpe_size"] = 280
        record["vocabulary"] = [["special", 4], ["text", 280]]

    with pytest.raises(CheckpointError, match="vocabulary has 300 ids, its parameters are for 280"):
        Model.load(rewrite(shrink))


def test_blocks_of_ids_that_stand_otherwise_are_refused(rewrite: Callable[..., Path]) -> None:
    def exchange(record: dict[str, Any]) -> None:
        record["vocabulary"] = [["text", 300], ["special", 4]]

    with pytest.raises(CheckpointError, match=r"of vocabulary \[\['text', 300\]"):
        Model.load(rewrite(exchange))


@pytest.mark.parametrize(
    ("op", "version", "message"),
    [
        pytest.param("encode_texts", 2, "version 2 of op encode_texts, this .* has 1", id="newer"),
        pytest.param("encode_texts", 0, "version 0 of op encode_texts, this .* has 1", id="older"),
        pytest.param("hear_sounds", 1, "op hear_sounds, which this taskloom lacks", id="unknown"),
        pytest.param(
            "resize_images", None, "without op resize_images, which this taskloom", id="added"
        ),
        pytest.param("assign_splits", 9, "version 9 of op assign_splits", id="newer, in training"),
    ],
)
def test_a_model_made_with_other_ops_is_refused(
    op: str, version: int | None, message: str, rewrite: Callable[..., Path]
) -> None:
    def change(record: dict[str, Any]) -> None:
        ops = {name: number for name, number in record["ops"].items() if name != op}
        record["ops"] = ops if version is None else ops | {op: version}
        record["taskloom"] = "7.8"

    with pytest.raises(CheckpointError, match=message) as caught:
        Model.load(rewrite(change))
    assert "taskloom 7.8 made it" in str(caught.value)


def test_an_older_op_that_answers_nothing_does_not_matter(rewrite: Callable[..., Path]) -> None:
    def change(record: dict[str, Any]) -> None:
        record["ops"] = record["ops"] | {"assign_splits": 0}

    assert Model.load(rewrite(change)).mixture.tasks[0].name == "digits"


def test_a_directory_of_other_things_is_no_model(rewrite: Callable[..., Path]) -> None:
    def forget(record: dict[str, Any]) -> None:
        del record["tasks"], record["ops"]

    with pytest.raises(CheckpointError, match="is no model: its record lacks tasks, ops"):
        Model.load(rewrite(forget))


def test_a_device_that_is_not_there_is_refused(run: Run) -> None:
    with pytest.raises(TrainingError, match='device "abacus" cannot be used'):
        Model.load(run.path, device="abacus")


def test_a_model_without_its_optimizer_is_not_trained_on(
    store_dir: Path, rewrite: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match="holds a model, but no optimizer"):
        continue_run(store_dir, rewrite(training=None))
