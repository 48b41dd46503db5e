"""A recorded step is the step: the same numbers, at random or not, whatever else a run does meanwhile.

Only a GPU records. Elsewhere a stand-in computes anew what it was given, into the same memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.model.probe import Probe
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.planner.planning import Plan
from taskloom.pipeline.task import Mixture
from taskloom.pipeline.trainer import recording
from taskloom.pipeline.trainer.blame import find_documents
from taskloom.pipeline.trainer.keeping import restore
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.recording import Recorder, capture_graph
from taskloom.pipeline.trainer.saving import Saver
from taskloom.pipeline.trainer.tally import Tally
from taskloom.storage.checkpoint import checkpoint_path, read_checkpoint
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .stores import CONFIG, MODEL, are_equal

# Those of the compiler, which differ from version to version.
pytestmark = pytest.mark.filterwarnings("ignore")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.device)]
PRECISIONS = ["float32", "bfloat16"]


class StandIn:
    """Records on a CPU."""

    def __init__(self, working: Program, program: Program) -> None:
        self._working = working
        self._program = program

    def capture(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        """Return what ``call`` returns, and what computes it anew; both leave other things as they are."""
        random = torch.get_rng_state()
        told = call()
        torch.set_rng_state(random)
        parameters = [*self._program.parameters()]
        grads = [parameter.grad for parameter in parameters]

        def replay() -> None:
            # Nobody sees the nodes of a graph.
            probe, self._working.probe = self._working.probe, None
            others = [parameter.grad for parameter in parameters]
            self._program.zero_grad(set_to_none=True)
            for name, value in call().items():
                told[name].copy_(value)
            for parameter, own, other in zip(parameters, grads, others, strict=True):
                if own is not None and parameter.grad is not None:
                    own.copy_(parameter.grad)
                parameter.grad = other
            self._working.probe = probe

        return told, replay


@pytest.fixture(scope="module")
def packs(stream: Stream) -> list[Pack]:
    with stream.loader() as loader:
        return [pack for each in islice(loader, 12) for pack in each]


@pytest.fixture(scope="module")
def plain(mixture: Mixture, store_dir: Path) -> Plan:
    """The plan without dropout."""
    return open_stream(mixture, Store.open(store_dir), replace(MODEL, dropout=0.0), CONFIG).plan


def make_learner(plan: Plan, device: str, **settings: Any) -> Learner:
    """Return a learner whose steps come as they are."""
    torch.manual_seed(0)
    config = replace(CONFIG, warmup=0.0, **settings)
    return Learner.make(plan, config, torch.device(device))


def make_recorded(plan: Plan, device: str, **settings: Any) -> Learner:
    """Return one whose steps are recorded, which are not compiled."""
    learner = make_learner(plan, device, **settings)
    working, program = learner.working, learner.program
    capture: Any = capture_graph if device == "cuda" else StandIn(working, program).capture
    learner.recorder = Recorder(working=working, program=program, capture=capture)
    return learner


def make_both(plan: Plan, device: str, **settings: Any) -> tuple[Learner, Learner]:
    """Return one whose steps come as they are, and one whose steps are recorded."""
    return make_learner(plan, device, **settings), make_recorded(plan, device, **settings)


def take_steps(learner: Learner, packs: Sequence[Pack], size: int = 1) -> list[Tensor]:
    """Take a step on every ``size`` packs, and return the losses of each."""
    losses: list[Tensor] = []
    for start in range(0, len(packs), size):
        learner.take(packs[start : start + size])
        losses.append(learner.tally.sums["losses"].cpu())
        learner.tally = Tally()
    return losses


def assert_alike(one: Learner, other: Learner, begun: Program) -> None:
    """Refuse parameters that learned otherwise from those of ``begun``; a GPU may add up in another order."""
    for (name, own), its, before in zip(
        one.program.named_parameters(),
        other.program.parameters(),
        begun.parameters(),
        strict=True,
    ):
        if own.is_cuda:
            assert (own - its).norm() <= 0.02 * (own - before).norm() + 1e-7, name
        else:
            assert torch.equal(own, its), name


def is_recorded(learner: Learner) -> bool:
    return learner.recording == "steps are recorded from now on"


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_recorded_steps_learn_what_steps_learn_that_come_as_they_are(
    plain: Plan, packs: list[Pack], device: str, precision: str, size: int
) -> None:
    learners = make_both(plain, device, precision=precision)
    begun = copy.deepcopy(learners[0].program)
    one, other = (take_steps(learner, packs[: 6 * size], size) for learner in learners)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert_alike(*learners, begun)
    assert not is_recorded(learners[0])
    assert is_recorded(learners[1])


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_draws_what_it_would_draw_anyway_and_anew_at_each_replay(
    stream: Stream, packs: list[Pack], device: str
) -> None:
    """So that a run that is gone on with, and records later, comes to the same."""
    settings: dict[str, Any] = {"learning_rate": 0.0, "weight_decay": 0.0}
    learners = make_both(stream.plan, device, **settings)
    told: list[list[Tensor]] = []
    drawn: list[Tensor] = []
    for learner in learners:
        torch.manual_seed(1)
        told.append(take_steps(learner, packs[:1] * 6))
        drawn.append(torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state())
    assert is_recorded(learners[1])
    torch.testing.assert_close(*told, rtol=1e-4, atol=1e-4)
    assert torch.equal(*drawn)
    assert len({float(losses.sum()) for losses in told[1]}) == 6


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_recorded_run_goes_on_from_a_checkpoint_to_the_same(
    stream: Stream, packs: list[Pack], tmp_path: Path, device: str, precision: str
) -> None:
    whole, first, second = (
        make_recorded(stream.plan, device, precision=precision) for _ in range(3)
    )
    begun = copy.deepcopy(whole.program)
    torch.manual_seed(1)
    take_steps(whole, packs[:10])
    torch.manual_seed(1)
    take_steps(first, packs[:5])
    record = {"step": 5, "losses": stream.losses}
    first.tally = Tally.from_plain({"sums": {}, "tokens": 0, "steps": 0}, first.device, [], [])
    saver = Saver(tmp_path, first, first.config)
    saver.save(record, {})
    saver.finish()
    path = checkpoint_path(tmp_path, 5)
    torch.manual_seed(2)
    restore(second, read_checkpoint(path, with_training=True))
    take_steps(second, packs[5:10])
    assert is_recorded(first)
    assert is_recorded(second)
    assert_alike(whole, second, begun)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_recorded_step_whose_gradient_is_no_number_changes_nothing_nor_any_after_it(
    stream: Stream, packs: list[Pack], device: str, precision: str
) -> None:
    learner = make_recorded(stream.plan, device, precision=precision)
    take_steps(learner, packs[:4])
    assert not learner.recording or is_recorded(learner)
    before = {name: each.clone() for name, each in learner.program.state_dict().items()}
    bad = replace(packs[4], weights=np.where(packs[4].weights > 0, np.float32(np.inf), 0))
    learner.take([bad])
    learner.take(packs[:1])
    assert learner.sound_step == 4
    assert learner.trouble(stream.losses)
    assert are_equal(dict(learner.program.state_dict()), before)


@pytest.mark.parametrize("device", DEVICES)
def test_packs_of_other_shapes_and_watched_steps_come_as_they_are(
    plain: Plan, stream: Stream, packs: list[Pack], device: str
) -> None:
    small = replace(stream.capacity, source=128)
    with replace(stream, capacity=small).loader() as loader:
        (other,) = next(iter(loader))
    ways = [packs[:4], [other], packs[4:5], [packs[5], other, packs[6]]]
    learners = make_both(plain, device)
    begun = copy.deepcopy(learners[0].program)
    for learner in learners:
        take_steps(learner, ways[0])
        take_steps(learner, ways[1])
        probe = learner.working.probe = Probe(learner.device)
        take_steps(learner, ways[2])
        learner.working.probe = None
        assert probe.finish()
        take_steps(learner, ways[3], size=3)
    assert is_recorded(learners[1])
    assert_alike(*learners, begun)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("device", DEVICES)
def test_what_cannot_be_recorded_is_learned_as_it_comes_and_told_once(
    stream: Stream, packs: list[Pack], device: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learners = make_both(stream.plan, device)
    begun = copy.deepcopy(learners[0].program)

    def capture(call: Callable[[], Any]) -> Any:
        def fail() -> None:
            torch.rand(3, device=device)
            call()
            raise RuntimeError("asks the host\nand more")

        if device == "cuda":
            return capture_graph(fail)
        random = torch.get_rng_state()
        try:
            return fail()
        finally:
            torch.set_rng_state(random)

    assert learners[1].recorder is not None
    monkeypatch.setattr(learners[1].recorder, "capture", capture)
    for learner in learners:
        torch.manual_seed(1)
        take_steps(learner, packs[: 5 * size], size)
    assert learners[1].recording == "steps are not recorded: asks the host"
    assert_alike(*learners, begun)


@pytest.mark.device
@pytest.mark.parametrize("is_foreseen", [True, False])
def test_a_program_that_waits_for_its_device_is_not_recorded_and_learns_the_same(
    stream: Stream, packs: list[Pack], monkeypatch: pytest.MonkeyPatch, *, is_foreseen: bool
) -> None:
    if not is_foreseen:
        monkeypatch.setattr(recording, "_rehearse", lambda call: (call(), ""))
    learners = make_both(stream.plan, "cuda")
    begun = copy.deepcopy(learners[0].program)
    walk = learners[1].working._walk  # noqa: SLF001

    def wait(*given: Any) -> Any:
        torch.ones(1, device="cuda").item()
        return walk(*given)

    monkeypatch.setattr(learners[1].working, "_walk", wait)
    for learner in learners:
        torch.manual_seed(1)
        take_steps(learner, packs[:5])
    told = learners[1].recording
    assert told.startswith("steps are not recorded: ")
    assert ("the host waits for the device in" in told) == is_foreseen
    assert ("test_recording.py" in told) == is_foreseen
    assert_alike(*learners, begun)


def test_only_what_is_compiled_on_a_gpu_is_recorded(stream: Stream) -> None:
    for where, compile_, is_on in [
        ("cpu", "on", False),
        ("cuda", "off", False),
        ("cuda", "on", True),
    ]:
        learner = make_learner(stream.plan, "cpu", compile=compile_)
        learner.device = torch.device(where)
        learner.record()
        assert (learner.recorder is not None) == is_on
        assert not learner.recording


def test_blame_gives_back_what_a_recording_keeps(stream: Stream, packs: list[Pack]) -> None:
    learner = make_recorded(stream.plan, "cpu")
    take_steps(learner, packs[:4])
    with stream.loader() as loader:
        state = loader.state()
    find_documents(stream, learner, state, 5)
    assert learner.recorder is None
