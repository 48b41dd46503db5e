"""What writes a slot of frames: all of them out of noise, or one after another.

Frames of a document see what it wrote before and its source, and nothing of other documents. Frames out of
noise see each other; frames one after another those before them. What follows sees them as they are in the end.

Shape letters: R = rows, T = most frames, B = numbers of a frame, N = frames of all rows, C = channels.

Source: OFASys, ``generator/diffusion_generator.py`` and ``speech_generator.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ....graph.errors import PlanError
from .canvas import Canvas, Look
from .denoise import Diffusion, Known, denoise, draw_noise


class Page(NamedTuple):
    """A slot of frames that some rows write next.

    Attributes:
        canvases: What the rows have written, as it is read; then, if anything leads away from it, as it is read
            there.
        most: ``T``.
        counts_R: Frames wanted of each row, at most; 0 of rows that do not write the slot.
        slots_R: Number of the slot within the row.
        seed: What is drawn follows from it, from the keys, and from the slot's number.
        keys_R: What tells rows apart.
        known: Frames that are given.
    """

    canvases: tuple[Canvas, ...]
    most: int
    counts_R: Tensor
    slots_R: Tensor
    seed: int
    keys_R: Tensor
    known: Known | None = None


class Made(NamedTuple):
    """Frames that were written.

    Attributes:
        frames_RTB: The frames; anything behind the last of a row.
        counts_R: How many there are.
        hidden_RC: The decoder's state at the last one.
    """

    frames_RTB: Tensor
    counts_R: Tensor
    hidden_RC: Tensor


class Sampler(Protocol):
    """Writes frames."""

    @property
    def num_numbers(self) -> int:
        """``B``."""
        ...

    def check(self, slot: str, most: int, *, has_known: bool, is_led: bool) -> None:
        """Check that at most ``most`` frames of ``slot`` can be written.

        Raises:
            PlanError: They cannot.
        """
        ...

    def write(self, page: Page) -> Made:
        """Write the frames of ``page``, which its canvases keep."""
        ...


class NoisedFrames(Protocol):
    """An adapter of frames with noise, such as `MotionSlots`."""

    def __call__(
        self, frames_NB: Tensor, levels_N: Tensor, lines_N: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(N, C)``, of frames that are noised to levels.

        Places hang on lines alone.
        """
        ...

    def predict(self, hidden_NC: Tensor, num_numbers: int, /) -> Tensor:
        """Return the frames without noise that states stand for."""
        ...


