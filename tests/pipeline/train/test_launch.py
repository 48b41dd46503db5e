"""A run of several ranks goes on after what stops it, on as many ranks as there are then."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.pipeline import Model
from taskloom.pipeline.trainer.resuming import verify_resume
from taskloom.pipeline.trainer.run_log import NAME, read_log
from taskloom.storage.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    read_checkpoint,
    step_of,
)

from ...s3 import count_puts, make_bucket, objects, use
from ..rows import tree
from .launching import LAUNCH_S, MakeOnce, run_ranks, start_apart, start_ranks
from .stores import CONFIG, MODEL, are_equal, continue_run, make_mixture

STEPS: dict[str, Any] = {"steps": 24, "packs_per_step": 4, "log_every": 4, "checkpoint_every": 6}

_TRAIN = """
import json, os, sys
from pathlib import Path
from stores import continue_run
store, out, settings, pids = sys.argv[1:]
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
Path(pids, f"{attempt}-{os.environ['RANK']}").write_text(str(os.getpid()))
continue_run(store, out, **json.loads(settings))
"""


PEAK = 1e9
"""FLOP/s that ranks take their processor to be able to do."""

_OF_KNOWN_PEAK = f"""
from dataclasses import replace
from taskloom.pipeline.model import hardware
known = hardware.HARDWARE
hardware.HARDWARE = {{"cpu": replace(known["cpu"], peaks={{"float32": {PEAK}, "bfloat16": 1.0}})}}
{_TRAIN}
"""


_DIE = f"""
import os, signal
from taskloom.pipeline.trainer.learner import Learner
learn = Learner._learn
def die(self, *given, **named):
    if self.step == 14 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, *given, **named)
Learner._learn = die
{_TRAIN}
"""
"""In the fifteenth step the second rank is killed."""


def hang_in(method: str, step: int | None = 7, rank: int = 1) -> str:
    """Return code that trains, and one of whose ranks hangs in a method, but for its threads.

    It does so before anything of the method is done.

    Args:
        method: That of a class of the trainer, after its module and class.
        step: The step at which it hangs, counted from 1; None for whenever it comes there.
        rank: The rank that does.
    """
    module, cls, name = method.split(".")
    is_there = "True" if step is None else f"getattr(self, 'learner', self).step == {step - 1}"
    return f"""
import os, time
from taskloom.pipeline.trainer.{module} import {cls}
called = {cls}.{name}
def hang(self, *given, **named):
    if {is_there} and os.environ["RANK"] == "{rank}":
        time.sleep(1e6)
    return called(self, *given, **named)
{cls}.{name} = hang
{_TRAIN}
"""


def arguments(store: Path, out: Path, **settings: Any) -> tuple[str, ...]:
    """Return what the code is called with; ranks write their pids beside the run."""
    pids = pids_of(out)
    pids.mkdir(parents=True, exist_ok=True)
    return str(store), str(out), json.dumps(settings), str(pids)


def pids_of(out: Path) -> Path:
    return out.with_name(f"{out.name}-pids")


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    path = latest_checkpoint(out)
    assert path is not None
    return read_checkpoint(path).tensors


def prints_of(out: Path) -> list[str]:
    return [each for line in read_log(out) for each in line["packs"]]


def read_pid(out: Path, attempt: int, rank: int) -> int:
    """Return the pid of a rank, as soon as it has come to be."""
    path, end = pids_of(out) / f"{attempt}-{rank}", time.monotonic() + LAUNCH_S
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(path.read_text())


def wait_for_lines(out: Path, number: int, process: subprocess.Popen[str]) -> None:
    """Wait until the log of a run has so many lines."""
    while not (out / NAME).exists() or len((out / NAME).read_bytes().splitlines()) < number:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one rank, in one go."""
    out = tmp_path_factory.mktemp("alone") / "run"
    continue_run(store_dir, out, **STEPS)
    return out


@pytest.fixture(scope="module")
def begun(store_dir: Path, make_once: MakeOnce) -> Path:
    """The same run of two ranks, stopped after ten steps; tests leave it as it is."""

    def learn(folder: Path) -> None:
        given = arguments(store_dir, folder / "run", **STEPS, stop_at=10)
        run_ranks(_OF_KNOWN_PEAK, 2, *given)

    return make_once("run of two ranks", learn) / "run"


