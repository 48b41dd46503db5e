"""Contrast: the two values of a pair belong together, against those of the other pairs in the pack.

Each half of a pair is a document of the source stream. Its states are averaged and brought to length 1;
the product of a left and a right half, times a learned factor, says how well they go together. Every left
half is asked for its right one among all of its task in the pack, and the other way round.

Shape letters: N = tokens of the source stream, C = channels, P = pairs of a pack, L = losses.

Source: CLIP, section 2.3 (arXiv:2103.00020), for the symmetric loss and the learned factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.op import Traits
from ...graph.type import Layout, Place, Port, Signature
from .embedding import hidden_port
from .loss import loss_ports

UNUSED: Final = -1
"""Loss id at places of no pair."""

_FIRST_FACTOR: Final = 1 / 0.07
_LARGEST_FACTOR: Final = 100.0


class PairScale(nn.Module):
    """The learned factor of similarities, kept as its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.log_factor = nn.Parameter(torch.tensor([math.log(_FIRST_FACTOR)]))

    def forward(self) -> Tensor:
        """Return the factor, shape ``(1,)``, at most 100."""
        return self.log_factor.clamp(max=math.log(_LARGEST_FACTOR)).exp()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastPairs:
    """Charge each pair for what its halves have in common with those of others.

    Attributes:
        model_width: Channels of a token.
        num_losses: Losses that are summed apart.
    """

    model_width: int
    num_losses: int
    traits: ClassVar[Traits] = Traits("contrast_pairs", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """States of the source, and where the halves of pairs lie in it, in; the loss out."""
        packed = Layout.PACKED
        return Signature(
            inputs={
                "hidden": hidden_port("NS", self.model_width),
                "ranges": Port("ranges", "int32", ("NP", 2, 2), packed),
                "loss_ids": Port("loss_ids", "int32", ("NP",), packed),
                "divisor": Port("weights", "float32", (), packed, is_optional=True),
            },
            outputs=loss_ports(self.num_losses),
        )

    def module(self) -> PairScale:
        """Build the factor."""
        return PairScale()

    def __call__(
        self,
        module: PairScale,
        hidden: Tensor,
        ranges: Tensor,
        loss_ids: Tensor,
        divisor: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and by loss id the sums of the pairs' losses and their number.

        Args:
            module: The factor.
            hidden: States of the source stream, shape ``(N, C)``.
            ranges: First position and one past the last, of both halves of each pair; shape ``(P, 2, 2)``.
            loss_ids: Loss of each pair, `UNUSED` where there is none.
            divisor: Number of pairs of the whole step, where it is more than this pack.
        """
        is_used_P = loss_ids != UNUSED
        left_PC, right_PC = (pool_ranges(hidden, ranges[:, half]) for half in (0, 1))
        scores_PP = module() * left_PC @ right_PC.T
        # Pairs of other tasks are no contrast; a place of no pair meets itself alone, at no charge.
        differs_PP = (loss_ids[:, None] != loss_ids) | ~is_used_P
        differs_PP = differs_PP & ~torch.eye(len(loss_ids), dtype=torch.bool, device=hidden.device)
        scores_PP = scores_PP.masked_fill(differs_PP, -torch.inf)
        labels_P = torch.arange(len(loss_ids), device=hidden.device)
        both = (F.cross_entropy(s, labels_P, reduction="none") for s in (scores_PP, scores_PP.T))
        losses_P = torch.where(is_used_P, sum(both) / 2, 0.0)
        weights_P = is_used_P.to(losses_P.dtype)
        total = weights_P.sum() if divisor is None else divisor
        index_P = loss_ids.clamp(min=0)
        zeros_L = losses_P.new_zeros(self.num_losses)
        return (
            losses_P.sum() / total.where(total > 0, 1),
            zeros_L.index_add(0, index_P, losses_P.detach()),
            zeros_L.index_add(0, index_P, weights_P),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparePairs:
    """Say how well the halves of each pair go together.

    Attributes:
        model_width: Channels of a token.
    """

    model_width: int
    traits: ClassVar[Traits] = Traits("compare_pairs", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """States of the source, and where the halves of pairs lie in it, in; one number for each pair out."""
        packed = Layout.PACKED
        return Signature(
            inputs={
                "hidden": hidden_port("NS", self.model_width),
                "ranges": Port("ranges", "int32", ("NP", 2, 2), packed),
            },
            outputs={"out": Port("score", "float32", ("NP",), packed)},
        )

    def module(self) -> PairScale:
        """Build the factor."""
        return PairScale()

    def __call__(self, module: PairScale, hidden: Tensor, ranges: Tensor) -> Tensor:
        """Return the similarity of the halves times the learned factor, shape ``(P,)``."""
        left_PC, right_PC = (pool_ranges(hidden, ranges[:, half]) for half in (0, 1))
        return module() * (left_PC * right_PC).sum(-1)


def pool_ranges(hidden_NC: Tensor, ranges_P2: Tensor) -> Tensor:
    """Return the mean state of each range, brought to length 1; zeros for an empty one.

    Args:
        hidden_NC: States of a stream.
        ranges_P2: First position and one past the last of each range.
    """
    index_N = torch.arange(hidden_NC.shape[0], device=hidden_NC.device)
    inside_PN = (index_N >= ranges_P2[:, :1]) & (index_N < ranges_P2[:, 1:])
    sums_PC = inside_PN.to(hidden_NC.dtype) @ hidden_NC
    return F.normalize(sums_PC, dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddLosses:
    """Add losses of several kinds.

    Attributes:
        num_losses: Losses that are summed apart.
    """

    num_losses: int
    traits: ClassVar[Traits] = Traits("add_losses", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """For each of two kinds its loss and its sums in, the same of both out."""
        one = loss_ports(self.num_losses)
        both = {
            f"{side}_{port}": type_ for side in ("left", "right") for port, type_ in one.items()
        }
        return Signature(inputs=both, outputs=one)

    def module(self) -> None:
        """Build nothing: there are no parameters."""

    def __call__(self, _module: None, **inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of what both kinds gave."""
        left, right = (
            [inputs[f"{side}_{port}"] for port in loss_ports(self.num_losses)]
            for side in ("left", "right")
        )
        out, losses, weights = (one + other for one, other in zip(left, right, strict=True))
        return out, losses, weights
