"""Where a step is: the node that is computed at the moment, or its gradient.

A watcher of torch's calls sees kernels and no nodes. The program tells where each node begins; of its gradient
the autograd functions tell it that have come into being since, as a `Probe` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from ...graph.node import Node
from .probe import new_functions

T = TypeVar("T")


@dataclass(slots=True)
class Whereabouts:
    """Where a step is; told by the program whose probe it is.

    Attributes:
        node: Address of the node; empty between nodes.
        is_backward: Whether its gradient is computed.
        repeats: Whether what is computed was computed before, and not kept.
        forgets: Whether what is computed is not kept, and will be computed again.
    """

    node: str = ""
    is_backward: bool = False
    repeats: bool = False
    forgets: bool = False
    _known: set[Any] = field(default_factory=set[Any])

    def begin(self, node: Node) -> None:
        """Hear that ``node`` is about to be called."""
        self.node, self.is_backward = node.address, False

    def end(self, node: Node, inputs: Iterable[Tensor], results: Sequence[Tensor]) -> None:  # noqa: ARG002
        """Hear that ``node`` has made ``results``, and watch for their gradients."""
        self.node = ""
        for function in new_functions(results, self._known):
            function.register_prehook(partial(self._go_back, node.address))

    def leave(self) -> None:
        """Hear that the step is where no node is."""
        self.node, self.is_backward = "", False

    def repeat(self, call: Callable[..., T], *args: Any) -> T:
        """Call what is called on the way there, and again on the way back."""
        self.repeats, self.forgets = self.is_backward, not self.is_backward
        try:
            return call(*args)
        finally:
            self.repeats = self.forgets = False

    def _go_back(self, address: str, _: object) -> None:
        self.node, self.is_backward = address, True
