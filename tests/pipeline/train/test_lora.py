"""Low-rank pairs begin as nothing, learn alone, and fold into the weights they are beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from taskloom.graph.errors import TrainingError
from taskloom.ops.device.lora import LoraLinear, fold_pairs
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.model.importing import take_over
from taskloom.pipeline.model.lora import add_lora
from taskloom.pipeline.model.precision import hand_over, refresh, working_copy
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.model.record import describe_vocabulary
from taskloom.pipeline.planner.planning import Plan
from taskloom.storage.checkpoint import write_checkpoint
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .stores import CONFIG, MODEL, are_equal, make_mixture

CPU = torch.device("cpu")


@pytest.fixture
def pack(stream: Stream) -> Pack:
    """The first pack."""
    with stream.loader() as loader:
        return next(iter(loader))[0]


def make_program(plan: Plan, seed: int = 0) -> Program:
    torch.manual_seed(seed)
    return Program(plan).eval()


def names_in(program: Program, *parts: str) -> list[str]:
    return [n for n, _ in program.named_parameters() if any(part in n for part in parts)]


def pair_up(program: Program, *parts: str, moved: bool = False) -> None:
    """Put pairs beside what has one of ``parts`` in its name; what they add is no longer nothing if moved."""
    add_lora(program, names_in(program, *parts), rank=2, alpha=3.0)
    if moved:
        for module in program.modules():
            if isinstance(module, LoraLinear):
                torch.nn.init.normal_(module.lora_up_OR)


def loss_of(program: Program, plan: Plan, pack: Pack) -> Tensor:
    return program(to_inputs(plan, pack, CPU))["loss"]


def test_a_program_with_pairs_begins_as_it_was(stream: Stream, pack: Pack) -> None:
    program = make_program(stream.plan)
    before, known = loss_of(program, stream.plan, pack), set(program.state_dict())
    pair_up(program, "encoder", "decoder")
    assert torch.equal(loss_of(program, stream.plan, pack), before)
    assert known < set(program.state_dict()), "weights keep their names"


def test_pairs_alone_learn_of_what_was_named(stream: Stream, pack: Pack) -> None:
    program = make_program(stream.plan)
    pair_up(program, "decoder")
    before = {name: each.detach().clone() for name, each in program.named_parameters()}
    optimizer = torch.optim.SGD([p for p in program.parameters() if p.requires_grad], lr=0.1)
    for _ in range(
        2
    ):  # the second matrix is nothing in the first step, so the first has no gradient
        optimizer.zero_grad()
        loss_of(program, stream.plan, pack).backward()
        optimizer.step()
    moved = {n for n, p in program.named_parameters() if not torch.equal(p, before[n])}
    of_decoder = {name for name in moved if "decoder" in name}
    assert of_decoder == set(names_in(program, "lora_"))
    assert any("encoder" in name for name in moved), "what was not named learns as before"


def test_pairs_fold_into_weights(stream: Stream, pack: Pack) -> None:
    program = make_program(stream.plan)
    plain = loss_of(program, stream.plan, pack)
    pair_up(program, "encoder", "decoder", moved=True)
    paired = loss_of(program, stream.plan, pack)
    assert abs(paired - plain) > 1e-3
    folded, whole = fold_pairs(program.state_dict()), make_program(stream.plan, seed=1)
    assert set(folded) == set(whole.state_dict())
    whole.load(folded, "the test")
    torch.testing.assert_close(loss_of(whole, stream.plan, pack), paired, rtol=0, atol=1e-5)


def test_a_checkpoint_with_pairs_goes_on_and_is_a_model(
    stream: Stream, pack: Pack, tmp_path: Path
) -> None:
    program = make_program(stream.plan)
    pair_up(program, "encoder", "decoder", moved=True)
    expected = loss_of(program, stream.plan, pack)
    tensors = dict(program.state_dict())
    goes_on = make_program(stream.plan, seed=1)
    pair_up(goes_on, "encoder", "decoder")
    goes_on.load(tensors, tmp_path)
    assert are_equal(dict(goes_on.state_dict()), tensors)
    answers = make_program(stream.plan, seed=1)
    answers.load(tensors, tmp_path)
    torch.testing.assert_close(loss_of(answers, stream.plan, pack), expected, rtol=0, atol=1e-5)
    write_checkpoint(
        tmp_path / "step-1",
        tensors=tensors,
        record={"vocabulary": describe_vocabulary(stream.plan)},
        artifacts={},
    )
    begins = make_program(stream.plan, seed=1)
    taken = take_over(begins, stream.plan.vocabulary, tmp_path / "step-1")
    assert not taken.missing
    assert not taken.unused
    torch.testing.assert_close(loss_of(begins, stream.plan, pack), expected, rtol=0, atol=1e-5)


def test_a_working_copy_in_half_precision_teaches_pairs(stream: Stream, pack: Pack) -> None:
    program = make_program(stream.plan)
    pair_up(program, "encoder", "decoder", moved=True)
    working = working_copy(stream.plan, program, "bfloat16")
    loss_of(working, stream.plan, pack).backward()
    hand_over(working, program)
    learned = {name for name, each in program.named_parameters() if each.grad is not None}
    frozen = set(names_in(program, "encoder", "decoder")) - set(names_in(program, "lora_"))
    assert not learned & frozen
    assert set(names_in(program, "lora_")) <= learned
    refresh(working, program)


@pytest.mark.parametrize("position", ["rotary", "relative"])
def test_weights_of_one_modality_may_have_pairs(store_dir: Path, position: str) -> None:
    model = replace(MODEL, ffn="per_modality", position=position, max_positions=128)
    stream = open_stream(make_mixture(has_rows=False), Store.open(store_dir), model, CONFIG)
    with stream.loader() as loader:
        pack = next(iter(loader))[0]
    program = make_program(stream.plan)
    plain = loss_of(program, stream.plan, pack)
    pair_up(program, "ffn.up.image", moved=True)
    paired = loss_of(program, stream.plan, pack)
    assert paired != plain
    whole = make_program(stream.plan, seed=1)
    whole.load(fold_pairs(program.state_dict()), "the test")
    torch.testing.assert_close(loss_of(whole, stream.plan, pack), paired, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_layers_with_pairs_compile(stream: Stream, pack: Pack) -> None:
    torch.compiler.reset()
    eager, compiled = (make_program(stream.plan) for _ in range(2))
    for program in (eager, compiled):
        torch.manual_seed(1)
        pair_up(program, "encoder", "decoder", moved=True)
    compiled.compile_layers("aot_eager")
    for program in (eager, compiled):
        loss_of(program, stream.plan, pack).backward()
    grads = dict(compiled.named_parameters())
    for name, parameter in eager.named_parameters():
        torch.testing.assert_close(grads[name].grad, parameter.grad, rtol=0, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("parts", "rank", "message"),
    [
        (("vocabulary",), 2, "none of these is one"),
        ((), 2, "none of these is one"),
        (("decoder",), 0, "must be positive, got 0"),
    ],
)
def test_what_cannot_have_pairs_is_refused(
    parts: tuple[str, ...], rank: int, message: str, stream: Stream
) -> None:
    program = make_program(stream.plan)
    with pytest.raises(TrainingError, match=message):
        add_lora(program, names_in(program, *parts) if parts else [], rank=rank, alpha=1.0)
    with pytest.raises(TrainingError, match=r"no parameter scopes\.nothing"):
        add_lora(program, ["scopes.nothing"], rank=2, alpha=1.0)
    assert all(parameter.requires_grad for parameter in program.parameters())


def test_a_layer_has_one_pair(stream: Stream) -> None:
    program = make_program(stream.plan)
    pair_up(program, "decoder.layers.0.ffn.up", moved=True)
    known = set(program.state_dict())
    with pytest.raises(TrainingError, match=r"beside scopes\.decoder\.layers\.0\.ffn\.up already"):
        pair_up(program, "decoder")
    assert set(program.state_dict()) == known
