"""Previews: the value of one row after one node, as small plain data that every view shows.

Here and nowhere else a value becomes a `PreviewView`. What users wrote stands in it as it was written: each
view escapes it for the place where it shows it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...graph.preview import PreviewView, TokenView
from ...graph.type import Type
from ...graph.vocabulary import BOS, EOS, PAD, SPECIAL, UNK, Vocabulary
from ...ops.errors import describe_value
from ...ops.host.bpe import Bpe
from ...ops.host.split import NO_SPLIT
from ...ops.recipe.box import BLOCK as BINS
from ...storage.record import SPLITS
from ..planner.sample import Document

MAX_TOKENS: Final = 400
MAX_CHARACTERS: Final = 4000
MAX_SIDE: Final = 256
"""Longest side of a picture, in pixels."""
MAX_ITEMS: Final = 8
"""Pictures of one row that are shown."""
MAX_POINTS: Final = 400
"""Most points of a waveform."""

Kind: TypeAlias = Literal["text", "number", "bytes", "image", "waveform", "tokens", "missing"]

_SPECIALS: Final = {BOS: "<bos>", PAD: "<pad>", EOS: "<eos>", UNK: "<unk>"}
_SOUNDS: Final = ("audio", "sound", "waveform")


@dataclass(frozen=True, slots=True)
class Speller:
    """What ids stand for.

    Attributes:
        vocabulary: The blocks of ids.
        bpe: The vocabulary of texts, where it is known.
    """

    vocabulary: Vocabulary
    bpe: Bpe | None = None

    def spell_block(self, block: str, ids: Sequence[int]) -> list[str]:
        """Return what ids of one block say, each on its own: joined, they are the text."""
        if block == SPECIAL:
            return [_SPECIALS.get(number, "") for number in ids]
        if block == BINS:
            return [f"<{block}>_{number} " for number in ids]
        if block != "text" or self.bpe is None:
            return [""] * len(ids)
        said, parts = "", list[str]()
        for stop in range(1, len(ids) + 1):
            text = self.bpe.decode(ids[:stop])
            # An id may end within a character, which the one that completes it says.
            whole = text if stop == len(ids) else text.rstrip("\ufffd")
            parts.append(whole[len(said) :])
            said = max(said, whole, key=len)
        return parts

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Return what ids of the whole vocabulary say, each on its own."""
        said: list[str] = []
        start = 0
        while start < len(ids):
            block, offset, size = self._block_of(ids[start])
            stop = start
            while stop < len(ids) and offset <= ids[stop] < offset + size:
                stop += 1
            said += self.spell_block(block, [number - offset for number in ids[start:stop]])
            start = stop
        return said

    def _block_of(self, number: int) -> tuple[str, int, int]:
        offset = 0
        for block in self.vocabulary.blocks:
            if number < offset + block.size:
                return block.name, offset, block.size
            offset += block.size
        return "", number, 1  # no id of this vocabulary


def preview_value(value: Any, type_: Type, *, row: str, speller: Speller) -> PreviewView:
    """Return what views show of ``value``.

    Args:
        value: What `host_values` and the handles of nodes give: None, a number, text, bytes, a NumPy array or
            a tensor, a list, a document.
        type_: Its type in the graph.
        row: Row id, or number of the row.
        speller: What ids stand for.
    """
    if value is None:
        return _view(row, "missing", "no value")
    if isinstance(value, Document):
        return _document(row, value, speller)
    if hasattr(value, "detach"):  # a tensor; host code knows no torch
        value = value.detach().cpu().float().numpy()
    if isinstance(value, np.ndarray):
        return _array(row, value, type_)
    if isinstance(value, list):
        return _list(row, value, type_, speller)
    if type_.kind == "split" and isinstance(value, int):
        names = dict(enumerate(SPLITS)) | {NO_SPLIT: "none, a filter leaves the row out"}
        return _view(row, "text", names.get(value, str(value)))
    return _plain(row, value)


def _list(row: str, value: list[Any], type_: Type, speller: Speller) -> PreviewView:
    if _are_pictures(value, type_):
        return _pictures(row, value)
    if not _is_ids(value, type_):
        return _plain(row, value)
    texts = speller.spell_block(type_.kind, value[:MAX_TOKENS])
    told = f"{len(value):,} id{'s'[: len(value) != 1]}"
    return _tokens(row, _zip(value, texts, []), len(value), told)


def _view(
    row: str,
    kind: Kind,
    text: str,
    *,
    image: str | None = None,
    waveform: list[float] | None = None,
    tokens: list[TokenView] | None = None,
) -> PreviewView:
    return PreviewView(row=row, kind=kind, text=text, image=image, waveform=waveform, tokens=tokens)


