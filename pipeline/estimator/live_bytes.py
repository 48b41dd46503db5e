"""Bytes that tensors take while a step is computed: the most there are at once, and what they are.

It sees every call of torch, on any device: on the meta device tensors have sizes, and take nothing. What an op
of ours holds within itself it cannot see there, and is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..model.storage_notes import StorageNotes
from ..model.whereabouts import Whereabouts
from ..model.work import tensors_in
from .hidden import Attended, Hidden, HiddenOnHost


class Use(StrEnum):
    """What memory is for."""

    SAVED = "saved"
    """Made on the way forward: what the way back reads, and what has not been given back yet."""
    PASSING = "passing"
    """Made on the way back: gradients that have not reached a parameter."""
    GRADIENT = "gradient"
    """The gradient of a parameter."""
    WITHIN = "within"
    """What an op holds while it computes."""


class Holder(NamedTuple):
    """Who holds memory, and for what.

    Attributes:
        use: What it is for.
        node: Address of the node that made it; empty of gradients.
    """

    use: Use
    node: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """What is held at one moment.

    Attributes:
        bytes: By holder.
    """

    bytes: Mapping[Holder, int] = field(default_factory=dict[Holder, int])

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.bytes.values())

    def of(self, *uses: Use) -> int:
        """Return what is held for any of ``uses``."""
        return sum(number for holder, number in self.bytes.items() if holder.use in uses)

    def by_node(self, *uses: Use) -> dict[str, int]:
        """Return what is held for any of ``uses``, the most first."""
        found: dict[str, int] = {}
        for holder, number in self.bytes.items():
            if holder.use in uses and number:
                found[holder.node] = found.get(holder.node, 0) + number
        return dict(sorted(found.items(), key=lambda item: -item[1]))


class LiveBytes(TorchDispatchMode):
    """Watches a step.

    Attributes:
        peak: The moment when most is held.
        lean: The moment when most is held beside gradients of parameters, without those.
        moved: Bytes that calls other than products read and write, each for itself.
        calls: Calls that compute something.
    """

    def __init__(self, where: Whereabouts, hidden: Hidden | HiddenOnHost) -> None:
        """Watch from now on.

        Args:
            where: Where the step is.
            hidden: What cannot be seen.
        """
        super().__init__()
        self.peak, self.lean, self.moved, self.calls = Held(), Held(), 0, 0
        self._where, self._hidden = where, hidden
        self._attended: list[tuple[Holder, Attended]] = []
        self._plans: dict[Holder, _Plans] = {}
        self._notes = StorageNotes[_Block](self._free)
        self._now: dict[Holder, int] = {}
        self._total = self._beside = self._most = self._most_beside = 0
        self._hands_over = False

    def leave_out(self, given: Iterable[Tensor]) -> None:
        """Count nothing for tensors that are there before."""
        for tensor in given:
            self._notes.put(tensor, _Block(0, Holder(Use.GRADIENT)))

    def follow(self, module: nn.Module) -> None:
        """Tell gradients of the parameters of ``module`` from all others."""
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._keep)

    def hand_over(self) -> None:
        """Hear that all that is made from now on is a gradient of a parameter."""
        self._hands_over = True

    def go_on(self) -> None:
        """Hear that this has come to an end."""
        self._hands_over = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = list(tensors_in(out))
        for tensor in made:
            if self._notes.get(tensor) is None:
                block = _Block(tensor.untyped_storage().nbytes(), self._holder())
                self._notes.put(tensor, block)
                self._change(block.holder, block.size)
        self._add_hidden(func.overloadpacket, args)
        if func.is_view:
            return out
        self.calls += 1
        if not _is_product(func.overloadpacket):
            self.moved += sum(tensor.nbytes for tensor in (*tensors_in(args), *made))
        return out

    def _add_hidden(self, packet: Any, args: tuple[Any, ...]) -> None:
        """Add what a call holds that is not seen."""
        ours, node = torch.ops.taskloom_ops, self._where.node
        if packet is ours.attention:
            attended, holder = self._hidden.attended(node, args), Holder(Use.SAVED, node)
            if not self._where.repeats:
                made = self._plans.setdefault(holder, _Plans()).add(attended.planned)
                self._change(holder, made)
            if self._where.forgets:
                return
            self._attended.append((holder, attended))
            self._change(holder, attended.saved)
        elif packet is ours.attention_backward:
            # Gradients are computed from the last call to the first.
            holder, attended = self._attended.pop()
            self._change_for_now(attended.within)
            self._change(holder, -attended.saved - self._plans[holder].drop())
        elif packet is ours.charge_labels:
            self._change_for_now(self._hidden.scores(args[0], args[1]))

    def _change_for_now(self, size: int) -> None:
        holder = Holder(Use.WITHIN, self._where.node)
        self._change(holder, size)
        self._change(holder, -size)

    def _holder(self) -> Holder:
        if self._hands_over:
            return Holder(Use.GRADIENT)
        return Holder(Use.PASSING if self._where.is_backward else Use.SAVED, self._where.node)

    def _keep(self, parameter: Tensor) -> None:
        """Hear that ``parameter`` has got its gradient."""
        grad = parameter.grad
        block = None if grad is None else self._notes.get(grad)
        if block is None or block.holder.use is Use.GRADIENT:
            return
        self._change(block.holder, -block.size)
        block.holder = Holder(Use.GRADIENT)
        self._change(block.holder, block.size)

    def _free(self, block: _Block) -> None:
        self._change(block.holder, -block.size)

    def _change(self, holder: Holder, size: int) -> None:
        self._now[holder] = self._now.get(holder, 0) + size
        self._total += size
        if holder.use is not Use.GRADIENT:
            self._beside += size
        if self._total > self._most:
            self._most, self.peak = self._total, Held(dict(self._now))
        if self._beside > self._most_beside:
            rest = {h: n for h, n in self._now.items() if h.use is not Use.GRADIENT}
            self._most_beside, self.lean = self._beside, Held(rest)


@dataclass(slots=True)
class _Block:
    """Memory that is held."""

    size: int
    holder: Holder


@dataclass(slots=True)
class _Plans:
    """What all layers of a node attend by, held until the first of them has its gradients."""

    size: int = 0
    calls: int = 0

    def add(self, planned: int) -> int:
        """Hear of a call that reads them and what is planned for it, and return what is made now."""
        self.size += planned
        # Those of the next pack are as large as the last one's.
        made = planned if self.calls else self.size
        self.calls += 1
        return made

    def drop(self) -> int:
        """Hear that a call has its gradients, and return what nobody holds any longer."""
        self.calls -= 1
        return 0 if self.calls else self.size


_OURS: Final = ("attention", "attention_backward", "charge_labels")


def _is_product(packet: Any) -> bool:
    ours = torch.ops.taskloom_ops
    return packet in flop_registry or packet in [getattr(ours, name) for name in _OURS]
