"""Byte-level BPE: texts as ids of a fitted vocabulary, and back.

Every text is a string of bytes, 256 ids stand for the bytes, and each further id for two shorter ones
that stood together often. So nothing is ever unknown, and decoding gives back the text exactly.

Each text is encoded with one space before it, so that a word is the same ids at the start of a text
as inside it.

Source: GPT-2, section 2.2, for byte-level BPE and its splitting into words; OFASys,
``preprocessor/default/text.py``, for the space.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ...graph.errors import OpError
from ...graph.op import Rows, Traits
from ...graph.type import ANY, Layout, Port, Signature
from ..by_hand import takes_columns
from .split import TRAIN
from .text import TEXT

BPE = Port("bpe", "artifact", (), Layout.CONST)

NUM_BYTES: Final = 256
MAX_WORDS: Final = 5_000_000
"""Words, with repeats, that a vocabulary is fitted on; counts of larger corpora are scaled down."""

_ALPHABET: Final = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))
# The space before a text is ours, so that it is there for texts that begin with one as well.
_WORDS: Final = pre_tokenizers.ByteLevel(add_prefix_space=False)


@dataclass(frozen=True, slots=True)
class Bpe:
    """A vocabulary of byte strings.

    Attributes:
        content: The vocabulary as the JSON of a `tokenizers.Tokenizer`, in canonical form.
    """

    content: bytes = field(repr=False)
    _tokenizer: Tokenizer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            tokenizer = Tokenizer.from_str(self.content.decode())
        except Exception as error:  # noqa: BLE001 - the library raises no other
            message, help_ = "this is no BPE vocabulary", f"tokenizers says: {error}"
            raise OpError.of("T0309", message, help_) from None
        object.__setattr__(self, "_tokenizer", tokenizer)

    def __reduce__(self) -> tuple[type[Bpe], tuple[bytes]]:
        return Bpe, (self.content,)

    @classmethod
    def from_bytes(cls, content: bytes) -> Bpe:
        """Return the vocabulary that `to_bytes` wrote as ``content``.

        Raises:
            OpError: ``content`` is no vocabulary.
        """
        return cls(content)

    @classmethod
    def from_files(cls, vocab_json: str | Path, merges_txt: str | Path) -> Bpe:
        """Return the vocabulary of files in the form that GPT-2's have.

        Args:
            vocab_json: JSON object from token to id, such as GPT-2's ``encoder.json``.
            merges_txt: One merge a line, commonest first, such as GPT-2's ``vocab.bpe``.

        Raises:
            OpError: The files do not describe a byte-level vocabulary, or not the same one.
        """
        try:
            vocab: Any = json.loads(Path(vocab_json).read_text(encoding="utf-8"))
            ids = sorted(vocab.values())
            missing = [letter for letter in _ALPHABET if letter not in vocab]
            merges = _read_merges(Path(merges_txt).read_text(encoding="utf-8"))
            model = models.BPE(vocab=vocab, merges=merges)
        except Exception as error:  # noqa: BLE001 - the library raises no other
            raise _bad_files(vocab_json, merges_txt, str(error)) from None
        if ids != list(range(len(ids))):
            raise _bad_files(vocab_json, merges_txt, "the ids are not 0, 1, 2 and so on")
        if missing:
            reason = f"{len(missing)} of the {NUM_BYTES} bytes have no id"
            raise _bad_files(vocab_json, merges_txt, reason)
        return _from_model(model)

    def to_bytes(self) -> bytes:
        """Return the content: equal vocabularies give equal bytes."""
        return self.content

    @property
    def size(self) -> int:
        """Number of ids."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: pa.Array, *, dtype: str = "uint16") -> pa.ListArray:
        """Return the ids of each text, relative to the vocabulary's first.

        Args:
            texts: Texts without nulls, as ``string``.
            dtype: ``"uint8"``, ``"uint16"`` or ``"uint32"``.

        Raises:
            OpError: The vocabulary has more ids than ``dtype`` has numbers.
        """
        if self.size - 1 > np.iinfo(dtype).max:
            message = f"a vocabulary of {self.size:,} ids does not fit {dtype}"
            raise OpError.of("T0309", message, "use uint32, or a smaller vocabulary")
        # Labels repeat all the time, and finding out costs a thousandth of what encoding does.
        distinct = texts.dictionary_encode()
        lists = self._encode(distinct.dictionary.to_pylist(), dtype)
        return lists if len(lists) == len(texts) else lists.take(distinct.indices)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of ``ids``, without the space that `encode` puts before it.

        Bytes that are no UTF-8, which a model may well write, become U+FFFD.

        Raises:
            OpError: An id is not in the vocabulary.
        """
        numbers = np.asarray(ids, np.int64)
        if outside := numbers[(numbers < 0) | (numbers >= self.size)].tolist():
            message = f"id {outside[0]} is outside a vocabulary of {self.size:,}"
            raise OpError.of("T0309", message)
        text = self._tokenizer.decode(numbers.tolist(), skip_special_tokens=False)
        return text.removeprefix(" ")

    def _encode(self, texts: Sequence[str], dtype: str) -> pa.ListArray:
        spaced = [f" {text}" for text in texts]
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(spaced)]
        offsets = np.zeros(len(encoded) + 1, np.int32)
        np.cumsum([len(ids) for ids in encoded], out=offsets[1:])
        ids = np.fromiter(chain.from_iterable(encoded), dtype, count=int(offsets[-1]))
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class FitBpe:
    """Fit a vocabulary on the training rows of any number of inputs.

    Inputs come in groups ``texts.0, splits.0, texts.1, splits.1, ...``. Each is observed on its own, a
    record batch at a time, and what was observed is merged, in whatever order: the result depends on
    the words and their counts alone.

    Attributes:
        size: Number of ids, at least the 256 of the bytes. Where too few pairs stand together twice
            the vocabulary stays smaller.
    """

    size: int = 4096
    # Splitting texts into words makes a Python object of each.
    traits: ClassVar[Traits] = Traits("fit_bpe", version=1, rows=Rows.FIT, releases_gil=False)

    def __post_init__(self) -> None:
        if self.size < NUM_BYTES:
            message = f"a byte-level vocabulary has at least {NUM_BYTES} ids, got {self.size}"
            raise OpError.of("T0307", message)

    @property
    def signature(self) -> Signature:
        """Any number of texts, each with the splits of its rows, in; one vocabulary out."""
        any_port = Port(ANY, ANY, (), Layout.ANY)
        return Signature(inputs={}, outputs={"out": BPE}, variadic=any_port)

    def observe(self, texts: pa.Array, splits: pa.Array) -> Counter[str]:
        """Return how often each word occurs in training rows.

        Args:
            texts: One text a row; or a single text, which then stands in every row.
            splits: Split of each row; 0 is training.
        """
        is_train = np.asarray(splits) == TRAIN
        if len(texts) == 1:
            return _count_words(texts[0].as_py(), int(is_train.sum()))
        counted = texts.filter(pa.array(is_train)).value_counts()
        words: Counter[str] = Counter()
        for text, count in zip(*(part.to_pylist() for part in counted.flatten()), strict=True):
            words.update(_count_words(text, count))
        return words

    def merge(self, left: Counter[str], right: Counter[str]) -> Counter[str]:
        """Return the counts of both."""
        # Copied whole and then counted up by the smaller: `left + right` walks both word by word.
        few, many = sorted((left, right), key=len)
        merged = Counter(many)
        merged.update(few)
        return merged

    def finish(self, state: Counter[str]) -> bytes:
        """Return the content of the fitted `Bpe`."""
        trainer = trainers.BpeTrainer(
            vocab_size=self.size,
            min_frequency=2,
            initial_alphabet=list(_ALPHABET),
            show_progress=False,
        )
        # With no pre-tokenizer every item is one word: they were split when they were observed.
        tokenizer = Tokenizer(models.BPE())
        tokenizer.train_from_iterator(_repeat(state), trainer)
        return _from_model(tokenizer.model).content


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeTexts:
    """Write texts as ids.

    Attributes:
        dtype: Type of an id: ``"uint8"``, ``"uint16"`` or ``"uint32"``.
        max_length: Ids that are kept of each text, from its start; None keeps all.
    """

    dtype: str = "uint16"
    max_length: int | None = None
    traits: ClassVar[Traits] = Traits("encode_texts", version=1, libraries=("tokenizers",))

    def __post_init__(self) -> None:
        if self.dtype not in ("uint8", "uint16", "uint32"):
            raise OpError.of("T0307", f"ids are uint8, uint16 or uint32, got {self.dtype}")
        if self.max_length is not None and self.max_length < 1:
            raise OpError.of("T0307", f"max_length must be at least 1, got {self.max_length}")

    @property
    def signature(self) -> Signature:
        """Texts and a vocabulary in, ids of the block ``text`` out."""
        ids = Port("text", self.dtype, ("T",), Layout.RAGGED)
        return Signature(inputs={"texts": TEXT, "bpe": BPE}, outputs={"out": ids})

    @takes_columns
    def __call__(self, texts: pa.Array, bpe: Bpe) -> pa.Array:
        """Return the ids of each text as a list array.

        Raises:
            OpError: The vocabulary has more ids than ``dtype`` has numbers.
        """
        ids = bpe.encode(texts, dtype=self.dtype)
        return ids if self.max_length is None else pc.list_slice(ids, 0, self.max_length)


def _count_words(text: str, count: int) -> Counter[str]:
    words = Counter(word for word, _ in _WORDS.pre_tokenize_str(f" {text}"))
    return Counter({word: times * count for word, times in words.items() if count})


def _repeat(words: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield every word as often as it counts, all of them in one order."""
    total = max(MAX_WORDS, sum(words.values()))
    for word in sorted(words):
        # Rounded up, so that scaling loses no word.
        yield [word] * -(-words[word] * MAX_WORDS // total)


def _from_model(model: Any) -> Bpe:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _WORDS
    tokenizer.decoder = decoders.ByteLevel()
    content = json.loads(tokenizer.to_str())
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Bpe(text.encode())


def _read_merges(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#version:")]
    pairs = [line.split(" ") for line in lines]
    if odd := [line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2]:
        raise ValueError(f"a merge is two tokens, got {odd[0][:40]!r}")
    return [(left, right) for left, right in pairs]


def _bad_files(vocab_json: str | Path, merges_txt: str | Path, reason: str) -> OpError:
    message = f"{vocab_json} and {merges_txt} are no byte-level vocabulary"
    return OpError.of("T0309", message, reason)
