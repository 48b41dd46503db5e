"""A program is the device half of its graph: named by scopes, annotated by nodes, the same compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, partialmethod
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta

from taskloom.graph.errors import CheckpointError, TrainingError
from taskloom.graph.passes.cut import Stage
from taskloom.pipeline import Mixture, Plan, Task, plan
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.model.program import Program, choose_device
from taskloom.pipeline.trainer import learner
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.warming import warm_up
from taskloom.storage.capacity import Capacity
from taskloom.storage.one_pass import pack_documents
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .stores import CONFIG, MODEL

CPU = torch.device("cpu")
Choice: TypeAlias = Literal["off", "on"]
Balancing: TypeAlias = Literal["static", "famo"]
_CHOICES: tuple[Choice, ...] = ("off", "on")


def the_compilers_own(test: Callable[..., None]) -> Callable[..., None]:
    """Let ``test`` pass over warnings about what the compiler itself does."""
    for warning in ("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning"):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


def plan_images(num_tasks: int) -> Plan:
    tasks = [
        Task(f"task-{i}", f"[IMAGE:image] what is number {i}? -> [TEXT:label,closed_set]")
        for i in range(num_tasks)
    ]
    return plan(Mixture(tasks), model=MODEL)


def device_addresses(planned: Plan) -> set[str]:
    return {node.address for node in planned.graph if planned.cut.stages[node.id] is Stage.DEVICE}


def shapes_of(program: Program) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in program.state_dict().items()}


def gradients_of(
    program: Program, planned: Plan, packs: list[Pack]
) -> tuple[float, dict[str, Tensor]]:
    program.zero_grad()
    divisors = {"score_tokens": torch.tensor(sum(float(pack.weights.sum()) for pack in packs))}
    losses = [program(to_inputs(planned, pack, CPU), divisors)["loss"] for pack in packs]
    total = torch.stack(losses).sum()
    total.backward()
    found = {n: p.grad.clone() for n, p in program.named_parameters() if p.grad is not None}
    return total.item(), found


class Captured(NamedTuple):
    """The graphs that were to be compiled."""

    forward: list[GraphModule]
    backward: list[GraphModule]


def capture(
    program: Program, pack: Pack, planned: Plan, compile_: Callable[[Any], None]
) -> Captured:
    """Return what ``compile_`` compiles of a step; it takes what `torch.compile` calls a backend."""
    captured = Captured([], [])

    def keep(graphs: list[GraphModule], graph: GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    forward, backward = (partial(keep, graphs) for graphs in captured)
    compile_(aot_autograd(fw_compiler=forward, bw_compiler=backward))
    program(to_inputs(planned, pack, CPU))["loss"].backward()
    torch.compiler.reset()
    return captured


def addresses_of(graph: GraphModule, but: Any = None) -> list[str]:
    """Return the address that each call of ``graph`` is annotated with; calls of ``but`` may have none."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    named = [node.meta.get("custom", {}).get("taskloom", "") for node in calls]
    return [name for node, name in zip(calls, named, strict=True) if name or node.target != but]


@pytest.fixture
def packs(stream: Stream) -> Iterator[list[Pack]]:
    """The first packs of a run."""
    with stream.loader() as loader:
        yield [pack for step in islice(loader, 4) for pack in step]


@pytest.fixture
def program(stream: Stream) -> Program:
    """A program with the same parameters in every test, without dropout."""
    torch.manual_seed(0)
    return Program(stream.plan).eval()


def test_three_and_thirty_tasks_have_the_same_parameters_and_device_nodes() -> None:
    few, many = plan_images(3), plan_images(30)
    assert shapes_of(Program(few)) == shapes_of(Program(many))
    assert device_addresses(few) == device_addresses(many)


def test_parameters_are_named_after_scopes_alone(stream: Stream, program: Program) -> None:
    scopes = {node.scope for node in stream.plan.graph if node.scope}
    assert set(program.num_parameters) == scopes
    prefixes = tuple(f"scopes.{scope.replace('.', '__')}." for scope in scopes)
    assert all(name.startswith(prefixes) for name in program.state_dict())


def test_programs_of_one_model_share_their_parameters(stream: Stream, program: Program) -> None:
    other = Program(stream.plan, program.scopes)
    ours = dict(program.named_parameters())
    assert all(ours[name] is parameter for name, parameter in other.named_parameters())


