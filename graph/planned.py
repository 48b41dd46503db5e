"""What goes into planning and what comes out: the tasks, and the host half of their graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from .draft import Draft
from .errors import Site
from .instruction import Instruction
from .node import Value
from .op import Op
from .recipe import Adapter, AttributeValue
from .type import ANY
from .vocabulary import Block

Half: TypeAlias = Literal["left", "right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What the planner must know of a task.

    Attributes:
        name: Name of the task, the first part of its nodes' addresses.
        instructions: The parsed instruction of each template.
        source: Row set: the name of the source.
        columns: Element type of every column of the source; None while no source is known.
        key: Column by whose hash rows are held out.
        test: Share of the keys that is held out for tests.
        valid: Share of the other keys that is held out for validation.
        where: Filters: a column, and the op that makes a boolean of it.
        defaults: Attributes by modality, for slots that do not set them.
    """

    name: str
    instructions: tuple[Instruction, ...]
    source: str
    columns: Mapping[str, str] | None = None
    key: str = ""
    test: float = 0.0
    valid: float = 0.0
    where: Sequence[tuple[str, Op]] = ()
    defaults: Mapping[str, Mapping[str, AttributeValue]] = field(
        default_factory=dict[str, Mapping[str, AttributeValue]]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A stream of tensors of one shape, and how it enters the model.

    Attributes:
        kind: What the tensors are, such as ``"image"``.
        dtype: Element type.
        shape: Shape of one tensor.
        length: Positions that each tensor takes in its document.
        adapter: The device op that makes them tokens.
    """

    kind: str
    dtype: str
    shape: tuple[int | str, ...]
    length: int
    adapter: Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One way in which the rows of a task become documents: a template, or one half of its pair.

    Attributes:
        task: Name of the task.
        document: The node that composes the documents.
        half: Which half of a contrastive pair it is; None for a document that stands for a row by itself.
    """

    task: str
    document: Value
    half: Half | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """The host half of a mixture.

    Attributes:
        draft: The nodes so far.
        members: The documents by the name of their port at the pack, in the order of the tasks.
        scored: Task and slot of everything whose loss is summed apart, in order; of a pair both slots.
        fits: The node of each artifact that is still to be fitted.
        lanes: The lanes of tensors that documents use.
        blocks: The blocks of ids that stand behind those of the modalities, by name.
    """

    draft: Draft
    members: dict[str, Member] = field(default_factory=dict[str, Member])
    scored: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    fits: dict[str, Value] = field(default_factory=dict[str, Value])
    lanes: dict[str, Lane] = field(default_factory=dict[str, Lane])
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])

    @property
    def documents(self) -> dict[str, Value]:
        """The documents by the name of their port at the pack."""
        return {name: member.document for name, member in self.members.items()}

    @property
    def has_pairs(self) -> bool:
        """Whether some task tells its pairs of values from others."""
        return any(member.half for member in self.members.values())

    @property
    def has_targets(self) -> bool:
        """Whether some task learns to write."""
        pairs = {member.task for member in self.members.values() if member.half}
        return any(task not in pairs for task, _ in self.scored)

    def read(self, spec: TaskSpec, column: str, address: str, site: Site) -> Value:
        """Return the values of a column of the source of ``spec``."""
        dtype = ANY if spec.columns is None else spec.columns[column]
        op = self.draft.catalogue["read_columns"](column=column, dtype=dtype)
        return self.draft.add(op, rows=spec.source, address=address, sites=[site])

    def substitute(self, became: Mapping[Value, Value]) -> None:
        """Read, where values of the draft have become others, what they became."""
        for name, member in self.members.items():
            if member.document in became:
                self.members[name] = replace(member, document=became[member.document])


def name_scored(scored: Sequence[tuple[str, str]]) -> list[str]:
    """Return what the losses of ``scored`` are called: the task, with the slot where it has several."""
    counts = Counter(task for task, _ in scored)
    return [task if counts[task] == 1 else f"{task}.{slot}" for task, slot in scored]
