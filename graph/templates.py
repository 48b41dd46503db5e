"""The templates of a task: instructions that ask for the same thing in several ways.

They fill their slots from the same rows, so a column has one modality in all of them. In their order they are
called ``caption:1``, ``caption:2``, and so on.

Source: OFASys, ``io/reader/utils.py``, for several templates of one task; there they are one text, with ``|||``
between them, which is understood here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from .errors import InstructionError, Problem, Site, Span
from .instruction import parse_instruction
from .legacy import BETWEEN_TEMPLATES
from .lexer import EDGES, make_printable, tokenize
from .modality import MODALITIES, Modality
from .syntax import Instruction, Slot

PROBLEMS: Final[Mapping[str, str]] = MappingProxyType({"T0129": "a task without a template"})
"""What can be wrong with templates alone, by code."""


def parse_instructions(
    texts: str | Sequence[str],
    *,
    label: str = "instruction",
    modalities: Mapping[str, Modality] = MODALITIES,
) -> tuple[Instruction, ...]:
    """Parse the templates of a task.

    Args:
        texts: One instruction, or a list of several; in one text, ``|||`` stands between them, with a warning.
        label: Name of the task; templates are called by it and their number.
        modalities: What slots may hold, and their attributes.

    Raises:
        InstructionError: There is no template, or something is wrong with some; all problems of all
            templates are shown together.
    """
    pieces, warning = _split(texts.strip(EDGES), label) if isinstance(texts, str) else (texts, None)
    if not pieces:
        message = f"{label}: there is no instruction"
        raise InstructionError.of("T0129", message, "give one, or a list of them")
    parsed: list[Instruction] = []
    problems: list[Problem] = []
    for number, text in enumerate(pieces, start=1):
        try:
            parsed.append(parse_instruction(text, label=f"{label}:{number}", modalities=modalities))
        except InstructionError as error:
            problems += error.problems
    problems += _disagreements(parsed)
    if problems:
        raise InstructionError(*problems)
    if warning is not None:
        parsed[0] = replace(parsed[0], warnings=(warning, *parsed[0].warnings))
    return tuple(parsed)


def _split(text: str, label: str) -> tuple[Sequence[str], Problem | None]:
    """Return the templates of one text, and a warning if there are several."""
    if BETWEEN_TEMPLATES not in text:
        return [text], None
    printable = make_printable(text)
    marks = [token.span for token in tokenize(printable) if token.text == BETWEEN_TEMPLATES]
    if not marks:
        return [text], None
    starts, stops = [0, *(mark.stop for mark in marks)], [*(mark.start for mark in marks), None]
    pieces = [text[start:stop] for start, stop in zip(starts, stops, strict=True)]
    advice = "write the templates as a list of instructions"
    message = f'"{BETWEEN_TEMPLATES}" stands between templates'
    sites = tuple(Site(label, printable, mark) for mark in marks)
    return pieces, Problem("T0128", message, advice, sites, severity="warning")


def _disagreements(instructions: Iterable[Instruction]) -> list[Problem]:
    """Return the problems of columns that have one modality in a template and another in a later one."""
    first: dict[str, tuple[Instruction, Slot]] = {}
    problems: list[Problem] = []
    for instruction in instructions:
        for slot in instruction.slots:
            other, before = first.setdefault(slot.name, (instruction, slot))
            if before.modality == slot.modality:
                continue
            message = (
                f'"{slot.name}" is {before.modality} in {other.label} and {slot.modality} here'
            )
            advice = "slots of one name are one column, and a column has one modality"
            sites = (_site(instruction, slot.name_span), _site(other, before.name_span))
            problems.append(Problem("T0111", message, advice, sites))
    return problems


def _site(instruction: Instruction, span: Span) -> Site:
    return Site(instruction.label, make_printable(instruction.text), span)
