"""A run tells what it learned from, how fast, and where its time went; whoever listens hears the same."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.graph.errors import MissingExtraError, StoreError, TaskloomWarning, TrainingError
from taskloom.ops.architecture import VOCABULARY_SCOPE
from taskloom.pipeline import Run, train
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.listener.listening import Listener
from taskloom.pipeline.trainer.memory import told_evaluation_memory
from taskloom.pipeline.trainer.recording import teach
from taskloom.pipeline.trainer.run_log import NAME, read_header, read_log
from taskloom.pipeline.trainer.step_clock import Amount
from taskloom.pipeline.trainer.step_part import (
    WARMING,
)

from .stores import CONFIG, MODEL, continue_run, make_mixture, start_python

NOTHING = Amount(0, 0, 0.0)
CPU = torch.device("cpu")


class Recorder(Listener):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def began(self, run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
        self.heard.append(("began", (run, tuple(header), facts["step"])))

    def logged(self, line: Mapping[str, Any]) -> None:
        self.heard.append(("logged", line["step"]))

    def evaluated(self, line: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        self.heard.append(("evaluated", (line["step"], len(samples))))

    def saved(self, path: Path, step: int) -> None:
        self.heard.append(("saved", (path, step)))

    def ended(self, outcome: str) -> None:
        self.heard.append(("ended", outcome))


class Broken(Listener):
    """Cannot bear lines."""

    def logged(self, line: Mapping[str, Any]) -> None:
        raise OSError(f"no room for step {line['step']}")


class Filler(Listener):
    """Lets what this process writes to the log at ``path`` meet a full disk, from the second line on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def logged(self, line: Mapping[str, Any]) -> None:
        del line
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        (number,) = (int(link.name) for link in links if link.readlink() == self.path)
        with Path("/dev/full").open("ab") as full:
            os.dup2(full.fileno(), number)


