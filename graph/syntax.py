"""The syntax tree of an instruction, and its canonical text.

A side of an instruction is a row of *items*: plain text, slots, groups, contrastive pairs. Two trees are equal
when they say the same; where in a text they stand (*spans*), and under what label, does not count. ``str`` of
an instruction parses back to an equal one.

Spaces next to brackets, parentheses of groups and arrows mean nothing; other spaces are kept as written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from .errors import Problem, Site, Span

NUMBER: Final = re.compile(
    r"[+-]?(?:[0-9]+(?P<real>\.[0-9]*)?|(?P<point>\.[0-9]+))(?P<e>[eE][+-]?[0-9]+)?"
)
"""An attribute's value that is a number; an integer if none of its groups matched."""

WORD: Final = re.compile(r"[\w.+/:-]+")
"""An attribute's value that needs no quotes."""

QUOTED_ESCAPES: Final = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
"""What a letter after a backslash stands for inside quotes."""

AttributeValue: TypeAlias = int | float | str | bool
Item: TypeAlias = "Text | Slot | Group | Contrast"

NOWHERE: Final = Span(0, 0)

_ESCAPED = re.compile(r"[\[\]\\]|->")
_QUOTE_ESCAPED = str.maketrans({value: f"\\{key}" for key, value in QUOTED_ESCAPES.items()})


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, the same for every row.

    Attributes:
        text: The text without its escapes, and without the spaces at its ends.
        span: Where it stands, escapes included.
    """

    text: str
    span: Span = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return _ESCAPED.sub(r"\\\g<0>", self.text)


@dataclass(frozen=True, slots=True)
class GivenAttribute:
    """One attribute as a slot gives it.

    Attributes:
        key: Its name.
        value: A number, text, or True for a key without a value.
        span: Where key and value stand.
    """

    key: str
    value: AttributeValue = True
    span: Span = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return self.key if self.value is True else f"{self.key}={_write_value(self.value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A named place for one value of one modality.

    Attributes:
        modality: Name of what it holds, such as ``"IMAGE"``.
        name: Column that fills the slot; made from the modality where the text has none.
        is_source: Whether the model reads the slot, rather than writes it.
        attributes: Attributes in the order given, each key once.
        span: The slot with its brackets.
        name_span: The name alone; the modality where the text has no name.
    """

    modality: str
    name: str
    is_source: bool
    attributes: tuple[GivenAttribute, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)
    name_span: Span = field(default=NOWHERE, compare=False)

    @property
    def values(self) -> dict[str, AttributeValue]:
        """The attributes' values by key."""
        return {attribute.key: attribute.value for attribute in self.attributes}

    def __str__(self) -> str:
        return f"[{','.join([f'{self.modality}:{self.name}', *map(str, self.attributes)])}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Items that repeat together, any number of times per row.

    Attributes:
        items: Text and slots, at least one slot among them.
        bracket: How it is written: ``"("`` for ``( … )*``, ``"["`` for ``[ … ]*``.
        span: The group with its brackets and star.
    """

    items: tuple[Text | Slot, ...]
    bracket: Literal["(", "["] = "("
    span: Span = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return f"{self.bracket}{_join(self.items)}{')*' if self.bracket == '(' else ']*'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two slots whose values belong together, against those of other rows.

    Attributes:
        left: One slot.
        right: The other.
        span: The pair with its brackets.
    """

    left: Slot
    right: Slot
    span: Span = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return f"[ {self.left} | {self.right} ]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What a task does, said in one line.

    Attributes:
        source: What the model reads.
        target: What the model writes.
        text: The line itself, without the white space at its ends; spans count its characters.
        label: What messages call it, such as ``"caption:1"``.
        warnings: Spellings that are understood, and what to write in their place.
    """

    source: tuple[Item, ...]
    target: tuple[Item, ...]
    text: str = field(default="", compare=False)
    label: str = field(default="", compare=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots, from left to right."""
        return self.sources + self.targets

    @property
    def sources(self) -> tuple[Slot, ...]:
        """The slots that the model reads, those in groups and pairs among them."""
        return tuple(_slots(self.source))

    @property
    def targets(self) -> tuple[Slot, ...]:
        """The slots that the model writes, those in groups and pairs among them."""
        return tuple(_slots(self.target))

    def site(self, span: Span) -> Site:
        """Return the place of ``span`` for a message."""
        return Site(self.label, self.text, span)

    def __str__(self) -> str:
        return f"{_join(self.source)} -> {_join(self.target)}".strip()


def _slots(items: Iterable[Item]) -> Iterator[Slot]:
    for item in items:
        match item:
            case Slot():
                yield item
            case Group(items=inner):
                yield from _slots(inner)
            case Contrast(left=left, right=right):
                yield from (left, right)
            case Text():
                pass


def _join(items: Iterable[Item]) -> str:
    return " ".join(map(str, items))


def _write_value(value: AttributeValue) -> str:
    if not isinstance(value, str):
        return repr(value)
    if WORD.fullmatch(value) and not NUMBER.fullmatch(value):
        return value
    return f'"{value.translate(_QUOTE_ESCAPED)}"'
