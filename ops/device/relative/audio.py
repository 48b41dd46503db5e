"""Sound as tokens: filter banks, of which four frames make a token.

Shape letters: I = sounds, T = frames, B = banks, P = tokens, C = channels.

Source: OFASys, ``adaptor/audio.py`` and ``module/subsample.py``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .adapter import SlotEnd, SlotShape, position_table
from .layer import linear


class AudioSlots(nn.Module):
    """Two convolutions of stride two, without padding, and a linear map of what is left of the banks."""

    def __init__(self, shape: SlotShape, num_banks: int, num_places: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, shape.width, 3, 2)
        self.second = nn.Conv2d(shape.width, shape.width, 3, 2)
        left = num_tokens(num_banks)
        self.projection = linear(shape.width * left, shape.width)
        self.positions = position_table(num_places, shape.width)
        self.end = SlotEnd(shape)

    def forward(self, banks_ITB: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(I, P, C)``.

        Args:
            banks_ITB: Filter banks, zeros behind the end of a sound. Its tokens are the first `num_tokens`.
        """
        seen = F.relu(self.second(F.relu(self.first(banks_ITB[:, None]))))
        tokens_IPC = self.projection(seen.transpose(1, 2).flatten(2))
        positions_PC = self.positions.weight[: tokens_IPC.shape[1]]
        return self.end(tokens_IPC, positions_PC.expand_as(tokens_IPC))


def num_tokens(num_frames: int) -> int:
    """Return how many tokens ``num_frames`` frames make, none of which reads past their end."""
    for _ in range(2):
        num_frames = (num_frames - 1) // 2
    return max(0, num_frames)