def test_every_call_that_runs_is_of_a_device_node_of_the_graph(
    stream: Stream, program: Program, packs: list[Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a compiler runs it, which looks at no number.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with preserve_node_meta():
        traced = make_fx(lambda inputs: program(inputs)["loss"])(
            to_inputs(stream.plan, packs[0], CPU)
        )
    assert set(addresses_of(traced)) == device_addresses(stream.plan)


@pytest.mark.parametrize(("device", "is_pinned"), [("cuda", True), ("cpu", False)])
def test_a_gpu_is_given_its_inputs_from_pinned_memory_without_waiting(
    device: str,
    is_pinned: bool,  # noqa: FBT001 - a parameter of the test
    stream: Stream,
    packs: list[Pack],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No GPU is needed to see what is asked for: nothing is copied here.
    asked: list[str] = []

    def pin(tensor: Tensor) -> Tensor:
        asked.append("pin")
        return tensor

    def move(tensor: Tensor, to: torch.device, *, non_blocking: bool) -> Tensor:
        asked.append(f"{to.type} {non_blocking}")
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", move)
    inputs = to_inputs(stream.plan, packs[0], torch.device(device))
    each = ["pin", f"{device} True"] if is_pinned else [f"{device} True"]
    assert asked == each * len(inputs)


@the_compilers_own
def test_compiled_layers_know_their_node_forward_and_backward(
    stream: Stream, program: Program, packs: list[Pack]
) -> None:
    captured = capture(program.train(), packs[0], stream.plan, program.compile_layers)
    for graphs in (captured.forward, captured.backward):
        named = [set(addresses_of(graph)) for graph in graphs]
        assert sorted(named, key=str) == [{"decoder"}, {"encoder"}]


@pytest.mark.slow
@the_compilers_own
def test_a_program_compiled_as_a_whole_knows_its_nodes_forward_and_backward(
    stream: Stream, program: Program, packs: list[Pack]
) -> None:
    def compile_all(backend: Any) -> None:
        program.compile(backend=backend, fullgraph=True)

    captured = capture(program.train(), packs[0], stream.plan, compile_all)
    (forward,), (backward,) = captured.forward, captured.backward
    assert set(addresses_of(forward)) == device_addresses(stream.plan)
    # Gradients of a value that several nodes use are added up between them, and belong to none.
    assert set(addresses_of(backward, but=torch.ops.aten.add.Tensor)) == device_addresses(
        stream.plan
    )


def test_one_output_is_computed_without_what_it_does_not_need(
    stream: Stream, program: Program, packs: list[Pack]
) -> None:
    whole = to_inputs(stream.plan, packs[0], CPU)
    loss = program.compute("loss", whole)
    assert torch.equal(loss, program(whole)["loss"])
    answering = plan(
        Mixture([Task("a", "[TEXT:q] -> [TEXT:a]")], bpe_size=300), "infer", model=MODEL
    )
    writer = Program(answering, program.scopes)
    read = {name: whole[name] for name in ("source_ids", "source_positions", "source_keys")}
    assert writer.compute("memory", read).shape == (stream.capacity.source, MODEL.width)


def test_documents_split_into_packs_otherwise_give_the_same_gradient(stream: Stream) -> None:
    torch.manual_seed(0)
    program = Program(stream.plan).double().eval()
    rows = {task: numbers[:24] for task, numbers in stream.rows.items()}

    def pack(source: int) -> list[Pack]:
        capacity = Capacity(
            source=source, target=source, tensors={"image_16_8": source // 8}, tile=64
        )
        return list(pack_documents(stream.templates, rows, stream.columns, capacity, pad_id=1))

    together, apart = pack(1024), pack(128)
    assert len(together) == 1
    assert len(apart) > 3
    loss, gradients = gradients_of(program, stream.plan, together)
    other_loss, other_gradients = gradients_of(program, stream.plan, apart)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_loading_other_parameters_names_every_difference_in_size(
    stream: Stream, program: Program
) -> None:
    wide = plan_images(1)
    with pytest.raises(CheckpointError) as caught:
        program.load(Program(wide).state_dict(), "there")
    text = str(caught.value)
    size, other = (p.vocabulary.size for p in (stream.plan, wide))
    table = (
        f"vocabulary.weight_VC is ({other}, {MODEL.width}) in there, ({size}, {MODEL.width}) here"
    )
    assert table in text
    assert "adapter__image_patch_16_8.projection.weight is missing in there" in text


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(TrainingError, match=f'device "{name}" cannot be used'):
        choose_device(name)


def test_why_a_device_is_not_there_is_told_in_a_sentence() -> None:
    with pytest.raises(TrainingError, match="T0733") as caught:
        choose_device("xla")
    assert len(caught.value.problems[0].message) < 200


def test_the_device_is_a_gpu_only_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.slow
@the_compilers_own
def test_compiled_equals_eager_and_never_compiles_again(mixture: Mixture, store_dir: Path) -> None:
    deep = replace(MODEL, dropout=0.0, num_encoder_layers=3, num_decoder_layers=3)
    stream = open_stream(mixture, Store.open(store_dir), deep, CONFIG)
    torch.compiler.reset()
    counters.clear()
    learners = {choice: _start_learner(stream, choice) for choice in _CHOICES}
    with stream.loader() as loader:
        for packs in islice(loader, 50):
            for each in learners.values():
                each.take(packs)  # raises if anything is compiled in a step
    assert counters["stats"]["unique_graphs"] == 2  # one for each class of layers
    eager, compiled = (each.tally.describe(stream.losses) for each in learners.values())
    for task in stream.losses:
        loss = eager["tasks"][task]["loss"]
        assert compiled["tasks"][task]["loss"] == pytest.approx(loss, rel=1e-3)
    torch.compiler.reset()


@the_compilers_own
@pytest.mark.usefixtures("fresh_compiler")
def test_what_would_be_compiled_anew_is_refused_once_a_step_is_taken(
    monkeypatch: pytest.MonkeyPatch, mixture: Mixture, store_dir: Path
) -> None:
    monkeypatch.setattr(Program, "compile_layers", partialmethod(Program.compile_layers, "eager"))
    longer = replace(CONFIG, source_tokens=2 * CONFIG.source_tokens)
    streams = [
        open_stream(mixture, Store.open(store_dir), MODEL, each) for each in (CONFIG, longer)
    ]
    steps: list[tuple[Pack, ...]] = []
    for stream in streams:
        with stream.loader() as loader:
            steps.append(next(iter(loader)))
    taught = _start_learner(streams[0], "on")
    taught.take(steps[0])
    with pytest.raises(RuntimeError, match="fail_on_recompile"):
        taught.take(steps[1])


@the_compilers_own
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("balance", ["static", "famo"])
def test_all_that_steps_compute_is_compiled_before_the_first(
    monkeypatch: pytest.MonkeyPatch, mixture: Mixture, store_dir: Path, balance: Balancing
) -> None:
    monkeypatch.setattr(Program, "compile_layers", partialmethod(Program.compile_layers, "eager"))
    monkeypatch.setattr(learner, "warm_up", partial(_count_graphs, seen := []))
    stream = open_stream(mixture, Store.open(store_dir), MODEL, CONFIG)
    taught = _start_learner(stream, "on", balance=balance)
    with stream.loader() as loader:
        for packs in islice(loader, 2):
            taught.take(packs)
    (num_graphs,) = seen
    assert num_graphs == counters["stats"]["unique_graphs"] > 0


def test_a_program_that_is_warmed_up_learns_what_it_would_have_learned(
    mixture: Mixture, store_dir: Path
) -> None:
    model = replace(MODEL, dropout=0.1)
    stream = open_stream(mixture, Store.open(store_dir), model, CONFIG)
    warm, cold = (_start_learner(stream, "off", balance="famo") for _ in range(2))
    with stream.loader() as loader:
        for packs in islice(loader, 2):
            warm_up(
                warm.working,
                warm.program,
                to_inputs(stream.plan, packs[0], CPU),
                looks_back=True,
            )
            for each in (warm, cold):
                each.take(packs)
    learned = [dict(each.program.named_parameters()) for each in (warm, cold)]
    torch.testing.assert_close(*learned, rtol=0, atol=0)


def _count_graphs(seen: list[int], *given: Any, **named: Any) -> None:
    warm_up(*given, **named)
    seen.append(counters["stats"]["unique_graphs"])


def _start_learner(stream: Stream, compile_: Choice, *, balance: Balancing = "static") -> Learner:
    torch.manual_seed(0)
    config = replace(CONFIG, compile=compile_, balance=balance)
    return Learner.make(stream.plan, config, CPU)
