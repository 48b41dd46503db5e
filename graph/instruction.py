r"""The text of an instruction becomes its syntax tree.

Grammar::

    instruction = side "->" side
    side        = { text | slot | group | pair }                      may be empty, but not both
    slot        = "[" MODALITY [ ":" name ] { "," key [ "=" value ] } "]"
    group       = "(" { text | slot } ")*"  |  "[" { text | slot } "]*"
    pair        = "[" slot "|" slot "]"
    value       = word | number | "quoted text"
    escapes     \[  \]  \\  \->

What a slot may hold, and which attributes it may have, says a table of `modality`, to which recipes add.

Parentheses are text unless ``)*`` closes them around a slot. Nothing else turns into text in silence: what has
the marks of a slot, a group, a pair or an arrow is one, or is refused. All that is wrong with a text is found
in one go.

Source: the slots of OFASys, section 3.1 (arXiv:2212.04408). Groups and pairs are documented there, but were
never built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .errors import InstructionError
from .lexer import EDGES, Findings, Token, check_controls, make_printable, tokenize
from .modality import MODALITIES, Modality
from .nesting import nest
from .slot import read_slot
from .syntax import (
    AttributeValue,
    Contrast,
    GivenAttribute,
    Group,
    Instruction,
    Item,
    Slot,
    Text,
)


def parse_instruction(
    text: str,
    *,
    label: str = "instruction",
    modalities: Mapping[str, Modality] = MODALITIES,
) -> Instruction:
    """Parse ``text``, such as ``"[IMAGE:img] what does the image describe? -> [TEXT:cap]"``.

    White space at the ends is dropped before spans are counted.

    Args:
        text: One line.
        label: What messages call it; by custom task and number, as in ``"caption:1"``.
        modalities: What slots may hold, and their attributes.

    Raises:
        InstructionError: With one problem for each thing that is wrong, in the order of the text.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        message = f"{label}: an instruction is text, got {type(text).__name__}"
        raise InstructionError.of("T0101", message, "write it as a string: source -> target")
    text = text.strip(EDGES)
    findings = Findings(label, make_printable(text))
    tokens = list(tokenize(check_controls(text, findings)))
    slots = _name_slots(_read_slots(tokens, findings, modalities))
    _check_names(slots, findings, modalities)
    source, target = nest(tokens, slots, findings, modalities)
    if findings.problems:
        raise InstructionError(*findings.in_order())
    warnings = tuple(findings.warnings)
    return Instruction(source=source, target=target, text=text, label=label, warnings=warnings)


def _read_slots(
    tokens: Iterable[Token], findings: Findings, modalities: Mapping[str, Modality]
) -> list[Slot]:
    slots: list[Slot] = []
    is_source = True
    for token in tokens:
        if token.kind == "arrow":
            is_source = False
        elif token.kind == "slot":
            slots.append(read_slot(token, findings, modalities, is_source=is_source))
    return slots


def _name_slots(slots: list[Slot]) -> list[Slot]:
    """Name the slots that have no name, such that no two of them meet by accident."""
    taken = {slot.name for slot in slots}
    named: list[Slot] = []
    for slot in slots:
        name, number = slot.name or slot.modality.lower(), 1
        while not slot.name and name in taken:
            number += 1
            name = f"{slot.modality.lower()}_{number}"
        taken.add(name)
        named.append(slot if slot.name else replace(slot, name=name))
    return named


def _check_names(slots: list[Slot], findings: Findings, modalities: Mapping[str, Modality]) -> None:
    first: dict[str, Slot] = {}
    for slot in slots:
        other = first.setdefault(slot.name, slot)
        known = {slot.modality, other.modality} <= modalities.keys()
        if known and slot.modality != other.modality:
            message = f'"{slot.name}" is {other.modality} before and {slot.modality} here'
            advice = "slots of one name are one column, and a column has one modality"
            findings.add("T0111", message, advice, slot.name_span, other.name_span)


__all__ = [
    "MODALITIES",
    "AttributeValue",
    "Contrast",
    "GivenAttribute",
    "Group",
    "Instruction",
    "Item",
    "Modality",
    "Slot",
    "Text",
    "parse_instruction",
]
