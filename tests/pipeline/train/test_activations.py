"""What layers keep decides how much memory a step takes, and changes no bit of what is learned."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import train
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.model.activations import Offloaded
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.planner.planning import Plan
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .stores import CONFIG, MODEL, are_equal, make_mixture

CPU = torch.device("cpu")
# Layers are most of it, and random numbers are drawn in them and for them.
DEEP = replace(MODEL, num_encoder_layers=4, num_decoder_layers=4, dropout=0.2, drop_path=0.2)
Activations: TypeAlias = Literal["keep", "recompute", "offload"]
CHOICES: tuple[Activations, ...] = ("keep", "recompute", "offload")
MODELS = {"rotary": DEEP, "relative": replace(DEEP, position="relative", max_positions=128)}


@pytest.fixture(params=MODELS, scope="module")
def deep(request: pytest.FixtureRequest, store_dir: Path) -> Stream:
    """What a run of a deeper model learns from."""
    model: ModelConfig = MODELS[request.param]
    return open_stream(make_mixture(has_rows=False), Store.open(store_dir), model, CONFIG)


@pytest.fixture
def pack(deep: Stream) -> Pack:
    """The first pack."""
    with deep.loader() as loader:
        return next(iter(loader))[0]


def make_program(plan: Plan, activations: Activations) -> Program:
    torch.manual_seed(0)
    program = Program(plan).train()
    program.set_activations(activations)
    return program


def learn(program: Program, plan: Plan, pack: Pack) -> tuple[dict[str, Tensor], int]:
    """Return the gradients of a step, and the bytes that it kept for them."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)  # or another might be given its place
        return tensor

    held: list[Tensor] = []
    torch.manual_seed(1)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = program(to_inputs(plan, pack, CPU))["loss"]
    for parameter in program.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    num_bytes = sum(kept.values())
    held.clear()
    loss.backward()
    grads = {n: p.grad for n, p in program.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **grads}, num_bytes


def test_gradients_are_the_same_bits_and_less_is_kept(deep: Stream, pack: Pack) -> None:
    found = {each: learn(make_program(deep.plan, each), deep.plan, pack) for each in CHOICES}
    whole, num_bytes = found["keep"]
    for choice in CHOICES[1:]:
        assert are_equal(found[choice][0], whole)
    assert found["recompute"][1] < num_bytes / 2
    assert found["offload"][1] < found["recompute"][1]


def test_only_what_layers_read_waits_on_the_host(
    deep: Stream, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, sent = make_program(deep.plan, "offload"), [0]
    empty_like = torch.empty_like

    def count(tensor: Tensor, **options: Any) -> Tensor:
        sent[0] += options.get("device") == "cpu"
        return empty_like(tensor, **options)

    monkeypatch.setattr(torch, "empty_like", count)
    learn(program, deep.plan, pack)
    assert sent == [len([m for m in program.modules() if isinstance(m.forward, Offloaded)])]
    assert sent == [8]


def test_nothing_is_computed_again_in_evaluation(deep: Stream, pack: Pack) -> None:
    answers: list[Tensor] = []
    for choice in CHOICES:
        program = make_program(deep.plan, choice).eval()
        with torch.no_grad():
            answers.append(program(to_inputs(deep.plan, pack, CPU))["loss"])
    assert all(torch.equal(answer, answers[0]) for answer in answers)


@pytest.mark.parametrize("choice", CHOICES[1:])
def test_a_copy_computes_with_parameters_of_its_own(
    deep: Stream, pack: Pack, choice: Activations
) -> None:
    program = make_program(deep.plan, choice)
    expected, _ = learn(program, deep.plan, pack)
    copied = deepcopy(program)
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.zero_()
    copied.zero_grad()
    assert are_equal(learn(copied, deep.plan, pack)[0], expected)


def test_a_run_goes_on_with_another_choice(store_dir: Path, tmp_path: Path) -> None:
    ends: list[dict[str, Tensor]] = []
    for choices in (("keep",), CHOICES):
        out, mixture = tmp_path / choices[-1], make_mixture(has_rows=False)
        settings: dict[str, Any] = {"steps": 3, "progress": False, "config": CONFIG}
        for number, choice in enumerate(choices, start=1):
            stop = 3 if choice == choices[-1] else number
            settings |= {"stop_at": stop, "activations": choice}
            train(mixture, store_dir, out=out, model=MODEL, **settings)
        path = latest_checkpoint(out)
        assert path is not None
        ends.append(dict(read_checkpoint(path).tensors))
    assert are_equal(*ends)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_layers_that_recompute_compile_once(stream: Stream) -> None:
    with stream.loader() as loader:
        packs = [pack for step in islice(loader, 3) for pack in step]
    programs = {each: make_program(stream.plan, each).eval() for each in CHOICES}
    for program in programs.values():
        program.compile_layers("aot_eager")
    kept: dict[str, int] = {}
    stance = "default"
    for pack in packs:
        found: dict[str, dict[str, Tensor]] = {}
        with torch.compiler.set_stance(stance):
            for choice, program in programs.items():
                found[choice], kept[choice] = learn(program, stream.plan, pack)
                program.zero_grad()
        for choice, name in product(CHOICES[1:], found["keep"]):
            expected = found["keep"][name]
            torch.testing.assert_close(found[choice][name], expected, rtol=0, atol=1e-5)
        stance = "fail_on_recompile"
    assert kept["offload"] < kept["recompute"] < kept["keep"]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("choice", CHOICES[1:])
def test_native_code_drops_the_same_when_it_computes_again(
    stream: Stream, choice: Activations
) -> None:
    with stream.loader() as loader:
        pack = next(iter(loader))[0]
    found: list[dict[str, Tensor]] = []
    for each in ("keep", choice):
        torch.compiler.reset()
        program = make_program(stream.plan, each)
        program.compile_layers()
        found.append(learn(program, stream.plan, pack)[0])
    assert found[0]["loss"] == found[1]["loss"]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-5)
