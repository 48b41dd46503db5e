"""An average follows what is learned by the plain formula, is what a run comes to, and survives stops."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from taskloom.graph.errors import TrainingError
from taskloom.pipeline import Model, evaluate
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.settings import ScopeRule, TrainConfig
from taskloom.pipeline.trainer.averaging import decay_at
from taskloom.pipeline.trainer.learner import Learner
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .learning import make_learner, read_last, train_whole_and_in_parts
from .stores import are_equal, continue_run, make_mixture

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"ema": 0.9, "steps": 12}


@pytest.fixture(scope="module")
def packs(stream: Stream) -> list[Pack]:
    with stream.loader() as loader:
        return [pack for packs in islice(loader, 6) for pack in packs]


def copy_of(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.program.named_parameters()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_is_what_the_plain_formula_says(
    stream: Stream, packs: list[Pack], precision: Any
) -> None:
    learner = make_learner(stream, ema=0.5, precision=precision)
    learned = copy_of(learner)
    expected = {name: value.double() for name, value in learned.items()}
    for step, pack in enumerate(packs, 1):
        learner.take([pack])
        decay = min(0.5, (1 + step) / (10 + step))
        learned = copy_of(learner)
        expected = {n: decay * own + (1 - decay) * learned[n] for n, own in expected.items()}
    for name, own in learner.result.named_parameters():
        torch.testing.assert_close(own.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(own, learned[name]), name


@given(st.floats(0, 0.9999), st.integers(1, 10**6))
def test_its_decay_rises_to_what_was_asked_for(decay: float, step: int) -> None:
    assert 0 <= decay_at(decay, step) <= decay_at(decay, step + 1) <= decay
    assert decay_at(decay, 10**8) == decay


def test_a_table_that_reads_and_writes_is_averaged_once(stream: Stream) -> None:
    learner = make_learner(stream, ema=0.9)
    ours, averaged = (
        [name for name, _ in program.named_parameters(remove_duplicate=False)]
        for program in (learner.program, learner.result)
    )
    assert ours == averaged
    assert ours.count("scopes.vocabulary.weight_VC") == 1
    shared = {p.data_ptr() for p in learner.program.parameters()}
    assert not shared & {p.data_ptr() for p in learner.result.parameters()}


def test_it_learns_as_without_an_average(stream: Stream, packs: list[Pack]) -> None:
    learners = [make_learner(stream, ema=decay) for decay in (0.0, 0.9)]
    for learner in learners:
        torch.manual_seed(1)
        for pack in packs:
            learner.take([pack])
    assert are_equal(*map(copy_of, learners))


def test_what_is_frozen_is_its_own_average(stream: Stream, packs: list[Pack]) -> None:
    learner = make_learner(stream, ema=0.9, scopes={"encoder": ScopeRule(learn="frozen")})
    for pack in packs:
        learner.take([pack])
    learned = copy_of(learner)
    same = {n for n, p in learner.result.named_parameters() if torch.equal(p, learned[n])}
    assert same == {name for name in learned if name.startswith("scopes.encoder.")}


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_comes_to_the_same_average(
    store_dir: Path, tmp_path: Path, precision: Any
) -> None:
    settings = SETTINGS | {"precision": precision}
    whole, parts = train_whole_and_in_parts(store_dir, tmp_path, 5, **settings)
    assert are_equal(whole.tensors, parts.tensors)
    assert are_equal(whole.training, parts.training)
    assert not are_equal(whole.tensors, whole.training["learned"])


def test_a_run_comes_to_its_average_and_says_so(store_dir: Path, tmp_path: Path) -> None:
    run = continue_run(store_dir, tmp_path, **SETTINGS)
    kept = read_last(tmp_path)
    assert are_equal(dict(run.model.program.state_dict()), kept.tensors)
    loaded = Model.load(tmp_path)
    assert are_equal(dict(loaded.program.state_dict()), kept.tensors)
    assert "kept and evaluated: an average of the parameters" in "\n".join(run.header)
    mixture, store = make_mixture(has_rows=False), Store.open(store_dir)
    assert str(evaluate(run.model, mixture, store)) == str(evaluate(loaded, mixture, store))


def test_a_run_that_begins_with_another_begins_with_its_average(
    store_dir: Path, tmp_path: Path
) -> None:
    continue_run(store_dir, tmp_path / "first", **SETTINGS)
    began = read_last(tmp_path / "first").tensors
    settings: dict[str, Any] = {"weights": str(tmp_path / "first"), "learning_rate": 0.0}
    continue_run(store_dir, tmp_path / "second", steps=2, ema=0.5, **settings)
    second = read_last(tmp_path / "second")
    assert are_equal(second.training["learned"], began)
    assert are_equal(second.tensors, began)


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(TrainingError, match="ema must be below 1, got 1"):
        TrainConfig(ema=1.0)
