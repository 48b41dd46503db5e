"""Each way of balancing does what its paper says, as plain autograd does it, and keeps what it learned."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from taskloom.pipeline import Mixture, train
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.trainer.balancers import (
    FAMO_DECAY,
    RATE,
    Balancer,
    FamoBalancer,
    InitialBalancer,
    Learned,
    Seen,
    UncertaintyBalancer,
)
from taskloom.pipeline.trainer.run_log import read_header, read_log
from taskloom.storage.checkpoint import read_checkpoint
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .learning import make_learner, train_whole_and_in_parts
from .stores import CONFIG, MODEL, are_equal, make_tasks

CPU = torch.device("cpu")
WAYS = ["initial", "uncertainty", "famo"]
ONE_FAST = ["famo", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[:2])]
WELL = torch.tensor(data=False)
SCALES = torch.tensor([1.0, 100.0])
STARTS = torch.tensor([[1.0, -0.5, 2.0, 0.3], [0.2, 1.5, -1.0, 0.7]])


def make(way: str, num_losses: int = 2) -> Balancer:
    makers: Mapping[str, Callable[[], Balancer]] = {
        "initial": lambda: InitialBalancer(torch.zeros(num_losses)),
        "uncertainty": lambda: UncertaintyBalancer(Learned.make(num_losses, CPU)),
        "famo": lambda: FamoBalancer(
            Learned.make(num_losses, CPU, FAMO_DECAY), torch.zeros(num_losses)
        ),
    }
    return makers[way]()


def losses_of(parameter: Tensor) -> Tensor:
    """Return two losses of one parameter that pull apart, one of them a hundred times as large."""
    return SCALES * ((parameter - STARTS).square().mean(1) + 0.1)


def learn(way: str, num_steps: int, rate: float = 0.02) -> tuple[list[Tensor], list[Tensor]]:
    """Return coefficients and losses of gradient descent with a balancer."""
    balancer, parameter = make(way), nn.Parameter(torch.zeros(4))
    coefficients: list[Tensor] = []
    losses: list[Tensor] = []
    there = torch.ones(2, dtype=torch.bool)
    for _ in range(num_steps):
        coefficients.append(balancer.coefficients())
        before = losses_of(parameter)
        losses.append(before.detach())
        (slope,) = torch.autograd.grad((coefficients[-1] * before).sum(), parameter)
        with torch.no_grad():
            parameter -= rate * slope
            after = losses_of(parameter) if balancer.looks_back else None
        balancer.learn(Seen(before_L=before.detach(), after_L=after, is_there_L=there, is_bad=WELL))
    return coefficients, losses


def learn_plainly(
    way: str, num_steps: int, rate: float = 0.02
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the same with losses that autograd puts together, as the papers have them."""
    parameter, weights = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2))
    decay = FAMO_DECAY if way == "famo" else 0.0
    adam = torch.optim.Adam([weights], lr=RATE, weight_decay=decay)
    coefficients: list[Tensor] = []
    losses: list[Tensor] = []
    first = losses_of(parameter).detach()
    for step in range(num_steps):
        before = losses_of(parameter)
        losses.append(before.detach())
        if way == "initial":
            whole = (before / (first if step else 1)).mean()
        elif way == "uncertainty":
            whole = ((-weights).exp() * before + weights / 2).mean()
        else:
            # Its first step is one on the sum, for no loss is known before it.
            shares = weights.softmax(0).detach()
            known = before.detach() if step else torch.ones(2)
            whole = (shares * before / known).sum() / (shares / known).sum()
        (slope,) = torch.autograd.grad(whole, parameter, retain_graph=True)
        coefficients.append(torch.autograd.grad(whole, before, retain_graph=True)[0])
        with torch.no_grad():
            parameter -= rate * slope
        if way == "uncertainty":
            (weights.grad,) = torch.autograd.grad(2 * whole, weights)
            adam.step()
        elif way == "famo":
            gains = before.detach().log() - losses_of(parameter).detach().log()
            (weights.grad,) = torch.autograd.grad(weights.softmax(0), weights, gains)
            adam.step()
    return coefficients, losses


@pytest.mark.parametrize("way", WAYS)
def test_a_balancer_does_what_its_paper_says(way: str) -> None:
    for ours, plain in zip(learn(way, 40), learn_plainly(way, 40), strict=True):
        torch.testing.assert_close(torch.stack(ours), torch.stack(plain), rtol=1e-4, atol=1e-6)


