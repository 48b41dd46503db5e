"""The first layers of CLIP's vision transformer: images in, a grid of patches out.

Shape letters: I = images, P = patches, C = channels.

Source: CLIP, arXiv:2103.00020; OFASys, ``module/vit.py``, for where it is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VitShape(NamedTuple):
    """Sizes; ``resolution`` is the side in pixels that patches have vectors of their own for."""

    resolution: int
    patch: int
    width: int
    num_layers: int
    num_heads: int


VITS: Final[Mapping[str, VitShape]] = MappingProxyType(
    {
        "vit_base": VitShape(224, 16, 768, 9, 12),
        "vit_large": VitShape(224, 14, 1024, 18, 16),
        "vit_large_336": VitShape(336, 14, 1024, 18, 16),
        "vit_huge": VitShape(224, 14, 1280, 24, 16),
    }
)


class VitLayer(nn.Module):
    """Attention of all patches of an image to each other, then feed-forward."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x_IPC: Tensor) -> Tensor:
        """Return the patches' next state."""
        states = self.query_key_value(self.attention_norm(x_IPC))
        q, k, v = states.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_IPC = x_IPC + self.out(attended)
        inner = self.up(self.ffn_norm(x_IPC))
        # CLIP's stand-in for GELU.
        return x_IPC + self.down(inner * torch.sigmoid(1.702 * inner))


class VisionTransformer(nn.Module):
    """Patches, and layers of attention among them."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.width, self.side = shape.width, shape.resolution // shape.patch
        self.projection = nn.Conv2d(3, shape.width, shape.patch, shape.patch, bias=False)
        scale = shape.width**-0.5
        # Row 0 is that of a token for the whole image, which is cut off with the layers above.
        self.positions_PC = nn.Parameter(torch.randn(self.side**2 + 1, shape.width) * scale)
        self.norm = nn.LayerNorm(shape.width)
        self.layers = nn.ModuleList(
            VitLayer(shape.width, shape.num_heads) for _ in range(shape.num_layers)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the grid, shape ``(I, C, rows, columns)``, of pixels ``(I, 3, height, width)``."""
        grid = self.projection(pixels)
        num_rows, num_columns = grid.shape[-2:]
        x_IPC = grid.flatten(2).transpose(1, 2) + self._positions(num_rows, num_columns)
        x_IPC = self.norm(x_IPC)
        for layer in self.layers:
            x_IPC = layer(x_IPC)
        return x_IPC.transpose(1, 2).unflatten(-1, (num_rows, num_columns))

    def _positions(self, num_rows: int, num_columns: int) -> Tensor:
        known_PC = self.positions_PC[1:]
        if (num_rows, num_columns) == (self.side, self.side):
            return known_PC
        square = known_PC.T.unflatten(-1, (self.side, self.side))[None]
        resized = F.interpolate(square, size=(num_rows, num_columns), mode="bilinear")
        return resized[0].flatten(1).T