def test_each_rank_writes_a_share_of_a_checkpoint_and_one_process_reads_it(begun: Path) -> None:
    path = latest_checkpoint(begun)
    assert path is not None
    shares = [
        (path / f"{group}-{rank:05d}-of-00002.safetensors").stat().st_size
        for group in ("model", "training")
        for rank in range(2)
    ]
    assert max(shares[2:]) < 2 * min(shares[2:]), shares
    parameters = dict(Model.load(begun).program.state_dict())
    assert are_equal(parameters, read_checkpoint(path).tensors)


def test_only_the_first_rank_writes_the_log(begun: Path) -> None:
    assert [line["step"] for line in read_log(begun)] == [4, 8]
    assert not list(begun.glob(".tmp*"))


def test_tokens_are_those_of_all_ranks_and_mfu_is_of_the_peaks_of_all_in_their_precision(
    begun: Path,
) -> None:
    # The first step is no usual one, and neither are those that are measured, the last three of ten.
    for line, counted in zip(read_log(begun), (slice(1, 4), slice(0, 3)), strict=True):
        speed, step_s = line["speed"], line["step_s"]
        assert speed["mfu"] == pytest.approx(speed["flops_per_s"] / (2 * PEAK))
        tokens = speed["tokens_per_s"] * sum(step_s[counted])
        assert tokens == pytest.approx(line["tokens"] * 3 / 4, rel=0.1)


