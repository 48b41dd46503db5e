"""Metrics: one number for the answers to many rows, and what it is worth.

An answer is a text; None stands for a row that could not be built or answered, and is wrong. Every
score here is a share, from 0 to 1.

A score means little beside a skewed set of answers, so it is read against a *baseline*, what one gets
without looking at the row. The *chance-corrected* score puts the baseline at 0 and perfection at 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..graph.errors import OpError


def accuracy(predictions: Sequence[str | None], references: Sequence[str | None]) -> float:
    """Return the share of rows whose prediction equals the reference.

    Raises:
        OpError: There are no rows, or not as many predictions as references.
    """
    _check_lengths(predictions, references)
    pairs = zip(predictions, references, strict=True)
    num_right = sum(given is not None and given == wanted for given, wanted in pairs)
    return num_right / len(references)


def majority(train_references: Sequence[str | None], references: Sequence[str | None]) -> float:
    """Return the accuracy of always giving the commonest answer of the training rows.

    Of equally common answers the first in order counts, so that the baseline never depends on the
    order of rows. Without training rows it is 0.

    Raises:
        OpError: There are no rows to be tested on.
    """
    counts = Counter(answer for answer in train_references if answer is not None)
    commonest = min(counts, key=lambda answer: (-counts[answer], answer), default=None)
    return accuracy([commonest] * len(references), references)


def chance_corrected(score: float, baseline: float) -> float:
    """Return how far ``score`` lies on the way from ``baseline`` (0) to perfection (1).

    Negative below the baseline. A perfect baseline leaves no way to go: the result is 0 there.
    """
    return (score - baseline) / (1 - baseline) if baseline < 1 else 0.0


def _check_lengths(predictions: Sequence[object], references: Sequence[object]) -> None:
    if len(predictions) != len(references):
        message = f"{len(predictions)} predictions for {len(references)} references"
        raise OpError.of("T0311", message, "give one for every row, None where there is no answer")
    if not references:
        raise OpError.of("T0311", "there are no rows to score")
