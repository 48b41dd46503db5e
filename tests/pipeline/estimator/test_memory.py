"""Memory that is planned for a rank is what a step on this machine holds, within a tenth."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from taskloom.pipeline.estimator.cluster import Cluster
from taskloom.pipeline.estimator.run_plan import Case, RunPlan
from taskloom.pipeline.estimator.sampled import sample_packs
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.trainer.learner import Learner
from taskloom.storage.pack import Pack

from .conftest import OpenStream

CPU = torch.device("cpu")


def count_peak(call: Callable[[], object]) -> int:
    """Return the most bytes that ``call`` takes at once beside what there was, as torch's profiler sees it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        call()
    kineto: Any = told.profiler
    events = [each for each in kineto.kineto_results.events() if each.name() == "[memory]"]
    ordered = sorted(events, key=lambda each: each.start_ns())
    return max(itertools.accumulate(each.nbytes() for each in ordered))


def measure(stream: Stream, packs: list[Pack]) -> tuple[int, int]:
    """Return the bytes of what is learned and of the optimizer, and the most that a step holds beside."""
    learner = Learner.make(stream.plan, stream.config, CPU)
    learner.take(packs)
    learner.optimizer.zero_grad(set_to_none=True)
    states = [value for state in learner.optimizer.state.values() for value in state.values()]
    kept = sum(tensor.nbytes for tensor in (*learner.program.parameters(), *states))
    return kept, count_peak(lambda: learner.take(packs))


def slowly(*case: object) -> object:
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("mixture", "model", "num_packs"),
    [
        ("digits", "rotary", 1),
        ("texts", "relative", 2),
        slowly("digits", "dropout", 2),
        slowly("digits", "relative", 1),
        slowly("digits", "relative", 2),
        slowly("texts", "rotary", 1),
        slowly("texts", "rotary", 2),
        slowly("texts", "dropout", 1),
        slowly("texts", "relative", 1),
        slowly("pairs", "rotary", 1),
        slowly("pairs", "dropout", 2),
    ],
)
def test_planned_memory_is_measured_memory_within_a_tenth(
    open_small: OpenStream, mixture: str, model: str, num_packs: int
) -> None:
    stream = open_small(mixture, model, packs_per_step=num_packs)
    with stream.loader() as loader:
        packs = list(next(iter(loader)))
    kept, most = measure(stream, packs)
    case = Case(stream=stream, sampled=sample_packs(stream), cluster=Cluster(kind="cpu"))
    planned = RunPlan.of(case).memory
    assert planned.parameters + planned.optimizer == pytest.approx(kept, rel=0.01)
    step = planned.tensors - planned.parameters - planned.optimizer
    assert step == pytest.approx(most, rel=0.1)