class Reader(Listener):
    """Reads the log of ``run`` whenever it hears something."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.read: list[tuple[int, list[dict[str, Any]]]] = []

    def began(self, run: Path, header: Sequence[str], facts: Mapping[str, Any]) -> None:
        assert read_header(run) == {"header": [*header], **facts}
        self.logged(facts)

    def logged(self, line: Mapping[str, Any]) -> None:
        self.read.append((line["step"], read_log(self.run)))

    def evaluated(self, line: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        del samples
        self.logged(line)


def listen(store: Path, out: Path, *listeners: Listener, **settings: Any) -> Run:
    return continue_run(store, out, listeners=listeners, **settings)


def test_a_line_says_what_was_seen_of_each_task_and_what_was_asked_for(run: Run) -> None:
    lines = read_log(run.path)
    for line in lines:
        mixture = line["mixture"]
        assert mixture.keys() == {"digits", "spell"}
        for share in ("sample_share", "token_share", "asked"):
            assert sum(task[share] for task in mixture.values()) == pytest.approx(1)
        assert sum(task["tokens"] for task in mixture.values()) == line["tokens"]
    samples = sum(line["mixture"]["digits"]["samples"] for line in lines)
    rows = json.loads(json.dumps(read_header(run.path)))["header"]
    assert any(re.match(r"digits: \d+% of samples", sentence) for sentence in rows)
    # 240 digits, a fifth held out and a tenth of the rest for validation, about.
    assert lines[-1]["mixture"]["digits"]["epochs"] == pytest.approx(samples / 173, rel=0.1)


def test_a_line_says_how_fast_and_with_how_much_memory(run: Run) -> None:
    for line in read_log(run.path):
        assert line["memory"]["host_bytes"] > 1 << 26
        speed = line["speed"]
        assert speed["mfu"] is None, "of a CPU no peak is known"
        if speed["tokens_per_s"] is not None:
            assert speed["tokens_per_s"] > speed["samples_per_s"] > 0
            assert speed["flops_per_s"] > speed["tokens_per_s"]
        assert 0 <= speed["waiting"] <= 1


def test_every_step_has_its_time_and_the_parts_of_all_make_up_the_whole(run: Run) -> None:
    lines = read_log(run.path)
    assert [len(line["step_s"]) for line in lines] == [10] * 6
    for line in lines:
        assert sum(line["time"].values()) == pytest.approx(sum(line["step_s"]), rel=0.3, abs=0.02)
    assert lines[0]["slow"][0] == {
        "step": 1,
        "seconds": lines[0]["slow"][0]["seconds"],
        "why": WARMING,
    }


def test_the_header_tells_of_flops_and_of_epochs_in_steps(run: Run) -> None:
    text = "\n".join(run.header)
    assert re.search(r"^a step: \d+ samples, about [\d.]+ [MG]FLOP$", text, re.M)
    for task in ("digits", "spell"):
        assert re.search(
            rf"^{task}: an epoch is [\d,.]+ steps, [\d.]+ [MG]FLOP of its own$", text, re.M
        )
    assert read_header(run.path)["header"] == list(run.header)


def test_the_signal_of_a_loss_is_the_gradient_at_the_states_it_is_charged_on(
    stream: Stream,
) -> None:
    learner = Learner.make(stream.plan, CONFIG, CPU)
    learner.program.eval()
    with stream.loader() as loader:
        (pack,) = next(iter(loader))
    inputs = to_inputs(learner.plan, pack, CPU)
    told = teach(
        learner.program, learner.program, inputs, {"score_tokens": inputs["weights"].sum()}
    )
    # The same by hand: states as they come to the head, and one backward pass for each loss.
    (scoring,) = (node for node in stream.plan.graph if node.op == "score_tokens")
    hidden = learner.program.trace([scoring.inputs["hidden"]], inputs)[scoring.inputs["hidden"]]
    table = learner.program.scope(VOCABULARY_SCOPE).weight_VC
    weights, ids = inputs["weights"], inputs["loss_ids"].long()
    losses_N = torch.nn.functional.cross_entropy(
        hidden @ table.T, inputs["labels"].long(), reduction="none"
    )
    for number, found in enumerate(told["signals"]):
        loss = (losses_N * weights * (ids == number)).sum() / weights.sum()
        (grad,) = torch.autograd.grad(loss, hidden, retain_graph=True)
        torch.testing.assert_close(found, grad.square().sum(), rtol=1e-4, atol=1e-9)
    assert (told["signals"] > 0).all()


def test_shares_of_the_gradient_are_told_and_add_up(run: Run) -> None:
    for line in read_log(run.path):
        shares = [task["gradient_share"] for task in line["tasks"].values()]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) > 0


def test_listeners_hear_of_everything_in_order(store_dir: Path, tmp_path: Path) -> None:
    ear = Recorder()
    done = listen(
        store_dir, tmp_path, ear, steps=20, evaluate_every=10, evaluate_share=1.0, evaluate_rows=3
    )
    assert ear.heard == [
        ("began", (tmp_path, done.header, 0)),
        ("logged", 10),
        ("evaluated", (10, 3)),
        ("logged", 20),
        ("evaluated", (20, 3)),
        ("saved", (tmp_path, 20)),
        ("ended", "done"),
    ]


def test_a_listener_that_raises_is_told_of_once_and_ends_nothing(
    store_dir: Path, tmp_path: Path
) -> None:
    ear = Recorder()
    with pytest.warns(TaskloomWarning) as caught:
        done = listen(store_dir, tmp_path, Broken(), ear, steps=30)
    assert done.step == 30
    assert [heard for heard, _ in ear.heard].count("logged") == 3
    (warning,) = caught
    assert (
        "warning[T0783]: Broken hears no more of the run: OSError in logged: no room for step 10"
        in str(warning.message)
    )


def test_what_a_listener_is_told_of_is_in_the_log_already(store_dir: Path, tmp_path: Path) -> None:
    ear = Reader(tmp_path)
    listen(store_dir, tmp_path, ear, steps=20, evaluate_every=20, evaluate_share=1.0)
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [10, 20, 20]
    assert ear.read == [(0, []), (10, lines[:1]), (20, lines[:2]), (20, lines)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_under_the_log_ends_the_run_which_a_listener_that_raises_does_not(
    store_dir: Path, tmp_path: Path
) -> None:
    ear = Recorder()
    with (
        pytest.warns(TaskloomWarning, match="Broken hears no more of the run") as told,
        pytest.raises(StoreError) as caught,
    ):
        listen(store_dir, tmp_path, Broken(), Filler(tmp_path / NAME), ear)
    assert len(told) == 1
    (problem,) = caught.value.problems
    assert problem.code == "T0505"
    assert str(tmp_path / NAME) in problem.message
    assert [heard for heard, _ in ear.heard] == ["began", "logged", "ended"]
    assert ear.heard[1:] == [("logged", 10), ("ended", str(caught.value))]
    assert [line["step"] for line in read_log(tmp_path)] == [10]


def test_a_run_whose_log_cannot_be_opened_ends_before_others_hear_of_it(
    store_dir: Path, tmp_path: Path
) -> None:
    ear = Recorder()
    (tmp_path / NAME).mkdir()
    with pytest.raises(StoreError, match=r"T0512.*log\.jsonl: Is a directory"):
        listen(store_dir, tmp_path, ear)
    assert ear.heard == []
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_needed_listener_ends_the_run_with_what_it_raises(
    store_dir: Path, tmp_path: Path
) -> None:
    class Needed(Broken):
        is_needed = True

    ear = Recorder()
    with pytest.raises(OSError, match="no room for step 10"):
        listen(store_dir, tmp_path, Needed(), ear)
    assert [heard for heard, _ in ear.heard] == ["began", "ended"]


def test_listeners_hear_how_a_run_ended_that_went_wrong(store_dir: Path, tmp_path: Path) -> None:
    ear = Recorder()
    with pytest.raises(TrainingError):
        listen(store_dir, tmp_path, ear, learning_rate=1e38, clip=0.0)
    (outcome,) = (told for heard, told in ear.heard if heard == "ended")
    assert "T0731" in outcome


def test_a_service_that_is_not_installed_is_named_before_training(
    store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r'(?s)T0901.*pip install "taskloom\[wandb\]"'):
        continue_run(store_dir, tmp_path / "out", log_to="wandb")
    assert not (tmp_path / "out").exists()


def test_a_service_that_nobody_knows_and_steps_that_are_none_are_refused() -> None:
    with pytest.raises(TrainingError) as caught:
        continue_run("nowhere", "nowhere", log_to="tensorbord, wandb", profile="9:9")
    text = str(caught.value)
    assert 'log_to names "tensorbord"' in text
    assert "did you mean tensorboard?" in text
    assert 'profile must be two steps, FIRST:END, got "9:9"' in text


def test_a_trace_holds_the_steps_that_were_asked_for_and_names_their_nodes(
    store_dir: Path, tmp_path: Path
) -> None:
    continue_run(store_dir, tmp_path, steps=8, profile="3:5")
    events = json.loads((tmp_path / "trace.json").read_text("utf-8"))["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    nodes = {name for name in names if name.startswith("taskloom::")}
    assert {"taskloom::encoder", "taskloom::decoder", "taskloom::loss"} <= nodes, nodes
    assert names.count("taskloom::encoder") == 2


LIMITED = """
import json, sys, pickle, resource
from pathlib import Path
import stores
from taskloom.graph.errors import TrainingError
from taskloom.pipeline.trainer.learner import Learner
take = Learner.take
def short(self, packs, **more):
    if self.step == 2:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 16), resource.RLIM_INFINITY))
        self.working.register_forward_pre_hook(lambda *_: stores.torch.empty(1 << 28))
    return take(self, packs, **more)
