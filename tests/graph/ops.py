"""Small ops for tests of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taskloom.graph.draft import Draft
from taskloom.graph.op import Rows, Traits
from taskloom.graph.type import ANY, Layout, Place, Port, Signature

TEXT = Port("text", "string")
IDS = Port("text", "uint16", ("T",), Layout.RAGGED)
WORDS = Port("words", "artifact", (), Layout.CONST)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadColumns:
    column: str
    traits: ClassVar[Traits] = Traits("read_columns", version=1, rows=Rows.READ)

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": TEXT})


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeTexts:
    text: str
    traits: ClassVar[Traits] = Traits("make_texts", version=1)

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": Port("text", "string", (), Layout.CONST)})


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeIds:
    ids: tuple[int, ...]
    kind: str = "text"
    dtype: str = "uint16"
    traits: ClassVar[Traits] = Traits("make_ids", version=1)

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": Port(self.kind, self.dtype, ("T",), Layout.CONST)})


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeTexts:
    size: int = 100
    traits: ClassVar[Traits] = Traits("encode_texts", version=1)

    @property
    def signature(self) -> Signature:
        return Signature({"texts": TEXT}, {"out": IDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskTokens:
    share: float = 0.15
    traits: ClassVar[Traits] = Traits("mask_tokens", version=1, is_random=True)

    @property
    def signature(self) -> Signature:
        return Signature({"ids": IDS}, {"out": IDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeImages:
    traits: ClassVar[Traits] = Traits("decode_images", version=1, is_isolated=True)

    @property
    def signature(self) -> Signature:
        out = Port("image", "uint8", ("H", "W", 3), Layout.RAGGED)
        return Signature({"data": Port(ANY, "string")}, {"out": out})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeImages:
    size: int
    traits: ClassVar[Traits] = Traits("resize_images", version=1)

    @property
    def signature(self) -> Signature:
        ragged = Port("image", "uint8", ("H", "W", 3), Layout.RAGGED)
        dense = Port("image", "uint8", (self.size, self.size, 3), Layout.DENSE)
        return Signature({"images": ragged}, {"out": dense})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleImages:
    size: int
    factor: float = 1.0
    traits: ClassVar[Traits] = Traits("scale_images", version=1, is_cheap=True)

    @property
    def signature(self) -> Signature:
        shape = (self.size, self.size, 3)
        pixels, scaled = (Port("image", t, shape, Layout.DENSE) for t in ("uint8", "float32"))
        return Signature({"images": pixels}, {"out": scaled})


@dataclass(frozen=True, slots=True, kw_only=True)
class FitWords:
    traits: ClassVar[Traits] = Traits("fit_words", version=1, rows=Rows.FIT)

    @property
    def signature(self) -> Signature:
        return Signature({}, {"out": WORDS}, variadic=TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpellIds:
    traits: ClassVar[Traits] = Traits("spell_ids", version=1)

    @property
    def signature(self) -> Signature:
        return Signature({"ids": IDS}, {"out": TEXT})


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUpWords:
    traits: ClassVar[Traits] = Traits("look_up_words", version=1)

    @property
    def signature(self) -> Signature:
        return Signature({"texts": TEXT, "words": WORDS}, {"out": IDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    traits: ClassVar[Traits] = Traits("compose_documents", version=1, is_online=True)

    @property
    def signature(self) -> Signature:
        out = Port("document", "int32", ("T",), Layout.RAGGED)
        return Signature({}, {"out": out}, variadic=Port(ANY, ANY, (), Layout.ANY))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    traits: ClassVar[Traits] = Traits("pack_documents", version=1, rows=Rows.JOIN, is_online=True)

    @property
    def signature(self) -> Signature:
        out = Port("ids", "int32", ("NS",), Layout.PACKED)
        document = Port("document", "int32", ("T",), Layout.RAGGED)
        return Signature({}, {"ids": out, "labels": out}, variadic=document)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTokens:
    width: int
    traits: ClassVar[Traits] = Traits("embed_tokens", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        ids = Port("ids", "int32", ("N",), Layout.PACKED)
        out = Port("hidden", "float32", ("N", self.width), Layout.PACKED)
        return Signature({"ids": ids}, {"out": out})


OPS = (
    Compose,
    DecodeImages,
    EmbedTokens,
    EncodeTexts,
    FitWords,
    LookUpWords,
    MakeIds,
    MakeTexts,
    MaskTokens,
    Pack,
    ReadColumns,
    ResizeImages,
    ScaleImages,
    SpellIds,
)
CATALOGUE = {op.traits.name: op for op in OPS}


def draft() -> Draft:
    """Return an empty draft over these ops."""
    return Draft(CATALOGUE)
