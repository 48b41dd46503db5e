"""What a task may write, as a language of ids, and what was written, as the values of its slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from ...graph.errors import PlanError
from ...graph.node import Node
from ...graph.vocabulary import EOS, Vocabulary
from ...ops.device.language import Diagram, Forced, Free, OneOf, Repeat, Some, Step, draw_languages
from ...ops.host.bpe import Bpe
from ...ops.host.closed_set import ClosedSet
from ...ops.recipe.text import BLOCK
from ..host.execute import LoadArtifact
from .planning import Plan
from .spelling import spell_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The target side of one task.

    Attributes:
        diagram: What may be written.
        slots: The slots that are written, in order; whether each repeats.
        blocks: Name of the block that the ids of each slot are of.
        bpe: The vocabulary of texts.
        vocabulary: The blocks of ids.
    """

    diagram: Diagram
    slots: Mapping[str, bool]
    blocks: Mapping[str, str]
    bpe: Bpe
    vocabulary: Vocabulary

    def read(self, ids: Sequence[int]) -> tuple[dict[str, str | list[str]], str]:
        """Return what ``ids`` say: the value of each slot, and the text of the only one or of all."""
        ids = ids[: ids.index(EOS)] if EOS in ids else ids
        values: dict[str, str | list[str]] = {
            s: [] if many else "" for s, many in self.slots.items()
        }
        said = self.diagram.read(self.diagram.roots[0], ids)
        num_items = max((each.item + 1 for each in said if each.item is not None), default=0)
        values |= {slot: [""] * num_items for slot, many in self.slots.items() if many}
        for slot, item, written in said:
            value, text = values[slot], self._spell(self.blocks[slot], written)
            if isinstance(value, str):
                values[slot] = value + text
            elif item is not None:
                value[item] = text
        only = next(iter(values.values())) if len(values) == 1 else None
        return values, only if isinstance(only, str) else self._spell_all(ids)

    def encode_prefix(self, text: str, max_length: int) -> tuple[int, ...]:
        """Return the ids that a target writes which begins with ``text``.

        Raises:
            PlanError: No target of at most ``max_length`` ids begins with it.
        """
        if not text:
            return ()
        (ids,) = self.bpe.encode(pa.array([text], pa.string()), dtype="uint32").to_pylist()
        prefix = tuple(self.vocabulary.offset(BLOCK) + id_ for id_ in ids)
        if len(prefix) >= max_length:
            message = f'"{text}" has {len(prefix)} ids, and at most {max_length} are written'
            raise PlanError.of("T0247", message, "raise max_length, which counts the end as well")
        check_prefix(self.diagram, prefix, text)
        return prefix

    def _spell_all(self, ids: Sequence[int]) -> str:
        """Return what ``ids`` of any blocks say, a space between what is of different ones."""
        known = {BLOCK, *self.blocks.values()}
        runs = groupby(ids, key=self.vocabulary.block_of)
        spelled = [self._spell(block, list(run)) for block, run in runs if block in known]
        return " ".join(spelled)

    def _spell(self, block: str, ids: Sequence[int]) -> str:
        """Return what those of ``ids`` say that are of ``block``."""
        numbers = np.array(ids, np.int64) - self.vocabulary.offset(block)
        size = self.bpe.size if block == BLOCK else self.vocabulary.size_of(block)
        return spell_ids(block, numbers[(numbers >= 0) & (numbers < size)], self.bpe)


def check_prefix(diagram: Diagram, prefix: Sequence[int], text: str) -> None:
    """Check that a target may begin with ``prefix``, which says ``text``.

    Raises:
        PlanError: It may not.
    """
    state = diagram.roots[0]
    for id_ in prefix:
        if (way := diagram.states[state].follow(id_)) is None:
            help_ = (
                "a closed set begins only as one of its answers does, id for id: give whole words"
            )
            raise PlanError.of("T0247", f'the task cannot begin with "{text}"', help_)
        state = way.state


