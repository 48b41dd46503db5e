"""What a training step of the OFA family has to compute, and what a GPU could.

Counted are matrix products, two FLOP for each multiplication with an addition, once forward and twice
backward: linear layers of either stack for each of its tokens, keys and values of the source in every layer of
the decoder, attention for each pair of a query and a key that it sees, and the head for each label with weight.
Padding, norms, embeddings, softmax and what is computed again count nothing.

Absolute positions lie behind the states in every head, so a score in a layer is a product of vectors twice as
long. This is what is computed, and what is counted; `Flops.strict` counts it once for a stack instead, as where
the bias is added up once for all layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from padded import Document

from taskloom.ops.device.config import ModelConfig

PEAKS: Final = {"H100 PCIe": 756.0, "H100": 989.4, "H200": 989.4, "A100": 312.0}
"""TFLOP/s in bfloat16, dense, as the maker tells them; by what the name of a GPU contains."""

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


def count_flops(model: ModelConfig, documents: Iterable[Document], num_ids: int) -> Flops:
    """Return what a step on ``documents`` has to compute, of a model without a trunk."""
    width, ffn = model.width, 2 * model.width * model.ffn_width
    encoder, decoder = model.num_encoder_layers, model.num_decoder_layers
    # Weights that a token meets: its own layers, keys and values for the other stack, and those of positions.
    per_source = encoder * (4 * width**2 + ffn) + decoder * 2 * width**2 + 3 * width**2
    per_target = decoder * (6 * width**2 + ffn) + 3 * width**2
    linear = pairs = pairs_once = labels = 0
    for each in documents:
        source, target = each.source_length, len(each.target_ids)
        linear += source * per_source + target * per_target
        seen_by_target = target * (target + 1) // 2 + target * source
        pairs += encoder * source**2 + decoder * seen_by_target
        pairs_once += source**2 + seen_by_target
        labels += int((each.weights > 0).sum())
    per_flop = 2 * _PASSES
    return Flops(
        linear=per_flop * linear,
        attention=per_flop * pairs * 2 * width,
        positions=per_flop * pairs * width,
        head=per_flop * labels * width * num_ids,
        repeated=per_flop * (pairs - pairs_once) * width,
    )


def find_peak(name: str) -> float | None:
    """Return the peak of the GPU called ``name``, in TFLOP/s; None where it is not known."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)
