"""The loss: what each label costs, summed for the step and for every slot.

Shape letters: N = tokens of the target stream, C = channels, V = ids, L = losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...graph.op import Traits
from ...graph.type import Layout, Place, Port, Signature
from .cross_entropy import ChargeSpec, charge_labels
from .embedding import TokenTable, hidden_port


def loss_ports(num_losses: int) -> dict[str, Port]:
    """Return what every op gives that charges: the loss, and by loss id the sums of losses and of weights."""
    sums = Port("loss", "float32", (num_losses,), Layout.PACKED)
    return {
        "out": Port("loss", "float32", (), Layout.PACKED),
        "losses": sums,
        "loss_weights": sums,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTokens:
    """Score every id at each target position and charge the label.

    Attributes:
        num_ids: Size of the vocabulary.
        model_width: Channels of a token.
        num_losses: Losses that are summed apart: one for each slot that is learned.
        label_smoothing: Share of each label's probability that is spread over the other ids.
    """

    num_ids: int
    model_width: int
    num_losses: int
    label_smoothing: float = 0.0
    traits: ClassVar[Traits] = Traits("score_tokens", version=2, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """States, labels and weights in; the loss, and sums by loss id for the record, out."""
        packed = Layout.PACKED
        return Signature(
            inputs={
                "hidden": hidden_port("NT", self.model_width),
                "labels": Port("labels", "int32", ("NT",), packed),
                "weights": Port("weights", "float32", ("NT",), packed),
                "loss_ids": Port("loss_ids", "int32", ("NT",), packed),
                "divisor": Port("weights", "float32", (), packed, is_optional=True),
            },
            outputs=loss_ports(self.num_losses),
        )

    def module(self) -> TokenTable:
        """Build the table that embeds and scores."""
        return TokenTable(self.num_ids, self.model_width)

    def __call__(
        self,
        module: TokenTable,
        hidden: Tensor,
        labels: Tensor,
        weights: Tensor,
        loss_ids: Tensor,
        divisor: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and by loss id the sums of weighted losses and of weights.

        Args:
            module: The table.
            hidden: States, shape ``(N, C)``.
            labels: Next id of each.
            weights: Weight of each label, 0 for those that are not learned.
            loss_ids: Loss that each label counts in.
            divisor: Sum of the weights of the whole step, shape ``()``, where the step is more than
                this pack; the weights of the pack otherwise. The loss of a step without weight is
                0.
        """
        spec = ChargeSpec(label_smoothing=self.label_smoothing)
        charge, charged_N = charge_labels(hidden, module.weight_VC, labels, weights, spec)
        total = weights.sum() if divisor is None else divisor
        loss = charge / total.where(total > 0, 1)
        losses_L = charged_N.new_zeros(self.num_losses).index_add(0, loss_ids, charged_N)
        weights_L = weights.new_zeros(self.num_losses).index_add(0, loss_ids, weights)
        return loss, losses_L, weights_L
