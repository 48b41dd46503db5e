"""Metrics of evaluations: their names, and which way each is better."""

from __future__ import annotations

from typing import Final

METRICS: Final = ("corrected", "score", "loss")
"""What evaluations tell of each task, as ``TASK.METRIC``, and of all tasks in the mean."""


def sign_of(metric: str) -> int:
    """Return 1 if more of ``metric`` is better, -1 if less is."""
    return -1 if metric.rpartition(".")[2] == "loss" else 1
