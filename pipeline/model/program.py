"""Programs: the device half of a plan as one module.

A program walks the nodes of the graph in order. Parameters live by scope, so two nodes of one scope share them
and their names depend on nothing else. Compiled code still knows its nodes: each is annotated with its address.
So does a trace of ``torch.profiler``, where the range ``taskloom::ADDRESS`` is around each node's call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import profiler
from torch.fx.traceback import annotate
from torch.profiler import record_function

from ...graph.errors import CheckpointError, Problem, TrainingError
from ...graph.node import Node, Value
from ...graph.passes.cut import Stage
from ...ops.device.layer import DecoderLayer, EncoderLayer
from ...ops.device.lora import fold_pairs
from ...ops.device.op import DeviceOp
from ...ops.device.relative.layer import RelativeDecoderLayer, RelativeEncoderLayer
from ..planner.planning import Plan
from .activations import Activations, Offloaded, set_activations
from .probe import Watcher
from .signal import Signals

LAYERS: Final = (EncoderLayer, DecoderLayer, RelativeEncoderLayer, RelativeDecoderLayer)
"""The layers of stacks, which are compiled, recomputed and sharded one by one."""

Backend: TypeAlias = str | Callable[..., Any]
"""What compiles a graph, as `torch.compile` takes it."""


class Program(nn.Module):
    """The device nodes of a plan, called with a pack and giving the plan's outputs by name.

    Attributes:
        probe: Hears of each node when it begins and ends, while somebody wants to know.
        signals: Takes the gradient that each loss sends, while somebody wants to know.
    """

    probe: Watcher | None = None
    signals: Signals | None = None

    def __init__(self, plan: Plan, scopes: nn.ModuleDict | None = None) -> None:
        """Build the program.

        Args:
            plan: The plan.
            scopes: Parameters of another program to share; new ones are made for scopes it lacks.
        """
        super().__init__()
        self._plan = plan
        self._pack = plan.graph["pack"].id
        self._ops = {
            node.id: _op(plan, node)
            for node in plan.graph
            if plan.cut.stages[node.id] is Stage.DEVICE
        }
        self.scopes = nn.ModuleDict()
        for node_id, op in self._ops.items():
            name = scope_name(plan.graph.nodes[node_id].scope)
            if name and name not in self.scopes:
                known = {} if scopes is None else dict(scopes.items())
                module = known[name] if name in known else op.module()
                assert module is not None, f"scope {node_id} has parameters"
                self.scopes[name] = module
        self._empty = nn.Identity()
        self._outputs = [name for name in plan.graph.outputs if name not in plan.fits]
        self._nodes = self._needed(self._outputs)

    def forward(
        self, pack: Mapping[str, Tensor], divisors: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute every output of one pack.

        Args:
            pack: Tensors by the names of the pack's ports.
            divisors: What each loss is divided by, by its op: its weight in the whole step, where that is more
                than this pack.
        """
        values = self._walk(self._nodes, pack, divisors or {})
        return {name: values[self._plan.graph.outputs[name]] for name in self._outputs}

    def compute(self, output: str, pack: Mapping[str, Tensor]) -> Tensor:
        """Compute one output, and nothing that it does not need."""
        return self.compute_all((output,), pack)[0]

    def compute_all(self, outputs: Sequence[str], pack: Mapping[str, Tensor]) -> list[Tensor]:
        """Compute some outputs, and nothing that they do not need."""
        values = self._walk(self._needed(outputs), pack, {})
        return [values[self._plan.graph.outputs[output]] for output in outputs]

    def trace(self, values: Collection[Value], pack: Mapping[str, Tensor]) -> dict[Value, Tensor]:
        """Compute any values of the device half, named outputs or not, and nothing that they do not need."""
        needed = [node for node in self._plan.graph.needs(values) if node.id in self._ops]
        found = self._walk(needed, pack, {})
        return {value: found[value] for value in values}

    def _needed(self, outputs: Iterable[str]) -> list[Node]:
        graph = self._plan.graph
        needed = graph.needs(graph.outputs[name] for name in outputs)
        return [node for node in needed if node.id in self._ops]

    def _walk(
        self, nodes: Iterable[Node], pack: Mapping[str, Tensor], divisors: Mapping[str, Tensor]
    ) -> dict[Value, Tensor]:
        values = {Value(self._pack, port): tensor for port, tensor in pack.items()}
        for node in nodes:
            op = self._ops[node.id]
            inputs = {port: values[value] for port, value in node.inputs.items()}
            if node.op in divisors:
                inputs["divisor"] = divisors[node.op]
                inputs = inputs if self.signals is None else self.signals.watch(inputs)
            module = self.scopes[scope_name(node.scope)] if node.scope else self._empty
            if self.probe is not None:
                self.probe.begin(node)
            with annotate({"taskloom": node.address}), _named_range(node.address):
                results = op(module, **inputs)
            results = results if isinstance(results, tuple) else (results,)
            if self.probe is not None:
                self.probe.end(node, inputs.values(), results)
            for port, result in zip(node.types, results, strict=True):
                values[Value(node.id, port)] = result
        return values

    def scope(self, name: str) -> Any:
        """Return the module that holds the parameters of scope ``name``."""
        return self.scopes[scope_name(name)]

    def layers(self) -> list[nn.Module]:
        """Return the layers, in the order in which they compute within their scopes."""
        return [module for module in self.modules() if isinstance(module, LAYERS)]

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to know of each node when it begins and ends."""
        return self.probe is not None or _is_profiled()

    @property
    def num_parameters(self) -> dict[str, int]:
        """Number of parameters of each scope."""
        return {
            name.replace("__", "."): sum(p.numel() for p in module.parameters())
            for name, module in self.scopes.items()
        }

    @property
    def num_losses(self) -> int:
        """Losses that are summed apart."""
        return len(self._plan.scored)

    def set_activations(self, activations: Activations) -> None:
        """Let every layer keep so much for its backward pass; to be said before layers are compiled."""
        for module in self.modules():
            if isinstance(module, LAYERS):
                set_activations(module, activations)

    def compile_layers(self, backend: Backend = "inductor") -> None:
        """Compile every layer in place: one static graph per class of layers."""
        from torch._dynamo import lookup_backend  # noqa: PLC0415 - seconds, for those who compile

        for node in self._nodes:
            scope = self.scopes[scope_name(node.scope)] if node.scope else self._empty
            # Layers of a node share a backend, or each would be compiled for itself.
            named = _name_nodes(node.address, lookup_backend(backend))
            for module in scope.modules():
                if isinstance(module, LAYERS):
                    forward: Any = module.forward
                    part = forward if isinstance(forward, Offloaded) else module
                    part.compile(backend=named, fullgraph=True, dynamic=False)

    def load(self, parameters: Mapping[str, Tensor], origin: object) -> None:
        """Take over ``parameters``, by their names in `state_dict`, as they were read from ``origin``.

        Low-rank pairs that the program has no place for are folded into the weights they are beside.

        Raises:
            CheckpointError: They are of another program; every name that differs is listed with its sizes.
        """
        ours = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        parameters = fold_pairs(parameters, kept=ours)
        theirs = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
        if told := [
            f"{name} is {theirs.get(name, 'missing')} in {origin}, {ours.get(name, 'unknown')} here"
            for name in dict.fromkeys([*ours, *theirs])
            if ours.get(name) != theirs.get(name)
        ]:
            help_ = "load it with the sizes and the vocabulary that it was trained with"
            raise CheckpointError(*(Problem("T0720", message, help_) for message in told))
        self.load_state_dict(parameters, assign=any(p.is_meta for p in self.parameters()))


def scope_name(scope: str) -> str:
    """Return ``scope`` as a module's name, which may hold no dot."""
    return scope.replace(".", "__")


