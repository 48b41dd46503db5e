"""A plan of a run obeys what is true of all runs, whatever the figures of hardware are worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.graph.errors import StoreError, TrainingError
from taskloom.pipeline.estimator.alternatives import refuse_misfit, try_changes
from taskloom.pipeline.estimator.cluster import Cluster
from taskloom.pipeline.estimator.run_plan import Case, RunPlan
from taskloom.pipeline.estimator.run_planning import Sharding, plan_run
from taskloom.pipeline.estimator.sampled import sample_packs
from taskloom.pipeline.estimator.wording import write_plan
from taskloom.pipeline.model.hardware import HARDWARE, find_hardware, peak_flops
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.settings import TrainConfig

from .conftest import MIXTURES, MODELS, OpenStream

KINDS: Final = sorted(kind for kind in HARDWARE if kind != "cpu")
SHARDINGS: Final[tuple[Sharding, ...]] = ("none", "full")

kinds = st.sampled_from(KINDS)
sizes = st.integers(1, 64)


@pytest.fixture(scope="session")
def case(open_small: OpenStream) -> Case:
    """A run in bfloat16 on one GPU, which no loader holds up, however busy this machine is."""
    stream = open_small("texts", "relative", precision="bfloat16")
    sampled = replace(sample_packs(stream), seconds=1e-6)
    return Case(stream=stream, sampled=sampled, cluster=Cluster(kind="h100"))


@pytest.fixture(scope="session")
def planned(case: Case) -> RunPlan:
    """What that run takes."""
    return RunPlan.of(case)


def plan_on(case: Case, planned: RunPlan, cluster: Cluster, sharding: Sharding = "none") -> RunPlan:
    """Plan the same packs for each rank of ``cluster``."""
    each = case.set(packs_per_step=cluster.num_ranks, sharding=sharding)
    return RunPlan.of(replace(each, cluster=cluster), planned.trace)


@given(kind=kinds, fewer=sizes, more=sizes)
def test_more_ranks_that_share_never_need_more_memory_each(
    case: Case, planned: RunPlan, kind: str, fewer: int, more: int
) -> None:
    fewer, more = sorted((max(2, fewer), max(2, more)))
    few, many = (
        plan_on(case, planned, Cluster(kind=kind, per_node=number), "full").memory
        for number in (fewer, more)
    )
    assert many.total <= few.total


@given(kind=kinds, number=st.integers(2, 64))
def test_ranks_that_share_need_less_than_ranks_that_do_not(
    case: Case, planned: RunPlan, kind: str, number: int
) -> None:
    cluster = Cluster(kind=kind, per_node=number)
    shared, whole = (plan_on(case, planned, cluster, each).memory for each in ("full", "none"))
    assert shared.parameters + shared.optimizer < whole.parameters + whole.optimizer
    assert (shared.working, whole.working) == (0, 2 * planned.trace.sizes.total)


@given(kind=kinds, number=sizes, nodes=st.integers(1, 16), sharding=st.sampled_from(SHARDINGS))
def test_with_the_same_packs_each_a_step_takes_longer_only_for_the_network(
    case: Case, planned: RunPlan, kind: str, number: int, nodes: int, sharding: Sharding
) -> None:
    alone = plan_on(case, planned, Cluster(kind=kind)).timing
    cluster = Cluster(kind=kind, per_node=number, num_nodes=nodes)
    other = plan_on(case, planned, cluster, sharding)
    assert alone is not None
    assert other.timing is not None
    assert other.timing.busy <= alone.busy * (1 + 1e-9)
    assert other.timing.total <= alone.total + other.timing.network + alone.loader
    if sharding == "none":
        assert (other.timing.network == 0) == (cluster.num_ranks == 1)


@given(number=st.integers(1, 64), asked=st.integers(1, 64))
def test_every_rank_has_as_many_packs_and_none_is_lost(
    case: Case, planned: RunPlan, number: int, asked: int
) -> None:
    cluster = Cluster(kind="h100", per_node=number)
    other = RunPlan.of(replace(case.set(packs_per_step=asked), cluster=cluster), planned.trace)
    packs = other.config.packs_per_step
    assert packs == other.packs_per_rank * number
    assert asked <= packs < asked + number
    assert other.flops.useful == pytest.approx(packs * planned.flops.useful)


def test_layers_that_are_computed_again_take_less_memory_and_more_flops(
    case: Case, planned: RunPlan
) -> None:
    again = RunPlan.of(case.set(activations="recompute"))
    assert again.memory.of_pack < 0.7 * planned.memory.of_pack
    assert again.flops.useful == pytest.approx(planned.flops.useful)
    assert 1.1 * planned.flops.executed < again.flops.executed < 1.4 * planned.flops.executed


def test_half_precision_holds_less_of_a_pack_and_a_copy_of_the_parameters(
    case: Case, planned: RunPlan
) -> None:
    single = RunPlan.of(case.set(precision="float32"))
    assert planned.memory.of_pack < 0.7 * single.memory.of_pack
    assert planned.memory.working == planned.memory.parameters // 2
    assert single.memory.working == 0
    assert planned.flops.useful == single.flops.useful


def test_what_does_not_fit_is_refused_with_what_would_take_less(
    case: Case, planned: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(kind="h100", per_node=4)
    # What libraries take is more than all of so small a model.
    monkeypatch.setattr("taskloom.pipeline.estimator.memory.RUNTIME", 0)
    tight = replace(HARDWARE["h100"], memory=planned.memory.tensors // 4)
    monkeypatch.setattr(
        "taskloom.pipeline.estimator.cluster.hardware_of", {"h100": tight}.__getitem__
    )
    tried = replace(case.set(precision="float32", packs_per_step=4), cluster=cluster)
    with pytest.raises(TrainingError) as refused:
        refuse_misfit(RunPlan.of(tried), tried)
    (problem,) = refused.value.problems
    assert problem.code == "T0831"
    for way in (
        "precision: bfloat16",
        "sharding: full",
        "activations: recompute",
        "source_tokens: 512",
    ):
        assert f"with {way} it needs" in problem.help


def test_a_model_that_is_too_large_for_one_gpu_is_told_how_many_would_hold_it(
    case: Case, planned: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = plan_on(case, planned, Cluster(kind="h100", per_node=8), "full").memory.total
    monkeypatch.setattr(
        "taskloom.pipeline.estimator.cluster.hardware_of",
        {"h100": replace(HARDWARE["h100"], memory=room)}.__getitem__,
    )
    with pytest.raises(TrainingError, match="on 8 of them, with sharding: full, it needs"):
        refuse_misfit(
            replace(planned, memory=replace(planned.memory, passing=room)),
            case.set(activations="recompute"),
        )


def test_changes_are_told_by_what_they_gain(case: Case, planned: RunPlan) -> None:
    single = case.set(precision="float32")
    slow = RunPlan.of(single)
    gains = try_changes(slow, single)
    assert gains.keys() == {"precision: bfloat16", "packs_per_step: 2"}
    assert gains["precision: bfloat16"] == pytest.approx(planned.speed / slow.speed)
    assert 1 < gains["packs_per_step: 2"] < 2
    assert list(gains.values()) == sorted(gains.values(), reverse=True)


@pytest.mark.parametrize(("mixture", "model"), [("pairs", "rotary"), ("pairs", "trunk")])
def test_every_kind_of_model_and_lane_can_be_planned(
    open_small: OpenStream, mixture: str, model: str
) -> None:
    stream = open_small(mixture, model, precision="bfloat16")
    cluster = Cluster(kind="l4", per_node=2)
    told = RunPlan.of(Case(stream=stream, sampled=sample_packs(stream), cluster=cluster))
    text = write_plan(told)
    assert all(name in text for name in told.sampled.room)
    assert told.memory.total > told.memory.of_pack > told.sampled.bytes
    assert told.trace.sizes.total == sum(p.numel() for p in Program(stream.plan).parameters())
    assert told.flops.useful <= told.flops.executed


def test_a_plan_without_known_peaks_tells_no_time(case: Case) -> None:
    host = RunPlan.of(replace(case.set(precision="float32"), cluster=Cluster(kind="cpu")))
    assert (host.timing, host.utilisation, host.speed) == (None, None, 0.0)
    assert "no time is told" in write_plan(host)


def test_no_plan_is_made_before_the_tasks_are_built() -> None:
    with pytest.raises(StoreError, match="not known before the tasks are built"):
        plan_run(
            MIXTURES["texts"](),
            None,
            Cluster(kind="h100"),
            model=MODELS["rotary"],
            config=TrainConfig(),
        )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("AMD Instinct MI300X", "mi300x"),
        ("cpu", "cpu"),
    ],
)
def test_hardware_is_found_by_the_name_that_torch_has_for_it(name: str, kind: str) -> None:
    assert find_hardware(name) is HARDWARE[kind]
    assert peak_flops(name) == HARDWARE[kind].peaks.get("bfloat16")


@pytest.mark.parametrize("kind", [kind for kind in HARDWARE if kind != "cpu"])
def test_products_are_the_faster_the_fewer_digits_they_have(kind: str) -> None:
    peaks = HARDWARE[kind].peaks
    assert peaks["float32"] <= peaks["tensorfloat32"] < peaks["bfloat16"]


def test_unknown_hardware_has_no_peak() -> None:
    assert (find_hardware("NVIDIA T4"), peak_flops("NVIDIA T4")) == (None, None)
