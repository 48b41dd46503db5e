"""Targets of ids and frames worked out without caches: every state from one pass over a whole document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from taskloom.ops.device.attention import AttentionSpec
from taskloom.ops.device.decode.denoise import Diffusion, denoise, draw_noise
from taskloom.ops.device.decode.draw import split_keys
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.sampler import FrameSampler, NoiseSampler, Sampler
from taskloom.ops.device.decode.step import Sources
from taskloom.ops.device.relative.adapter import SlotEnd, SlotShape
from taskloom.ops.device.relative.motion import settle_rotations
from taskloom.ops.device.relative.places import find_starts, make_forms
from taskloom.ops.device.relative.stack import Stream

from ..relative.golden import Case

NUM_NUMBERS, ROOT = 12, 6


class SoundFrames(nn.Module):
    """Frames one after another, and whether each is the last."""

    def __init__(self, width: int, num_places: int) -> None:
        super().__init__()
        self.reader = nn.Linear(NUM_NUMBERS, width)
        self.writer = nn.Linear(width, NUM_NUMBERS)
        self.stop = nn.Linear(width, 1)
        self.positions = nn.Embedding(num_places, width)
        self.end = SlotEnd(SlotShape(width=width, has_type=False))

    def forward(self, frames_NB: Tensor, lines_N: Tensor) -> tuple[Tensor, Tensor]:
        return self.end(self.reader(frames_NB), self.positions(lines_N))

    def predict(self, hidden_NC: Tensor) -> tuple[Tensor, Tensor]:
        return self.writer(hidden_NC), self.stop(hidden_NC)[:, 0] * 4


class Run(NamedTuple):
    """Tokens of one slot, as they enter the decoder.

    Attributes:
        form: The form of the slot.
        hidden: The tokens.
        positions: Their embedded positions.
        is_causal: Whether each sees those up to itself alone.
    """

    form: str
    hidden: Tensor
    positions: Tensor
    is_causal: bool


Read: TypeAlias = Callable[[Sequence[Run]], Tensor]


@dataclass(frozen=True)
class Model:
    """The model of the golden case of motion, with frames of sound besides."""

    case: Case
    dtype: torch.dtype = torch.float32

    @cached_property
    def parts(self) -> Any:
        torch.manual_seed(0)
        parts = self.case.build()
        parts["sound"] = SoundFrames(256, 64).eval()
        return parts.to(self.dtype).requires_grad_(requires_grad=False)

    @cached_property
    def stack(self) -> RelativeStack:
        parts = self.parts
        return RelativeStack(parts["decoder"], parts["target_tokens"], parts["vocabulary"])

    @cached_property
    def span(self) -> tuple[int, int]:
        forms = make_forms(self.case.forms("target"))
        start = find_starts(forms)["motion"]
        return start, start + forms["motion"].num_places

    def samplers(self, *, guidance: float = 0.0, has_settle: bool = True) -> dict[str, Sampler]:
        diffusion = Diffusion(num_steps=3, guidance=guidance)
        settle = partial(settle_rotations, first=ROOT) if has_settle else None
        motion, sound = self.parts["motion"], self.parts["sound"]
        form: dict[str, Any] = {"num_numbers": NUM_NUMBERS, "span": self.span}
        return {
            "motion": NoiseSampler(adapter=motion, diffusion=diffusion, settle=settle, **form),
            "sound": FrameSampler(adapter=sound, **form),
        }

    def sources(self, keys: Sequence[tuple[int, int]]) -> Sources:
        """Return sources that are parts of the case's stream."""
        source, memory, _ = self.case.read_source(self.parts)
        longest = max(1, *(stop - start for start, stop in keys), 1)
        return Sources(memory, torch.tensor(keys).T, longest, source["positions"])

    def ids(self, ids: Sequence[int]) -> Run:
        start, _ = self.parts["target_tokens"].spans["text"]
        embedded = self.parts["vocabulary"].weight_VC[torch.tensor(ids)]
        places = torch.arange(len(ids)) + start
        return Run("text", *self.parts["target_tokens"](embedded, places), is_causal=True)

    def motion(self, frames: Tensor, level: int = 0) -> Run:
        lines = torch.arange(len(frames))
        levels = torch.full_like(lines, level)
        return Run("motion", *self.parts["motion"](frames, levels, lines), is_causal=False)

    def sound(self, frames: Tensor) -> Run:
        """Return the tokens of ``frames``, and of that before the first."""
        frames = torch.cat((frames.new_zeros(1, NUM_NUMBERS), frames))
        return Run(
            "motion", *self.parts["sound"](frames, torch.arange(len(frames))), is_causal=True
        )

    @torch.no_grad()
    def states(self, sources: Sources, runs: Sequence[Run]) -> Tensor:
        """Return the states of all tokens of one document, from one pass."""
        starts = find_starts(make_forms(self.case.forms("target")))
        slots = torch.cat([torch.full((len(r.hidden),), n) for n, r in enumerate(runs)])
        places = torch.cat([torch.arange(len(r.hidden)) + starts[r.form] for r in runs])
        index = torch.arange(len(slots))
        stops = torch.tensor([0, *(len(r.hidden) for r in runs)]).cumsum(0)[1:]
        is_causal = torch.tensor([r.is_causal for r in runs])[slots]
        stream = Stream(
            torch.cat([r.hidden for r in runs]),
            torch.cat([r.positions for r in runs]),
            slots,
            places,
            torch.stack((index * 0, torch.where(is_causal, index + 1, stops[slots]))),
        )
        assert sources.positions_MC is not None
        spec = AttentionSpec(backend="math", scale=self.stack.sizes.scale)
        return self.parts["decoder"](
            stream,
            sources.memory_MC,
            sources.positions_MC,
            sources.keys_2B[:, :1].expand(2, len(slots)),
            (spec, spec),
        )

    def make_motion(
        self, before: Sequence[Run], read: Read, num: int, key: int, seed: int
    ) -> Tensor:
        """Return frames out of noise, every prediction from one pass over the whole document."""

        def predict(frames: Tensor, levels: Tensor) -> Tensor:
            states = read([*before, self.motion(frames[0], int(levels[0, 0]))])
            return self.parts["motion"].predict(states[-num:], NUM_NUMBERS)[None]

        diffusion = Diffusion(num_steps=3)
        slot = torch.tensor([slot_after(before)])
        noise = draw_noise(seed, split_keys(torch.tensor([key]), 1), slot, (num, NUM_NUMBERS))
        settle = partial(settle_rotations, first=ROOT)
        return denoise(diffusion, noise.to(self.dtype), predict, settle=settle)[0]

    def make_sound(self, before: Sequence[Run], read: Read, most: int) -> Tensor:
        """Return frames one after another, each from one pass over the whole document."""
        frames = torch.zeros(0, NUM_NUMBERS, dtype=self.dtype)
        while True:
            state = read([*before, self.sound(frames)])[-1:]
            frame, stop = self.parts["sound"].predict(state)
            frames = torch.cat((frames, frame))
            if len(frames) == most or float(stop.sigmoid()) > 0.5:
                return frames


def slot_after(before: Sequence[Run]) -> int:
    """Return the number that a slot of frames has after some runs; runs of ids have the even ones."""
    return 1 + 2 * sum(run.form != "text" for run in before)
