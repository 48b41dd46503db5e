"""Memory that is planned for a rank is what a step on this machine holds, within a tenth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peak import count_peak
from torch import Tensor

from taskloom.pipeline.estimator.cluster import Cluster
from taskloom.pipeline.estimator.run_plan import Case, RunPlan
from taskloom.pipeline.estimator.sampled import sample_packs
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.settings import ScopeRule
from taskloom.pipeline.trainer.learner import Learner
from taskloom.storage.pack import Pack

from .conftest import OpenStream

CPU = torch.device("cpu")


def count_kept(learner: Learner) -> int:
    """Return the bytes of what is learned, of its average and of what the optimizer holds."""
    states = [state for part in learner.optimizer.parts for state in part.state.values()]
    held = [tensor for state in states for tensor in state.values() if isinstance(tensor, Tensor)]
    held += [*learner.program.parameters()]
    held += [] if learner.average is None else [*learner.average.program.parameters()]
    return sum(tensor.nbytes for tensor in held)


def measure(stream: Stream, packs: list[Pack]) -> tuple[int, int]:
    """Return the bytes that are kept from step to step, and the most that a step holds beside."""
    learner = Learner.make(stream.plan, stream.config, CPU)
    learner.take(packs)
    learner.program.zero_grad(set_to_none=True)
    return count_kept(learner), count_peak(lambda: learner.take(packs))


def slowly(*case: object) -> object:
    return pytest.param(*case, marks=pytest.mark.slow)


def check(stream: Stream) -> None:
    """Compare what is planned for one rank with what it holds."""
    with stream.loader() as loader:
        packs = list(next(iter(loader)))
    # What is planned is what the one holds that holds most, and any of a run's may come last.
    packs = packs[:1] * len(packs)
    kept, most = measure(stream, packs)
    case = Case(
        stream=stream,
        sampled=replace(sample_packs(stream), packs=packs),
        cluster=Cluster(kind="cpu"),
    )
    planned = RunPlan.of(case).memory
    assert planned.parameters + planned.optimizer + planned.average == pytest.approx(kept, rel=0.01)
    # A pack is there before its step is, and on a CPU nobody copies it.
    step = planned.gradients + planned.of_pack - planned.pack
    assert step == pytest.approx(most, rel=0.1)


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
    check(open_small(mixture, model, packs_per_step=num_packs))


@pytest.mark.parametrize(
    ("mixture", "model", "activations", "num_packs"),
    [
        ("texts", "rotary", "keep", 1),
        slowly("digits", "rotary", "keep", 2),
        slowly("texts", "relative", "keep", 2),
        slowly("pairs", "relative", "keep", 1),
        slowly("texts", "dropout", "recompute", 1),
        slowly("texts", "relative", "recompute", 2),
        slowly("pairs", "rotary", "recompute", 1),
        slowly("digits", "relative", "recompute", 2),
    ],
)
def test_half_precision_takes_what_is_planned_for_it(
    open_small: OpenStream, mixture: str, model: str, activations: str, num_packs: int
) -> None:
    settings = {"precision": "bfloat16", "activations": activations}
    check(open_small(mixture, model, packs_per_step=num_packs, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        slowly({"optimizer": "muon", "activations": "recompute", "ema": 0.9}),
        slowly({"optimizer": "muon", "ema": 0.9}),
        {"activations": "recompute", "scopes": {"encoder.layers.0": ScopeRule(learn="frozen")}},
        slowly({"activations": "offload"}),
        slowly({"balance": "famo"}),
        slowly(
            {"scopes": {"encoder": ScopeRule(learn="lora"), "decoder": ScopeRule(learn="lora")}}
        ),
    ],
    ids=["recompute", "muon", "frozen", "offload", "famo", "lora"],
)
def test_settings_of_a_run_take_what_is_planned_for_them(
    open_small: OpenStream, settings: dict[str, Any]
) -> None:
    check(open_small("texts", "dropout", **settings))
