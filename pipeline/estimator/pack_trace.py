"""A pack on its way through a program, forward and backward, without a number in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch.utils.checkpoint import checkpoint

from ...storage.pack import Pack
from ..loader.packing import to_inputs
from ..model.flops import PackWork, program_on_meta, trace_work
from ..model.precision import hand_over, working_copy
from ..model.program import LAYERS, Program
from ..model.whereabouts import Whereabouts
from ..planner.planning import Plan
from .hidden import Hidden, HiddenOnHost
from .live_bytes import Held, LiveBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSizes:
    """How many parameters a program has.

    Attributes:
        by_scope: Those of each scope.
        layers: Those of each layer.
        matrices: Those of matrices inside layers.
    """

    by_scope: dict[str, int]
    layers: tuple[int, ...]
    matrices: int

    @classmethod
    def of(cls, program: Program) -> ProgramSizes:
        """Count them."""
        layers = [module for module in program.modules() if isinstance(module, LAYERS)]
        return cls(
            by_scope=program.num_parameters,
            layers=tuple(sum(p.numel() for p in layer.parameters()) for layer in layers),
            matrices=sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim == 2),
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
    pack: Pack,
    *,
    precision: Literal["float32", "bfloat16"] = "float32",
    recomputes: bool = False,
    is_followed: bool = False,
    on_host: bool = False,
) -> PackTrace:
    """Return what packs take that are shaped as ``pack`` is.

    Args:
        plan: A plan for training.
        pack: A pack.
        precision: What is computed in.
        recomputes: Whether layers are computed again on the way back, rather than kept.
        is_followed: Whether a rank computes more packs than one for a step.
        on_host: Whether it is computed on the host.
    """
    program = program_on_meta(plan)
    sizes = ProgramSizes.of(program)
    working = working_copy(plan, program, precision)
    where = Whereabouts()
    prepare = _recompute_layers if recomputes else _leave
    prepare(working, where)
    work = trace_work(plan, pack, prepare)
    live = LiveBytes(where, HiddenOnHost(plan, pack, work) if on_host else Hidden())
    live.leave_out(program)
    live.leave_out(working)
    live.follow(working)
    with live:
        for _ in range(1 + is_followed):
            _pass(plan, working, program, pack, where, live)
    inputs = to_inputs(plan, pack, torch.device("meta"))
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
    plan: Plan, working: Program, program: Program, pack: Pack, where: Whereabouts, live: LiveBytes
) -> None:
    """Do what a learner does with a pack."""
    inputs = to_inputs(plan, pack, torch.device("meta"))
    working.probe = where
    outputs = working(inputs)
    outputs["loss"].backward()
    working.probe = None
    where.leave()
    live.hand_over()
    hand_over(working, program)
    live.go_on()


def _recompute_layers(program: Program, where: Whereabouts) -> None:
    for module in program.modules():
        if isinstance(module, LAYERS):
            call = partial(where.repeat, module.forward)
            # Nothing is drawn on the meta device that could be drawn again.
            module.forward = partial(
                checkpoint, call, use_reentrant=False, preserve_rng_state=False
            )


def _leave(*_: object) -> None:
    pass