def _name_nodes(address: str, backend: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``backend``, which is given graphs annotated with ``address``.

    Where only layers are compiled, annotations around them are not seen.
    """

    def compile_named(graph: torch.fx.GraphModule, *inputs: Any, **options: Any) -> Any:
        for node in graph.graph.nodes:
            node.meta["custom"] = {**node.meta.get("custom", {}), "taskloom": address}
        return backend(graph, *inputs, **options)

    return compile_named


def _named_range(address: str) -> AbstractContextManager[object]:
    """Return a range of the profiler; where none is on it would cost 10 us, so there it is nothing."""
    if not _is_profiled() or torch.compiler.is_compiling():
        return nullcontext()
    return record_function(f"taskloom::{address}")


def _is_profiled() -> bool:
    return profiler._is_profiler_enabled  # noqa: SLF001 - torch tells it nowhere else


def _op(plan: Plan, node: Node) -> DeviceOp:
    op: Any = plan.catalogue[node.op](**node.params)
    return op


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; a GPU where there is one if it is ``"auto"``.

    Raises:
        TrainingError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Of one that this torch was built without, it goes on for a page.
        why = str(error).splitlines()[0].partition(". ")[0]
        message = f'device "{name}" cannot be used: {why}'
        raise TrainingError.of("T0733", message, 'use "cpu", or "auto"') from None
    return device
