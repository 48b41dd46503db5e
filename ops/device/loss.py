"""The loss: what each label costs, summed for the step and for every task.

Shape letters: N = tokens of the target stream, C = channels, V = ids, K = tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ...graph.op import Traits
from ...graph.type import Layout, Place, Port, Signature
from .embedding import TokenTable, hidden_port


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTokens:
    """Score every id at each target position and charge the label.

    Attributes:
        num_ids: Size of the vocabulary.
        model_width: Channels of a token.
        num_tasks: Tasks of the mixture.
        label_smoothing: Share of each label's probability that is spread over all ids.
    """

    num_ids: int
    model_width: int
    num_tasks: int
    label_smoothing: float = 0.0
    traits: ClassVar[Traits] = Traits("score_tokens", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """States, labels and weights in; the loss, and sums per task for the record, out."""
        packed = Layout.PACKED
        sums = Port("loss", "float32", (self.num_tasks,), packed)
        return Signature(
            inputs={
                "hidden": hidden_port("NT", self.model_width),
                "labels": Port("labels", "int32", ("NT",), packed),
                "weights": Port("weights", "float32", ("NT",), packed),
                "task_ids": Port("task", "int32", ("NT",), packed),
                "divisor": Port("weights", "float32", (), packed, is_optional=True),
            },
            outputs={
                "out": Port("loss", "float32", (), packed),
                "task_losses": sums,
                "task_weights": sums,
            },
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
        task_ids: Tensor,
        divisor: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and per task the sums of weighted losses and of weights.

        Args:
            module: The table.
            hidden: States, shape ``(N, C)``.
            labels: Next id of each.
            weights: Weight of each label, 0 for those that are not learned.
            task_ids: Task of each.
            divisor: Sum of the weights of the whole step, shape ``()``, where the step is more than
                this pack; the weights of the pack otherwise. The loss of a step without weight is
                0.
        """
        scores_NV = module.score(hidden)
        losses_N = F.cross_entropy(
            scores_NV, labels.long(), reduction="none", label_smoothing=self.label_smoothing
        )
        charged_N = losses_N * weights
        total = weights.sum() if divisor is None else divisor
        loss = charged_N.sum() / total.where(total > 0, 1)
        task_losses_K = charged_N.new_zeros(self.num_tasks).index_add(
            0, task_ids, charged_N.detach()
        )
        task_weights_K = weights.new_zeros(self.num_tasks).index_add(0, task_ids, weights)
        return loss, task_losses_K, task_weights_K
