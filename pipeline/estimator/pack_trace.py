"""A pack on its way through a program, forward and backward, without a number in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...storage.pack import Pack
from ..loader.packing import to_inputs
from ..model.precision import hand_over, working_copy
from ..model.program import Program
from ..model.whereabouts import Whereabouts
from ..model.work import PackWork, program_on_meta, trace_work
from ..planner.planning import Plan
from ..settings import TrainConfig
from ..trainer.optimizer import kinds_of
from ..trainer.scopes import apply_rules
from .hidden import Hidden, HiddenOnHost
from .live_bytes import Held, LiveBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSizes:
    """How many parameters a program has.

    Attributes:
        by_scope: Those of each scope.
        layers: Those of each layer.
        learned: Those that are not frozen.
        matrices: Those of them that are in matrices of layers.
    """

    by_scope: dict[str, int]
    layers: tuple[int, ...]
    learned: int
    matrices: int

    @classmethod
    def of(cls, program: Program) -> ProgramSizes:
        """Count them."""
        kinds = kinds_of(program)
        learned = {n: p.numel() for n, p in program.named_parameters() if p.requires_grad}
        return cls(
            by_scope=program.num_parameters,
            layers=tuple(sum(p.numel() for p in layer.parameters()) for layer in program.layers()),
            learned=sum(learned.values()),
            matrices=sum(size for name, size in learned.items() if kinds[name] == "matrix"),
        )

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_scope.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PackTrace:
    """What a pack takes.

    Attributes:
        sizes: Parameters of the program.
        work: What it has to compute.
        peak: What is held when most is, beside parameters.
        lean: What is held when most is beside parameters and their gradients.
        moved: Bytes that all but products read and write.
        calls: Calls that compute something, as they come without a compiler.
        inputs: Bytes of the pack as the program reads it.
    """

    sizes: ProgramSizes
    work: PackWork
    peak: Held
    lean: Held
    moved: int
    calls: int
    inputs: int


def trace_pack(
    plan: Plan,
    packs: Sequence[Pack],
    config: TrainConfig,
    *,
    is_followed: bool = False,
    on_host: bool = False,
) -> PackTrace:
    """Return what packs take, at most, that are shaped as ``packs`` are.

    Args:
        plan: A plan for training.
        packs: Some packs, all of one shape.
        config: Settings of the run: precision, what is kept, which scopes learn.
        is_followed: Whether a rank computes more packs than one for a step.
        on_host: Whether it is computed on the host.

    Raises:
        TrainingError: A pattern of a scope is met by no parameter (T0770), or nothing learns (T0771).
    """

    def prepare(program: Program, where: Whereabouts) -> None:
        apply_rules(program, config.scopes)
        follow_activations(program, where)

    def follow_activations(program: Program, where: Whereabouts) -> None:
        if config.activations != "keep":
            _recompute_layers(program, where)

    pack = packs[0]
    program, where = program_on_meta(plan), Whereabouts()
    apply_rules(program, config.scopes)
    sizes = ProgramSizes.of(program)
    working = working_copy(plan, program, config.precision)
    follow_activations(working, where)
    work = trace_work(plan, pack, prepare)
    live = LiveBytes(where, HiddenOnHost(plan, packs, work) if on_host else Hidden())
    inputs = to_inputs(plan, pack, torch.device("meta"))
    for module in (program, working):
        live.leave_out((*module.parameters(), *module.buffers()))
    live.leave_out(inputs.values())
    live.follow(working)
    with live:
        for _ in range(1 + is_followed):
            _pass(working, program, inputs, where, live)
    return PackTrace(
        sizes=sizes,
        work=work,
        peak=live.peak,
        lean=live.lean,
        moved=live.moved // (1 + is_followed),
        calls=live.calls // (1 + is_followed),
        inputs=sum(tensor.nbytes for tensor in inputs.values()),
    )


def _pass(
    working: Program,
    program: Program,
    inputs: dict[str, Tensor],
    where: Whereabouts,
    live: LiveBytes,
) -> None:
    """Do what a learner does with a pack."""
    working.probe = where
    outputs = working(inputs)
    outputs["loss"].backward()
    working.probe = None
    where.leave()
    live.hand_over()
    hand_over(working, program)
    live.go_on()


def _recompute_layers(program: Program, where: Whereabouts) -> None:
    for layer in program.layers():
        call = partial(where.repeat, layer.forward)
        # Nothing is drawn on the meta device that could be drawn again.
        layer.forward = partial(checkpoint, call, use_reentrant=False, preserve_rng_state=False)
