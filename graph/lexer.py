"""An instruction's text, cut into tokens.

A *token* is the smallest piece with one meaning: an arrow, a bracket, a stretch of text. A slot is one token,
from its ``[`` to its ``]``: brackets with no brackets inside, other than in an attribute's quotes. Tokens
cover the text without gaps, and no text is wrong here: what is wrong is found by those who read the tokens,
and entered in `Findings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NamedTuple

from .errors import Problem, Site, Span

PROBLEMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "T0101": "the instruction is no text",
        "T0102": "line break or control character",
        "T0103": "unknown modality",
        "T0104": "no arrow, or several",
        "T0105": "both sides are empty",
        "T0106": "several templates in one instruction",
        "T0107": "bracket left open",
        "T0108": "bracket closed that was never opened",
        "T0109": "brackets that are no slot",
        "T0110": "malformed slot name",
        "T0111": "one name, two modalities",
        "T0112": "malformed attribute",
        "T0113": "attribute given twice",
        "T0114": "malformed quotes",
        "T0115": "unknown escape",
        "T0116": "brackets inside brackets",
        "T0117": "repetition without a group",
        "T0118": "unknown quantifier",
        "T0119": "malformed contrastive pair",
    }
)
"""What can be wrong with an instruction's text, by code."""

EDGES: Final = " \t\r\n"
"""White space that is no part of an instruction; a block of YAML ends with a line break."""

ESCAPES: Final = ("\\[", "\\]", "\\\\", "\\->")
"""What a backslash may stand before in plain text."""

_TOKEN = re.compile(
    r"""
    (?P<slot> \[
        (?: ,[^,=\[\]"]*=\s*"(?:[^"\\]|\\.)*"(?=\s*[,\]])   # an attribute in quotes
          | \\.
          | (?!->)[^\[\]\\]
        )*+                                                 # never tried again: linear time
        \]\*? )
  | (?P<arrow> -> )
  | (?P<escape> \\(?:->|.?) )
  | (?P<open> \[ )
  | (?P<close> \](?:\*+|[+{])? )
  | (?P<left> \( )
  | (?P<right> \)(?:\*+|[+{])? )
  | (?P<templates> \|{3,} )
  | (?P<bar> \| )
  | (?P<text> (?:[^\\\[\]()|-]|-(?!>))+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Token(NamedTuple):
    """One piece of an instruction's text.

    Attributes:
        kind: Name of a group of the token pattern, such as ``"slot"``.
        text: The piece as written.
        start: Where it begins in the instruction.
    """

    kind: str
    text: str
    start: int

    @property
    def span(self) -> Span:
        """Where it stands."""
        return Span(self.start, self.start + len(self.text))


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with one instruction, as far as it has been read.

    Attributes:
        label: What messages call the instruction.
        text: Its text, fit to be printed on one line.
        problems: What has been found.
        warnings: What is understood, and should be written in another way.
    """

    label: str
    text: str
    problems: list[Problem] = field(default_factory=list[Problem])
    warnings: list[Problem] = field(default_factory=list[Problem])

    def add(self, code: str, message: str, advice: str, *spans: Span) -> None:
        """Note that the text at the first of ``spans`` is wrong; the others help to see why."""
        assert code in PROBLEMS, f"{code} is not in the table of problems"
        self.place(Problem(code, message, advice), *spans)

    def place(self, problem: Problem, *spans: Span) -> None:
        """Note ``problem``, which has no place yet, at the first of ``spans``."""
        sites = tuple(Site(self.label, self.text, span) for span in spans)
        self.problems.append(replace(problem, sites=sites))

    def warn(self, code: str, message: str, advice: str, span: Span) -> None:
        """Note that the text at ``span`` should be written in another way."""
        site = Site(self.label, self.text, span)
        self.warnings.append(Problem(code, message, advice, (site,), severity="warning"))

    def in_order(self) -> list[Problem]:
        """Return the problems by where they stand."""
        return sorted(self.problems, key=lambda problem: problem.sites[0].span)


def tokenize(text: str) -> Iterator[Token]:
    """Yield the tokens of ``text``, which holds no control characters."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        assert kind is not None, "every alternative of the pattern is named"
        yield Token(kind, match[0], match.start())


def make_printable(text: str) -> str:
    """Return ``text`` with a visible mark for every line break and control character."""
    return _CONTROL.sub(lambda match: _mark(match[0]), text)


def check_controls(text: str, findings: Findings) -> str:
    """Note line breaks and control characters; return ``text`` with spaces in their place."""
    if first := _CONTROL.search(text):
        is_break = first[0] in "\n\r\u2028\u2029"
        what = "line break" if is_break else f"control character U+{ord(first[0]):04X}"
        count = len(_CONTROL.findall(text))
        message = f"{what} in an instruction" + (f", first of {count}" if count > 1 else "")
        advice = "an instruction is one line: put a space in its place"
        findings.add("T0102", message, advice, Span(*first.span()))
    return _CONTROL.sub(" ", text)


def _mark(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
