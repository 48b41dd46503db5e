"""A task that joins a run at a step, leaves and comes back is learned while it is there, and rests between."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import CheckpointError
from taskloom.pipeline import Mixture, Schedule, train
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.storage.checkpoint import Checkpoint, list_checkpoints, read_checkpoint

from .stores import CONFIG, MODEL, are_equal, make_tasks

WORDS, BOTH = {"digits": 0.0, "spell": 1.0}, {"digits": 1.0, "spell": 3.0}
COMES_AND_GOES = Schedule({0: WORDS, 8: BOTH, 16: WORDS, 24: BOTH})
SLOTS = {"IMAGE": {"size": 16, "patch": 8}}
OWN = "scopes.adapter__image_patch_16_8."
"""What only digits have, of all that is learned."""


def go(store: Path, out: Path, **settings: Any) -> dict[int, Checkpoint]:
    """Train both tasks, pictures by the schedule, and return all checkpoints by step."""
    tasks = make_tasks(has_rows=False)
    mixture = Mixture(tasks, weights=COMES_AND_GOES, slots=SLOTS, bpe_size=300)
    saved = {"log_every": 8, "checkpoint_every": 8, "keep_checkpoints": 99, "packs_per_step": 2}
    more: dict[str, Any] = {"steps": 32, **saved, **settings}
    train(mixture, store, out=out, model=MODEL, config=CONFIG, progress=False, **more)
    found = (read_checkpoint(path, with_training=True) for path in list_checkpoints(out))
    return {each.record["step"]: each for each in found}


def parts_of(checkpoint: Checkpoint, *, own: bool) -> dict[str, Any]:
    """Return parameters, and what the optimizer keeps of them: of digits alone, or of all others."""
    assert checkpoint.training is not None
    state: dict[str, dict[str, Any]] = checkpoint.training["optimizer"]
    kept = {f"{name} {key}": each for name, own in state.items() for key, each in own.items()}
    named = dict(checkpoint.tensors) | kept
    return {name: each for name, each in named.items() if name.startswith(OWN) is own}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run was trained in one go."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(store_dir: Path, out: Path) -> dict[int, Checkpoint]:
    """The run in one go."""
    return go(store_dir, out)


def test_shares_change_at_the_very_step(whole: dict[int, Checkpoint], out: Path) -> None:
    assert [*whole] == [8, 16, 24, 32]
    lines = {line["step"]: line["mixture"] for line in read_log(out)}
    assert {step: "digits" in line and line["digits"]["asked"] for step, line in lines.items()} == {
        8: 0.0,
        16: 0.25,
        24: 0.0,
        32: 0.25,
    }
    shares = {step: line["digits"].get("sample_share", 0.0) for step, line in lines.items()}
    assert shares[8] == shares[24] == 0
    assert shares[16] == pytest.approx(0.25, abs=0.02)
    assert shares[32] == pytest.approx(0.25, abs=0.02)
    epochs = [line["digits"]["epochs"] for line in lines.values()]
    assert epochs[0] == 0 < epochs[1] == epochs[2] < epochs[3], "it goes on where it was"


def test_a_line_of_steps_before_and_after_a_jump_was_asked_for_the_mean_of_both(
    store_dir: Path, tmp_path: Path
) -> None:
    go(store_dir, tmp_path, log_every=3, steps=9)
    asked = [line["mixture"]["digits"]["asked"] for line in read_log(tmp_path)]
    assert asked == pytest.approx([0, 0, 0.25 / 3])


def test_what_is_a_tasks_own_rests_while_it_is_away(
    whole: dict[int, Checkpoint], store_dir: Path, tmp_path: Path
) -> None:
    (first,) = go(store_dir, tmp_path, stop_at=1).values()
    own = {step: parts_of(each, own=True) for step, each in whole.items()}
    assert any(name.endswith("exp_avg") for name in own[8])
    assert are_equal(parts_of(first, own=True), own[8]), "before it has joined"
    assert are_equal(own[16], own[24])
    others = {step: parts_of(each, own=False) for step, each in whole.items()}
    for before, after in ((own[8], own[16]), (own[24], own[32]), (others[16], others[24])):
        still = [name for name, each in before.items() if are_equal({"": each}, {"": after[name]})]
        assert not still


@pytest.mark.parametrize("stops", [(7,), (8, 9), (16, 25)])
def test_a_run_goes_on_across_the_moment_of_joining_with_the_same_stream(
    whole: dict[int, Checkpoint], out: Path, store_dir: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    for stop in stops:
        go(store_dir, tmp_path, stop_at=stop)
    ours, theirs = go(store_dir, tmp_path)[32], whole[32]
    assert ours.record == theirs.record
    assert are_equal(ours.tensors, theirs.tensors)
    assert are_equal(ours.training, theirs.training)
    packs, expected = (
        [each for line in read_log(run) for each in line["packs"]] for run in (tmp_path, out)
    )
    assert len(expected) == 32
    assert packs == expected


def test_a_task_with_parameters_of_its_own_is_not_taken_out_of_a_run_that_goes_on(
    store_dir: Path, tmp_path: Path
) -> None:
    digits, spell = make_tasks(has_rows=False)
    settings: dict[str, Any] = {"model": MODEL, "config": CONFIG, "progress": False}
    mixtures = [Mixture(each, slots=SLOTS, bpe_size=300) for each in ([digits, spell], [spell])]
    train(mixtures[0], store_dir, out=tmp_path, stop_at=2, **settings)
    with pytest.raises(CheckpointError, match="T0720") as caught:
        train(mixtures[1], store_dir, out=tmp_path, **settings)
    assert OWN in str(caught.value)
    assert "joins and leaves by a Schedule" in str(caught.value)
    assert "`weights`" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
