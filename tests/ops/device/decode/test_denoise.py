"""Frames come of noise as in OFASys; what is known of them stays, and guidance leads away from less."""

from __future__ import annotations

from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from taskloom.graph.errors import PlanError
from taskloom.ops.device.decode.denoise import Diffusion, Known, denoise, draw_noise
from taskloom.ops.device.relative.motion import settle_rotations

from ..relative.golden import Case

ROOT = 6
"""Numbers of a frame before those of rotations: a place and a speed."""


def target_of(x: Tensor, levels: Tensor) -> Tensor:
    """Predict frames that depend on all that is read."""
    return torch.sin(x + levels[..., None] / 100 + x.mean(1, keepdim=True))


def noise_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_every_prediction_and_the_frames_are_those_of_ofasys() -> None:
    case = Case("motion_diffusion_tiny")
    model: Any = case.build()
    predict, is_frame = case.predictor(model), case.is_frame
    outputs: list[Tensor] = []
    levels: list[int] = []

    def read(frames: Tensor, levels_RT: Tensor) -> Tensor:
        levels.append(int(levels_RT[0, 0]))
        outputs.append(predict(frames, levels_RT))
        return outputs[-1]

    arrays = {name: torch.from_numpy(array) for name, array in case.arrays.items()}
    settle = partial(settle_rotations, first=ROOT)
    frames = denoise(Diffusion(num_steps=5), arrays["sample.noise"], read, settle=settle)
    assert [level - 1 for level in levels] == arrays["sample.timesteps"].tolist()
    for found, expected in zip(outputs, arrays["sample.model_outputs"], strict=True):
        assert (found - expected)[is_frame].abs().max() < 1e-4
    assert (frames - arrays["sample.features"])[is_frame].abs().max() < 1e-4


@settings(deadline=None, max_examples=30)
@given(num_steps=st.integers(1, 1000))
def test_any_number_of_steps_leads_down_to_no_noise(num_steps: int) -> None:
    steps = list(Diffusion(num_steps=num_steps).steps())
    numbers = [step for step, _, _ in steps]
    assert len(steps) == num_steps
    assert numbers == sorted(set(numbers), reverse=True)
    assert numbers[-1] == 0
    assert [share for _, share, _ in steps[1:]] == [after for _, _, after in steps[:-1]]
    assert steps[-1][2] == 1


def test_of_one_prediction_for_all_noise_come_the_frames_that_it_says() -> None:
    wanted = noise_of(2, 5, 3)
    frames = denoise(Diffusion(num_steps=7), noise_of(2, 5, 3) + 1, lambda _x, _levels: wanted)
    assert torch.equal(frames, wanted)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_guidance_leads_away_from_the_other_reading(weight: float) -> None:
    noise = noise_of(2, 4, 3)
    guided = denoise(
        Diffusion(num_steps=4, guidance=weight),
        noise,
        target_of,
        read_free=lambda x, levels: target_of(x, levels) / 2,
    )

    def both(x: Tensor, levels: Tensor) -> Tensor:
        return (1 + weight) * target_of(x, levels) - weight * target_of(x, levels) / 2

    torch.testing.assert_close(guided, denoise(Diffusion(num_steps=4), noise, both))
    with pytest.raises(PlanError, match=r"T0258.*guidance needs a reading to lead away from"):
        denoise(Diffusion(guidance=weight), noise, target_of)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), num_frames=st.integers(1, 7))
def test_known_frames_are_read_without_noise_and_stay(data: st.DataObject, num_frames: int) -> None:
    flags = st.lists(st.booleans(), min_size=num_frames, max_size=num_frames)
    is_known = torch.tensor([data.draw(flags), data.draw(flags)])
    known = Known(noise_of(2, num_frames, 3) * 3, is_known)
    read: list[tuple[Tensor, Tensor]] = []

    def note(x: Tensor, levels: Tensor) -> Tensor:
        read.append((x, levels))
        return target_of(x, levels)

    frames = denoise(Diffusion(num_steps=3), noise_of(2, num_frames, 3), note, known=known)
    assert torch.equal(frames[is_known], known.frames_RTB[is_known])
    for (x, levels), step in zip(read, (666, 333, 0), strict=True):
        assert torch.equal(x[is_known], known.frames_RTB[is_known])
        assert torch.equal(levels, torch.where(is_known, 0, step + 1))
    assert torch.isfinite(frames).all()


def test_frames_between_known_ones_are_shifted_in_proportion() -> None:
    is_known = torch.tensor([[False, True, False, False, False, True, False]])
    wanted = torch.tensor([9.0, 4.0, 9.0, 9.0, 9.0, 8.0, 9.0])[None, :, None]
    filled = Known(wanted, is_known).fill(torch.ones(1, 7, 1))
    assert filled.flatten().tolist() == [4, 4, 5, 6, 7, 8, 8]
    nothing = Known(wanted, torch.zeros_like(is_known)).fill(torch.ones(1, 7, 1))
    assert nothing.flatten().tolist() == [1] * 7


def test_rotations_that_are_settled_are_such_and_settled_ones_stay() -> None:
    frames = noise_of(4, 5, ROOT + 12)
    settled = settle_rotations(frames, ROOT)
    vectors = settled[..., ROOT:].unflatten(-1, (-1, 2, 3))
    grams = vectors @ vectors.mT
    torch.testing.assert_close(grams, torch.eye(2).expand_as(grams), atol=1e-5, rtol=0)
    torch.testing.assert_close(settle_rotations(settled, ROOT), settled)
    assert torch.equal(settled[..., :ROOT], frames[..., :ROOT])


def test_noise_is_normal_and_follows_from_seed_key_slot_and_frame_alone() -> None:
    keys, slots = torch.tensor([5, 6]), torch.tensor([0, 0])
    noise = draw_noise(3, keys, slots, (400, 30))
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    assert abs(float((noise[0] * noise[1]).mean())) < 0.04
    alone = draw_noise(3, keys[1:], slots[1:], (7, 30))
    assert torch.equal(alone[0], noise[1, :7])
    for other in (draw_noise(4, keys, slots, (400, 30)), draw_noise(3, keys, slots + 1, (400, 30))):
        assert abs(float((noise * other).mean())) < 0.03


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"num_steps": 0}, "num_steps must be from 1 to 1000, got 0"),
        ({"num_steps": 11, "num_levels": 10}, "num_steps must be from 1 to 10, got 11"),
        ({"guidance": float("nan")}, "guidance must be finite, got nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Diffusion(**settings_)
