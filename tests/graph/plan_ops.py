"""The ops of the planned graphs that views are tested on: ports like the real ones, no computing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taskloom.graph.op import Catalogue, Rows, Traits
from taskloom.graph.type import ANY, Layout, Place, Port, Signature

TEXT = Port("text", "string")
IDS = Port("text", "uint16", ("T",), Layout.RAGGED)
BPE = Port("bpe", "artifact", (), Layout.CONST)
HIDDEN = Port("hidden", "float32", ("N", "C"), Layout.PACKED)
ANY_PACKED = Port(ANY, ANY, (), Layout.PACKED)


@dataclass(frozen=True, kw_only=True)
class ReadColumns:
    column: str
    dtype: str
    traits: ClassVar[Traits] = Traits("read_columns", 1, rows=Rows.READ)

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": Port("any", self.dtype)})


@dataclass(frozen=True, kw_only=True)
class DecodeImages:
    max_pixels: int = 1 << 26
    traits: ClassVar[Traits] = Traits("decode_images", 2, is_isolated=True)

    @property
    def signature(self) -> Signature:
        image = Port("image", "uint8", ("H", "W", 3), Layout.RAGGED)
        return Signature({"images": Port("any", "binary")}, {"out": image})


@dataclass(frozen=True, kw_only=True)
class ResizeImages:
    height: int
    width: int
    resample: str = "bicubic"
    traits: ClassVar[Traits] = Traits("resize_images", 1)

    @property
    def signature(self) -> Signature:
        image = Port("image", "uint8", ("H", "W", 3), Layout.RAGGED)
        resized = Port("image", "uint8", (self.height, self.width, 3), Layout.DENSE)
        return Signature({"images": image}, {"out": resized})


@dataclass(frozen=True, kw_only=True)
class FormatTexts:
    traits: ClassVar[Traits] = Traits("format_texts", 1)

    @property
    def signature(self) -> Signature:
        return Signature({"values": Port("any", ANY)}, {"out": TEXT})


@dataclass(frozen=True, kw_only=True)
class MakeTexts:
    text: str
    traits: ClassVar[Traits] = Traits("make_texts", 1)

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": TEXT})


@dataclass(frozen=True, kw_only=True)
class FitBpe:
    size: int
    traits: ClassVar[Traits] = Traits("fit_bpe", 1, rows=Rows.FIT)

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": BPE}, variadic=TEXT)


@dataclass(frozen=True, kw_only=True)
class EncodeTexts:
    dtype: str = "uint16"
    max_length: int | None = None
    traits: ClassVar[Traits] = Traits("encode_texts", 1)

    @property
    def signature(self) -> Signature:
        return Signature({"texts": TEXT, "bpe": BPE}, {"out": IDS})


@dataclass(frozen=True, kw_only=True)
class ComposeDocuments:
    source: tuple[str, ...]
    target: tuple[str, ...]
    traits: ClassVar[Traits] = Traits("compose_documents", 1, is_online=True)

    @property
    def signature(self) -> Signature:
        document = Port("document", "int32", ("T",), Layout.RAGGED)
        return Signature({}, {"out": document}, variadic=Port(ANY, ANY, (), Layout.ANY))


@dataclass(frozen=True, kw_only=True)
class PackDocuments:
    traits: ClassVar[Traits] = Traits("pack_documents", 1, rows=Rows.JOIN, is_online=True)

    @property
    def signature(self) -> Signature:
        streams = ("source_ids", "source_keys", "target_ids", "target_keys", "labels", "weights")
        outputs = {name: Port("ids", "int32", ("N",), Layout.PACKED) for name in streams}
        image = Port("image", "uint8", ("I", 224, 224, 3), Layout.PACKED)
        places = Port("places", "int32", ("I", 196), Layout.PACKED)
        document = Port("document", "int32", ("T",), Layout.RAGGED)
        return Signature({}, outputs | {"image": image, "image_places": places}, document)


@dataclass(frozen=True, kw_only=True)
class _DeviceOp:
    model_width: int = 512

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": HIDDEN}, variadic=ANY_PACKED)


class EmbedTokens(_DeviceOp):
    traits: ClassVar[Traits] = Traits("embed_tokens", 1, place=Place.DEVICE)


class EmbedPatches(_DeviceOp):
    traits: ClassVar[Traits] = Traits("embed_patches", 1, place=Place.DEVICE)


class PlaceTokens(_DeviceOp):
    traits: ClassVar[Traits] = Traits("place_tokens", 1, place=Place.DEVICE)


class EncodeStreams(_DeviceOp):
    traits: ClassVar[Traits] = Traits("encode_streams", 1, place=Place.DEVICE)


class DecodeStreams(_DeviceOp):
    traits: ClassVar[Traits] = Traits("decode_streams", 1, place=Place.DEVICE)


class ScoreTokens(_DeviceOp):
    traits: ClassVar[Traits] = Traits("score_tokens", 1, place=Place.DEVICE)


HOST_OPS = (ReadColumns, DecodeImages, ResizeImages, FormatTexts, MakeTexts, FitBpe, EncodeTexts)
LOADER_OPS = (ComposeDocuments, PackDocuments)
DEVICE_OPS = (EmbedTokens, EmbedPatches, PlaceTokens, EncodeStreams, DecodeStreams, ScoreTokens)
CATALOGUE: Catalogue = {op.traits.name: op for op in (*HOST_OPS, *LOADER_OPS, *DEVICE_OPS)}
