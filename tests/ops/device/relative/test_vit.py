"""The vision transformer is CLIP's, weights and all."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taskloom.ops.device.relative.names import from_ofasys, to_ofasys
from taskloom.ops.device.relative.vit import VisionTransformer, VitShape

SHAPE = VitShape(resolution=12, patch=4, width=8, num_layers=2, num_heads=2)
PREFIX = "encoder.adaptor.image_vit.embed_images."


class Block(nn.Module):
    """A layer as CLIP has it, in its words."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(SHAPE.width, SHAPE.num_heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(SHAPE.width), nn.LayerNorm(SHAPE.width)
        parts = [nn.Linear(SHAPE.width, 4 * SHAPE.width), nn.Linear(4 * SHAPE.width, SHAPE.width)]
        self.mlp = nn.Sequential(OrderedDict(zip(("c_fc", "c_proj"), parts, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False)[0]
        inner = self.mlp[0](self.ln_2(x))
        return x + self.mlp[1](inner * torch.sigmoid(1.702 * inner))


class Clip(nn.Module):
    """CLIP's encoder of images without its last layers."""

    def __init__(self) -> None:
        super().__init__()
        side = SHAPE.resolution // SHAPE.patch
        self.conv1 = nn.Conv2d(3, SHAPE.width, SHAPE.patch, SHAPE.patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, SHAPE.width))
        self.ln_pre = nn.LayerNorm(SHAPE.width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(Block() for _ in range(SHAPE.num_layers)))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels)
        size = x.shape[-2:]
        known = self.positional_embedding[1:].T.reshape(1, SHAPE.width, 3, 3)
        x = x + F.interpolate(known, size=size, mode="bilinear")
        x = self.ln_pre(x.flatten(2).transpose(1, 2))
        for block in self.transformer.get_submodule("resblocks").children():
            x = block(x)
        return x.transpose(1, 2).unflatten(-1, tuple(size))


@pytest.mark.parametrize("size", [(12, 12), (8, 20)], ids=["as trained", "resized"])
def test_a_grid_is_what_clip_makes_of_the_pixels(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    reference, ours = Clip(), VisionTransformer(SHAPE)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.5)
    state = {PREFIX + name: tensor for name, tensor in reference.state_dict().items()}
    converted = from_ofasys(state).tensors
    ours.load_state_dict({n.removeprefix("vit.trunk."): t for n, t in converted.items()})
    pixels = torch.rand(2, 3, *size) * 2 - 1
    torch.testing.assert_close(ours(pixels), reference(pixels), rtol=1e-4, atol=1e-5)
    back = to_ofasys(converted).tensors
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