class PlainFrames(Protocol):
    """An adapter of frames that are written one after another."""

    def __call__(self, frames_NB: Tensor, lines_N: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return tokens and places, both ``(N, C)``; the frame at line 0 is all zeros."""
        ...

    def predict(self, hidden_NC: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return the next frames, ``(N, B)``, and scores of their being the last, ``(N,)``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseSampler:
    """Makes all frames of a slot at once.

    Attributes:
        adapter: In evaluation mode.
        num_numbers: ``B``.
        span: First place of the adapter's form and one past the last, counted through all forms.
        diffusion: Steps and guidance.
        settle: Puts predicted frames in order, such as `settle_rotations`.
    """

    adapter: NoisedFrames
    num_numbers: int
    span: tuple[int, int]
    diffusion: Diffusion
    settle: Callable[[Tensor], Tensor] | None = None

    def check(self, slot: str, most: int, *, has_known: bool, is_led: bool) -> None:
        """Check that ``most`` frames have places, and guidance its other reading."""
        del has_known
        _check_places(slot, most, self.span)
        if self.diffusion.guidance and not is_led:
            message = f'guidance of "{slot}" needs other sources to lead away from'
            raise PlanError.of("T0258", message, "give free, or leave out guidance")

    def write(self, page: Page) -> Made:
        """Write the frames of ``page``."""
        counts_R = page.counts_R
        line_T = torch.arange(page.most, device=counts_R.device)
        place_RT = (line_T + self.span[0]).expand(len(counts_R), -1)
        noise_RTB = draw_noise(page.seed, page.keys_R, page.slots_R, (page.most, self.num_numbers))
        noise_RTB = noise_RTB.to(page.canvases[0].cache.keys[0].dtype)
        _, positions_NC = self._enter(noise_RTB, torch.zeros_like(place_RT))
        looks = [
            canvas.prepare(place_RT, positions_NC, page.slots_R, counts_R, is_causal=False)
            for canvas in page.canvases
        ]
        pairs = list(zip(page.canvases, looks, strict=True))
        read, *read_free = (partial(self._predict, *pair) for pair in pairs)
        frames_RTB = denoise(
            self.diffusion,
            noise_RTB,
            read,
            read_free=next(iter(read_free), None),
            settle=self.settle,
            known=None if page.known is None else page.known.within(counts_R),
        )
        # What follows sees the frames without noise.
        states = [self._read(*pair, frames_RTB, torch.zeros_like(place_RT)) for pair in pairs]
        for canvas, look in pairs:
            canvas.keep(look)
        last_R11 = (counts_R - 1).clamp(min=0)[:, None, None]
        hidden_RC = states[0].take_along_dim(last_R11, 1)[:, 0]
        return Made(frames_RTB, counts_R, hidden_RC)

    def _predict(self, canvas: Canvas, look: Look, frames_RTB: Tensor, levels_RT: Tensor) -> Tensor:
        states_RTC = self._read(canvas, look, frames_RTB, levels_RT)
        predicted_NB = self.adapter.predict(states_RTC.flatten(0, 1), self.num_numbers)
        return predicted_NB.unflatten(0, levels_RT.shape)

    def _read(self, canvas: Canvas, look: Look, frames_RTB: Tensor, levels_RT: Tensor) -> Tensor:
        return canvas.look(look, self._enter(frames_RTB, levels_RT)[0])

    def _enter(self, frames_RTB: Tensor, levels_RT: Tensor) -> tuple[Tensor, Tensor]:
        num_rows, num_frames = levels_RT.shape
        line_N = torch.arange(num_frames, device=levels_RT.device).repeat(num_rows)
        return self.adapter(frames_RTB.flatten(0, 1), levels_RT.flatten(), line_N)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameSampler:
    """Writes the frames of a slot one after another, until one is likely to be the last.

    Attributes:
        adapter: In evaluation mode.
        num_numbers: ``B``.
        span: First place of the adapter's form and one past the last, counted through all forms.
        threshold: Probability of being the last above which a frame is.
    """

    adapter: PlainFrames
    num_numbers: int
    span: tuple[int, int]
    threshold: float = 0.5

    def check(self, slot: str, most: int, *, has_known: bool, is_led: bool) -> None:
        """Check that ``most`` frames have places, that before the first included, and none is known."""
        del is_led
        _check_places(slot, most + 1, self.span)
        if has_known:
            message = f'frames of "{slot}" are known, and are written one after another'
            raise PlanError.of("T0258", message, "frames are kept where they come of noise")

    def write(self, page: Page) -> Made:
        """Write the frames of ``page``."""
        counts_R = torch.zeros_like(page.counts_R)
        frame_RB = page.canvases[0].cache.keys[0].new_zeros(len(counts_R), self.num_numbers)
        frames: list[Tensor] = []
        hidden_RC, is_open_R = None, page.counts_R > 0
        for line in range(page.most + 1):
            # The last frame is read as well, once there is one: what follows sees it.
            is_read_R = (page.counts_R > 0) & (counts_R == line)
            state_RC = self._read(page, frame_RB, line, is_read_R)
            hidden_RC = (
                state_RC if hidden_RC is None else state_RC.where(is_read_R[:, None], hidden_RC)
            )
            if line == page.most or not bool(is_open_R.any()):
                break
            frame_RB, stop_R = self.adapter.predict(state_RC)
            frames.append(frame_RB)
            counts_R = counts_R + is_open_R
            is_open_R = (
                is_open_R & (stop_R.sigmoid() <= self.threshold) & (counts_R < page.counts_R)
            )
        assert hidden_RC is not None, "a slot has a frame"
        padding = [torch.zeros_like(frame_RB)] * (page.most - len(frames))
        return Made(torch.stack((*frames, *padding), 1), counts_R, hidden_RC)

    def _read(self, page: Page, frame_RB: Tensor, line: int, is_read_R: Tensor) -> Tensor:
        """Read the frame before ``line``, and return the state there, of the first canvas."""
        line_R = torch.full_like(page.counts_R, line)
        place_R1 = (line_R + self.span[0])[:, None]
        hidden_RC, positions_RC = self.adapter(frame_RB, line_R)
        states: list[Tensor] = []
        for canvas in page.canvases:
            look = canvas.prepare(
                place_R1, positions_RC, page.slots_R, is_read_R.long(), is_causal=True
            )
            states.append(canvas.look(look, hidden_RC)[:, 0])
            canvas.keep(look)
        return states[0]


def _check_places(slot: str, most: int, span: tuple[int, int]) -> None:
    num_places = span[1] - span[0]
    if most > num_places:
        message = f'"{slot}" may have {most} frames, the model has {num_places} positions'
        raise PlanError.of("T0232", message, "ask for less, or train with more max_positions")