def make_target(plan: Plan, task: str, load: LoadArtifact, bpe: Bpe) -> Target:
    """Return the target side of the first template of ``task`` in ``plan``, which is for inference.

    Raises:
        PlanError: The task writes nothing, nothing tells where one of its texts ends, or a closed set is not
            there.
    """
    maker = _Maker(plan, task, load, bpe, plan.vocabulary.offset(BLOCK))
    node = plan.documents(task)[0]
    steps = tuple(maker.steps(node, "target"))
    found = list(maker.slots(node, "target", repeats=False))
    slots = {entry["slot"]: repeats for entry, repeats in found}
    if not slots:
        message = f'task "{task}" writes nothing'
        raise PlanError.of("T0233", message, "its instruction has no slot right of the arrow")
    diagram = draw_languages([steps], num_ids=plan.vocabulary.size)
    return Target(
        diagram=diagram,
        slots=slots,
        blocks={entry["slot"]: entry["block"] for entry, _ in found},
        bpe=bpe,
        vocabulary=plan.vocabulary,
    )


@dataclass(frozen=True, slots=True)
class _Maker:
    plan: Plan
    task: str
    load: LoadArtifact
    bpe: Bpe
    offset: int

    def steps(self, node: Node, param: str) -> Iterator[Step]:
        """Yield the steps of the entries of ``node``, from the first that is written."""
        entries: Any = node.params[param]
        is_told = param == "target"  # what stands before the first slot is told, and no step
        for entry in entries:
            if "special" in entry:
                continue
            if "group" in entry:
                is_told = False
                inner = self.plan.graph.nodes[node.inputs[entry["port"]].node]
                yield Repeat(tuple(self.steps(inner, "items")))
            elif "port" not in entry:
                is_told = False
                yield self._slot(node, entry)
            elif not is_told:
                yield Forced(self._constant(node, entry))

    def slots(
        self, node: Node, param: str, *, repeats: bool
    ) -> Iterator[tuple[Mapping[str, Any], bool]]:
        """Yield the entries of slots that are written, and whether each repeats."""
        entries: Any = node.params[param]
        for entry in entries:
            if "group" in entry:
                inner = self.plan.graph.nodes[node.inputs[entry["port"]].node]
                yield from self.slots(inner, "items", repeats=True)
            elif "slot" in entry and "port" not in entry:
                yield entry, repeats

    def _slot(self, node: Node, entry: Mapping[str, Any]) -> Step:
        slot, offset = entry["slot"], self.offset
        if "answers" not in entry:
            block, vocabulary = entry["block"], self.plan.vocabulary
            size = self.bpe.size if block == BLOCK else vocabulary.size_of(block)
            first = vocabulary.offset(block)
            if count := entry.get("num_ids", 0):
                return Some(first=first, stop=first + size, count=count, slot=slot)
            return Free(first=first, stop=first + size, slot=slot)
        maker = self.plan.graph.nodes[node.inputs[entry["answers"]].node]
        try:
            closed = self.load("closed_set", str(maker.params["digest"]))
        except PlanError as error:
            address, sites = f"{self.task}.{slot}", tuple(sorted(node.note.sites))
            raise error.at(address=address, sites=sites) from None
        assert isinstance(closed, ClosedSet), "a closed set is loaded as one"
        answers = self.bpe.encode(pa.array(closed.answers, pa.string()), dtype="uint32")
        sequences = [tuple(offset + i for i in ids) for ids in answers.to_pylist()]
        return OneOf(sequences=tuple(sequences), slot=slot)

    def _constant(self, node: Node, entry: Mapping[str, Any]) -> tuple[int, ...]:
        maker = self.plan.graph.nodes[node.inputs[entry["port"]].node]
        assert maker.op == "make_ids", "plans for inference are folded"
        ids: Any = maker.params["ids"]
        first = self.plan.vocabulary.offset(entry["block"])
        return tuple(first + i for i in ids)
