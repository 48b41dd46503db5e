"""Device ops of slots: they are found in a stream, and what stands in them is embedded in their way.

Shape letters: N = tokens of a stream, I = images, P = places of an image, C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....graph.op import Traits
from ....graph.type import Layout, Place, Port, Signature
from ..embedding import NUM_COLOURS, TokenTable, hidden_port
from .adapter import SlotShape, TokenSlots
from .image import ImageSlots, PatchSlots, image_slots
from .layer import INITIAL_STD
from .places import FormSpecs, Items, find_starts, make_forms


@dataclass(frozen=True, slots=True, kw_only=True)
class FindSlots:
    """Tell the slots of a stream apart: each tensor is one, and each run of ids between them.

    Attributes:
        forms: All forms of slots that the stream has.
        text: The form of ids.
        lanes: Names of lanes of tensors, and of their forms.
    """

    forms: FormSpecs
    text: str = "text"
    lanes: tuple[str, ...] = ()
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
        forms = make_forms(self.forms)
        starts = find_starts(forms)
        num_tokens = len(positions)
        index = torch.arange(num_tokens, device=positions.device)
        # One more at the end, where tokens that are not used meet.
        place = positions.new_full((num_tokens + 1,), -1)
        begins = torch.zeros(num_tokens + 1, dtype=torch.bool, device=positions.device)
        begins[:-1] = positions == 0
        for name in self.lanes:
            standing = lanes[f"{name}_places"].long()
            own = torch.arange(standing.shape[1], device=positions.device, dtype=place.dtype)
            place = place.index_copy(
                0, standing.flatten(), (own + starts[name]).repeat(len(standing))
            )
            first = standing[:, 0]
            begins = begins.index_fill(0, first, value=True)
        is_text = place[:-1] < 0
        begins[1:-1] |= is_text[1:] & ~is_text[:-1]
        begin = index.where(begins[:-1], 0).cummax(0).values
        line = (index - begin + starts[self.text]).to(place.dtype)
        # A place that the form has not is no place: it becomes NaN, which no loss survives.
        line = line.where(index - begin < forms[self.text].num_places, -1)
        slots = begins[:-1].cumsum(0).to(place.dtype)
        return slots, line.where(is_text, place[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedIds:
    """Look ids up in the table of their vocabulary, and leave their vectors as long as they are.

    Attributes:
        num_ids: Size of the vocabulary.
        model_width: Channels of a token.
    """

    num_ids: int
    model_width: int
    traits: ClassVar[Traits] = Traits("embed_ids", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """Ids of a stream in, their vectors out."""
        return Signature(
            inputs={"ids": Port("ids", "int32", ("N",), Layout.PACKED)},
            outputs={"out": hidden_port("N", self.model_width)},
        )

    def module(self) -> TokenTable:
        """Build the table, begun as in BERT."""
        table = TokenTable(self.num_ids, self.model_width)
        nn.init.normal_(table.weight_VC, std=INITIAL_STD)
        return table

    def __call__(self, module: TokenTable, ids: Tensor) -> Tensor:
        """Return the vectors of ``ids``, shape ``(N, C)``."""
        return F.embedding(ids, module.weight_VC)


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
    shape: Items
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
    shape: Items
    traits: ClassVar[Traits] = Traits("adapt_images", version=1, place=Place.DEVICE)

    @property
    def num_places(self) -> int:
        """Tokens per image."""
        return (self.height // self.patch) * (self.width // self.patch)

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
        return PatchSlots(shape, self.num_places, self.patch, has_start=False)

    def __call__(self, module: ImageSlots | PatchSlots, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(I, P, C)``; ``images`` are uint8."""
        dtype = module.projection.weight.dtype
        return module(images.permute(0, 3, 1, 2).to(dtype) * (2 / 255) - 1)


def _width(shape: Items) -> int:
    width: Any = dict(shape)["width"]
    return width


def _slot_shape(shape: Items) -> SlotShape:
    fields: dict[str, Any] = dict(shape)
    return SlotShape(**fields)
