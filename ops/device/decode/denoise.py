"""Frames out of noise: DDIM, for what predicts frames without noise of frames with some.

At every step the prediction is put in order, what is known of the frames in its place, and what of the noise
is left gives the frames of the step before. Nothing else is drawn.

Guidance takes the prediction away from that of another reading, which knows less of what is wanted: with weight
``w`` it is ``(1 + w) * read - w * read_free``.

Shape letters: R = rows, T = frames, B = numbers of a frame.

Source: DDIM, arXiv:2010.02502, with eta 0; guidance, arXiv:2207.12598. Steps are those of diffusers' scheduler
with leading spacing, and filling in between is that of OFASys, ``preprocessor/default/motion_6d.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ....graph.errors import PlanError
from ..relative.motion import signal_shares
from .draw import numbers

Read: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Predicts frames without noise, of frames ``(R, T, B)`` and the levels ``(R, T)`` that they are noised to: the
step of the schedule counted from 1, 0 for frames without noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """How frames are made of noise.

    Attributes:
        num_steps: Predictions, at most ``num_levels``.
        num_levels: Steps of the schedule that the model was trained with.
        guidance: ``w``; 0 for none.
    """

    num_steps: int = 50
    num_levels: int = 1000
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= self.num_levels:
            message = f"num_steps must be from 1 to {self.num_levels}, got {self.num_steps}"
            raise PlanError.of("T0258", message)
        if not math.isfinite(self.guidance):
            raise PlanError.of("T0258", f"guidance must be finite, got {self.guidance}")

    def steps(self) -> Iterator[tuple[int, float, float]]:
        """Yield each step of the schedule, the share of signal there, and that at the next one, the last 1."""
        shares = signal_shares(self.num_levels).tolist()
        stride = self.num_levels // self.num_steps
        for step in range((self.num_steps - 1) * stride, -1, -stride):
            yield step, shares[step], shares[step - stride] if step else 1.0


class Known(NamedTuple):
    """Frames that are given, among those that are wanted.

    Attributes:
        frames_RTB: The frames; anything where none is known.
        is_known_RT: Which are known.
    """

    frames_RTB: Tensor
    is_known_RT: Tensor

    def within(self, counts_R: Tensor) -> Known:
        """Return what is known of the first ``counts_R`` frames of each row."""
        line_T = torch.arange(self.is_known_RT.shape[1], device=counts_R.device)
        return self._replace(is_known_RT=self.is_known_RT & (line_T < counts_R[:, None]))

    def put(self, frames_RTB: Tensor) -> Tensor:
        """Return ``frames_RTB`` with what is known in its place."""
        return self.frames_RTB.where(self.is_known_RT[..., None], frames_RTB)

    def fill(self, frames_RTB: Tensor) -> Tensor:
        """Put what is known in its place, and shift what lies between by as much, in proportion."""
        num_frames = frames_RTB.shape[1]
        line_T = torch.arange(num_frames, device=frames_RTB.device)
        before_RT = line_T.where(self.is_known_RT, -1).cummax(1).values
        after_RT = line_T.where(self.is_known_RT, num_frames).flip(1).cummin(1).values.flip(1)
        span_RT = (after_RT - before_RT).clamp(min=1)
        share_RT = (line_T - before_RT) / span_RT
        share_RT = share_RT.where(before_RT >= 0, 1.0).where(after_RT < num_frames, 0.0)
        shift_RTB = self.put(frames_RTB) - frames_RTB
        shift_RTB = torch.lerp(
            _at(shift_RTB, before_RT.clamp(min=0)),
            _at(shift_RTB, after_RT.clamp(max=num_frames - 1)),
            share_RT[..., None].to(shift_RTB.dtype),
        )
        return self.put(frames_RTB + shift_RTB)


def denoise(
    diffusion: Diffusion,
    noise_RTB: Tensor,
    read: Read,
    *,
    read_free: Read | None = None,
    settle: Callable[[Tensor], Tensor] | None = None,
    known: Known | None = None,
) -> Tensor:
    """Return frames, shape ``(R, T, B)``.

    Args:
        diffusion: Steps and guidance.
        noise_RTB: Normal noise that it begins with.
        read: Predicts frames.
        read_free: Predicts them from less; asked where there is guidance.
        settle: Puts what was predicted in order, such as `settle_rotations`.
        known: Frames that are given. They are read without noise, and nothing changes them.

    Raises:
        PlanError: There is guidance, and no ``read_free``.
    """
    if diffusion.guidance and read_free is None:
        help_ = "give the sources of the other reading, or leave out guidance"
        raise PlanError.of("T0258", "guidance needs a reading to lead away from", help_)
    frames_RTB = clean_RTB = noise_RTB
    for step, share, next_share in diffusion.steps():
        levels_RT = torch.full_like(noise_RTB[..., 0], step + 1, dtype=torch.long)
        read_RTB = frames_RTB
        if known is not None:
            levels_RT, read_RTB = levels_RT.where(~known.is_known_RT, 0), known.put(frames_RTB)
        clean_RTB = read(read_RTB, levels_RT)
        if diffusion.guidance and read_free is not None:
            free_RTB = read_free(read_RTB, levels_RT)
            clean_RTB = clean_RTB + diffusion.guidance * (clean_RTB - free_RTB)
        clean_RTB = clean_RTB if settle is None else settle(clean_RTB)
        clean_RTB = clean_RTB if known is None else known.fill(clean_RTB)
        left_RTB = (frames_RTB - share**0.5 * clean_RTB) / (1 - share) ** 0.5
        frames_RTB = next_share**0.5 * clean_RTB + (1 - next_share) ** 0.5 * left_RTB
    return clean_RTB


def draw_noise(seed: int, keys_R: Tensor, slots_R: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return normal noise of ``shape`` for each row; a frame's is the same, however many there are.

    Args:
        seed: The same noise comes of the same seed.
        keys_R: What tells rows apart, int64.
        slots_R: Slots of frames that each row has before this one; each has noise of its own.
        shape: ``T`` and ``B``.
    """
    place_X = 2 * torch.arange(shape[0] * shape[1], device=keys_R.device)
    # Far from the steps that ids are drawn at.
    place_RX = place_X + ((slots_R[:, None] + 1) << 32)
    radius_RX = (-2 * (1 - numbers(seed, keys_R[:, None], place_RX)).log()).sqrt()
    angle_RX = 2 * math.pi * numbers(seed, keys_R[:, None], place_RX + 1)
    return (radius_RX * angle_RX.cos()).unflatten(1, shape)


def _at(x_RTB: Tensor, lines_RT: Tensor) -> Tensor:
    return x_RTB.gather(1, lines_RT[..., None].expand_as(x_RTB))
