"""The schedule: what share of the highest learning rate holds at a step.

The share rises in a straight line over the *warm-up*, is 1 where that ends, and then falls to what is left at
the end of the run: along half a cosine, along a power of the steps that are left, or not at all.

Source: SGDR, section 3 (arXiv:1608.03983), for the cosine.
"""

from __future__ import annotations

import math

from ..settings import TrainConfig


def rate_at(config: TrainConfig, step: int) -> float:
    """Return the learning rate of ``step``, counted from 0."""
    return config.learning_rate * share_at(config, step)


def share_at(config: TrainConfig, step: int) -> float:
    """Return the share of the highest rate at ``step``, counted from 0: above 0 and at most 1 in a run."""
    warmup = count_warmup(config)
    if step < warmup:
        return (step + 1) / warmup
    # A warm-up that takes all of a run ends where the run does.
    progress = 1.0 if step >= config.steps else (step - warmup) / (config.steps - warmup)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        left = (1 + math.cos(math.pi * progress)) / 2
    else:
        left = (1 - progress) ** config.power
    return config.final_rate + (1 - config.final_rate) * left


def is_endless(config: TrainConfig, step: int) -> bool:
    """Return whether the rate from ``step`` on, counted from 0, stays as it is, however long the run."""
    return config.schedule == "constant" and step >= count_warmup(config)


def count_warmup(config: TrainConfig) -> int:
    """Return how many steps the warm-up has: at least one, which is at the highest rate if it is alone."""
    warmup = config.warmup * config.steps if config.warmup < 1 else config.warmup
    return max(1, round(warmup))
