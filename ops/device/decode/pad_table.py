"""The table of ids laid out for scoring a few rows, as a GPU likes to read it.

It ends with zeros, ids that nothing writes: products with an odd number of rows take six times as long there,
and what is looked for among all scores of a target is looked for in parts at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..embedding import TokenTable
from .options import PART


def pad_table(table: TokenTable) -> None:
    """Lay out ``table`` for scoring on a GPU. It is for writing from then on: losses would count all rows."""
    with torch.no_grad():
        table.weight_VC.data = F.pad(table.weight_VC, (0, 0, 0, -len(table.weight_VC) % PART))
