"""Closed sets: the answers that a task may give.

The set is what the training rows answer. A held-out row with another answer could never be answered
rightly, so it is a bad row rather than a silent loss.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...graph.errors import OpError, Problem
from ...graph.op import Rows, Traits
from ...graph.type import Layout, Port, Signature
from ..by_hand import takes_columns
from ..errors import RowErrors, bad_row
from .split import SPLIT, TRAIN
from .text import TEXT

CLOSED_SET = Port("closed_set", "artifact", (), Layout.CONST)

MAX_COMPARED: Final = 2_000
"""Answers that a text outside the set is compared with, to name the nearest."""


@dataclass(frozen=True, slots=True)
class ClosedSet:
    """Some texts, each once, in order.

    Attributes:
        answers: The texts; sorted and made unique when the set is made.
    """

    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", tuple(sorted(set(self.answers))))

    @classmethod
    def from_bytes(cls, content: bytes) -> ClosedSet:
        """Return the set that `to_bytes` wrote as ``content``.

        Raises:
            OpError: ``content`` is no closed set.
        """
        try:
            answers: Any = json.loads(content)
        except ValueError:
            answers = None
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise OpError.of("T0309", "this is no closed set", "it is a JSON list of texts")
        return cls(tuple(answers))

    def to_bytes(self) -> bytes:
        """Return the set as JSON: equal sets give equal bytes."""
        return json.dumps(self.answers, separators=(",", ":"), ensure_ascii=False).encode()

    def nearest(self, text: str) -> str:
        """Return the answer that ``text`` most looks like, or an empty text when none is alike.

        In a large set only the answers about its place in the alphabet are compared.
        """
        start = max(0, bisect(self.answers, text) - MAX_COMPARED // 2)
        near = get_close_matches(text, self.answers[start : start + MAX_COMPARED], n=1, cutoff=0.5)
        return near[0] if near else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitClosedSet:
    """Gather the distinct texts of the training rows.

    Attributes:
        max_size: Most answers a closed set may have; more of them are rather free text.
    """

    max_size: int = 100_000
    traits: ClassVar[Traits] = Traits("fit_closed_set", version=1, rows=Rows.FIT)

    def __post_init__(self) -> None:
        if self.max_size < 1:
            raise OpError.of("T0307", f"max_size must be at least 1, got {self.max_size}")

    @property
    def signature(self) -> Signature:
        """Texts and the splits of their rows in, one closed set out."""
        return Signature(inputs={"texts": TEXT, "splits": SPLIT}, outputs={"out": CLOSED_SET})

    def observe(self, texts: pa.Array, splits: pa.Array) -> frozenset[str]:
        """Return the distinct ``texts`` of rows whose split is 0, training.

        Raises:
            OpError: They are more than `max_size`.
        """
        is_train = pa.array(np.asarray(splits) == TRAIN)
        return self._checked(frozenset(texts.filter(is_train).unique().to_pylist()))

    def merge(self, left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
        """Return the texts of both.

        Raises:
            OpError: They are more than `max_size`.
        """
        return self._checked(left | right)

    def finish(self, state: frozenset[str]) -> bytes:
        """Return the content of the `ClosedSet`.

        Raises:
            OpError: There are no texts.
        """
        if not state:
            message = "no training row has an answer, so nothing could ever be answered"
            raise OpError.of("T0310", message, "see that the source has training rows")
        return ClosedSet(tuple(state)).to_bytes()

    def _checked(self, answers: frozenset[str]) -> frozenset[str]:
        if len(answers) > self.max_size:
            message = f"the training rows have more than {self.max_size:,} distinct answers"
            raise OpError.of("T0310", message, "drop closed_set from the slot: this is free text")
        return answers


@dataclass(frozen=True, slots=True)
class RestrictTexts:
    """Let texts pass that belong to a closed set."""

    traits: ClassVar[Traits] = Traits("restrict_texts", version=1)

    @property
    def signature(self) -> Signature:
        """Texts and a closed set in, the same texts out."""
        return Signature(inputs={"texts": TEXT, "closed_set": CLOSED_SET}, outputs={"out": TEXT})

    @takes_columns
    def __call__(self, texts: pa.Array, closed_set: ClosedSet) -> pa.Array:
        """Return ``texts`` as they are.

        Raises:
            RowErrors: Some are not in the set.
        """
        answers = pa.array(closed_set.answers, pa.string())
        is_known = np.asarray(pc.is_in(texts, value_set=answers))
        if bad := np.flatnonzero(~is_known).tolist():
            reasons = _outside(texts.take(pa.array(bad)).to_pylist(), closed_set)
            raise RowErrors(dict(zip(bad, reasons, strict=True)))
        return texts


def _outside(texts: Sequence[str], closed_set: ClosedSet) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for text in texts:
        if text not in problems:
            near = closed_set.nearest(text)
            message = f'"{_shorten(text)}" is not in the closed set'
            message += f', the nearest answer is "{_shorten(near)}"' if near else ""
            help_ = "this label never occurs in training rows: mend it, or hold out other rows"
            problems[text] = bad_row("T0304", message, text, help_)
    return [problems[text] for text in texts]


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
