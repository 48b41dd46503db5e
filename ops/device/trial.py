"""Device ops tried alone: their examples as tensors, with parameters that are always the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..example import Example


def run_example(example: Example) -> tuple[Tensor, ...]:
    """Return what a device op makes of its example, with parameters drawn from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = example.op.module()
    inputs = {port: torch.from_numpy(np.array(values)) for port, values in example.rows.items()}
    with torch.no_grad():
        made = example.op(module, **inputs)
    return made if isinstance(made, tuple) else (made,)
