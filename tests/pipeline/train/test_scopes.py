"""Patterns of names say which parameters are learned and how fast; what is frozen never moves."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.graph.errors import TrainingError
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.settings import ScopeRule, TrainConfig
from taskloom.pipeline.task import Mixture
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.scopes import assign_rules
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .learning import make_learner, train_whole_and_in_parts
from .stores import CONFIG, MODEL, are_equal, continue_run

CPU = torch.device("cpu")
FROZEN = ScopeRule(learn="frozen")
MODELS = [
    pytest.param(MODEL, id="rotary"),
    pytest.param(
        replace(MODEL, position="relative", max_positions=64),
        id="relative",
        marks=pytest.mark.slow,
    ),
]


@pytest.fixture(scope="module")
def packs(stream: Stream) -> list[Pack]:
    with stream.loader() as loader:
        return [pack for packs in islice(loader, 6) for pack in packs]


def find(learner: Learner, pattern: str) -> set[str]:
    """Return the parameters that a pattern meets."""
    rules = assign_rules(learner.program, {pattern: ScopeRule(rate=7.0)})
    return {name.removeprefix("scopes.") for name, rule in rules.items() if rule.rate == 7}


def test_a_pattern_meets_every_leading_part_of_a_name(stream: Stream) -> None:
    learner = make_learner(stream, scopes={})
    names = {name.removeprefix("scopes.") for name, _ in learner.program.named_parameters()}
    assert find(learner, "*") == names
    assert find(learner, "encoder") == {name for name in names if name.startswith("encoder.")}
    assert find(learner, "encoder.layers.0") == find(learner, "encoder.layers.*")
    assert find(learner, "*.ffn") == {name for name in names if ".ffn." in name}
    assert find(learner, "*norm") == {name for name in names if "norm.weight" in name}
    adapter = {name for name in names if name.startswith("adapter__image")}
    assert find(learner, "adapter") == find(learner, "adapter.image*") == adapter
    assert adapter


def test_the_last_pattern_that_meets_a_parameter_holds(stream: Stream) -> None:
    learner = make_learner(stream, scopes={"*": FROZEN, "decoder": ScopeRule(rate=0.5)})
    learned = {name for names in learner.optimizer.names for name in names}
    assert learned == {"scopes." + name for name in find(learner, "decoder")}
    assert {group["factor"] for group in learner.optimizer.param_groups} == {0.5}


def test_unknown_scopes_are_all_named_with_those_there_are(stream: Stream) -> None:
    scopes = {"encoder": FROZEN, "encodr": FROZEN, "adapter.sound*": FROZEN}
    with pytest.raises(TrainingError) as caught:
        make_learner(stream, scopes=scopes)
    assert [each.code for each in caught.value.problems] == ["T0770", "T0770"]
    assert 'no parameter is of scope "encodr"' in str(caught.value)
    known = "scopes are adapter.image_patch_16_8, decoder, encoder, vocabulary"
    assert known in str(caught.value)


def test_a_run_that_would_learn_nothing_is_refused(stream: Stream) -> None:
    with pytest.raises(TrainingError, match="every parameter is frozen"):
        make_learner(stream, scopes={"*": FROZEN})


@pytest.mark.parametrize(("optimizer", "precision"), [("adamw", "bfloat16"), ("muon", "float32")])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scope", ["encoder", "decoder", "vocabulary", "adapter", "*norm*"])
def test_what_is_frozen_has_no_gradient_no_state_and_does_not_move(
    mixture: Mixture, store_dir: Path, model: Any, scope: str, precision: Any, optimizer: Any
) -> None:
    config = replace(CONFIG, precision=precision, optimizer=optimizer)
    stream = open_stream(mixture, Store.open(store_dir), model, config)
    scope = "*image*" if scope == "adapter" else scope
    learner = make_learner(stream, scopes={scope: FROZEN}, precision=precision, optimizer=optimizer)
    with stream.loader() as loader:
        packs = [pack for packs in islice(loader, 2) for pack in packs]
    before = {name: p.detach().clone() for name, p in learner.program.named_parameters()}
    for pack in packs:
        learner.take([pack])
    frozen = {"scopes." + name for name in find(learner, scope)}
    state = learner.optimizer.state_dict()
    for name, parameter in learner.program.named_parameters():
        if name in frozen:
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), name
        else:
            assert (name in state) == (parameter.grad is not None), name
    assert not frozen & state.keys()
    moved = {n for n, p in learner.program.named_parameters() if not torch.equal(p, before[n])}
    assert len(moved) > len(before) // 4


def test_gradients_of_the_rest_are_what_they_would_be(stream: Stream, packs: list[Pack]) -> None:
    whole, part = (
        make_learner(stream, scopes=scopes, clip=0.0) for scopes in ({}, {"encoder": FROZEN})
    )
    for learner in (whole, part):
        torch.manual_seed(1)
        learner.take(packs[:1])
    grads = {name: p.grad for name, p in whole.program.named_parameters()}
    for name, parameter in part.program.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, grads[name])


def test_a_rate_is_a_factor_on_the_schedule(stream: Stream, packs: list[Pack]) -> None:
    """AdamW's first step moves every parameter by its rate, whatever the gradient."""
    settings: dict[str, Any] = {"weight_decay": 0.0, "warmup": 0.0}
    plain, slow = (
        make_learner(stream, scopes=scopes, **settings)
        for scopes in ({}, {"decoder": ScopeRule(rate=0.25)})
    )
    moves: list[dict[str, float]] = []
    for learner in (plain, slow):
        before = {name: p.detach().clone() for name, p in learner.program.named_parameters()}
        torch.manual_seed(1)
        learner.take(packs[:1])
        now = learner.program.state_dict()
        moves.append({name: float((now[name] - was).norm()) for name, was in before.items()})
    for name, moved in moves[0].items():
        factor = 0.25 if name.startswith("scopes.decoder.") else 1.0
        assert moves[1][name] == pytest.approx(factor * moved, rel=1e-2), name


