"""Tokens as vectors: ids looked up, images cut into patches, and both put into one stream.

Shape letters: N = tokens of a stream, C = channels, V = ids of the vocabulary, I = images,
P = patches of an image, X = bytes of a patch.

Source: one table that embeds and scores, arXiv:1608.05859; patches as tokens, arXiv:2010.11929.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import PlanError, Problem
from ...graph.op import Traits
from ...graph.type import Layout, Place, Port, Signature
from .product import multiply

NUM_COLOURS = 3


class TokenTable(nn.Module):
    """One vector per id, for reading and for writing."""

    def __init__(self, num_ids: int, width: int) -> None:
        super().__init__()
        # Scores of a normalised state begin with variance 1, and so do embeddings, scaled below.
        self.weight_VC = nn.Parameter(torch.randn(num_ids, width) * width**-0.5)

    def embed(self, ids_N: Tensor) -> Tensor:
        """Return the vectors of ``ids_N``, shape ``(N, C)``."""
        return F.embedding(ids_N, self.weight_VC) * self.weight_VC.shape[1] ** 0.5

    def score(self, hidden_NC: Tensor) -> Tensor:
        """Return the score of every id for each state, shape ``(N, V)``."""
        return multiply(hidden_NC, self.weight_VC)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedTokens:
    """Look ids up in the table of their vocabulary.

    Attributes:
        num_ids: Size of the vocabulary.
        model_width: Channels of a token.
    """

    num_ids: int
    model_width: int
    traits: ClassVar[Traits] = Traits("embed_tokens", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """Ids of a stream in, its first states out."""
        return Signature(
            inputs={"ids": Port("ids", "int32", ("N",), Layout.PACKED)},
            outputs={"out": hidden_port("N", self.model_width)},
        )

    def module(self) -> TokenTable:
        """Build the table."""
        return TokenTable(self.num_ids, self.model_width)

    def __call__(self, module: TokenTable, ids: Tensor) -> Tensor:
        """Return the vectors of ``ids``, shape ``(N, C)``."""
        return module.embed(ids)


class PatchProjection(nn.Module):
    """A linear map of a patch's pixels, and a learned vector per place in the image."""

    def __init__(self, num_patches: int, patch_bytes: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(patch_bytes, width)
        nn.init.normal_(self.projection.weight, std=patch_bytes**-0.5)
        nn.init.zeros_(self.projection.bias)
        self.positions_PC = nn.Parameter(torch.randn(num_patches, width) * 0.02)

    def forward(self, patches_IPX: Tensor) -> Tensor:
        """Return tokens, shape ``(I, P, C)``, of patches in bytes."""
        # Bytes become floats here, and not before: they are what is stored and sent to the device.
        normal_IPX = patches_IPX.to(self.projection.weight.dtype) * (2 / 255) - 1
        return self.projection(normal_IPX) + self.positions_PC


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedPatches:
    """Cut images into square patches and make each a token.

    Attributes:
        height: Rows of pixels, a multiple of ``patch``.
        width: Columns of pixels, a multiple of ``patch``.
        patch: Side of a patch in pixels.
        model_width: Channels of a token.
    """

    height: int
    width: int
    patch: int
    model_width: int
    traits: ClassVar[Traits] = Traits("embed_patches", version=1, place=Place.DEVICE)

    def __post_init__(self) -> None:
        if self.patch < 1 or self.height % self.patch or self.width % self.patch:
            message = (
                f"images of {self.height} x {self.width} do not divide into patches of {self.patch}"
            )
            help_ = "patch must divide both height and width"
            raise PlanError(Problem("T0224", message, help_))

    @property
    def num_patches(self) -> int:
        """Tokens per image."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def signature(self) -> Signature:
        """Images in, tokens out."""
        image = (("I", self.height, self.width, NUM_COLOURS), Layout.PACKED)
        tokens = (("I", self.num_patches, self.model_width), Layout.PACKED)
        return Signature(
            inputs={"images": Port("image", "uint8", *image)},
            outputs={"out": Port("hidden", "float32", *tokens)},
        )

    def module(self) -> PatchProjection:
        """Build the projection."""
        return PatchProjection(self.num_patches, self.patch**2 * NUM_COLOURS, self.model_width)

    def __call__(self, module: PatchProjection, images: Tensor) -> Tensor:
        """Return tokens, shape ``(I, P, C)``, in the order of reading; ``images`` are uint8."""
        patches = images.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        return module(patches.transpose(2, 3).flatten(3).flatten(1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceTokens:
    """Put tokens made from tensors at their places in a stream.

    Attributes:
        model_width: Channels of a token.
    """

    model_width: int
    traits: ClassVar[Traits] = Traits("place_tokens", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """A stream, tokens and their places in; the stream with them in it out."""
        tokens = ("I", "P", self.model_width)
        return Signature(
            inputs={
                "hidden": hidden_port("N", self.model_width),
                "tokens": Port("hidden", "float32", tokens, Layout.PACKED),
                "places": Port("places", "int32", ("I", "P"), Layout.PACKED),
            },
            outputs={"out": hidden_port("N", self.model_width)},
        )

    def module(self) -> None:
        """Build nothing: there are no parameters."""

    def __call__(self, _module: None, hidden: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """Return the stream, shape ``(N, C)``.

        Args:
            hidden: The stream.
            tokens: Shape ``(I, P, C)``.
            places: Position of each token in the stream, N for those that are not used.
        """
        # Unused tokens meet in one row past the end, which is cut off: shapes stay static, and no
        # gradient reaches them.
        stream = F.pad(hidden, (0, 0, 0, 1))
        rows = tokens.to(hidden.dtype).flatten(0, 1)
        return stream.index_copy(0, places.flatten().long(), rows)[:-1]


def hidden_port(name: str, width: int) -> Port:
    """Return the port of the states of stream ``name``."""
    return Port("hidden", "float32", (name, width), Layout.PACKED)
