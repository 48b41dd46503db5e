"""A run that was stopped, interrupted or killed goes on to the very same model and log."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import CheckpointError, LoaderError, TrainingError
from taskloom.pipeline import Mixture, Source, Task, Temperature, build, fit, train
from taskloom.pipeline.trainer.listener.listening import Listener
from taskloom.pipeline.trainer.run_log import HEADER, NAME, read_log
from taskloom.storage.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint

from .stores import (
    CONFIG,
    MODEL,
    are_equal,
    continue_run,
    make_mixture,
    make_tasks,
    spell_numbers,
    start_training,
    train_until_signal,
)

STEPS = {"steps": 100, "packs_per_step": 2}
SLOTS = {"IMAGE": {"size": 16, "patch": 8}}


def last_of(out: Path) -> Checkpoint:
    path = latest_checkpoint(out)
    assert path is not None
    return read_checkpoint(path, with_training=True)


def log_of(out: Path) -> list[dict[str, Any]]:
    timed = {"seconds", "waited_s", "speed", "memory", "time", "step_s", "slow"}
    return [{k: v for k, v in line.items() if k not in timed} for line in read_log(out)]


def assert_same_run(out: Path, other: Path) -> None:
    ours, theirs = last_of(out), last_of(other)
    assert ours.record == theirs.record
    assert are_equal(ours.tensors, theirs.tensors)
    assert are_equal(ours.training, theirs.training)
    assert log_of(out) == log_of(other)


@pytest.fixture(scope="module")
def whole(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 100 steps in one go, with dropout and two packs a step."""
    out = tmp_path_factory.mktemp("whole")
    continue_run(store_dir, out, **STEPS)
    return out


def test_fifty_steps_and_fifty_more_are_a_hundred_to_the_bit(
    whole: Path, store_dir: Path, tmp_path: Path
) -> None:
    assert MODEL.dropout > 0
    assert continue_run(store_dir, tmp_path, stop_at=50, **STEPS).step == 50
    assert continue_run(store_dir, tmp_path, **STEPS).step == 100
    assert_same_run(tmp_path, whole)


def test_a_run_stopped_between_lines_of_its_log_writes_the_same_lines(
    whole: Path, store_dir: Path, tmp_path: Path
) -> None:
    for stop in (1, 14, 37, 38, 99, 100):
        continue_run(store_dir, tmp_path, stop_at=stop, **STEPS)
    assert_same_run(tmp_path, whole)


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(
    whole: Path, store_dir: Path, tmp_path: Path
) -> None:
    code, errors = train_until_signal(signal.SIGKILL, 45, store_dir, tmp_path, **STEPS, log_every=1)
    assert code == -signal.SIGKILL, errors
    killed_at = len((tmp_path / NAME).read_bytes().splitlines())
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert 40 <= int(checkpoint.name[5:]) <= killed_at < 100
    continue_run(store_dir, tmp_path, **STEPS, log_every=1)
    ours, theirs = last_of(tmp_path), last_of(whole)
    assert are_equal(ours.tensors, theirs.tensors)
    assert are_equal(ours.training["optimizer"], theirs.training["optimizer"])
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, 101))


@pytest.mark.slow
def test_a_build_under_a_run_changes_no_bit_of_it(store_dir: Path, tmp_path: Path) -> None:
    store, settings = tmp_path / "store", {"steps": 600, "log_every": 1}
    shutil.copytree(store_dir, store)
    process = start_training(store, tmp_path / "run", **settings)
    while not (log := tmp_path / "run" / NAME).exists() or log.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.01)
    digits, spell = make_tasks()
    words = [{"number": str(n), "words": f"number {n}"} for n in range(100, 400)]
    grown = [digits, replace(spell, source=Source("numbers", [*spell_numbers(), *words]))]
    build(Mixture(grown, slots=SLOTS, bpe_size=300), store, progress=False)
    fit(Mixture(grown, slots=SLOTS, bpe_size=300), store, again=["bpe-main"], progress=False)
    assert process.poll() is None, "the run ended before the build"
    build(Mixture(grown, slots=SLOTS, bpe_size=300), store, progress=False)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    continue_run(store_dir, tmp_path / "alone", **settings)
    assert_same_run(tmp_path / "run", tmp_path / "alone")


