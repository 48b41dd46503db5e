r"""The inside of one slot's brackets: ``MODALITY [":" name] {"," key ["=" value]}``.

A value is a word, a number, or text in double quotes, where ``\"``, ``\\``, ``\n`` and ``\t`` are escapes.
White space around the marks means nothing. A slot is always returned, however wrong, so that what follows it
is checked as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .attribute import check_attribute
from .errors import Problem, Span, suggest
from .legacy import LEGACY_ATTRIBUTES, LEGACY_MODALITIES, SILENT_ATTRIBUTES
from .lexer import Findings, Token
from .modality import Modality
from .syntax import NUMBER, QUOTED_ESCAPES, WORD, AttributeValue, GivenAttribute, Slot

SLOT_ADVICE: Final = "a slot is [MODALITY:name], such as [IMAGE:img]"
ESCAPE_ADVICE: Final = r"for brackets in the text write \[ and \]"

_NAME = re.compile(r"[A-Za-z0-9_]+")
_HEAD = re.compile(r"(?P<modality>[^:,]*)(?P<colon>:(?P<name>[^,]*))?")
# Always matches at a comma: at worst the "word" is all up to the next one.
_ATTRIBUTE = re.compile(
    r""",(?P<key>[^,=]*)(?P<equals>=\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")\s*|(?P<word>[^,]*)))?(?=,|$)"""
)
_QUOTED_START = re.compile(r'"(?:[^"\\]|\\.)*"')
_QUOTED_ESCAPE = re.compile(r"\\(.)")


def read_slot(
    token: Token, findings: Findings, modalities: Mapping[str, Modality], *, is_source: bool
) -> Slot:
    """Read a slot token; the name is empty if the slot has none."""
    body = _Body(token.text.removesuffix("*")[1:-1], token.start + 1, findings, modalities)
    head = _HEAD.match(body.text)
    assert head is not None, "the pattern matches nothing at all as well"
    modality, name = _read_modality(body, head), (head["name"] or "").strip()
    slot = Slot(
        modality=modality,
        name=name,
        is_source=is_source,
        span=token.span,
        name_span=body.span(head, "name" if name else "modality"),
    )
    if not _check_brackets(slot, token, body, findings) or not _check_modality(slot, body, head):
        return slot
    _check_name(slot, body, head)
    return _with_attributes(slot, body, head.end())


@dataclass(frozen=True, slots=True)
class _Body:
    """What stands between a slot's brackets, and where it begins in the instruction."""

    text: str
    start: int
    findings: Findings
    modalities: Mapping[str, Modality]

    def span(self, match: re.Match[str], group: str | int = 0) -> Span:
        """Return where a group stands in the instruction, without the spaces around it."""
        start, stop = match.span(group)
        while start < stop and self.text[start].isspace():
            start += 1
        while start < stop and self.text[stop - 1].isspace():
            stop -= 1
        return Span(self.start + start, self.start + stop)


def _read_modality(body: _Body, head: re.Match[str]) -> str:
    """Return our name of the modality, with a warning if the text has another."""
    written = head["modality"].strip()
    if written in body.modalities or LEGACY_MODALITIES.get(written) not in body.modalities:
        return written
    modality = LEGACY_MODALITIES[written]
    advice = f"write {modality}"
    body.findings.warn(
        "T0127", f"{written} is {modality} here", advice, body.span(head, "modality")
    )
    return modality


def _check_brackets(slot: Slot, token: Token, body: _Body, findings: Findings) -> bool:
    """Refuse brackets of which nothing can be read."""
    if token.text.endswith("*"):
        return _refuse_star(slot, token, body)
    if not body.text.strip():
        findings.add("T0109", "empty brackets", f"{SLOT_ADVICE}\n{ESCAPE_ADVICE}", token.span)
        return False
    if "|" in slot.modality + slot.name:
        advice = "each slot of a pair has brackets of its own: [ [IMAGE:img] | [TEXT:cap] ]"
        findings.add("T0119", 'one pair of brackets around a "|"', advice, token.span)
        return False
    return True


def _refuse_star(slot: Slot, token: Token, body: _Body) -> bool:
    if slot.modality not in body.modalities:
        advice = f"{SLOT_ADVICE}\n{ESCAPE_ADVICE}"
        body.findings.add("T0117", "a group without a slot", advice, token.span)
        return False
    advice = (
        f'to repeat it, write ({token.text[:-1]})*\nfor a "*" in the text, put a space before it'
    )
    body.findings.add("T0117", 'a slot with a "*" but no group around it', advice, token.span)
    return True


def _check_modality(slot: Slot, body: _Body, head: re.Match[str]) -> bool:
    """Refuse a modality that does not exist; False if the brackets do not even look like a slot."""
    if slot.modality in body.modalities:
        return True
    if not slot.modality.isidentifier():
        advice = f"{SLOT_ADVICE}\n{ESCAPE_ADVICE}"
        body.findings.add("T0109", "brackets that are no slot", advice, slot.span)
        return False
    advice = suggest(slot.modality, body.modalities)
    if not advice.startswith("did"):
        advice += f"\n{ESCAPE_ADVICE}"
    message = f'unknown modality "{slot.modality}"'
    body.findings.add("T0103", message, advice, body.span(head, "modality"))
    return True