def fall_apart(way: str) -> list[float]:
    """Return how far the logarithms of two losses fall that share no parameters, one of a hundredth's scale."""
    parameters = nn.Parameter(torch.zeros(2, 4))
    balancer = None if way == "static" else make(way)
    there, losses = torch.ones(2, dtype=torch.bool), list[Tensor]()
    # As large a step as the steepest of the coefficients lets be.
    for _ in range(400):
        before = SCALES * (parameters - STARTS).square().mean(1)
        losses.append(before.detach())
        coefficients = torch.ones(2) if balancer is None else balancer.coefficients()
        (slope,) = torch.autograd.grad((coefficients * before).sum(), parameters)
        with torch.no_grad():
            parameters -= 0.02 / float((coefficients * SCALES).max()) * slope
            after = SCALES * (parameters - STARTS).square().mean(1)
        if balancer is not None:
            seen = Seen(before_L=before.detach(), after_L=after, is_there_L=there, is_bad=WELL)
            balancer.learn(seen)
    return (losses[0] / losses[-1]).log().tolist()


def test_a_loss_of_a_hundredth_of_the_scale_is_learned_as_well_with_a_balancer() -> None:
    small, large = fall_apart("static")
    assert small < 0.02 * large
    for way in ("initial", "famo"):
        small, large = fall_apart(way)
        assert 0.3 * large < small < 2 * large, way


def test_uncertainty_comes_to_where_each_loss_over_its_variance_is_a_half() -> None:
    """There the slope of a logarithm is 0, whatever the scale: both losses count alike."""
    balancer, there = make("uncertainty"), torch.ones(2, dtype=torch.bool)
    losses = torch.tensor([0.5, 50.0])
    for _ in range(1500):
        balancer.learn(Seen(before_L=losses, is_there_L=there, is_bad=WELL))
    half = balancer.coefficients() * 2 * losses
    torch.testing.assert_close(half, torch.full((2,), 0.5), rtol=0.1, atol=0.0)


def test_famo_counts_a_loss_that_falls_less_more() -> None:
    balancer, there = make("famo"), torch.ones(2, dtype=torch.bool)
    before, after = torch.tensor([2.0, 200.0]), torch.tensor([1.9, 100.0])
    for _ in range(20):
        balancer.learn(Seen(before_L=before, after_L=after, is_there_L=there, is_bad=WELL))
    weighed = balancer.coefficients() * after
    assert weighed[0] > 1.2 * weighed[1]


