"""Texts: spelling values as text, and tidying text.

The spelling is canonical, so that a class is the same answer and a key the same key whether a
source holds it as text, as an integer or, because some row lacks it, as a float.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...graph.errors import OpError, Problem
from ...graph.op import Traits
from ...graph.type import ANY, Port, Signature
from ..by_hand import takes_columns
from ..errors import RowErrors, bad_row

TEXT = Port("text", "string")

MAX_EXACT = 2.0**53
"""Integers up to here have an exact float64."""

# Control characters that are no white space: white space becomes a space, these vanish.
_CONTROLS = r"[\x00-\x08\x0e-\x1f\x7f-\x{84}\x{86}-\x{9f}]+"
# White space that is no space.
_ODD_SPACE = r"\t\n\v\f\r\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\p{Zl}\p{Zp}\x{202f}\x{205f}\x{3000}"
# Runs of white space but those that are one space already: replacing these as well takes ten times as long.
_WHITE_SPACE = rf"[{_ODD_SPACE}][{_ODD_SPACE} ]*| [{_ODD_SPACE} ]+"
# Bytes that begin those of both beyond ASCII, and characters that are neither, such as dashes and kana.
_BEGINNINGS = (0xC2, 0xE1, 0xE2, 0xE3)
# Unicode's punctuation, the ASCII symbols that Python's string.punctuation counts as such, and the one
# letter whose normal form is among them.
_PUNCTUATION = r"[\p{P}$+<=>^`|~\x{1fef}]+"


@dataclass(frozen=True, slots=True)
class FormatTexts:
    """Spell numbers, booleans and texts as text: ``7`` for 7 and 7.0, ``true`` for True."""

    traits: ClassVar[Traits] = Traits("format_texts", version=1)

    @property
    def signature(self) -> Signature:
        """Any value in, its text out."""
        return Signature(inputs={"values": Port(ANY, ANY)}, outputs={"out": TEXT})

    @takes_columns
    def __call__(self, values: pa.Array) -> pa.Array:
        """Return ``values`` as ``string``.

        Raises:
            RowErrors: A number is NaN or infinite: no text says that a number is missing.
            OpError: The values are neither numbers, nor booleans, nor texts.
        """
        texts = spell_values(values)
        if pa.types.is_floating(values.type):
            is_finite = np.asarray(pc.is_finite(values))
            bad = np.flatnonzero(~is_finite).tolist()
            if bad:
                raise RowErrors({offset: _not_finite(values[offset]) for offset in bad})
        return texts


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizeTexts:
    """Bring texts into one form: NFC, no control characters, single spaces, none at the ends.

    Attributes:
        is_lowercase: Whether letters become lower case.
        has_punctuation: Whether punctuation stays. Without it ``don't`` becomes ``dont``, as in
            OFASys (``preprocessor/default/text.py``), whose ASCII list is extended by Unicode's.
    """

    is_lowercase: bool = False
    has_punctuation: bool = True
    traits: ClassVar[Traits] = Traits("normalize_texts", version=1)

    @property
    def signature(self) -> Signature:
        """Texts in, texts out."""
        return Signature(inputs={"texts": TEXT}, outputs={"out": TEXT})

    @takes_columns
    def __call__(self, texts: pa.Array) -> pa.Array:
        """Return the normalised ``texts``; a text may become empty."""
        if self.is_lowercase:
            texts = pc.utf8_lower(texts)
        if self.has_punctuation and _is_spaced(texts):
            return pc.ascii_trim(pc.utf8_normalize(texts, form="NFC"), " ")
        texts = pc.replace_substring_regex(texts, _CONTROLS, "")
        if not self.has_punctuation:
            texts = pc.replace_substring_regex(texts, _PUNCTUATION, "")
        # Only now: dropping a character may bring a letter and its accent together.
        texts = pc.utf8_normalize(texts, form="NFC")
        return pc.ascii_trim(pc.replace_substring_regex(texts, _WHITE_SPACE, " "), " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class StripTexts:
    """Take white space off the ends of texts, and leave what is between as it is.

    Source: OFASys, ``preprocessor/default/text.py``, which does no more to a text.

    Attributes:
        is_lowercase: Whether letters become lower case.
    """

    is_lowercase: bool = False
    traits: ClassVar[Traits] = Traits("strip_texts", version=1)

    @property
    def signature(self) -> Signature:
        """Texts in, texts out."""
        return Signature(inputs={"texts": TEXT}, outputs={"out": TEXT})

    @takes_columns
    def __call__(self, texts: pa.Array) -> pa.Array:
        """Return the stripped ``texts``; a text may become empty."""
        stripped = pc.utf8_trim_whitespace(texts)
        return pc.utf8_lower(stripped) if self.is_lowercase else stripped


def spell_values(values: pa.Array) -> pa.Array:
    """Return the canonical spelling of numbers, booleans and texts, as ``string``.

    Raises:
        OpError: The values are of another type.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not _has_spelling(values.type):
        message = f"values of type {values.type} cannot be written as text"
        raise OpError.of("T0306", message, "use a column of text, numbers or booleans")
    texts = values.cast(pa.string())
    if not pa.types.is_floating(values.type):
        return texts
    # Arrow spells 1e15 as "1e+15" and -0.0 as "-0", an integer column the same numbers otherwise.
    doubles = values.cast(pa.float64())
    is_whole = pc.and_(
        pc.equal(doubles, pc.trunc(doubles)), pc.less_equal(pc.abs(doubles), MAX_EXACT)
    )
    whole = pc.if_else(is_whole, doubles, 0.0).cast(pa.int64())
    return pc.if_else(is_whole, whole.cast(pa.string()), texts)


def _is_spaced(texts: pa.Array) -> bool:
    """Return whether the only white space and control characters are spaces that stand alone.

    Where a byte may begin another one it says no. Looking costs a tenth of replacing nothing.
    """
    offset = np.dtype(np.int64 if pa.types.is_large_string(texts.type) else np.int32)
    _, edges, content = texts.buffers()
    if not len(texts) or content is None:
        return True
    offsets = np.frombuffer(edges, offset, len(texts) + 1, texts.offset * offset.itemsize)
    values = np.frombuffer(content, np.uint8)[offsets[0] : offsets[-1]]
    is_space = values == ord(" ")
    # Spaces at the end of a text and at the start of the next count as two as well.
    is_odd = (values < ord(" ")) | (values == 0x7F)
    is_odd[1:] |= is_space[1:] & is_space[:-1]
    for byte in _BEGINNINGS:
        is_odd |= values == byte
    return not is_odd.any()


def _not_finite(value: pa.Scalar) -> Problem:
    message, help_ = "the number is not finite", "leave missing values empty, or filter with where="
    return bad_row("T0306", message, value, help_)


def _has_spelling(dtype: pa.DataType) -> bool:
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_null,
    )
    return any(test(dtype) for test in tests)
