"""Device ops of the OFA family: slots found, tokens embedded in the way of their slot, and both stacks.

Shape letters: N = tokens of a stream, I = images, P = places of an image, C = channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....graph.op import Plain, Traits
from ....graph.type import Layout, Place, Port, Signature
from ..attention import AttentionSpec
from ..embedding import NUM_COLOURS, hidden_port
from .adapter import SlotShape, TokenSlots
from .image import ImageSlots, PatchSlots, image_slots
from .layer import RelativeShape
from .places import FormSpecs, find_starts, make_forms
from .stack import RelativeDecoder, RelativeEncoder, Stream

Plains = Mapping[str, Plain]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindSlots:
    """Tell the slots of a stream apart: each tensor is one, and each run of ids between them.

    Attributes:
        forms: All forms of slots that the stream has.
        text: The form of ids.
        lanes: For each lane of tensors, its form.
    """

    forms: FormSpecs
    text: str = "text"
    lanes: Mapping[str, str] = field(default_factory=dict[str, str])
    traits: ClassVar[Traits] = Traits("find_slots", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """Positions in documents, and of the tensors' tokens, in; slot and place of every token out."""
        packed = Layout.PACKED
        places = {
            f"{name}_places": Port("places", "int32", (f"N_{name}", f"P_{name}"), packed)
            for name in sorted(self.lanes)
        }
        out = Port("positions", "int32", ("N",), packed)
        return Signature(inputs={"positions": out, **places}, outputs={"out": out, "places": out})

    def module(self) -> None:
        """Build nothing: there are no parameters."""

    def __call__(self, _module: None, positions: Tensor, **lanes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of each token's slot, and its place, both of shape ``(N,)``.

        Args:
            positions: Position of each token in its document, 0 for those of none.
            lanes: Where the tokens of each lane's tensors stand in the stream, as `PlaceTokens` takes them.
        """
        starts = find_starts(make_forms(self.forms))
        num_tokens = len(positions)
        index = torch.arange(num_tokens, device=positions.device)
        # One more at the end, where tokens that are not used meet.
        place = positions.new_full((num_tokens + 1,), -1)
        begins = torch.zeros(num_tokens + 1, dtype=torch.bool, device=positions.device)
        begins[:-1] = positions == 0
        for name, form in self.lanes.items():
            standing = lanes[f"{name}_places"].long()
            own = torch.arange(standing.shape[1], device=positions.device, dtype=place.dtype)
            place = place.index_copy(
                0, standing.flatten(), (own + starts[form]).repeat(len(standing))
            )
            first = standing[:, 0]
            begins = begins.index_fill(0, first, value=True)
        is_text = place[:-1] < 0
        begins[1:-1] |= is_text[1:] & ~is_text[:-1]
        begin = index.where(begins[:-1], 0).cummax(0).values
        line = (index - begin + starts[self.text]).to(place.dtype)
        slots = begins[:-1].cumsum(0).to(place.dtype)
        return slots, line.where(is_text, place[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptTokens:
    """Give ids what their slots give them, and embed their places.

    Attributes:
        forms: All forms of slots that the stream has.
        names: Those of them that hold ids.
        shape: What adapters have in common: fields of `SlotShape`.
    """

    forms: FormSpecs
    names: tuple[str, ...]
    shape: Plains
    traits: ClassVar[Traits] = Traits("adapt_tokens", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """Vectors of ids and their places in; tokens and places as the stack reads them out."""
        hidden = hidden_port("N", _width(self.shape))
        places = Port("positions", "int32", ("N",), Layout.PACKED)
        return Signature(
            inputs={"hidden": hidden, "places": places},
            outputs={"out": hidden, "positions": hidden},
        )

    def module(self) -> TokenSlots:
        """Build the adapters."""
        return TokenSlots(_slot_shape(self.shape), self.forms, self.names)

    def __call__(self, module: TokenSlots, hidden: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(N, C)``."""
        return module(hidden, places)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptImages:
    """Make tokens of images, through a trunk or in patches.

    Attributes:
        height: Rows of pixels.
        width: Columns of pixels.
        patch: Side of a patch in pixels; 16 with a trunk of ``resnet``.
        trunk: What sees the image: a key of `RESNETS` or `VITS`, or empty for patches alone.
        bucket: Rows and columns that a trunk's cells are told apart in.
        shape: What adapters have in common: fields of `SlotShape`.
    """

    height: int
    width: int
    patch: int
    trunk: str = ""
    bucket: int = 42
    shape: Plains
    traits: ClassVar[Traits] = Traits("adapt_images", version=1, place=Place.DEVICE)

    @property
    def num_places(self) -> int:
        """Tokens per image."""
        return (self.height // self.patch) * (self.width // self.patch) + (not self.trunk)

    @property
    def signature(self) -> Signature:
        """Images in; tokens and places out."""
        image = (("I", self.height, self.width, NUM_COLOURS), Layout.PACKED)
        tokens = (("I", self.num_places, _width(self.shape)), Layout.PACKED)
        return Signature(
            inputs={"images": Port("image", "uint8", *image)},
            outputs={
                "out": Port("hidden", "float32", *tokens),
                "positions": Port("hidden", "float32", *tokens),
            },
        )

    def module(self) -> ImageSlots | PatchSlots:
        """Build the adapter."""
        shape = _slot_shape(self.shape)
        if self.trunk:
            return image_slots(shape, self.trunk, bucket=self.bucket)
        return PatchSlots(shape, self.num_places - 1, self.patch)

    def __call__(self, module: ImageSlots | PatchSlots, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(I, P, C)``; ``images`` are uint8."""
        dtype = module.projection.weight.dtype
        return module(images.permute(0, 3, 1, 2).to(dtype) * (2 / 255) - 1)


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

    shape: Plains
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
        return module(_stream(stream), _own_spec(self, module))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRelative:
    """Write the target stream, each token from those before it and from its source.

    Attributes:
        shape: Fields of `RelativeShape`.
        forms: All forms of slots that the stream has.
        tile: Multiple that longer documents are aligned to, and no shorter one crosses, on both sides.
        longest: Most target tokens of a document; 0 where that is not known.
        cross_window: Source tokens that one tile of the target may reach, a multiple of ``tile``; 0 for all.
        backend: Back end of attention.
    """

    shape: Plains
    forms: FormSpecs
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
        return RelativeDecoder(_relative_shape(self.shape), self.forms)

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
        return module(_stream(stream), memory, memory_positions, cross_keys, specs)


def _stream_ports(name: str, width: int) -> dict[str, Port]:
    packed = Layout.PACKED
    return {
        "hidden": hidden_port(name, width),
        "positions": hidden_port(name, width),
        "slots": Port("positions", "int32", (name,), packed),
        "places": Port("positions", "int32", (name,), packed),
        "keys": Port("keys", "int32", (2, name), packed),
    }


def _stream(given: Mapping[str, Tensor]) -> Stream:
    return Stream(
        given["hidden"], given["positions"], given["slots"], given["places"], given["keys"]
    )


def _own_spec(
    op: EncodeRelative | DecodeRelative, module: RelativeEncoder | RelativeDecoder
) -> AttentionSpec:
    shape = module.shape
    spec = AttentionSpec.within_documents(
        op.longest, tile=op.tile, backend=op.backend, is_relative=shape.has_tables
    )
    return replace(spec, scale=shape.score_scale)


def _width(shape: Plains) -> int:
    width: Any = shape["width"]
    return width


def _slot_shape(shape: Plains) -> SlotShape:
    fields: dict[str, Any] = dict(shape)
    return SlotShape(**fields)


def _relative_shape(shape: Plains) -> RelativeShape:
    fields: dict[str, Any] = dict(shape)
    return RelativeShape(**fields)