def test_a_run_of_two_ranks_goes_on_with_one_to_the_same(
    store_dir: Path, begun: Path, whole: Path, tmp_path: Path
) -> None:
    """The packs are equal to the bit, and the parameters but for the order in which gradients are added up."""
    before = sorted(begun.iterdir())
    out = copy_run(begun, tmp_path / "run")
    assert continue_run(store_dir, out, **STEPS).step == 24
    assert prints_of(out) == prints_of(whole)
    for name, tensor in tensors_of(whole).items():
        torch.testing.assert_close(tensors_of(out)[name], tensor, rtol=0, atol=1e-4)
    for ours, theirs in zip(read_log(out), read_log(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["tokens"] == theirs["tokens"]
    report = verify_resume(
        make_mixture(has_rows=False), store_dir, out=out, model=MODEL, config=CONFIG
    )
    assert sum(each.num_compared for each in report.compared) >= 24
    assert sorted(begun.iterdir()) == before


def copy_run(run: Path, to: Path) -> Path:
    subprocess.run(["cp", "-r", str(run), str(to)], check=True)
    return to


@pytest.mark.slow
def test_a_run_goes_from_two_ranks_to_one_to_four(
    store_dir: Path, begun: Path, whole: Path, tmp_path: Path
) -> None:
    out = copy_run(begun, tmp_path / "run")
    continue_run(store_dir, out, **STEPS, stop_at=17)
    run_ranks(_TRAIN, 4, *arguments(store_dir, out, **STEPS))
    assert prints_of(out) == prints_of(whole)
    for name, tensor in tensors_of(whole).items():
        torch.testing.assert_close(tensors_of(out)[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_ranks_that_share_parameters_go_on_from_one_and_one_from_them(
    store_dir: Path, whole: Path, tmp_path: Path
) -> None:
    out, shared = tmp_path / "run", {**STEPS, "sharding": "full"}
    run_ranks(_TRAIN, 2, *arguments(store_dir, out, **shared, stop_at=7))
    index = json.loads((out / "step-00000007" / "index.json").read_bytes())
    assert all(len(each["pieces"]) == 2 for each in index["model"].values() if each["size"][0] > 1)
    continue_run(store_dir, out, **STEPS, stop_at=13)
    run_ranks(_TRAIN, 2, *arguments(store_dir, out, **shared))
    assert prints_of(out) == prints_of(whole)
    for name, tensor in tensors_of(whole).items():
        torch.testing.assert_close(tensors_of(out)[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_ranks_copy_each_checkpoint_to_a_mirror_once_and_whole_and_go_on_from_it_elsewhere(
    store_dir: Path,
    whole: Path,
    s3: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bucket keeps all that is put into it, so what was put twice is there twice."""
    use(s3, monkeypatch)
    url = f"{make_bucket(s3, 'ranks', keeps_all=True)}/run"
    settings = {**STEPS, "mirror": url, "keep_checkpoints": 9}
    lost, here = tmp_path / "lost", tmp_path / "here"
    run_ranks(_TRAIN, 2, *arguments(store_dir, lost, **settings, stop_at=13))
    assert [step_of(path) for path in list_checkpoints(lost)] == [6, 12, 13]
    assert objects(url, s3) == tree(lost)
    run_ranks(_TRAIN, 2, *arguments(store_dir, here, **settings))
    assert [step_of(path) for path in list_checkpoints(here)] == [13, 18, 24]
    copies = {name for name in objects(url, s3) if name.startswith("step-")}
    assert objects(url, s3) == {n: c for n, c in tree(lost).items() if n in copies} | tree(here)
    puts = count_puts(url, s3)
    assert {name for name in copies if puts[name] != 1} == set()
    assert prints_of(here) == prints_of(whole)
    for name, tensor in tensors_of(whole).items():
        torch.testing.assert_close(tensors_of(here)[name], tensor, rtol=0, atol=1e-4)


_REFUSED = """
import json, os, sys
from stores import continue_run
from taskloom.graph.errors import StoreError
try:
    continue_run(*sys.argv[1:3], **json.loads(sys.argv[3]))
except StoreError as error:
    print("rank", os.environ["RANK"], "is told", error, file=sys.stderr)
"""


@pytest.mark.slow
def test_all_ranks_are_told_that_a_mirror_cannot_be_written(
    store_dir: Path, s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(s3, monkeypatch)
    settings = {**STEPS, "mirror": "s3://nowhere/run"}
    told = run_ranks(_REFUSED, 2, *arguments(store_dir, tmp_path / "run", **settings))
    for rank in (0, 1):
        assert f"rank {rank} is told error[T0520]: mirror: cannot write s3://nowhere/run" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("is_one", [True, False], ids=["rank", "launcher"])
def test_all_ranks_stop_at_one_step_when_one_is_interrupted_or_the_launcher_is_ended(
    store_dir: Path, tmp_path: Path, *, is_one: bool
) -> None:
    out = tmp_path / "run"
    settings = STEPS | {"steps": 100_000, "log_every": 1, "checkpoint_every": 100_000}
    process = start_ranks(_TRAIN, 2, *arguments(store_dir, out, **settings))
    wait_for_lines(out, 5, process)
    if is_one:
        os.kill(read_pid(out, 0, 1), signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LAUNCH_S)
    assert process.returncode
    assert "KeyboardInterrupt" in errors
    (path,) = list_checkpoints(out)
    assert read_checkpoint(path).record["step"] == read_log(out)[-1]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_ranks_whose_loss_is_no_number_end_together_and_name_the_documents(
    store_dir: Path, tmp_path: Path, sharding: str
) -> None:
    out = tmp_path / "run"
    settings = STEPS | {"learning_rate": 1e38, "clip": 0.0, "warmup": 0.0, "sharding": sharding}
    process = start_ranks(_TRAIN, 2, *arguments(store_dir, out, **settings))
    _, errors = process.communicate(timeout=LAUNCH_S)
    assert process.returncode
    assert "T0731" in errors
    assert "T0762" not in errors
    assert json.loads((out / "not-finite.json").read_bytes())["documents"]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_ranks_begin_with_the_weights_of_another_run(
    store_dir: Path, begun: Path, tmp_path: Path, sharding: str
) -> None:
    """A rate of nothing leaves them as they are."""
    out = tmp_path / "run"
    settings = STEPS | {"learning_rate": 0.0, "weight_decay": 0.0, "weights": str(begun)}
    run_ranks(_TRAIN, 2, *arguments(store_dir, out, **settings, stop_at=2, sharding=sharding))
    assert are_equal(tensors_of(out), tensors_of(begun))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_hung_rank_ends_the_run_and_is_named(store_dir: Path, tmp_path: Path, rank: int) -> None:
    out = tmp_path / "run"
    settings = STEPS | {"steps": 100_000, "log_every": 1, "checkpoint_every": 100_000}
    process = start_ranks(_TRAIN, 2, *arguments(store_dir, out, **settings, rank_timeout_s=5.0))
    wait_for_lines(out, 5, process)
    pid = read_pid(out, 0, rank)
    os.kill(pid, signal.SIGSTOP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode
    place = (
        rf"rank {rank} \(process {pid} on {re.escape(socket.gethostname())}\) was .* at step \d+"
    )
    assert re.search(rf"T0763.*rank {rank} gave no sign for 5 s", errors)
    assert re.search(place, errors)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize(
    ("method", "step", "rank", "doing"),
    [
        pytest.param("learner.Learner._learn", 1, 1, "learning pack 1 of 2", id="first step"),
        pytest.param("learner.Learner._learn", 2, 0, "learning pack 1 of 2", id="second step"),
        pytest.param("learner.Learner._learn", 7, 1, "learning pack 1 of 2", id="before layers"),
        pytest.param("learner.Learner._halt", 7, 1, "stepping the optimizer", id="after layers"),
        pytest.param("running.Running._judge", 5, 0, "evaluating", id="evaluating"),
        pytest.param("running.Running._evaluate", 5, 1, "telling of the steps", id="to evaluate"),
        pytest.param("saving.Saver.save", 5, 1, "saving", id="saving"),
    ],
)
def test_a_rank_that_does_not_get_on_ends_the_run_and_those_that_wait_are_not_blamed(
    store_dir: Path, tmp_path: Path, sharding: str, method: str, step: int, rank: int, doing: str
) -> None:
    out = tmp_path / "run"
    settings = STEPS | {"steps": 100_000, "log_every": 1, "checkpoint_every": 4}
    settings |= {"evaluate_every": 4, "evaluate_share": 1.0, "evaluate_rows": 8}
    settings |= {"rank_timeout_s": 5.0, "sharding": sharding}
    process = start_ranks(hang_in(method, step, rank), 2, *arguments(store_dir, out, **settings))
    pid = read_pid(out, 0, rank)
    _, errors = process.communicate(timeout=60)
    assert process.returncode
    assert re.search(rf"T0763.*rank {rank} does not get on for \d+ s", errors), errors
    assert re.search(rf"rank {rank} \(process {pid} on .*\) was {doing} at step {step}", errors)
    blamed = errors[errors.index("T0763") : errors.index("the same command")]
    assert f"rank {1 - rank}" not in blamed


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize(
    ("method", "rank"), [("saving.Saver.__init__", 1), ("running.Running.begin", 0)]
)
def test_a_rank_that_hangs_before_the_first_step_ends_the_run_and_is_named(
    store_dir: Path, tmp_path: Path, sharding: str, method: str, rank: int
) -> None:
    errors = hang_throughout(store_dir, tmp_path / "run", method, rank, sharding=sharding)
    assert re.search(rf"T0763.*rank {rank} does not get on for \d+ s", errors), errors
    assert re.search(rf"rank {rank} \(process \d+ on \S+\) was beginning", errors)
    assert f"rank {1 - rank} (process" not in errors


@pytest.mark.slow
def test_a_checkpoint_whose_writing_hangs_ends_the_run(store_dir: Path, tmp_path: Path) -> None:
    """All ranks wait for it, and none knows which of them does not get on."""
    errors = hang_throughout(store_dir, tmp_path / "run", "saving.Saver._finish_written", 0)
    assert "T0763" in errors
    assert errors.count("was waiting for a checkpoint at step 9") == 2


def hang_throughout(store: Path, out: Path, method: str, rank: int, **settings: Any) -> str:
    """Return what is said of a run one of whose ranks hangs wherever it comes to ``method``."""
    settings = STEPS | {"checkpoint_every": 4, "rank_timeout_s": 5.0} | settings
    process = start_ranks(hang_in(method, None, rank), 2, *arguments(store, out, **settings))
    _, errors = process.communicate(timeout=60)
    assert process.returncode
    return errors


@pytest.mark.slow
def test_ranks_that_compile_for_longer_than_a_step_may_take_are_left_alone(
    store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache")
    )  # nothing is compiled yet
    settings = STEPS | {"steps": 3, "compile": "on", "rank_timeout_s": 6.0}
    run_ranks(_TRAIN, 2, *arguments(store_dir, tmp_path / "run", **settings))
    (line,) = read_log(tmp_path / "run")
    assert line["step"] == 3
    assert line["slow"][0]["seconds"] > 6.0, "or the test shows nothing"


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_is_named(store_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = STEPS | {"steps": 100_000, "log_every": 1}
    process = start_ranks(_TRAIN, 2, *arguments(store_dir, out, **settings))
    wait_for_lines(out, 5, process)
    pid = read_pid(out, 0, 1)
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode
    assert re.search(rf"Signal 9 \(SIGKILL\) received by PID {pid}", errors)
    assert re.search(r"rank +: 1 ", errors)


def test_a_rank_says_which_other_one_is_gone_and_the_run_goes_on_from_the_last_checkpoint(
    store_dir: Path, whole: Path, tmp_path: Path
) -> None:
    """Without a launcher, as on another machine, whose launcher hears of it later."""
    out = tmp_path / "run"
    ranks = start_apart(_DIE, 2, *arguments(store_dir, out, **STEPS))
    _, errors = ranks[0].communicate(timeout=LAUNCH_S)
    ranks[1].communicate()
    assert [rank.returncode for rank in ranks] == [1, -signal.SIGKILL], errors
    assert re.search(r"T0762.*rank 1 is gone", errors), errors
    assert re.search(rf"rank 1 \(process {ranks[1].pid} on ", errors)
    # That of step 12 may have been on its way to the disk.
    assert {step_of(path) for path in list_checkpoints(out)} in ({6}, {6, 12})
    assert continue_run(store_dir, out, **STEPS).step == 24
    assert prints_of(out) == prints_of(whole)
    for name, tensor in tensors_of(whole).items():
        torch.testing.assert_close(tensors_of(out)[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_launcher_that_restarts_ranks_goes_on_from_the_last_checkpoint(
    store_dir: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start_ranks(
        _TRAIN, 2, *arguments(store_dir, out, **STEPS | {"log_every": 1}), max_restarts=1
    )
    wait_for_lines(out, 8, process)
    os.kill(read_pid(out, 0, 1), signal.SIGKILL)
    _, errors = process.communicate(timeout=LAUNCH_S)
    assert process.returncode == 0, errors
    read_pid(out, 1, 0)
    assert prints_of(out) == prints_of(whole)
    for name, tensor in tensors_of(whole).items():
        torch.testing.assert_close(tensors_of(out)[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_killed_at_twenty_moments_a_run_loses_only_the_steps_since_its_last_checkpoint(
    store_dir: Path, tmp_path: Path
) -> None:
    out, num_kills, every = tmp_path / "run", 20, 3
    settings = STEPS | {"steps": 100_000, "log_every": 1, "checkpoint_every": every}
    process = start_ranks(_TRAIN, 2, *arguments(store_dir, out, **settings), max_restarts=num_kills)
    moments = random.Random(0)
    lines = 3
    for attempt in range(num_kills):
        pids = [read_pid(out, attempt, rank) for rank in range(2)]
        wait_for_lines(out, lines, process)
        time.sleep(moments.uniform(0, 0.4))
        os.kill(moments.choice(pids), signal.SIGKILL)
        taken = len((out / NAME).read_bytes().splitlines())
        time.sleep(1.0)  # the launcher has ended the other, and new ones are still importing
        kept = list_checkpoints(out)
        steps = [read_checkpoint(path, with_training=True).record["step"] for path in kept]
        # One may have been on its way to the disk.
        assert max(steps, default=0) > taken - 2 * every - 1
        lines = taken + moments.randint(1, 2 * every)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LAUNCH_S)
