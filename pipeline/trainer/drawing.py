"""Random numbers of a pack: the same whichever rank learns it, and whether the run was stopped before it.

They follow from the seed of the run, the step, and the place of the pack in it. So a step may be divided
otherwise between ranks, and nothing of random numbers is kept in a checkpoint.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def draw_for_pack(seed: int, step: int, number: int, device: torch.device) -> None:
    """Let torch draw on ``device`` what is drawn for a pack from now on.

    Args:
        seed: That of the run.
        step: Steps that were taken before.
        number: Place of the pack among those of the step, on whichever rank.
        device: Where the pack is learned.
    """
    place = f"{seed}/{step}/{number}".encode()
    generator = torch.default_generator
    if device.type == "cuda":
        index: Any = device.index
        index = torch.cuda.current_device() if index is None else index
        generator = torch.cuda.default_generators[index]
    generator.manual_seed(int.from_bytes(hashlib.blake2b(place, digest_size=7).digest()))
