"""The first three stages of ResNet: images in, a grid of 1,024 channels out, 16 pixels to a cell.

Batch statistics are those of the checkpoint, in training as well: in a pack, images that are not used would
count among them, and what an image gives would depend on its neighbours.

Source: arXiv:1512.03385, with the stride in the 3x3 convolution, as in torchvision and OFA.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESNETS: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23), "resnet152": (3, 8, 36)}
)
"""Blocks of the stages."""

RESNET_WIDTH: Final = 1024
_EXPANSION = 4


class FixedNorm(nn.Module):
    """Batch norm with fixed statistics."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, shape ``(I, C, rows, columns)``, normalised."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class Bottleneck(nn.Module):
    """A narrow 3x3 convolution between two of 1x1, added to what came in."""

    def __init__(self, num_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(num_in, width, 1)
        self.bn1 = FixedNorm(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = FixedNorm(width)
        self.conv3 = _conv(width, width * _EXPANSION, 1)
        self.bn3 = FixedNorm(width * _EXPANSION)
        is_same = stride == 1 and num_in == width * _EXPANSION
        self.downsample = (
            nn.Identity()
            if is_same
            else nn.Sequential(
                _conv(num_in, width * _EXPANSION, 1, stride), FixedNorm(width * _EXPANSION)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the next grid."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.downsample(x) + self.bn3(self.conv3(out)))


class ResNet(nn.Module):
    """The stem and three stages."""

    width = RESNET_WIDTH

    def __init__(self, num_blocks: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = FixedNorm(64)
        self.layer1 = _stage(64, 64, num_blocks[0], 1)
        self.layer2 = _stage(256, 128, num_blocks[1], 2)
        self.layer3 = _stage(512, 256, num_blocks[2], 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the grid ``(I, 1024, rows, columns)`` of pixels ``(I, 3, height, width)`` in [-1, 1]."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels))), 3, 2, 1)
        return self.layer3(self.layer2(self.layer1(x)))


def _stage(num_in: int, width: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(num_in, width, stride)
    others = (Bottleneck(width * _EXPANSION, width, 1) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *others)


def _conv(num_in: int, num_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(num_in, num_out, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