Learner.take = short
try:
    stores.continue_run(*sys.argv[1:], checkpoint_every=1)
except TrainingError as error:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(pickle.loads(pickle.dumps(error)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells memory by Linux's files")
def test_a_step_that_does_not_fit_into_memory_names_its_rows_and_the_setting(
    store_dir: Path, tmp_path: Path
) -> None:
    process = start_python(LIMITED, str(store_dir), str(tmp_path))
    told, errors = process.communicate(timeout=120)
    assert "error[T0781]: step 3 does not fit into memory" in told, errors[-2000:]
    assert f"step 2 was the last good one; {tmp_path / 'step-00000002'} is whole" in told
    assert re.search(r"its \d+ documents:\n   =   (digits|spell) \w+:\d+", told)
    assert (
        "lower source_tokens, which is 256: half of it, and packs_per_step 2 instead of 1" in told
    )
    named = json.loads((tmp_path / "out-of-memory.json").read_text("utf-8"))
    assert named["step"] == 3
    assert len(named["documents"]) > 5


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to")])
def test_an_evaluation_that_does_not_fit_into_memory_names_its_setting(
    error: Exception, tmp_path: Path
) -> None:
    with (
        pytest.raises(TrainingError, match="T0781") as caught,
        told_evaluation_memory(tmp_path, 64, 250),
    ):
        raise error
    assert "the evaluation after step 250 does not fit into memory" in str(caught.value)
    assert "lower evaluate_rows, which is 64" in str(caught.value)
    with pytest.raises(RuntimeError, match="shape"), told_evaluation_memory(tmp_path, 64, 250):
        raise RuntimeError("a shape is wrong")


def test_the_errors_of_telling_survive_pickle(store_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="T0780") as caught:
        train(make_mixture(has_rows=False), store_dir, out=tmp_path, model=MODEL, metric="bleu")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