def test_a_run_with_scopes_resumes_to_the_bit_and_keeps_them(
    store_dir: Path, tmp_path: Path
) -> None:
    scopes = {"encoder": FROZEN, "decoder": {"rate": 0.1}}
    settings: dict[str, Any] = {"scopes": scopes, "steps": 12}
    whole, parts = train_whole_and_in_parts(store_dir, tmp_path, 5, **settings)
    assert whole.record["settings"]["scopes"] == {
        "encoder": {"learn": "frozen", "rate": 1.0, "rank": 8, "alpha": 16.0},
        "decoder": {"learn": "full", "rate": 0.1, "rank": 8, "alpha": 16.0},
    }
    assert are_equal(whole.tensors, parts.tensors)
    assert are_equal(whole.training, parts.training)


def test_the_header_says_what_is_frozen(store_dir: Path, tmp_path: Path) -> None:
    scopes = {"encoder": FROZEN, "decoder": ScopeRule(rate=0.1)}
    header = continue_run(store_dir, tmp_path, steps=1, scopes=scopes).header
    (line,) = (line for line in header if line.startswith("learned: "))
    assert line.endswith(" parameters; encoder frozen, decoder at 0.1 of the rate")
    learned, whole = (int(number.replace(",", "")) for number in line.split()[1:4:2])
    assert 0 < learned < whole


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"learn": "half"}, 'scopes "a": learn is one of full, frozen, lora, got "half"'),
        ({"rank": 0}, 'scopes "a": rank must be at least 1, got 0'),
        ({"rate": -1.0}, 'scopes "a": rate must be at least 0, got -1.0'),
        ({"lerning": 1}, 'scopes "a": there is no "lerning"'),
        ("frozen", "scopes \"a\": a rule must hold keys, got 'frozen'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_named_with_its_pattern(rule: Any, message: str) -> None:
    with pytest.raises(TrainingError, match="T0730") as caught:
        TrainConfig(scopes={"a": rule})
    assert message in str(caught.value)


def test_scopes_that_are_no_rules_are_refused() -> None:
    wrong: Any = "encoder"
    with pytest.raises(TrainingError, match="scopes must be rules by pattern, got 'encoder'"):
        TrainConfig(scopes=wrong)
