"""AdamW and Muon learn each its kind of parameter, together; a step that went wrong changes neither."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.optimizer import BETAS, Kind, Member, Optimizer, make_optimizer
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.storage.pack import Pack

from .learning import train_whole_and_in_parts
from .stores import CONFIG, are_equal

CPU = torch.device("cpu")
MUON = replace(CONFIG, optimizer="muon")
WELL, BAD = torch.tensor(data=False), torch.tensor(data=True)


@pytest.fixture(scope="module")
def packs(stream: Stream) -> list[Pack]:
    with stream.loader() as loader:
        return [pack for packs in islice(loader, 6) for pack in packs]


def make_learner(stream: Stream, config: TrainConfig = MUON) -> Learner:
    torch.manual_seed(0)
    return Learner.make(stream.plan, config, CPU)


def first_moments(
    stream: Stream, packs: list[Pack], clip: float
) -> tuple[dict[str, Tensor], float]:
    """Return AdamW's first moments after one step, which are the gradients it was given times one number.

    Returns:
        The moments by parameter, and the norm of the gradient that the log tells.
    """
    learner = make_learner(stream, replace(CONFIG, clip=clip))
    learner.take(packs)
    moments = {name: own["exp_avg"] for name, own in learner.optimizer.state_dict().items()}
    return moments, learner.measure(stream.losses, waited_s=0.0)["gradient_norm"]


def make_members() -> list[Member]:
    """Return a matrix, a table and a vector."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[Kind, tuple[int, ...]] = {"matrix": (6, 4), "table": (9, 4), "vector": (4,)}
    return [
        Member(
            name=kind, parameter=nn.Parameter(torch.randn(shape, generator=generator)), kind=kind
        )
        for kind, shape in shapes.items()
    ]


