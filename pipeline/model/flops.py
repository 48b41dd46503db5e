"""What a training step has to compute.

Counted are matrix products, two FLOP for each multiplication with an addition, once forward and twice
backward: linear layers of either stack for each of its tokens, keys and values of the source in every layer of
the decoder, attention for each pair of a query and a key that it sees, and the head for each label with weight.
Padding, norms, embeddings, softmax, adapters, a trunk, and what is computed again count nothing.

Absolute positions of the OFA family lie behind the states in every head, so a score in a layer is a product of
vectors twice as long. This is what is computed, and what is counted; `Flops.strict` counts it once for a stack
instead, as where the bias is added up once for all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ...ops.device.config import ModelConfig

Lengths: TypeAlias = npt.NDArray[np.integer]

_PASSES: Final = 3
"""The backward pass is two forward ones: a gradient of either factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOP of a step, by part.

    Attributes:
        linear: Linear layers.
        attention: Scores of states, and sums of values.
        positions: Scores of positions, in every layer.
        head: Scores of ids.
        repeated: What of ``positions`` would be done once for a stack.
    """

    linear: float
    attention: float
    positions: float
    head: float
    repeated: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.linear + self.attention + self.positions + self.head

    @property
    def strict(self) -> float:
        """All of it, positions once for a stack."""
        return self.total - self.repeated


def count_flops(
    model: ModelConfig, source: Lengths, target: Lengths, num_labels: float, num_ids: int
) -> Flops:
    """Return what a step on some documents has to compute.

    Args:
        model: Sizes of the model.
        source: Source tokens of each document, patches among them.
        target: Target tokens of each.
        num_labels: Labels with weight, of all documents together.
        num_ids: Size of the vocabulary.
    """
    n_source, n_target = source.astype(np.float64), target.astype(np.float64)
    width, ffn = model.width, 2 * model.width * model.ffn_width
    encoder, decoder = model.num_encoder_layers, model.num_decoder_layers
    # Weights that a token meets: its own layers, keys and values for the other stack, and those of positions.
    is_placed = model.position == "relative" and model.absolute_position == "bias"
    placed = 3 * width**2 if is_placed else 0
    per_source = encoder * (4 * width**2 + ffn) + decoder * 2 * width**2 + placed
    per_target = decoder * (6 * width**2 + ffn) + placed
    seen_by_target = n_target * (n_target + 1) / 2 + n_target * n_source
    pairs = float((encoder * n_source**2 + decoder * seen_by_target).sum())
    pairs_once = float((n_source**2 + seen_by_target).sum())
    per_flop = 2 * _PASSES
    per_pair = per_flop * width if is_placed else 0
    return Flops(
        linear=per_flop * float(n_source.sum() * per_source + n_target.sum() * per_target),
        attention=per_flop * pairs * 2 * width,
        positions=per_pair * pairs,
        head=per_flop * num_labels * width * num_ids,
        repeated=per_pair * (pairs - pairs_once),
    )
