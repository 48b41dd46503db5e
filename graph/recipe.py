"""Recipes: what a modality's slot stands for.

A *recipe* adds a chain of host ops for one slot and returns a *part*: what the slot contributes to its side of
the document. To teach taskloom a modality is to write one recipe; the planner knows none by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .attribute import Attribute
from .draft import Draft
from .errors import Site
from .instruction import Slot
from .node import Value
from .op import Op
from .vocabulary import Block

AttributeValue: TypeAlias = int | float | str | bool
Fit: TypeAlias = Callable[[str, Op, Mapping[str, Value]], Value]
Make: TypeAlias = Callable[[Value, str], Value]
Beside: TypeAlias = Callable[[str, Make, Op], Value | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """How a lane of tensors enters the model.

    Attributes:
        op: Name in the catalogue of the device op that makes tokens of the tensors.
        params: Its parameters, without the model's width.
        scope: Name of its parameters.
    """

    op: str
    params: Mapping[str, int | float | str]
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one slot, or one stretch of plain text, contributes to a document.

    Attributes:
        value: Ragged ids, or dense tensors.
        block: Vocabulary block of the ids; empty for tensors.
        beyond: Block that ids past the end of ``block`` belong to, such as that of a mask; it stands behind
            the blocks of all modalities, so that no id moves when it comes.
        lane: Name of the stream of tensors; empty for ids.
        length: Positions that each tensor takes in the document.
        adapter: How the lane's tensors enter the model.
        answers: The closed set that the part is chosen from, on a target side.
        is_given: Whether a part of a target side is told to the model rather than learned.
        weight: Weight of the part in the loss, on a target side.
        has_ends: Whether ids are to stand between BOS and EOS. The first part of a run of ids decides.
        is_free: Whether a target part may be any ids, so that what follows must tell where it ends.
        num_ids: Ids that a target part always has, any of its block; 0 where they are not so many.
    """

    value: Value | None
    block: str = ""
    beyond: Block | None = None
    lane: str = ""
    length: int = 0
    adapter: Adapter | None = None
    answers: Value | None = None
    is_given: bool = False
    weight: float = 1.0
    has_ends: bool = True
    is_free: bool = False
    num_ids: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One slot to be planned.

    Attributes:
        draft: The graph in the making.
        slot: The slot of the instruction.
        attributes: Typed attributes, defaults filled in.
        column: The column that fills the slot; missing for a target slot at inference.
        splits: Which split each row belongs to; missing at inference.
        address: Address of the slot, such as ``caption.img``.
        site: Where the slot stands.
        fit: Returns the artifact of a name: pinned, or to be fitted by an op on some inputs.
        beside: Returns what a function makes of the column and the address of the instruction's first slot of
            a modality; nothing where no such slot stands beside this one, or around its group. For each item of
            a group an op repeats what was made of the row.
    """

    draft: Draft
    slot: Slot
    attributes: Mapping[str, AttributeValue]
    column: Value | None
    splits: Value | None
    address: str
    site: Site
    fit: Fit
    beside: Beside

    def chain(self, value: Value, step: str, op: Op, **more: Value) -> Value:
        """Add ``op`` after ``value`` under the slot's address and ``step``; return its output.

        The value feeds the op's first port; ``more`` feeds the others by name.
        """
        first = next(iter(op.signature.inputs))
        address = f"{self.address}/{step}"
        return self.draft.add(op, {first: value, **more}, address=address, sites=[self.site])


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRequest:
    """A stretch of plain text to be planned.

    Attributes:
        draft: The graph in the making.
        text: The text, as a constant.
        splits: Which split each row of the task belongs to; missing at inference.
        address: Address of the text, such as ``caption.text@10``.
        site: Where the text stands.
        fit: Returns the artifact of a name, as in `Request`.
    """

    draft: Draft
    text: Value
    splits: Value | None
    address: str
    site: Site
    fit: Fit


class Recipe(Protocol):
    """What a modality's slot stands for, on either side of the arrow."""

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes that the modality's slots understand."""
        ...

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of the vocabulary that the ids of its parts are relative to."""
        ...

    def source(self, request: Request) -> Part:
        """Plan a slot that the model reads."""
        ...

    def target(self, request: Request) -> Part:
        """Plan a slot that the model writes."""
        ...


class PromptRecipe(Recipe, Protocol):
    """The recipe that plain text follows as well."""

    def prompt(self, request: PromptRequest) -> Part:
        """Plan a stretch of plain text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """An artifact that exists.

    Attributes:
        kind: What it is, such as ``"bpe"``.
        digest: Digest of its content, which downstream keys hold.
    """

    kind: str
    digest: str
