"""Images and videos as tokens: a trunk makes a grid of cells, each of which is a token.

A video is its frames, each an image; the two share the trunk, what follows it, and the embeddings of cells.

Shape letters: I = images or videos, F = frames, P = cells, C = channels.

Source: OFASys, ``adaptor/image_resnet.py``, ``image_vit.py``, ``image_patch_embed.py`` and
``video_image_sequence.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .adapter import SlotEnd, SlotShape, position_table
from .layer import INITIAL_STD, linear
from .resnet import RESNETS, ResNet
from .vit import VITS, VisionTransformer

NUM_FRAME_PLACES = 1025


class ImageSlots(nn.Module):
    """Images through a trunk; and videos, if wanted."""

    def __init__(
        self, shape: SlotShape, trunk: nn.Module, trunk_width: int, *, bucket: int, has_video: bool
    ) -> None:
        """Build the adapter.

        Args:
            shape: As of all adapters.
            trunk: Makes a grid of pixels.
            trunk_width: Channels of the grid.
            bucket: Rows and columns that cells are told apart in.
            has_video: Whether there is what videos have of their own.
        """
        super().__init__()
        self.bucket = bucket
        self.trunk = trunk
        self.projection = linear(trunk_width, shape.width)
        self.positions = position_table(bucket**2 + 1, shape.width)
        self.end = SlotEnd(shape)
        self.video_end = SlotEnd(shape) if has_video else None
        self.frame_positions = position_table(NUM_FRAME_PLACES, shape.width) if has_video else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(I, P, C)``, of pixels ``(I, 3, height, width)`` in [-1, 1]."""
        tokens_IPC, positions_PC = self._see(pixels)
        return self.end(tokens_IPC, positions_PC.expand_as(tokens_IPC))

    def watch(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(I, F * P, C)``, of pixels ``(I, F, 3, height, width)``."""
        assert self.video_end is not None, "it was built without videos"
        assert self.frame_positions is not None, "it was built without videos"
        num_frames = pixels.shape[1]
        tokens, positions_PC = self._see(pixels.flatten(0, 1))
        # Row 0 of the frames is never used, as in OFASys.
        frames_FC = self.frame_positions.weight[1 : num_frames + 1]
        positions = (frames_FC[:, None] + positions_PC).flatten(0, 1)
        tokens = tokens.unflatten(0, (-1, num_frames)).flatten(1, 2)
        return self.video_end(tokens, positions.expand_as(tokens))

    def _see(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.trunk(pixels)
        num_rows, num_columns = seen.shape[-2:]
        # As `grid_ids` has them, made where they are used: the host would wait for a copy.
        rows = torch.arange(num_rows, device=seen.device) * self.bucket
        ids = (rows[:, None] + torch.arange(num_columns, device=seen.device)).flatten() + 1
        return self.projection(seen.flatten(2).transpose(1, 2)), self.positions(ids)


class PatchSlots(nn.Module):
    """Images of one size, cut into patches, behind a token that stands for the whole."""

    def __init__(
        self, shape: SlotShape, num_patches: int, patch: int, *, has_start: bool = True
    ) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, shape.width, patch, patch)
        nn.init.normal_(self.projection.weight, std=INITIAL_STD)
        assert self.projection.bias is not None, "it has an offset"
        nn.init.zeros_(self.projection.bias)
        self.start_11C = nn.Parameter(torch.zeros(1, 1, shape.width)) if has_start else None
        self.positions = position_table(num_patches + has_start, shape.width)
        self.end = SlotEnd(shape)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(I, P, C)``, of pixels ``(I, 3, height, width)`` in [-1, 1]."""
        tokens = self.projection(pixels).flatten(2).transpose(1, 2)
        if self.start_11C is not None:
            tokens = torch.cat((self.start_11C.expand(len(tokens), 1, -1), tokens), 1)
        return self.end(tokens, self.positions.weight.expand_as(tokens))


def image_slots(
    shape: SlotShape, trunk: str, *, bucket: int = 42, has_video: bool = False
) -> ImageSlots:
    """Return the adapter of images with a trunk of `RESNETS` or `VITS`."""
    if trunk in RESNETS:
        resnet = ResNet(RESNETS[trunk])
        return ImageSlots(shape, resnet, resnet.width, bucket=bucket, has_video=has_video)
    vit = VisionTransformer(VITS[trunk])
    return ImageSlots(shape, vit, vit.width, bucket=bucket, has_video=has_video)