@given(st.floats(1e-3, 1e3))
def test_famo_is_the_same_whatever_the_scale_of_a_loss(scale: float) -> None:
    there, scales = torch.ones(2, dtype=torch.bool), torch.tensor([1.0, scale])
    before, after = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.5])
    one, other = make("famo"), make("famo")
    for _ in range(5):
        one.learn(Seen(before_L=before, after_L=after, is_there_L=there, is_bad=WELL))
        scaled = Seen(
            before_L=before * scales, after_L=after * scales, is_there_L=there, is_bad=WELL
        )
        other.learn(scaled)
    shares = [each.coefficients() * own for each, own in ((one, after), (other, after * scales))]
    plain, others = (each / each.sum() for each in shares)
    torch.testing.assert_close(plain, others, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_is_not_there_and_a_bad_step_teach_nothing(way: str) -> None:
    balancer = make(way, 3)
    seen = Seen(
        before_L=torch.tensor([2.0, 3.0, 4.0]),
        after_L=torch.tensor([1.0, 2.0, 3.5]),
        is_there_L=torch.tensor([True, True, True]),
        is_bad=WELL,
    )
    balancer.learn(seen)
    state = {name: value.clone() for name, value in balancer.state().items()}
    bad = replace(seen, before_L=seen.before_L * torch.nan, is_bad=torch.tensor(data=True))
    for before, each in ((state, balancer), (make(way, 3).state(), make(way, 3))):
        each.learn(bad)
        assert are_equal(each.state(), before)

    one, other = make(way, 3), make(way, 3)
    part = replace(seen, is_there_L=torch.tensor([True, True, False]))
    one.learn(part)
    other.learn(replace(part, before_L=torch.tensor([2.0, 3.0, 9e9])))
    assert are_equal(one.state(), other.state())
    assert bool(one.coefficients().isfinite().all())
    if way == "uncertainty":
        assert one.coefficients()[2] == make(way, 3).coefficients()[2]


@pytest.fixture(scope="module")
def packs(stream: Stream) -> list[Pack]:
    with stream.loader() as loader:
        return [pack for packs in islice(loader, 8) for pack in packs]


@pytest.fixture(scope="module")
def still(mixture: Mixture, store_dir: Path) -> Stream:
    """A stream whose program has no dropout."""
    return open_stream(mixture, Store.open(store_dir), replace(MODEL, dropout=0.0), CONFIG)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_learns_from_coefficients_times_mean_losses(
    still: Stream, packs: list[Pack], way: Any, size: int
) -> None:
    learner = make_learner(still, balance=way, clip=0.0)
    learner.take(packs[:size])
    assert learner.balance is not None
    coefficients = learner.balance.balancer.coefficients()
    plain = make_learner(still, clip=0.0)
    plain.program.load_state_dict(learner.program.state_dict())
    group = packs[size : 2 * size]
    losses, weights = torch.zeros(2, 2)
    for number in range(2):
        own = [
            replace(p, weights=np.where(p.loss_ids == number, p.weights, 0).astype(np.float32))
            for p in group
        ]
        total = torch.tensor(float(sum(p.weights.sum() for p in own)))
        for pack in own:
            inputs = to_inputs(plain.plan, pack, CPU)
            told = plain.working(inputs, {"score_tokens": total})
            (coefficients[number] * told["loss"]).backward()
            losses[number] += told["losses"][number].detach()
            weights[number] += told["loss_weights"][number]
    learner.tally = type(learner.tally)()
    learner.take(group)
    for (name, own), its in zip(
        learner.program.named_parameters(), plain.program.parameters(), strict=True
    ):
        assert own.grad is not None, name
        torch.testing.assert_close(own.grad, its.grad, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(learner.tally.sums["losses"], losses)
    torch.testing.assert_close(learner.tally.sums["loss_weights"], weights)


@pytest.mark.parametrize("way", ONE_FAST)
def test_a_run_that_is_balanced_resumes_to_the_bit(
    store_dir: Path, tmp_path: Path, way: str
) -> None:
    settings: dict[str, Any] = {"balance": way, "steps": 14, "packs_per_step": 2}
    whole, parts = train_whole_and_in_parts(store_dir, tmp_path, 5, **settings)
    assert f"losses of 2 tasks are balanced: {way}" in read_header(tmp_path / "whole")["header"]
    assert are_equal(whole.tensors, parts.tensors)
    assert are_equal(whole.training, parts.training)
    line = read_log(tmp_path / "whole")[-1]
    assert line["balance"].keys() == line["tasks"].keys()
    assert line["balance"] != {"digits": 0.5, "spell": 0.5}


@pytest.mark.parametrize("way", ONE_FAST)
def test_a_task_that_comes_later_begins_with_nothing_learned(
    store_dir: Path, tmp_path: Path, way: str
) -> None:
    digits, spell = make_tasks(has_rows=False)
    slots = {"IMAGE": {"size": 16, "patch": 8}}
    settings: dict[str, Any] = {"model": MODEL, "config": CONFIG, "balance": way, "progress": False}
    for stop, tasks in {6: [digits], 12: [spell, digits]}.items():
        mixture = Mixture(tasks, slots=slots, bpe_size=300)
        train(mixture, store_dir, out=tmp_path, stop_at=stop, **settings)
    kept = [
        read_checkpoint(tmp_path / f"step-{step:08d}", with_training=True).training["balance"]
        for step in (6, 12)
    ]
    assert all(own.shape == (1,) for own in kept[0].values() if own.ndim)
    assert all(own.shape == (2,) for own in kept[1].values() if own.ndim)
    if way == "initial":
        assert kept[1]["first"][1] == kept[0]["first"][0]


@pytest.mark.parametrize("way", WAYS)
def test_what_balancing_costs_is_told_once_as_a_share_of_a_step(
    store_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    mixture = Mixture(
        make_tasks(has_rows=False), slots={"IMAGE": {"size": 16, "patch": 8}}, bpe_size=300
    )
    config = replace(CONFIG, steps=20, balance=way)
    train(mixture, store_dir, out=tmp_path, model=MODEL, config=config)
    (share,) = re.findall(
        r"^balancing takes (\d+\.\d)% of a step$", capsys.readouterr().err, re.MULTILINE
    )
    assert 0 < float(share) < 100
