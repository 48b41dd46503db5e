"""A probe: what each node of a program costs in a real step, forward and backward.

The program says when a node begins and ends, and the time between is its forward time. Its gradient is computed
by the autograd functions that have come into being since: each gets a hook before and one after it, and the
time between those is the node's as well. So layers are measured that are compiled: to autograd, whatever was
compiled within a node is one function. Adding up the gradients of a value that several nodes use happens
between functions, and is in no node.

On a GPU the clock is a row of events on its stream: nothing waits, and seconds are those of the GPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...graph.measure import Measure
from ...graph.node import Node, NodeId


class Watcher(Protocol):
    """What a program tells of each of its nodes."""

    def begin(self, node: Node) -> None:
        """Hear that ``node`` is about to be called."""
        ...

    def end(self, node: Node, inputs: Iterable[Tensor], results: Sequence[Tensor]) -> None:
        """Hear that ``node`` has made ``results`` of ``inputs``."""
        ...


@dataclass(slots=True)
class Probe:
    """What nodes have cost since it was made.

    Attributes:
        device: Where the program computes.
    """

    device: torch.device
    _measures: dict[NodeId, Measure] = field(default_factory=dict[NodeId, Measure])
    _spans: list[_Span] = field(default_factory=list["_Span"])
    _known: set[Any] = field(default_factory=set[Any])
    _hooks: list[Any] = field(default_factory=list[Any])
    _began: Any = None

    def begin(self, node: Node) -> None:  # noqa: ARG002 - it is told at the end
        """Say that a node is about to be called."""
        self._began = self._now()

    def end(self, node: Node, inputs: Iterable[Tensor], results: Sequence[Tensor]) -> None:
        """Say that ``node`` has made ``results`` of ``inputs``.

        Rows are what the first axis counts: positions of a stream, images of a lane.
        """
        self._spans.append(_Span(node.id, is_backward=False, began=self._began, ended=self._now()))
        given = next(iter(inputs))
        measure = Measure(
            calls=1,
            rows_in=_count_rows(given),
            rows_out=_count_rows(results[0]),
            bytes=sum(result.nbytes for result in results),
        )
        self._measures[node.id] = self._measures.get(node.id, Measure()) + measure
        for function in new_functions(results, self._known):
            self._watch(node.id, function)

    def finish(self) -> dict[NodeId, Measure]:
        """Let go of what was watched, and return the figures of every node."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for hook in self._hooks:
            hook.remove()
        for span in self._spans:
            seconds = self._between(span.began, span.ended)
            backward = seconds if span.is_backward else 0.0
            self._measures[span.node] += Measure(seconds=seconds, backward_seconds=backward)
        self._spans, self._hooks, self._known = [], [], set()
        return self._measures

    def _watch(self, node: NodeId, function: Any) -> None:
        span = _Span(node, is_backward=True)

        def before(_: Any) -> None:
            span.began = self._now()

        def after(*_: Any) -> None:
            span.ended = self._now()
            self._spans.append(span)

        self._hooks += [function.register_prehook(before), function.register_hook(after)]

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, began: Any, ended: Any) -> float:
        return began.elapsed_time(ended) / 1e3 if self.device.type == "cuda" else ended - began


def new_functions(results: Iterable[Tensor], known: set[Any]) -> list[Any]:
    """Return the autograd functions behind ``results`` that are not ``known``, and add them there."""
    found: list[Any] = []
    waiting = [result.grad_fn for result in results]
    while waiting:
        function = waiting.pop()
        if function is not None and function not in known:
            known.add(function)
            found.append(function)
            waiting += [before for before, _ in function.next_functions]
    return found


@dataclass(slots=True)
class _Span:
    """Time in which a node was computed, or its gradient."""

    node: NodeId
    is_backward: bool
    began: Any = None
    ended: Any = None


def _count_rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 1
