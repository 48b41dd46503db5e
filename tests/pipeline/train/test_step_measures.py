"""Real steps tell what every node of loader and program cost, and are none the worse for it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from taskloom.graph.measure import Measure
from taskloom.graph.passes.cut import Stage
from taskloom.pipeline import Mixture, Run
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.probe import Probe
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.run_measures import NAME, StepMeasures
from taskloom.pipeline.trainer.step_meter import NUM_STEPS, StepMeter, measure_steps
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .stores import CONFIG, MODEL, are_equal, continue_run

CPU = torch.device("cpu")


def addresses(stream: Stream, *stages: Stage) -> set[str]:
    plan = stream.plan
    return {node.address for node in plan.graph if plan.cut.stages[node.id] in stages}


def first_packs(stream: Stream, number: int) -> list[Pack]:
    with stream.loader() as loader:
        return [pack for step in islice(loader, number) for pack in step]


def probe_step(program: Program, stream: Stream, pack: Pack) -> dict[str, Measure]:
    """Return what the nodes cost in one step, by address."""
    program.probe = Probe(CPU)
    program(to_inputs(stream.plan, pack, CPU))["loss"].backward()
    measures = program.probe.finish()
    program.probe = None
    return {stream.plan.graph.nodes[node].address: cost for node, cost in measures.items()}


class SleepBackward(torch.autograd.Function):
    """Nothing, slowly, in the gradient alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        time.sleep(0.1)
        return gradients[0]


def read(run: Run) -> StepMeasures:
    kept = StepMeasures.read(run.path)
    assert kept is not None
    return kept


def test_a_run_keeps_what_every_node_of_loader_and_program_cost(run: Run, stream: Stream) -> None:
    kept = read(run)
    assert set(kept.measures) == addresses(stream, Stage.ONLINE, Stage.DEVICE)
    assert all(measure.calls == NUM_STEPS for measure in kept.measures.values())
    assert (kept.first, kept.steps) == (11, NUM_STEPS)
    device = [kept.measures[address] for address in addresses(stream, Stage.DEVICE)]
    assert all(0 < cost.backward_seconds < cost.seconds for cost in device)
    assert sum(cost.seconds for cost in device) < kept.step_s * NUM_STEPS
    assert "on cpu, not compiled" in str(kept)


def test_rows_are_those_of_the_packs(run: Run, stream: Stream) -> None:
    kept = read(run).measures
    packs = first_packs(stream, 13)[10:]
    tasks = stream.losses
    for number, task in enumerate(tasks):
        documents = sum(int((pack.rows[:, 0] == number).sum()) for pack in packs)
        assert kept[f"{task}/document"].rows_out == documents > 0
    assert kept["pack"].rows_in == sum(kept[f"{task}/document"].rows_out for task in tasks)
    assert kept["source/embed"].rows_in == kept["encoder"].rows_out == 3 * stream.capacity.source
    assert kept["decoder"].rows_out == kept["loss"].rows_in == 3 * stream.capacity.target
    assert kept["encoder"].bytes == 3 * stream.capacity.source * MODEL.width * 4
    ids = sum(int((p.source_hi > 0).sum()) + int((p.target_hi > 0).sum()) for p in packs)
    images = sum(int((p.rows[:, 0] == tasks.index("digits")).sum()) for p in packs)
    documents = sum(kept[f"{task}/document"].bytes for task in tasks)
    assert documents == 4 * ids + 16 * 16 * 3 * images < kept["pack"].bytes


@pytest.mark.parametrize("scope", ["encoder", "decoder"])
def test_time_of_a_gradient_goes_to_the_node_that_it_is_of(stream: Stream, scope: str) -> None:
    program = Program(stream.plan)
    (pack,) = first_packs(stream, 1)
    program.scope(scope).register_forward_hook(lambda *a: SleepBackward.apply(a[-1]))
    layer = next(m for m in program.scope(scope).modules() if type(m).__name__.endswith("Layer"))
    layer.register_forward_hook(lambda *a: SleepBackward.apply(a[-1]))
    costs = probe_step(program, stream, pack)
    assert costs[scope].backward_seconds >= 0.1
    assert costs[scope].seconds - costs[scope].backward_seconds > 0


def test_every_gradient_belongs_to_some_node(stream: Stream) -> None:
    (pack,) = first_packs(stream, 1)
    costs = probe_step(Program(stream.plan), stream, pack)
    assert set(costs) == addresses(stream, Stage.DEVICE)
    assert all(cost.backward_seconds > 0 for cost in costs.values())


