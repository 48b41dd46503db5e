"""Device ops of the OFA family's stacks: the source stream read, the target stream written.

Shape letters: N = tokens of a stream, C = channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from ....graph.op import Traits
from ....graph.type import Layout, Place, Port, Signature
from ..attention import AttentionSpec
from ..embedding import hidden_port
from ..modality import Blocks, modality_port, names_of
from .layer import RelativeShape
from .places import FormSpecs, Items
from .stack import RelativeDecoder, RelativeEncoder, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRelative:
    """Read the source stream.

    Attributes:
        shape: Fields of `RelativeShape`.
        forms: All forms of slots that the stream has.
        tile: Multiple that longer documents are aligned to, and no shorter one crosses.
        longest: Most tokens of a document; 0 where that is not known.
        backend: Back end of attention.
    """

    shape: Items
    forms: FormSpecs
    tile: int = 64
    longest: int = 0
    backend: str = "auto"
    traits: ClassVar[Traits] = Traits("encode_relative", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """Tokens, their positions, slots, places and key ranges in; states out."""
        return Signature(
            inputs=_stream_ports("NS", _width(self.shape)),
            outputs={"out": hidden_port("NS", _width(self.shape))},
        )

    def module(self) -> RelativeEncoder:
        """Build the layers."""
        return RelativeEncoder(_relative_shape(self.shape), self.forms)

    def __call__(self, module: RelativeEncoder, **stream: Tensor) -> Tensor:
        """Return the stream as the decoder reads it, shape ``(NS, C)``."""
        names = _relative_shape(self.shape).modalities
        return module(_stream(stream, names), _own_spec(self, module))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRelative:
    """Write the target stream, each token from those before it and from its source.

    Attributes:
        shape: Fields of `RelativeShape`.
        forms: All forms of slots that the stream has.
        blocks: Of ids, where each modality has feed-forward weights of its own; none where all share them.
        tile: Multiple that longer documents are aligned to, and no shorter one crosses, on both sides.
        longest: Most target tokens of a document; 0 where that is not known.
        cross_window: Source tokens that one tile of the target may reach, a multiple of ``tile``; 0 for all.
        backend: Back end of attention.
    """

    shape: Items
    forms: FormSpecs
    blocks: Blocks = ()
    tile: int = 64
    longest: int = 0
    cross_window: int = 0
    backend: str = "auto"
    traits: ClassVar[Traits] = Traits("decode_relative", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """Target, and the source's states, positions and ranges in; states out."""
        width = _width(self.shape)
        memory = {name: hidden_port("NS", width) for name in ("memory", "memory_positions")}
        cross_keys = Port("keys", "int32", (2, "NT"), Layout.PACKED)
        return Signature(
            inputs={**_stream_ports("NT", width), **memory, "cross_keys": cross_keys},
            outputs={"out": hidden_port("NT", width)},
        )

    def module(self) -> RelativeDecoder:
        """Build the layers."""
        return RelativeDecoder(_relative_shape(self.shape), self.forms, self.blocks)

    def __call__(
        self,
        module: RelativeDecoder,
        memory: Tensor,
        memory_positions: Tensor,
        cross_keys: Tensor,
        **stream: Tensor,
    ) -> Tensor:
        """Return the states from which the next tokens are scored, shape ``(NT, C)``."""
        cross = AttentionSpec(
            backend=self.backend,
            tile=self.tile,
            window=self.cross_window,
            scale=module.shape.score_scale,
        )
        specs = (_own_spec(self, module), cross)
        own = _stream(stream, names_of(self.blocks))
        return module(own, memory, memory_positions, cross_keys, specs)


def _stream_ports(name: str, width: int) -> dict[str, Port]:
    packed = Layout.PACKED
    return {
        "hidden": hidden_port(name, width),
        "positions": hidden_port(name, width),
        "slots": Port("positions", "int32", (name,), packed),
        "places": Port("positions", "int32", (name,), packed),
        "keys": Port("keys", "int32", (2, name), packed),
        "modalities": modality_port(name, is_optional=True),
    }


def _stream(given: Mapping[str, Tensor], modalities: tuple[str, ...]) -> Stream:
    return Stream(
        given["hidden"],
        given["positions"],
        given["slots"],
        given["places"],
        given["keys"],
        given.get("modalities"),
        modalities,
    )


def _own_spec(
    op: EncodeRelative | DecodeRelative, module: RelativeEncoder | RelativeDecoder
) -> AttentionSpec:
    shape = module.shape
    spec = AttentionSpec.within_documents(
        op.longest, tile=op.tile, backend=op.backend, is_relative=shape.has_tables
    )
    return replace(spec, scale=shape.score_scale)


def _width(shape: Items) -> int:
    width: Any = dict(shape)["width"]
    return width


def _relative_shape(shape: Items) -> RelativeShape:
    fields: dict[str, Any] = dict(shape)
    return RelativeShape(**fields)