def _check_name(slot: Slot, body: _Body, head: re.Match[str]) -> None:
    if head["colon"] is None or _NAME.fullmatch(slot.name):
        return
    if slot.name:
        message = f'malformed slot name "{slot.name}"'
        advice = "a name is made of the letters A to Z and a to z, digits and _"
        body.findings.add("T0110", message, advice, slot.name_span)
    else:
        advice = f"write [{slot.modality}:name], or [{slot.modality}] alone"
        body.findings.add("T0110", 'no name after ":"', advice, body.span(head, "colon"))


def _with_attributes(slot: Slot, body: _Body, start: int) -> Slot:
    if start == len(body.text):
        return slot
    modality = body.modalities.get(slot.modality)
    attributes: dict[str, GivenAttribute] = {}
    for match in _ATTRIBUTE.finditer(body.text, start):
        key, value = _read_key(modality, body, match), _read_value(body, match)
        if key is None:
            continue
        span = Span(body.span(match, "key").start, body.span(match).stop)
        given = GivenAttribute(key, True if value is None else value, span)
        if key in attributes:
            message = f'attribute "{key}" is given twice'
            body.findings.add("T0113", message, "drop one of them", span, attributes[key].span)
        attributes.setdefault(key, given)
        if modality is not None:
            is_readable = value is not None
            _check_meaning(given, slot, modality, body, is_readable=is_readable)
    return Slot(
        modality=slot.modality,
        name=slot.name,
        is_source=slot.is_source,
        attributes=tuple(attributes.values()),
        span=slot.span,
        name_span=slot.name_span,
    )


def _check_meaning(
    given: GivenAttribute, slot: Slot, modality: Modality, body: _Body, *, is_readable: bool
) -> None:
    """Check an attribute against those of the modality, its value too if that could be read."""
    spec = modality.attributes.get(given.key)
    if spec is None:
        body.findings.place(modality.refuse(given.key, body.modalities.values()), given.span)
    elif is_readable:
        value = check_attribute(given, spec, is_source=slot.is_source)
        if isinstance(value, Problem):
            body.findings.place(value, given.span)


def _read_key(modality: Modality | None, body: _Body, match: re.Match[str]) -> str | None:
    """Return the name of an attribute, ours in place of a legacy one; None if there is none to keep."""
    key = match["key"].strip()
    if _NAME.fullmatch(key):
        if modality is None or key in modality.attributes:
            return key
        return _modernize(key, modality.attributes, body, match)
    if key:
        message = f'malformed attribute name "{key}"'
        advice = "a name is made of the letters A to Z and a to z, digits and _"
        body.findings.add("T0112", message, advice, body.span(match, "key"))
    else:
        message = "an attribute without a name" if match["equals"] else "an empty attribute"
        body.findings.add("T0112", message, 'drop the "," or write key=value', body.span(match))
    return None


def _modernize(
    key: str, known: Mapping[str, object], body: _Body, match: re.Match[str]
) -> str | None:
    span = body.span(match, "key")
    ours = LEGACY_ATTRIBUTES.get(key)
    if ours in known:
        body.findings.warn("T0125", f"{key} is {ours} here", f"write {ours}", span)
        return ours
    if mark := SILENT_ATTRIBUTES.get(key):
        advice = f"drop it: there is always {mark}, save with disable_auto_boseos"
        body.findings.warn("T0126", f"{key} says nothing", advice, span)
        return None
    return key


def _read_value(body: _Body, match: re.Match[str]) -> AttributeValue | None:
    if match["equals"] is None:
        return True
    if match["quoted"] is not None:
        return _unquote(body, match)
    word = match["word"].strip()
    if number := NUMBER.fullmatch(word):
        return _read_number(body, match, number)
    if WORD.fullmatch(word):
        return word
    _refuse_value(body, match, word)
    return None


def _unquote(body: _Body, match: re.Match[str]) -> str | None:
    quoted = match["quoted"][1:-1]
    start = body.start + match.start("quoted") + 1
    wrong = [e for e in _QUOTED_ESCAPE.finditer(quoted) if e[1] not in QUOTED_ESCAPES]
    for escape in wrong:
        span = Span(start + escape.start(), start + escape.end())
        advice = r"in quotes, a backslash stands before \", \\, n or t; write \\ for a backslash"
        body.findings.add("T0115", f'unknown escape "{escape[0]}"', advice, span)
    return None if wrong else _QUOTED_ESCAPE.sub(lambda e: QUOTED_ESCAPES[e[1]], quoted)


def _read_number(body: _Body, match: re.Match[str], number: re.Match[str]) -> int | float | None:
    value: int | float = float(number[0])
    if math.isfinite(value) and not any(number.groups()):
        value = int(number[0])
    if math.isinf(value) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63):
        advice = "whole numbers have 64 bits, others are double-precision; quote what is no number"
        body.findings.add("T0112", "number out of range", advice, body.span(match, "word"))
        return None
    return value


def _refuse_value(body: _Body, match: re.Match[str], word: str) -> None:
    key, span = match["key"].strip(), body.span(match, "word")
    if not word:
        message, advice = f'no value after "{key}="', 'write one, or leave the "=" out'
        body.findings.add("T0112", message, advice, body.span(match, "equals"))
    elif _QUOTED_START.match(word):
        advice = r"write \" for a quote inside the value"
        body.findings.add("T0114", "text after a closing quote", advice, span)
    elif word.startswith('"'):
        body.findings.add("T0114", "a quote that is never closed", 'end the value with "', span)
    else:
        advice = f"put it in quotes: {GivenAttribute(key, word)}"
        body.findings.add("T0112", f'malformed value "{word}"', advice, span)