def test_templates_of_a_task_are_measured_apart(mixture: Mixture, store_dir: Path) -> None:
    digits, spell = mixture.tasks
    assert isinstance(digits.instruction, str)
    several = (digits.instruction, digits.instruction.replace("describe", "show"))
    both = replace(mixture, parts=[replace(digits, instruction=several), spell])
    taken = measure_steps(both, Store.open(store_dir), MODEL, CONFIG).measures
    documents = [cost for name, cost in taken.items() if "document" in name]
    assert len(documents) == 3
    assert all(cost.rows_out > 0 and cost.seconds > 0 for cost in [*documents, taken["pack"]])
    assert taken["pack"].rows_in == sum(cost.rows_out for cost in documents)


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_seconds_are_those_of_its_stream(mixture: Mixture, store_dir: Path) -> None:
    config = replace(CONFIG, device="cuda", compile="off")
    taken = measure_steps(mixture, Store.open(store_dir), MODEL, config)
    device = [cost for cost in taken.measures.values() if cost.backward_seconds]
    assert len(device) == 7
    assert 0 < sum(cost.seconds for cost in device) < NUM_STEPS * taken.step_s


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own doings
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_layers_are_measured(stream: Stream) -> None:
    program = Program(stream.plan)
    program.compile_layers("aot_eager")
    first, second = first_packs(stream, 2)
    program(to_inputs(stream.plan, first, CPU))["loss"].backward()
    costs = probe_step(program, stream, second)
    assert all(cost.backward_seconds > 0 for cost in costs.values())
    torch.compiler.reset()


def test_a_step_that_is_measured_computes_the_same(stream: Stream) -> None:
    packs = first_packs(stream, 5)

    def learn(*, is_measured: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        learner = Learner.make(stream.plan, CONFIG, CPU)
        with stream.loader() as loader:
            next(iter(loader))  # so that it has spent something
            meter = StepMeter(stream, learner, loader, first=1 if is_measured else 99)
            for pack in packs:
                with meter.around([pack], 0.0):
                    learner.take([pack])
        assert meter.taken_s > 0 if is_measured else not meter.taken_s
        assert learner.program.probe is None
        return learner.program.state_dict()

    assert are_equal(learn(is_measured=True), learn(is_measured=False))


def test_steps_that_fail_leave_no_probe_behind(stream: Stream) -> None:
    learner = Learner.make(stream.plan, CONFIG, CPU)
    packs = first_packs(stream, 1)
    with stream.loader() as loader:
        meter = StepMeter(stream, learner, loader, first=0)
        with pytest.raises(KeyError), meter.around(packs, 0.0):
            learner.program({})
    assert learner.program.probe is None


def test_a_run_too_short_to_warm_up_keeps_its_last_steps(store_dir: Path, tmp_path: Path) -> None:
    assert read(continue_run(store_dir, tmp_path / "five", stop_at=5)).first == 3
    short = continue_run(store_dir, tmp_path / "two", stop_at=2)
    assert StepMeasures.read(short.path) is None


def test_steps_of_a_fresh_model_are_measured_and_leave_no_trace(
    mixture: Mixture, store_dir: Path, stream: Stream, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before, files = torch.get_rng_state(), sorted(store_dir.rglob("*"))
    taken = measure_steps(mixture, Store.open(store_dir), MODEL, CONFIG)
    assert set(taken.measures) == addresses(stream, Stage.ONLINE, Stage.DEVICE)
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(store_dir.rglob("*")) == files
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda _: "[]", id="other form"),
        pytest.param(lambda plain: json.dumps(plain | {"format": 9}), id="newer"),
        pytest.param(lambda plain: json.dumps(plain | {"joules": 1}), id="unknown name"),
        pytest.param(lambda plain: json.dumps(plain | {"measures": {"pack": [1]}}), id="short row"),
    ],
)
def test_what_cannot_be_read_is_as_if_it_was_not_there(
    run: Run, tmp_path: Path, spoil: Any
) -> None:
    text = (run.path / NAME).read_text()
    (tmp_path / NAME).write_text(text)
    assert StepMeasures.read(tmp_path) == read(run)
    (tmp_path / NAME).write_text(spoil(json.loads(text)))
    assert StepMeasures.read(tmp_path) is None


def test_a_trace_of_the_profiler_names_every_node(stream: Stream) -> None:
    program = Program(stream.plan)
    (pack,) = first_packs(stream, 1)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        program(to_inputs(stream.plan, pack, CPU))
    names = {event.name for event in trace.events() or []}
    ranges = {name.removeprefix("taskloom::") for name in names if name.startswith("taskloom::")}
    assert ranges == addresses(stream, Stage.DEVICE)
