"""FLOP of a step, counted from its graph: those that its documents need, and those that a GPU executes.

Counted are matrix products, convolutions and attention, two FLOP for each multiplication with an addition;
norms, sums and softmax count nothing. *Useful* is work for positions that hold a token, for pairs of a query
and a key that it sees, for tensors of lanes that are there, and for labels with weight; attention is charged
twice backward what it is forward. *Executed* is that of padding as well, of tiles of queries and keys as a
whole, and of scores that are computed again.

A program is run once on torch's meta device, forward and backward, where tensors have shapes and no values.
Each product is done for something that a pack holds a number of, its *unit*; what a product is done for is
handed on from the tensors that it reads. So a pack is counted by counting its units, and nothing is run for it.

Why a trace: a formula of the sizes of a model would count in microseconds, and for nothing before the first
pack. It has to know every kind of layer, though: one that knew transformers alone found 2% of what a ResNet
before them computes, twice what routed feed-forward parts do, and gradients of all that is frozen. A trace
takes 0.4 s for a model of four layers and 4 s for one of 48, once a run.

Shape letters: N = queries, M = keys, H = heads, D = head size, C = channels, V = ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from ...storage.pack import Pack
from ..loader.packing import to_inputs
from ..planner.planning import Plan
from .pack_units import LABEL, NONE, PACK, PAIR, SEEN, Count, count_units
from .program import Program
from .storage_notes import StorageNotes
from .whereabouts import Whereabouts

Prepare: TypeAlias = Callable[[Program, Whereabouts], object]
"""Changes how a program computes before it is traced."""

_STREAMS: Final = {"labels": "target", "weights": "target", "loss_ids": "target"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOP of some work.

    Attributes:
        useful: What documents need.
        executed: What a GPU computes for it.
    """

    useful: float = 0.0
    executed: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(useful=self.useful + other.useful, executed=self.executed + other.executed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Some work of a pack.

    Attributes:
        node: Address of the node that does it.
        is_backward: Whether it is part of the node's gradient.
        unit: What it is done for: ``"source"`` and ``"target"`` are positions of a stream, ``"source keys"``
            and the like pairs that attention sees, ``"label"``, ``"pair"``, ``"pack"``, and lanes by name.
        is_attention: Whether attention does it.
        flops: FLOP of one.
        bytes: Bytes that are read and written for all of a pack.
    """

    node: str
    is_backward: bool
    unit: str
    is_attention: bool
    flops: Flops
    bytes: int


@dataclass(frozen=True, slots=True)
class PackWork:
    """All work of a pack, whatever is in it.

    Attributes:
        parts: The work, in the order in which it is done.
    """

    parts: tuple[Work, ...]

    def of(self, packs: Sequence[Pack]) -> Flops:
        """Return the FLOP of ``packs``, all of the shape that was traced."""
        counts = [count_units(pack) for pack in packs]
        # A pack without a lane of the plan has an empty one.
        return add_up_flops(
            (part, count.get(part.unit, NONE)) for count in counts for part in self.parts
        )

    def useful(self) -> dict[str, float]:
        """Return the useful FLOP of one of each unit."""
        sums: dict[str, float] = {}
        for part in self.parts:
            sums[part.unit] = sums.get(part.unit, 0.0) + part.flops.useful
        return sums


def trace_work(plan: Plan, pack: Pack, prepare: Prepare = lambda *_: None) -> PackWork:
    """Return the work of packs that are shaped as ``pack`` is, of a plan for training.

    Args:
        plan: The plan.
        pack: A pack.
        prepare: Changes how the program computes; what it computes again is executed, and not useful.
    """
    program, inputs = program_on_meta(plan), to_inputs(plan, pack, torch.device("meta"))
    where = Whereabouts()
    program.probe = where
    prepare(program, where)
    counter = _Counter(where, {name: count.held for name, count in count_units(pack).items()})
    for name, tensor in inputs.items():
        counter.name(tensor, _unit_of(name))
    with counter:
        program(inputs)["loss"].backward()
    return PackWork(tuple(counter.parts))


def program_on_meta(plan: Plan) -> Program:
    """Return the program of ``plan`` without a single number in it, ready to learn."""
    with torch.device("meta"):
        return Program(plan).to("meta").train()


def add_up_flops(done: Iterable[tuple[Work, Count]]) -> Flops:
    """Return the sum of some work, each as often as it is counted."""
    useful = executed = 0.0
    for work, count in done:
        useful += work.flops.useful * count.used
        executed += work.flops.executed * count.held
    return Flops(useful=useful, executed=executed)


def _unit_of(port: str) -> str:
    """Return what a tensor of the pack has one of for each place of its first axis."""
    if port.endswith("_keys"):
        return SEEN[port.removesuffix("_keys")]
    if port.startswith("pair_"):
        return PAIR
    name = port.removesuffix("_places")
    return _STREAMS.get(
        name, next((s for s in ("source", "target") if name.startswith(f"{s}_")), name)
    )


class _Counter(TorchDispatchMode):
    """Counts the FLOP of every call of torch, and hands units on from what is read to what is made."""

    def __init__(self, where: Whereabouts, held: Mapping[str, float]) -> None:
        super().__init__()
        self.parts: list[Work] = []
        self._where, self._held = where, held
        self._units = StorageNotes[str]()

    def name(self, tensor: Tensor, unit: str) -> None:
        """Say what ``tensor`` has one of for each place of its first axis."""
        self._units.put(tensor, unit)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        self._count(packet, args, kwargs or {}, out)
        # What is looked up has one of each for what it is looked up with.
        given = list(tensors_in(args))
        if unit := self._unit_of(reversed(given) if packet in _LOOKED_UP else given):
            for made in tensors_in(out):
                if self._units.get(made) is None:
                    self.name(made, unit)
        return out

    def _count(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Count what a call has computed."""
        ours = torch.ops.taskloom_ops
        moved = sum(tensor.nbytes for tensor in (*tensors_in(args), *tensors_in(out)))
        if packet is ours.attention:
            self._count_attention(args[1:], moved, is_backward=False)
        elif packet is ours.attention_backward:
            self._count_attention(args[4:], moved, is_backward=True)
            self._name_gradients(args[4:7], out)
        elif packet is ours.charge_labels:
            # Scores, and each gradient that is taught.
            self._add(LABEL, 2.0 * args[1].numel() * (1 + args[-2] + args[-1]), moved)
        elif packet in (ours.multiply_groups, ours.multiply_groups_backward):
            # Each state with the matrix of its group alone; backward for either gradient.
            *grad, x_NC, (weight_OC, *_), _ = args
            flops = 2.0 * (1 + len(grad)) * len(x_NC) * weight_OC.numel()
            self._count_products((x_NC,), flops, moved)
        elif packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
            self._count_products(tensors_in(args), flops, moved)

    def _count_products(self, of: Iterable[Tensor], flops: float, moved: int) -> None:
        """Count products that are done for all of what the first of ``of`` has one of for each place."""
        unit = self._unit_of(of) or PACK
        self._add(unit, flops / max(1.0, self._held.get(unit, 0.0)), moved)

    def _count_attention(self, args: Sequence[Any], moved: int, *, is_backward: bool) -> None:
        q_NHD, _, v_MHD, *_ = args
        num_heads, qk_size, v_size = q_NHD.shape[1], q_NHD.shape[2], v_MHD.shape[2]
        unit = self._unit_of((args[_RANGES],))
        forward = 2.0 * num_heads * (qk_size + v_size)
        if not is_backward:
            self._append(unit, Flops(useful=forward, executed=forward), moved, is_attention=True)
            return
        # Gradients of queries and of keys are made by two kernels, each of which computes scores again, and
        # what weights gain.
        executed = 2.0 * num_heads * (4 * qk_size + 3 * v_size)
        self._append(unit, Flops(useful=2 * forward, executed=executed), moved, is_attention=True)

    def _name_gradients(self, of: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Say that gradients are of what they are taken for, whatever has come in first."""
        for tensor, grad in zip(of, grads, strict=False):
            if unit := self._unit_of((tensor,)):
                self.name(grad, unit)

    def _add(self, unit: str, flops: float, moved: int) -> None:
        self._append(unit, Flops(useful=flops, executed=flops), moved, is_attention=False)

    def _append(self, unit: str, flops: Flops, moved: int, *, is_attention: bool) -> None:
        where = self._where
        self.parts.append(
            Work(
                node=where.node,
                is_backward=where.is_backward,
                unit=unit,
                is_attention=is_attention,
                flops=replace(flops, useful=0.0) if where.repeats else flops,
                bytes=moved,
            )
        )

    def _unit_of(self, tensors: Iterable[Tensor]) -> str:
        """Return what the first of ``tensors`` is of that is of anything; empty if none is."""
        found = (self._units.get(tensor) for tensor in tensors)
        return next((unit for unit in found if unit is not None), "")


_LOOKED_UP: Final = (torch.ops.aten.index_select, torch.ops.aten.index, torch.ops.aten.embedding)
_RANGES: Final = 6
"""Place of the ranges among the arguments of attention, from the queries on."""


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yield the tensors of arguments or results, however they are nested."""
    return (value for value in tree_iter(values) if isinstance(value, Tensor))