def _plain(row: str, value: Any) -> PreviewView:
    if isinstance(value, bytes):
        return _view(row, "bytes", describe_value(value))
    if isinstance(value, bool):
        return _view(row, "number", str(value).lower())
    if isinstance(value, int | float):
        return _view(row, "number", str(value))
    if isinstance(value, list | tuple | Mapping):
        value = json.dumps(value, ensure_ascii=False, default=describe_value)
    return _view(row, "text", _clip(value if isinstance(value, str) else describe_value(value)))


def _array(row: str, value: npt.NDArray[Any], type_: Type) -> PreviewView:
    if type_.kind == "image" and value.ndim == 3 and value.dtype == np.uint8:
        height, width = value.shape[:2]
        return _view(row, "image", f"{width} x {height} pixels", image=_data_url(value))
    if type_.kind in _SOUNDS and value.ndim == 1:
        text = f"{len(value):,} samples of {value.dtype}"
        return _view(row, "waveform", text, waveform=_peaks(value))
    return _view(row, "number", describe_array(value))


def _are_pictures(items: list[Any], type_: Type) -> bool:
    known = [item for item in items if item is not None]
    return (
        type_.kind == "image"
        and bool(known)
        and all(isinstance(item, np.ndarray) and item.ndim == 3 for item in known)
    )


def _pictures(row: str, items: list[Any]) -> PreviewView:
    """Return the first pictures of a row side by side; missing ones are left out."""
    known = [item for item in items if item is not None]
    shown = known[:MAX_ITEMS]
    sheet = np.full(
        (max(i.shape[0] for i in shown), sum(i.shape[1] for i in shown), 3), 255, np.uint8
    )
    left = 0
    for item in shown:
        sheet[: item.shape[0], left : left + item.shape[1]] = item
        left += item.shape[1]
    sizes = ", ".join(f"{item.shape[1]} x {item.shape[0]}" for item in shown)
    text = f"{len(items):,} pictures of {sizes} pixels"
    if missing := len(items) - len(known):
        text += f", {missing:,} without a value"
    return _view(row, "image", text, image=_data_url(sheet))


def describe_array(value: npt.NDArray[Any]) -> str:
    """Return type, shape and range of an array in a few words."""
    sizes = " x ".join(map(str, value.shape)) or "one value"
    text = f"{value.dtype}, {sizes}"
    if value.dtype.kind not in "biuf" or not value.size:
        return text
    numbers = value.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if finite.size and value.ndim == 0:
        text += f": {finite[0] if finite.ndim else float(finite):g}"
    elif finite.size:
        text += f", from {finite.min():.4g} to {finite.max():.4g}, mean {finite.mean():.4g}"
    if missing := numbers.size - finite.size:
        text += f", {missing:,} not finite"
    return text


def _document(row: str, document: Document, speller: Speller) -> PreviewView:
    source = _zip(document.source_ids, speller.spell(document.source_ids), [])
    # The positions that a tensor takes are told as one.
    told: list[TokenView] = []
    position = 0
    for start, lane, length in document.tensors:
        told += source[position:start]
        told.append(TokenView(id=PAD, text=f"<{lane}: {length} positions>", weight=0.0))
        position = start + length
    told += source[position:]
    target = [*document.target_ids[:1], *document.labels]
    told += _zip(target, speller.spell(target), [0.0, *document.weights])
    learned = sum(weight > 0 for weight in document.weights)
    text = (
        f"{len(document.source_ids):,} source positions, {len(document.target_ids):,} target "
        f"positions, {learned:,} of them learned"
    )
    return _tokens(row, told, len(told), text)


def _tokens(row: str, tokens: list[TokenView], number: int, text: str) -> PreviewView:
    said = "".join(token["text"] for token in tokens[:MAX_TOKENS])
    more = f", the first {MAX_TOKENS} shown" if number > MAX_TOKENS else ""
    return _view(row, "tokens", _clip(f"{text}{more}: {said}"), tokens=tokens[:MAX_TOKENS])


def _zip(ids: Sequence[int], texts: Sequence[str], weights: Sequence[float]) -> list[TokenView]:
    weights = weights or [0.0] * len(ids)
    return [
        TokenView(id=int(number), text=text, weight=float(weight))
        for number, text, weight in zip(ids, texts, weights)  # noqa: B905 - texts may be fewer
    ]


def _is_ids(value: list[Any], type_: Type) -> bool:
    return type_.dtype.startswith(("uint", "int")) and all(type(item) is int for item in value)


def _data_url(pixels: npt.NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    stream = BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _peaks(samples: npt.NDArray[Any]) -> list[float]:
    """Return at most `MAX_POINTS` points from -1 to 1: of each stretch, the sample farthest from silence."""
    if not len(samples):
        return []
    numbers = samples.astype(np.float64)
    if samples.dtype.kind in "iu":
        numbers /= np.iinfo(samples.dtype).max
    stretches = np.array_split(numbers, min(MAX_POINTS, len(numbers)))
    points = [float(each[np.abs(each).argmax()]) for each in stretches]
    return [min(1.0, max(-1.0, round(point, 4))) for point in points]


def _clip(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
