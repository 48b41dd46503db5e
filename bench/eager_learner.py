"""OFASys as it is trained: padded batches, and a step of the optimizer on parameters in single precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from eager_ofasys import Batch, EagerOfasys, Manner
from steps import SMOOTHING
from torch import Tensor, nn

from taskloom.pipeline.model.precision import hand_over, refresh

CLIP: Final = 1.0


class EagerLearner:
    """Parameters of OFASys in half precision, and those in single precision that an optimizer steps."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        num_heads: int,
        manner: Manner = Manner(),  # noqa: B008 - it is frozen
        *,
        is_compiled: bool = False,
    ) -> None:
        """Begin with the parameters ``state``, in float32 and by the names of OFASys."""
        values = [each.detach() for each in state.values()]
        self._masters = nn.ParameterList(values)
        self._working = nn.ParameterList([each.bfloat16() for each in values])
        used = dict(zip(state, self._working, strict=True))
        charge = EagerOfasys(state=used, num_heads=num_heads, manner=manner).charge
        # Batches have many shapes: one program serves them all.
        self._charge = (
            torch.compile(charge, dynamic=True, fullgraph=True) if is_compiled else charge
        )
        self._optimizer = torch.optim.AdamW(
            self._masters.parameters(),
            lr=1e-4,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            fused=True,
        )

    def take(self, batch: Batch) -> None:
        """Take one step on ``batch``."""
        self.clear()
        (self._charge(batch, SMOOTHING) / batch.weights.sum()).backward()
        hand_over(self._working, self._masters)
        nn.utils.clip_grad_norm_(self._masters.parameters(), CLIP)
        self._optimizer.step()
        refresh(self._working, self._masters)

    def clear(self) -> None:
        """Give back the gradients of the last step, as the next one would."""
        self._optimizer.zero_grad(set_to_none=True)
