"""Tokens become the items of two sides: texts join, brackets nest.

A stack holds what is open, the side at its bottom. What turns out to open nothing is text if it is a
parenthesis, and wrong if it is a bracket. Items are kept however wrong they are, so that the rest is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from .errors import Span
from .lexer import ESCAPES, Findings, Token
from .modality import Modality
from .slot import ESCAPE_ADVICE, SLOT_ADVICE
from .syntax import Contrast, Group, Item, Slot, Text

Side: TypeAlias = tuple[Item, ...]

_BAR: Final = "|"


def nest(
    tokens: Iterable[Token],
    slots: Iterable[Slot],
    findings: Findings,
    modalities: Mapping[str, Modality],
) -> tuple[Side, Side]:
    """Return the items of source and target; they mean nothing if there are findings.

    Args:
        tokens: Tokens of the whole instruction.
        slots: What each slot token stands for, in order.
        findings: Takes what is wrong.
        modalities: What slots may hold.
    """
    return _Parser(findings, iter(slots), modalities).parse(tokens)


@dataclass(slots=True)
class _Frame:
    """A bracket or parenthesis that is still open, or a side of the instruction."""

    opener: Token | None
    items: list[Item] = field(default_factory=list[Item])

    def is_open(self, kind: str) -> bool:
        return self.opener is not None and self.opener.kind == kind


class _Parser:
    """Nests the items of an instruction: a stack of what is open, the side at its bottom."""

    def __init__(
        self, findings: Findings, slots: Iterator[Slot], modalities: Mapping[str, Modality]
    ) -> None:
        self.findings = findings
        self.slots = slots
        self.modalities = modalities
        self.arrows: list[Token] = []
        self.sides: list[tuple[Item, ...]] = []
        self.frames = [_Frame(None)]

    @property
    def items(self) -> list[Item]:
        """The items of what was opened last."""
        return self.frames[-1].items

    def parse(self, tokens: Iterable[Token]) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """Return source and target; they mean nothing if there were findings."""
        for token in tokens:
            self._take(token)
        self._finish_side()
        self._check_sides()
        return self.sides[0], self.sides[-1]

    def _take(self, token: Token) -> None:
        match token.kind:
            case "text" | "bar":
                self._take_text(token)
            case "slot":
                self._take_slot(token)
            case "arrow":
                self._end_side(token)
            case "escape":
                self._take_escape(token)
            case "templates":
                self._refuse_templates(token)
            case "open" | "left":
                self._open(token)
            case "close":
                self._close_bracket(token)
            case _:
                self._close_parenthesis(token)

    def _take_slot(self, token: Token) -> None:
        assert token.kind == "slot", "slots were read from these tokens, in this order"
        self.items.append(next(self.slots))

    def _take_text(self, token: Token) -> None:
        self.items.append(Text(token.text, token.span))

    def _take_escape(self, token: Token) -> None:
        if token.text not in ESCAPES:
            advice = r"the escapes are \[ \] \\ and \->; write \\ for a backslash"
            self.findings.add("T0115", f'unknown escape "{token.text}"', advice, token.span)
        self.items.append(Text(token.text[1:], token.span))

    def _refuse_templates(self, token: Token) -> None:
        advice = "give several templates as a list of instructions"
        self.findings.add("T0106", f'"{token.text}" in an instruction', advice, token.span)
        self._take_text(token)

    def _open(self, token: Token) -> None:
        self.frames.append(_Frame(token))

    def _end_side(self, token: Token) -> None:
        self.arrows.append(token)
        self._finish_side()

    def _finish_side(self) -> None:
        self._abandon_until(None)
        self.sides.append(_merge_texts(self.frames.pop().items))
        self.frames = [_Frame(None)]

    def _abandon_until(self, kind: str | None) -> None:
        """Close what has no end: parentheses are text then, brackets are wrong."""
        while (opener := self.frames[-1].opener) is not None and opener.kind != kind:
            if opener.kind == "open":
                advice = f'close it with "]"\n{ESCAPE_ADVICE}'
                self.findings.add("T0107", 'a "[" that is never closed', advice, opener.span)
            self._spread(self.frames.pop())

    def _spread(self, frame: _Frame, *closer: Token) -> None:
        """Make the marks of ``frame`` text of what it stands in, and its items items of it."""
        assert frame.opener is not None, "sides stand in nothing"
        self._take_text(frame.opener)
        self.items.extend(frame.items)
        for token in closer:
            self._take_text(token)

    def _close_parenthesis(self, token: Token) -> None:
        quantifier, frame = token.text[1:], self.frames[-1]
        if not frame.is_open("left"):
            self._take_text(token)
            if quantifier == "*":
                advice = 'write "(" where the group begins, or put a space before the "*"'
                self.findings.add("T0108", 'a ")*" that ends no group', advice, token.span)
            return
        self.frames.pop()
        if not quantifier or all(isinstance(item, Text) for item in frame.items):
            self._spread(frame, token)
        else:
            self._check_quantifier(token)
            self._add_group(frame, token, "(")

    def _close_bracket(self, token: Token) -> None:
        if not any(frame.is_open("open") for frame in self.frames):
            advice = r"write \] for a bracket in the text"
            span = Span(token.start, token.start + 1)
            self.findings.add("T0108", 'a "]" that closes nothing', advice, span)
            self._take_text(token)
            return
        self._abandon_until("open")
        frame = self.frames.pop()
        if any(isinstance(item, Text) and item.text == _BAR for item in frame.items):
            self._add_contrast(frame, token)
        elif token.text == "]":
            self._refuse_nesting(frame, token)
        else:
            self._check_quantifier(token)
            self._add_group(frame, token, "[")

    def _check_quantifier(self, token: Token) -> None:
        if (quantifier := token.text[1:]) != "*":
            advice = (
                f'groups repeat with "*"; for a "{quantifier}" in the text, put a space before it'
            )
            message = f'unknown quantifier "{quantifier}"'
            self.findings.add("T0118", message, advice, Span(token.start + 1, token.span.stop))

    def _add_group(self, frame: _Frame, closer: Token, bracket: Literal["(", "["]) -> None:
        items: list[Text | Slot] = []
        for item in _merge_texts(frame.items):
            if isinstance(item, Text | Slot):
                items.append(item)
            else:
                what = type(item).__name__.lower()
                advice = "a group holds text and slots"
                self.findings.add("T0116", f"a {what} inside a group", advice, item.span)
        if bracket == "[" and self._begins_like_slot(items):
            self._refuse_nesting(frame, closer)
            return
        self.items.append(Group(items=tuple(items), bracket=bracket, span=_between(frame, closer)))

    def _add_contrast(self, frame: _Frame, closer: Token) -> None:
        items = [i for i in frame.items if not (isinstance(i, Text) and i.text.isspace())]
        match items:
            case [Slot() as left, Text(), Slot() as right] if closer.text == "]":
                self.items.append(Contrast(left=left, right=right, span=_between(frame, closer)))
            case _:
                message = "a contrastive pair that is not two slots"
                if closer.text != "]":
                    message = 'a "|" in a group in brackets'
                advice = "a pair is [ [IMAGE:img] | [TEXT:cap] ]\na group with a | in it is ( … )*"
                self.findings.add("T0119", message, advice, _between(frame, closer))
                self.items.extend(items)

    def _refuse_nesting(self, frame: _Frame, closer: Token) -> None:
        if self._begins_like_slot(frame.items):
            message, advice = "a slot with brackets inside", f"{SLOT_ADVICE}\n{ESCAPE_ADVICE}"
        else:
            message = "brackets around brackets"
            advice = 'a group ends with "]*", a pair of slots has a "|" between them'
            advice += f"\n{ESCAPE_ADVICE}"
        self.findings.add("T0116", message, advice, _between(frame, closer))
        self.items.extend(frame.items)

    def _begins_like_slot(self, items: Sequence[Item]) -> bool:
        heads = tuple(f"{modality}{mark}" for modality in self.modalities for mark in ":,")
        first = items[0] if items else None
        return isinstance(first, Text) and first.text.lstrip().startswith(heads)

    def _check_sides(self) -> None:
        whole = Span(0, len(self.findings.text))
        if not self.arrows:
            advice = "write source -> target"
            self.findings.add("T0104", 'an instruction has one "->", this one none', advice, whole)
        for arrow in self.arrows[1:]:
            message = f'an instruction has one "->", this one {len(self.arrows)}'
            self.findings.add("T0104", message, r"write \-> for an arrow in the text", arrow.span)
        if self.arrows and not any(self.sides):
            message, advice = "both sides of the arrow are empty", "write source -> target"
            self.findings.add("T0105", message, advice, self.arrows[0].span)


def _between(frame: _Frame, closer: Token) -> Span:
    return Span(frame.opener.start if frame.opener else closer.start, closer.span.stop)


def _merge_texts(items: Iterable[Item]) -> tuple[Item, ...]:
    """Join neighbouring texts, and drop the spaces at their ends."""
    merged: list[Item] = []
    for item in items:
        last = merged[-1] if merged else None
        if isinstance(item, Text) and isinstance(last, Text):
            merged[-1] = Text(last.text + item.text, Span(last.span.start, item.span.stop))
        else:
            merged.append(item)
    return tuple(
        _strip(item) if isinstance(item, Text) else item
        for item in merged
        if not isinstance(item, Text) or item.text.strip()
    )


def _strip(text: Text) -> Text:
    # Spaces have no escape: as many characters leave the span as leave the text.
    start = text.span.start + len(text.text) - len(text.text.lstrip())
    stop = text.span.stop - len(text.text) + len(text.text.rstrip())
    return Text(text.text.strip(), Span(start, stop))