def set_gradients(members: list[Member], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for each in members:
        each.parameter.grad = torch.randn(each.parameter.shape, generator=generator)


def values_of(members: list[Member]) -> dict[str, Tensor]:
    return {each.name: each.parameter.detach().clone() for each in members}


def take(optimizer: Optimizer, members: list[Member], steps: Iterator[int] | range) -> None:
    for step in steps:
        set_gradients(members, step)
        optimizer.set_rate(0.01 / (step + 1))
        optimizer.step(optimizer.norms(), WELL)


def test_both_together_do_what_each_does_alone() -> None:
    members, others = make_members(), make_members()
    config = TrainConfig(optimizer="muon", weight_decay=0.1)
    take(make_optimizer(members, config), members, range(5))
    matrix, *rest = (each.parameter for each in others)
    table, vector = rest
    muon = torch.optim.Muon([matrix], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": [table]}, {"params": [vector], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.1)
    for step in range(5):
        set_gradients(others, step)
        for part in (muon, adamw):
            for group in part.param_groups:
                group["lr"] = 0.01 / (step + 1)
            part.step()
    for name, value in values_of(members).items():
        torch.testing.assert_close(value, values_of(others)[name], rtol=1e-6, atol=1e-7)


def test_muon_turns_a_matrix_as_far_as_adamw_would() -> None:
    """So that one learning rate suits both: its first step has about the root mean square of 0.2."""
    for shape in ((64, 64), (256, 64), (64, 256)):
        member = Member(name="m", parameter=nn.Parameter(torch.zeros(shape)), kind="matrix")
        optimizer = make_optimizer([member], TrainConfig(optimizer="muon", weight_decay=0.0))
        set_gradients([member], 0)
        optimizer.set_rate(1.0)
        optimizer.step(optimizer.norms(), WELL)
        assert 0.1 < float(member.parameter.detach().square().mean().sqrt()) < 0.3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("before", [0, 3])
def test_a_bad_step_changes_nothing(optimizer: Any, value: float, before: int) -> None:
    members = make_members()
    made = make_optimizer(members, TrainConfig(optimizer=optimizer, weight_decay=0.1))
    take(made, members, range(before))
    values = values_of(members)
    state = {
        name: {k: v.clone() for k, v in own.items()} for name, own in made.state_dict().items()
    }
    for each in members:
        each.parameter.grad = torch.full_like(each.parameter, value)
    made.step(made.norms(), BAD)
    assert are_equal(values_of(members), values)
    assert {name for name in state if not are_equal(made.state_dict()[name], state[name])} == set()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("before", [0, 3])
def test_what_nothing_was_learned_for_rests_whatever_others_do(optimizer: Any, before: int) -> None:
    members = make_members()
    guests = [replace(m, name=f"guest {m.name}", owner="guest") for m in make_members()]
    every = [*members, *guests]
    made = make_optimizer(every, TrainConfig(optimizer=optimizer, weight_decay=0.1))
    take(made, every, range(before))
    resting, state = values_of(guests), made.state_dict()
    state = {n: {k: v.clone() for k, v in state.get(n, {}).items()} for n in resting}
    own = values_of(members)
    for step in range(before, before + 2):
        set_gradients(every, step)
        for guest in guests:
            guest.parameter.grad = torch.zeros_like(guest.parameter)
        made.step(made.norms(), WELL)
    assert are_equal(values_of(guests), resting)
    assert not any(torch.equal(own[name], now) for name, now in values_of(members).items())
    for name, kept in made.state_dict().items():
        for key, value in state.get(name, {}).items():
            assert torch.equal(kept[key], value), (name, key)


def test_factors_multiply_the_rate() -> None:
    members = [
        replace(each, factor=2.0 if each.kind == "table" else 1.0) for each in make_members()
    ]
    optimizer = make_optimizer(members, TrainConfig(optimizer="muon"))
    optimizer.set_rate(0.1)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert [rates[id(each.parameter)] for each in members] == [0.1, 0.2, 0.1]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_kept_by_name_is_found_again_in_any_order(optimizer: Any) -> None:
    config = TrainConfig(optimizer=optimizer)
    members, others = make_members(), make_members()
    first, second = make_optimizer(members, config), make_optimizer(others[::-1], config)
    take(first, members, range(3))
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for own, its in zip(others, members, strict=True):
            own.parameter.copy_(its.parameter)
    take(first, members, range(3, 6))
    take(second, others, range(3, 6))
    assert are_equal(values_of(members), values_of(others))
    assert are_equal(first.state_dict(), second.state_dict())


def test_muon_learns_the_matrices_of_layers_and_nothing_else(stream: Stream) -> None:
    learner = make_learner(stream)
    by_class: dict[type[torch.optim.Optimizer], set[str]] = {}
    for part, names in zip(learner.optimizer.parts, learner.optimizer.names, strict=True):
        by_class.setdefault(type(part), set()).update(names)
    adamw, muon = by_class[torch.optim.AdamW], by_class[torch.optim.Muon]
    assert muon == {
        f"scopes.{side}.layers.0.{part}.weight"
        for side, parts in {
            "encoder": ("attention.query_key_value", "attention.out", "ffn.up", "ffn.down"),
            "decoder": (
                "attention.query_key_value",
                "attention.out",
                "cross.query",
                "cross.key_value",
                "cross.out",
                "ffn.up",
                "ffn.down",
            ),
        }.items()
        for part in parts
    }
    assert "scopes.vocabulary.weight_VC" in adamw
    assert adamw | muon == {name for name, _ in learner.program.named_parameters()}


@settings(max_examples=10)
@given(st.floats(1e-3, 3.0))
def test_clip_scales_a_gradient_down_to_its_norm_and_leaves_smaller_ones(
    stream: Stream, packs: list[Pack], share: float
) -> None:
    plain, norm = first_moments(stream, packs[:2], clip=0.0)
    clipped, told = first_moments(stream, packs[:2], clip=share * norm)
    assert told == norm, "the log tells of the gradient as it came"
    whole = nn.utils.get_total_norm(plain.values()) / (1 - BETAS[0])
    assert norm == pytest.approx(float(whole), rel=1e-4)
    for name, moment in plain.items():
        torch.testing.assert_close(clipped[name], moment * min(share, 1.0), rtol=1e-4, atol=0.0)


def test_a_learner_halts_with_muon_at_a_gradient_that_is_no_number(
    stream: Stream, packs: list[Pack]
) -> None:
    learner = make_learner(stream)
    learner.take(packs[:1])
    before = {name: each.clone() for name, each in learner.program.state_dict().items()}
    bad = np.where(packs[1].weights > 0, np.float32(np.inf), 0)
    learner.take([replace(packs[1], weights=bad)])
    learner.take(packs[2:3])
    assert learner.sound_step == 1
    assert are_equal(dict(learner.program.state_dict()), before)


def test_a_run_with_muon_learns_and_resumes_to_the_bit(store_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optimizer": "muon", "steps": 12, "log_every": 1}
    whole, parts = train_whole_and_in_parts(store_dir, tmp_path, 5, **settings)
    assert are_equal(whole.tensors, parts.tensors)
    assert are_equal(whole.training, parts.training)
    losses = [line["loss"] for line in read_log(tmp_path / "whole")]
    assert losses[-1] < losses[0] - 0.2
