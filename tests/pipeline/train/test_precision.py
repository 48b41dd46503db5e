"""A run in bfloat16 learns in float32: nothing is lost in a step, in a checkpoint, or in going on from one."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from taskloom.graph.errors import CheckpointError, TrainingError
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Model, Run, train
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.precision import hand_over, precision_of_products
from taskloom.pipeline.model.record import refuse_other_run
from taskloom.pipeline.planner.planning import Plan
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.storage.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint
from taskloom.storage.pack import Pack

from .stores import CONFIG, MODEL, are_equal, make_mixture

CPU = torch.device("cpu")
ROTARY = pytest.param(MODEL, id="rotary")
RELATIVE = pytest.param(replace(MODEL, position="relative", max_positions=64), id="relative")


def learn(store: Path, out: Path, model: ModelConfig = MODEL, **settings: Any) -> Run:
    """Train the mixture in bfloat16, unless ``settings`` say otherwise."""
    config = replace(CONFIG, precision="bfloat16")
    mixture = make_mixture(has_rows=False)
    return train(mixture, store, out=out, model=model, config=config, progress=False, **settings)


def last_of(out: Path) -> Checkpoint:
    path = latest_checkpoint(out)
    assert path is not None
    return read_checkpoint(path, with_training=True)


def take_packs(stream: Stream, number: int) -> list[Pack]:
    with stream.loader() as loader:
        return [pack for packs in islice(loader, number) for pack in packs]


def make_learner(plan: Plan, **settings: Any) -> Learner:
    torch.manual_seed(0)
    return Learner.make(plan, replace(CONFIG, precision="bfloat16", **settings), CPU)


@pytest.mark.parametrize("model", [ROTARY, RELATIVE])
def test_fifty_steps_lose_as_much_as_in_float32(
    store_dir: Path, tmp_path: Path, model: ModelConfig
) -> None:
    for precision in ("bfloat16", "float32"):
        learn(store_dir, tmp_path / precision, model, steps=50, precision=precision)
    half, single = (
        [line["loss"] for line in read_log(tmp_path / name)] for name in ("bfloat16", "float32")
    )
    assert half != single
    assert half == pytest.approx(single, rel=0.02)
    assert single[-1] < single[0] - 0.5


@pytest.mark.parametrize("model", [ROTARY, RELATIVE])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    store_dir: Path, tmp_path: Path, model: ModelConfig
) -> None:
    settings = {"steps": 14, "packs_per_step": 2}
    learn(store_dir, tmp_path / "whole", model, **settings)
    learn(store_dir, tmp_path / "parts", model, stop_at=5, **settings)
    learn(store_dir, tmp_path / "parts", model, **settings)
    whole, parts = (last_of(tmp_path / name) for name in ("whole", "parts"))
    assert are_equal(whole.tensors, parts.tensors)
    assert are_equal(whole.training, parts.training)


def test_what_is_kept_is_what_was_learned_in_float32(store_dir: Path, tmp_path: Path) -> None:
    run = learn(store_dir, tmp_path, steps=3)
    tensors = last_of(tmp_path).tensors
    floats = {name: each for name, each in tensors.items() if each.is_floating_point()}
    assert {each.dtype for each in floats.values()} == {torch.float32}
    assert any((each != each.bfloat16().float()).any() for each in floats.values())
    loaded = Model.load(tmp_path).program.state_dict()
    assert are_equal(dict(loaded), tensors)
    assert are_equal(dict(run.model.program.state_dict()), tensors)


def test_steps_too_small_for_bfloat16_add_up(stream: Stream) -> None:
    """Of 40 steps of a 2,000th of a number's last digit, none would move it."""
    learner = make_learner(stream.plan, learning_rate=1e-6, warmup=0.0, weight_decay=0.0, steps=100)
    before = {name: p.detach().clone() for name, p in learner.program.named_parameters()}
    (pack,) = take_packs(stream, 1)
    for _ in range(40):
        learner.take([pack])
    gains = {n: p for n, p in learner.program.named_parameters() if (before[n] == 1).all()}
    assert gains, "norms begin with ones"
    moved = [(p - 1).abs().max() for p in gains.values() if p.ndim == 1]
    assert max(moved) > 1e-5
    working = dict(learner.working.named_parameters())
    assert all((working[name] == 1).all() for name in gains)


def test_what_computes_is_what_was_learned_rounded(stream: Stream) -> None:
    learner = make_learner(stream.plan)
    learner.take(take_packs(stream, 1))
    learned = dict(learner.program.named_parameters())
    for name, each in learner.working.named_parameters():
        assert each.dtype is torch.bfloat16, name
        assert torch.equal(each, learned[name].bfloat16()), name
        assert each.grad is None, name


def test_gradients_of_packs_are_added_up_in_float32() -> None:
    masters, working = nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(8, 8)
    for _ in range(3):
        own = torch.randn(8, 8, generator=generator).bfloat16()
        working.weight.grad = own
        sums += own
        hand_over(working, masters)
        assert working.weight.grad is None
    assert masters.weight.grad is not None
    assert torch.equal(masters.weight.grad, sums)
    assert masters.bias.grad is None, "there was none"


@pytest.mark.parametrize(
    ("allowed", "products"),
    [("highest", "float32"), ("high", "tensorfloat32"), ("medium", "tensorfloat32")],
)
def test_products_in_float32_are_what_torch_is_set_to(allowed: str, products: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        assert precision_of_products("float32") == products
        assert precision_of_products("bfloat16") == "bfloat16"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_step_whose_gradient_is_no_number_changes_nothing(stream: Stream) -> None:
    learner = make_learner(stream.plan)
    packs = take_packs(stream, 2)
    learner.take(packs[:1])
    before = {name: each.clone() for name, each in learner.working.state_dict().items()}
    bad = replace(packs[1], weights=np.where(packs[1].weights > 0, np.float32(np.inf), 0))
    learner.take([bad])
    learner.take(packs[:1])
    assert learner.sound_step == 1
    assert are_equal(dict(learner.working.state_dict()), before)


def test_another_precision_is_another_run(store_dir: Path, tmp_path: Path) -> None:
    learn(store_dir, tmp_path, steps=4, stop_at=2, precision="float32")
    with pytest.raises(CheckpointError, match="settings precision was float32, is bfloat16"):
        learn(store_dir, tmp_path, steps=4)


def test_a_run_that_was_begun_before_there_was_a_choice_is_in_float32(
    store_dir: Path, tmp_path: Path
) -> None:
    learn(store_dir, tmp_path, steps=1, precision="float32")
    now = last_of(tmp_path).record
    settings = {name: each for name, each in now["settings"].items() if name != "precision"}
    was = {**now, "settings": settings}
    refuse_other_run(tmp_path, was, now)
    half = {**now, "settings": {**now["settings"], "precision": "bfloat16"}}
    with pytest.raises(CheckpointError, match="settings precision was float32, is bfloat16"):
        refuse_other_run(tmp_path, was, half)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(TrainingError, match="precision is one of float32, bfloat16"):
        replace(CONFIG, precision="float16")