class Interrupter(Listener):
    """Sends this process signal ``number`` when it hears of step 30."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def logged(self, line: Mapping[str, Any]) -> None:
        if line["step"] == 30:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_where_it_was(
    whole: Path, store_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    ears = [Interrupter(number)]
    with pytest.raises(KeyboardInterrupt):
        continue_run(store_dir, tmp_path, **STEPS, checkpoint_every=1000, listeners=ears)
    assert last_of(tmp_path).record["step"] == 31
    assert continue_run(store_dir, tmp_path, **STEPS).step == 100
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_interrupted_saves_its_run_where_it_was(
    whole: Path, store_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    code, errors = train_until_signal(
        number, 3, store_dir, tmp_path, **STEPS, checkpoint_every=1000
    )
    assert code == -signal.SIGINT, errors  # KeyboardInterrupt went all the way up
    saved = last_of(tmp_path).record["step"]
    assert 30 <= saved < 100
    assert continue_run(store_dir, tmp_path, **STEPS).step == 100
    assert_same_run(tmp_path, whole)


def test_a_second_process_is_refused_and_spoils_nothing(store_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 100_000, "log_every": 1}
    process = start_training(store_dir, tmp_path, **settings)
    while not (log := tmp_path / NAME).exists() or log.read_bytes().count(b"\n") < 30:
        assert process.poll() is None
        time.sleep(0.01)
    header = (tmp_path / HEADER).read_bytes()
    with pytest.raises(TrainingError, match="T0785"):
        continue_run(store_dir, tmp_path, **settings)
    assert (tmp_path / HEADER).read_bytes() == header
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT, errors  # KeyboardInterrupt went all the way up
    step = last_of(tmp_path).record["step"]
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, step + 1))
    assert continue_run(store_dir, tmp_path, stop_at=step + 1, **settings).step == step + 1


def test_a_finished_run_is_given_back_at_once(whole: Path, store_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    done = continue_run(store_dir, whole, **STEPS)
    assert done.step == 100
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert are_equal(dict(done.model.program.state_dict()), last_of(whole).tensors)


def test_how_a_run_is_watched_and_computed_may_change(store_dir: Path, tmp_path: Path) -> None:
    continue_run(store_dir, tmp_path, stop_at=5)
    free = {"log_every": 1, "checkpoint_every": 7, "keep_checkpoints": 1, "threads": 2}
    assert continue_run(store_dir, tmp_path, stop_at=6, **free).step == 6


def test_a_run_may_be_made_longer_where_its_rate_is_constant_and_warmed_up(
    store_dir: Path, tmp_path: Path
) -> None:
    constant: dict[str, Any] = {"schedule": "constant", "warmup": 3}
    continue_run(store_dir, tmp_path / "parts", steps=10, **constant)
    assert continue_run(store_dir, tmp_path / "parts", steps=20, **constant).step == 20
    continue_run(store_dir, tmp_path / "whole", steps=20, **constant)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    for longer in ({"steps": 30}, {"steps": 30, "schedule": "constant", "warmup": 0.9}):
        with pytest.raises(CheckpointError, match="settings steps was 20, is 30"):
            continue_run(store_dir, tmp_path / "parts", **longer)


def test_a_share_that_is_not_warmed_up_in_a_longer_run_makes_it_another(
    store_dir: Path, tmp_path: Path
) -> None:
    constant: dict[str, Any] = {"schedule": "constant", "warmup": 0.5}
    continue_run(store_dir, tmp_path, steps=10, **constant)
    assert continue_run(store_dir, tmp_path, steps=20, stop_at=11, **constant).step == 11
    with pytest.raises(CheckpointError, match="settings steps was 20, is 100"):
        continue_run(store_dir, tmp_path, steps=100, **constant)


def test_a_run_that_goes_on_says_from_where_and_what_is_not_traced(
    store_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixture = make_mixture(has_rows=False)

    def tell(**settings: Any) -> list[str]:
        done = train(mixture, store_dir, out=tmp_path, model=MODEL, config=CONFIG, **settings)
        return [line for line in capfd.readouterr().err.splitlines() if line not in done.header]

    assert tell(stop_at=5) == []
    assert tell(stop_at=8, profile="2:6") == [
        f"{tmp_path} has a checkpoint of step 5: goes on after step 5",
        "nothing is traced: profile is 2:6, steps go from 6 to 8",
    ]
    assert tell(stop_at=8) == [f"{tmp_path} has a checkpoint of step 8: no step is left to take"]


def test_a_warm_up_that_is_longer_than_the_run_is_told_of(
    store_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short: dict[str, Any] = {"out": tmp_path, "model": MODEL, "config": CONFIG, "steps": 1}
    train(make_mixture(has_rows=False), store_dir, warmup=7, **short)
    assert "never gets to its highest: warmup is 7 of 1 steps" in capfd.readouterr().err


def test_a_run_that_is_to_stop_before_its_first_step_is_refused(
    store_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"T0730.*stop_at must be at least 1, got 0"):
        train(make_mixture(has_rows=False), store_dir, out=tmp_path, stop_at=0)


def test_a_run_that_is_begun_anew_forgets_how_it_ended_before(
    store_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "out-of-memory.json").write_text("{}")
    short: dict[str, Any] = {"out": tmp_path, "model": MODEL, "config": CONFIG, "steps": 1}
    train(make_mixture(has_rows=False), store_dir, **short)
    assert not (tmp_path / "out-of-memory.json").exists()


def test_sizes_that_a_rotary_model_does_not_read_are_told_of(
    store_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for_relative = replace(MODEL, pre_norm=False, max_positions=7, label_smoothing=0.1)
    short: dict[str, Any] = {"out": tmp_path, "model": for_relative, "config": CONFIG, "steps": 1}
    train(make_mixture(has_rows=False), store_dir, **short)
    told = "nothing comes of pre_norm, max_positions: that is for `position: relative` alone"
    assert told in capfd.readouterr().err


def test_another_run_in_the_same_directory_is_refused_difference_by_difference(
    whole: Path, store_dir: Path
) -> None:
    digits, spell = make_tasks(has_rows=False)
    others = Mixture([replace(digits, weight=2.0), spell], slots=SLOTS, bpe_size=300)
    with pytest.raises(CheckpointError) as caught:
        train(
            others,
            store_dir,
            out=whole,
            model=replace(MODEL, label_smoothing=0.1),
            config=CONFIG,
            seed=5,
            packs_per_step=2,
            steps=100,
        )
    text = str(caught.value)
    for difference in (
        "settings seed was 0, is 5",
        "model label_smoothing was 0.0, is 0.1",
    ):
        assert f"{whole} holds another run: {difference}" in text
    assert "train into another directory" in text


def test_documents_that_do_not_fit_the_packs_of_a_run_name_it(
    whole: Path, store_dir: Path, tmp_path: Path
) -> None:
    mixture = make_mixture()
    finer = replace(mixture, slots={"IMAGE": {"size": 16, "patch": 2}})
    shutil.copytree(store_dir, tmp_path / "store")
    build(finer, tmp_path / "store", progress=False)
    with pytest.raises(LoaderError, match="T0602") as caught:
        train(finer, tmp_path / "store", out=whole, model=MODEL, config=CONFIG)
    assert f"the shape of the run that {whole} holds" in str(caught.value)


def test_other_instructions_and_tasks_are_named(whole: Path, store_dir: Path) -> None:
    digits, _ = make_tasks(has_rows=False)
    asked = replace(digits, instruction=str(digits.instruction).replace("what", "which digit"))
    with pytest.raises(CheckpointError) as caught:
        train(
            Mixture([asked], slots=SLOTS, bpe_size=300),
            store_dir,
            out=whole,
            model=MODEL,
            config=CONFIG,
        )
    text = str(caught.value)
    assert f"tasks digits was {digits.instruction}, is {asked.instruction}" in text
    assert "spell" not in text, "a task may be taken out"


def test_another_vocabulary_is_named(tmp_path: Path) -> None:
    task = Task("t", "[TEXT:number] -> [TEXT:words]", source=Source("s", spell_numbers()))
    for name, size in {"small": 280, "large": 300}.items():
        build(Mixture([task], bpe_size=size), tmp_path / name, progress=False)
    settings: dict[str, Any] = {"out": tmp_path / "out", "model": MODEL, "config": CONFIG}
    train(Mixture([task], bpe_size=280), tmp_path / "small", stop_at=1, progress=False, **settings)
    with pytest.raises(CheckpointError) as caught:
        train(Mixture([task], bpe_size=300), tmp_path / "large", progress=False, **settings)
    text = str(caught.value)
    assert "bpe_size was 280, is 300" in text
    assert "pinned bpe-main digest was" in text


def test_rows_that_are_others_than_before_are_named(tmp_path: Path) -> None:
    rows = spell_numbers()
    task = Task("t", "[TEXT:number] -> [TEXT:words]", source=Source("s", rows[:60]))
    other = replace(task, source=Source("s", rows[:90]), holdout=0.2, key="number")
    store = tmp_path / "store"
    settings: dict[str, Any] = {"out": tmp_path / "out", "model": MODEL, "config": CONFIG}
    for mixture in (Mixture([each], bpe_size=260) for each in (task, other)):
        build(mixture, store, progress=False)
        if mixture.tasks[0] is task:
            train(mixture, store, stop_at=1, progress=False, **settings)
    with pytest.raises(CheckpointError) as caught:
        train(Mixture([other], bpe_size=260), store, progress=False, **settings)
    text = str(caught.value)
    assert "rows t number was 60, is 7" in text
    assert "rows t holdout was 0.0, is 0.2" in text
    assert "rows t key was nothing, is number" in text


def test_a_damaged_checkpoint_is_refused_not_skipped(store_dir: Path, tmp_path: Path) -> None:
    continue_run(store_dir, tmp_path, stop_at=3)
    model = tmp_path / "step-00000003" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"step-00000003/model.safetensors is damaged"):
        continue_run(store_dir, tmp_path)


def test_a_run_goes_on_with_other_weights_and_with_tasks_more_and_fewer(
    store_dir: Path, tmp_path: Path
) -> None:
    digits, spell = make_tasks(has_rows=False)
    settings: dict[str, Any] = {"model": MODEL, "config": CONFIG, "progress": False}
    mixtures = {
        8: Mixture([digits, spell], slots=SLOTS, bpe_size=300),
        13: Mixture([digits, spell], weights={"digits": 1, "spell": 9}, slots=SLOTS, bpe_size=300),
        17: Mixture([replace(digits, weight=2.0)], slots=SLOTS, bpe_size=300),
        30: Mixture([spell, digits], weights=Temperature(4), slots=SLOTS, bpe_size=300),
    }
    runs = [
        train(mixture, store_dir, out=tmp_path, stop_at=stop, **settings)
        for stop, mixture in mixtures.items()
    ]
    assert [run.step for run in runs] == [*mixtures]
    state = last_of(tmp_path).record["loader"]
    assert [step for step, _ in state["segments"]] == [0, 8, 13, 17]
    assert runs[-1].header[0] == "the mixture was changed at step 8, 13, 17"
    lines = {line["step"]: line["tasks"] for line in log_of(tmp_path)}
    assert lines[30]["spell"]["labels"] > 0 < lines[30]["digits"]["labels"]
