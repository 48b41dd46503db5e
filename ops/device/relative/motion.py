"""Motion as tokens: every frame is one, noised to a level that it is told, and read back without noise.

Shape letters: N = frames of a stream, B = numbers of a frame, C = channels.

Source: OFASys, ``adaptor/motion_6d.py``; levels of noise, arXiv:2006.11239, cosine schedule of
arXiv:2102.09672; rotations as six numbers, arXiv:1812.07035.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapter import SlotEnd, SlotShape, position_table
from .layer import linear

MOST_BETA = 0.999


class MotionSlots(nn.Module):
    """Frames in and out, on the target side."""

    def __init__(
        self, shape: SlotShape, *, most_numbers: int, num_levels: int, num_places: int
    ) -> None:
        """Build the adapter.

        Args:
            shape: As of all adapters.
            most_numbers: Most numbers of a frame; those of smaller ones are zeros.
            num_levels: Levels of noise, and one more for frames that are known.
            num_places: Most frames of a slot.
        """
        super().__init__()
        self.most_numbers = most_numbers
        width = shape.width
        self.reader = nn.Sequential(linear(most_numbers, width), nn.GELU(), linear(width, width))
        self.writer = nn.Sequential(linear(width, width), nn.GELU(), linear(width, most_numbers))
        self.noise = position_table(num_levels, 2 * width)
        self.positions = position_table(num_places + 2, width)
        self.end = SlotEnd(shape)

    def forward(
        self, frames_NB: Tensor, levels_N: Tensor, lines_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(N, C)``.

        Args:
            frames_NB: Noised frames.
            levels_N: Step of the schedule that each is noised to, counted from 1; 0 for frames without noise.
            lines_N: Number of the frame in its slot.
        """
        read_NC = self.reader(F.pad(frames_NB, (0, self.most_numbers - frames_NB.shape[1])))
        scale_NC, shift_NC = self.noise(levels_N).chunk(2, -1)
        return self.end(read_NC * (scale_NC + 1) + shift_NC, self.positions(lines_N))

    def predict(self, hidden_NC: Tensor, num_numbers: int) -> Tensor:
        """Return the frames without noise that states stand for, shape ``(N, num_numbers)``."""
        return self.writer(hidden_NC)[:, :num_numbers]


def signal_shares(num_steps: int) -> Tensor:
    """Return the share of the signal's power left after each step of the cosine schedule, float64."""
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    kept = ((time + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    beta = (1 - kept[1:] / kept[:-1]).clamp(max=MOST_BETA)
    return (1 - beta).cumprod(0)


def settle_rotations(frames: Tensor, first: int) -> Tensor:
    """Return ``frames`` with rotations that are such, two unit vectors at a right angle each.

    Args:
        frames: Numbers come last; those of rotations are six each. The first vector of a rotation keeps its
            direction, and the plane of both stays.
        first: Number that the first rotation begins with.
    """
    rotations = frames[..., first:].unflatten(-1, (-1, 2, 3))
    one, other = rotations.unbind(-2)
    one = F.normalize(one, dim=-1)
    other = F.normalize(other - (one * other).sum(-1, keepdim=True) * one, dim=-1)
    settled = torch.stack((one, other), -2).flatten(-3)
    return torch.cat((frames[..., :first], settled), -1)


def charge_frames(predicted_NB: Tensor, frames_NB: Tensor, shares_N: Tensor) -> Tensor:
    """Return the mean error of each frame, shape ``(N,)``, more where there was less noise."""
    weight_N1 = (shares_N / (1 - shares_N) + 1).sqrt()[:, None]
    return (weight_N1 * (predicted_NB - frames_NB)).abs().mean(1)
