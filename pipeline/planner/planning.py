"""Plans: the graph of a mixture, and where and when each of its nodes runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeAlias

from ...graph.errors import PlanError, Problem, TaskloomError
from ...graph.graph import Graph
from ...graph.node import Node, Value
from ...graph.op import Catalogue, Op, Rows
from ...graph.part_plan import PROMPT_MODALITY
from ...graph.passes.cut import Cut, Stage
from ...graph.passes.segment import Segment
from ...graph.passes.sequence import Step
from ...graph.planned import Member, Planned, TaskSpec
from ...graph.planner import Planner
from ...graph.recipe import Pinned, Recipe
from ...graph.vocabulary import Block, Vocabulary, gather_blocks
from ...ops.catalogue import whole_catalogue
from ...ops.device.config import ModelConfig
from ...ops.host.bpe import Bpe
from ...ops.host.filter import parse_where
from ...ops.pack_layout import UNKNOWN, PackLayout, add_pack
from ...ops.plugin import tell_broken
from ...ops.recipe.text import BLOCK, BPE
from ..host.execute import Execution, LoadArtifact
from ..task import Mixture, Task, as_mixture
from .peek import NodeHandle
from .rewriting import rewrite

Mode: TypeAlias = Literal["train", "infer"]
Filters: TypeAlias = Mapping[Value, Sequence[tuple[Value, ...]]]
"""The filters of each task that reads a stored value."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A graph, the ops it uses, and where and when each node runs.

    Attributes:
        mode: Whether target slots are read (``train``) or written (``infer``).
        graph: The graph of all tasks, host and device halves.
        cut: The stage of each node and the values that are stored.
        segments: What one Dask task runs.
        members: The documents by the name of their port at the pack, in the order of the tasks.
        scored: Task and slot of everything whose loss is summed apart, by number.
        fits: Artifacts that are still to be fitted; what follows them cannot run before.
        vocabulary: The blocks of ids.
        catalogue: The ops.
        steps: The graph as it was planned, and after each pass.
        load: Returns the artifact of a kind and digest, where somebody knows them.
    """

    mode: Mode
    graph: Graph
    cut: Cut
    segments: tuple[Segment, ...]
    members: Mapping[str, Member]
    scored: tuple[tuple[str, str], ...]
    fits: Mapping[str, Value]
    vocabulary: Vocabulary
    catalogue: Catalogue
    steps: tuple[Step, ...]
    load: LoadArtifact | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, address: str) -> NodeHandle:
        """Return the node at ``address``, to be run on rows: ``plan["caption.img/resize"].head(rows)``.

        Raises:
            PlanError: No node has that address; the nearest is named.
        """
        return NodeHandle(self, self.graph[address])

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Why passes were skipped that planning can do without."""
        return tuple(step.skipped for step in self.steps if step.skipped is not None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(self._documents)

    def templates(self, task: str) -> tuple[tuple[Node, ...], ...]:
        """Return the nodes behind each template of ``task``: one document, or the halves of a pair."""
        return self._documents[task]

    def documents(self, task: str) -> tuple[Node, ...]:
        """Return the nodes that compose the documents of ``task``, in the order of its templates."""
        return tuple(node for nodes in self._documents[task] for node in nodes)

    def filters(self) -> Filters:
        """Return the filters that rows must pass, for each stored value and each task that reads it."""
        found: dict[Value, list[tuple[Value, ...]]] = {}
        for task in self.tasks:
            read = self.stored_of(task)
            filters = tuple(value for value, port in read.items() if port.startswith("keep."))
            for value in read:
                found.setdefault(value, []).append(filters)
        return found

    def stored_of(self, task: str) -> dict[Value, str]:
        """Return the stored values that the documents of ``task`` read, by the port they come in at.

        What goes through nodes of the loader first, as items of a group do, has the ports of all of them.
        """
        found: dict[Value, str] = {}
        for document in self.documents(task):
            for value, port in self._read_by(document):
                found.setdefault(value, port)
        return found

    def online_of(self, task: str) -> tuple[Value, ...]:
        """Return the values that the documents of ``task`` read and the loader computes, in every epoch."""
        nodes = [*self.documents(task)]
        found: dict[Value, None] = {}
        while nodes:
            for value in nodes.pop(0).inputs.values():
                maker = self.graph.nodes[value.node]
                if self.cut.stages[maker.id] is not Stage.ONLINE:
                    continue
                if self.catalogue[
                    maker.op
                ].traits.is_online:  # the loader's own, as what joins items
                    nodes.append(maker)
                else:
                    found[value] = None
        return tuple(found)

    def column_of(self, task: str, value: Value) -> str:
        """Return the name under which the loader reads ``value`` for ``task``.

        A stored column is one for all tasks. What is drawn is drawn for each task apart.
        """
        is_stored = self.cut.stages[value.node] is not Stage.ONLINE
        return value.column_id if is_stored else f"{value.column_id}@{task}"

    def sharing(self) -> Mapping[Value, Sequence[str]]:
        """The tasks that read each stored value, in their order."""
        found: dict[Value, list[str]] = {}
        for task in self.tasks:
            for value in self.stored_of(task):
                found.setdefault(value, []).append(task)
        return found

    @cached_property
    def _documents(self) -> Mapping[str, tuple[tuple[Node, ...], ...]]:
        found: dict[str, list[tuple[Node, ...]]] = {}
        for member in self.members.values():
            node = self.graph.nodes[member.document.node]
            templates = found.setdefault(member.task, [])
            if member.half == "right":  # it stands right behind the left one
                templates[-1] = (*templates[-1], node)
            else:
                templates.append((node,))
        return {task: tuple(templates) for task, templates in found.items()}

    def _read_by(self, node: Node, prefix: str = "") -> Iterator[tuple[Value, str]]:
        for port, value in node.inputs.items():
            if value in self.cut.stored:
                yield value, prefix + port
            elif self.cut.stages[value.node] is Stage.ONLINE:
                yield from self._read_by(self.graph.nodes[value.node], f"{prefix}{port}/")


def plan(  # noqa: PLR0913 - most are what is known already, and named
    tasks: Mixture | Task | Sequence[Task],
    mode: Mode = "train",
    *,
    model: ModelConfig | None = None,
    columns: Mapping[str, Mapping[str, str]] | None = None,
    pinned: Mapping[str, Pinned] | None = None,
    load: LoadArtifact | None = None,
    persist: Sequence[str] = (),
    layout: PackLayout = UNKNOWN,
    vocabulary: Vocabulary | None = None,
    has_device: bool = True,
) -> Plan:
    """Plan a mixture.

    Args:
        tasks: A mixture, or tasks to make one of.
        mode: ``"train"`` reads target slots, ``"infer"`` writes them.
        model: Sizes of the model.
        columns: Element types of the columns of each source, where sources are known.
        pinned: Artifacts that exist, by name.
        load: Returns the artifact of a kind and digest; plain text is folded with it.
        persist: Addresses of values to store beside those that must be.
        layout: How documents will lie in packs, where that is known.
        vocabulary: The blocks of ids of a model that exists; by default those that the tasks need.
        has_device: Whether to plan the device half. A build needs none, and without it no torch is loaded.

    Raises:
        TaskloomError: Some instructions are malformed or some tasks cannot be planned; all their
            problems are shown together.
    """
    mixture = as_mixture(tasks)
    recipes, catalogue = mixture.recipes(), whole_catalogue()
    planner = Planner(
        catalogue=catalogue, recipes=recipes, pinned=pinned or {}, is_inference=mode == "infer"
    )
    try:
        specs = _specs(mixture, mode, columns)
        planned = planner.plan(specs)
    except TaskloomError as error:
        raise tell_broken(error) from None
    vocabulary = vocabulary or Vocabulary.of(_blocks(specs, recipes, planned.blocks))
    outputs = (
        _add_device_half(planned, mode, model or ModelConfig(), vocabulary, layout)
        if has_device
        else {"pack": Value(add_pack(planned), "source_ids")}
    )
    if load is not None:
        _refuse_small_block(vocabulary, pinned or {}, load)
    drafted = planned.draft.graph({**outputs, **planned.fits})
    evaluate = None if load is None else _evaluator(load, catalogue)
    done = rewrite(drafted, catalogue, evaluate, persist)
    graph = done.graph
    packed = graph["pack"].inputs
    return Plan(
        mode=mode,
        graph=graph,
        cut=done.cut,
        segments=done.segments,
        members={n: replace(m, document=packed[n]) for n, m in planned.members.items()},
        scored=tuple(planned.scored),
        fits={name: graph.outputs[name] for name in planned.fits},
        vocabulary=vocabulary,
        catalogue=catalogue,
        load=load,
        steps=done.steps,
    )


def _add_device_half(
    planned: Planned, mode: Mode, config: ModelConfig, vocabulary: Vocabulary, layout: PackLayout
) -> Mapping[str, Value]:
    from ...ops.architecture import EncoderDecoder  # noqa: PLC0415 - it imports torch

    architecture = EncoderDecoder(config=config, vocabulary=vocabulary, layout=layout)
    return architecture.add(planned, is_inference=mode == "infer")


def _specs(
    mixture: Mixture, mode: Mode, columns: Mapping[str, Mapping[str, str]] | None
) -> list[TaskSpec]:
    specs: list[TaskSpec] = []
    problems: list[Problem] = []
    modalities = mixture.modalities()
    for task in mixture.tasks:
        try:
            is_bound = mode == "train" and task.source is not None
            source = task.named_source().name if is_bound else task.name
            spec = TaskSpec(
                name=task.name,
                instructions=task.parse(modalities),
                source=source,
                columns=(columns or {}).get(source) if is_bound else None,
                key=task.key or "",
                test=task.holdout,
                valid=task.valid,
                where=[_parse_filter(task, text) for text in task.filters],
                defaults=mixture.slots,
            )
            specs.append(spec)
        except TaskloomError as error:
            problems += error.problems
    if problems:
        raise PlanError(*problems)
    return specs


def _blocks(
    specs: Sequence[TaskSpec], recipes: Mapping[str, Recipe], last: Mapping[str, Block]
) -> tuple[Block, ...]:
    """Return the blocks of the modalities in use, in the order of ``recipes``: text first; then ``last``.

    A task more may thus put a block between two that were there. Parameters that are taken over follow by
    place.
    """
    slots = (slot for spec in specs for template in spec.instructions for slot in template.slots)
    used = {slot.modality for slot in slots} | {PROMPT_MODALITY}
    blocks = {name: one.blocks for name, one in recipes.items() if name in used}
    return gather_blocks({**blocks, "what is masked": [last[name] for name in sorted(last)]})


def _parse_filter(task: Task, text: str) -> tuple[str, Op]:
    try:
        return parse_where(text)
    except TaskloomError as error:
        raise error.at(address=f"{task.name}/where") from None


def _refuse_small_block(
    vocabulary: Vocabulary, pinned: Mapping[str, Pinned], load: LoadArtifact
) -> None:
    """Check that every id of the pinned vocabulary has a place in the model's.

    Raises:
        PlanError: It has more ids than the mixture says.
    """
    if BPE not in pinned:
        return
    bpe = load(pinned[BPE].kind, pinned[BPE].digest)
    assert isinstance(bpe, Bpe), "nothing else is pinned under the name"
    (size,) = (block.size for block in vocabulary.blocks if block.name == BLOCK)
    if bpe.size > size:
        message = f"{BPE} has {bpe.size:,} ids, and the mixture asks for {size:,}"
        help_ = f"set bpe_size={bpe.size}, or fit it again: taskloom fit PROJECT --again {BPE}"
        raise PlanError.of("T0228", message, help_)


def _evaluator(
    load: LoadArtifact, catalogue: Catalogue
) -> Callable[[Graph, Node], Sequence[int] | None]:
    """Return a function that computes constant ids, where the artifacts they need exist."""

    def evaluate(graph: Graph, node: Node) -> Sequence[int] | None:
        nodes = graph.needs([Value(node.id)])
        if any(_is_unknown(node, catalogue) for node in nodes):
            return None
        execution = Execution(graph, [node.id for node in nodes], catalogue, load)
        return execution.constant(Value(node.id))[0].as_py()

    return evaluate


def _is_unknown(node: Node, catalogue: Catalogue) -> bool:
    is_unpinned = node.op == "load_artifacts" and not node.params["digest"]
    return is_unpinned or catalogue[node.op].traits.rows is Rows.FIT
