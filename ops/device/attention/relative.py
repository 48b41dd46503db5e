"""A bias of scores that depends on how far apart two tokens are.

Every token of a stream has a *code*, and what is added to a score is the row of a table that the
difference of two codes names, counted from the query's *base*. In text a code is a place, so
differences are distances; in a picture of C columns the patch of row ``y`` and column ``x`` has the
code ``y * (2 * C - 1) + x``, whose differences name each pair of distances once. Tokens of
different *slots* know no distance: nothing is added between them.

The sign: a row is named by *key minus query*. A table that counts query minus key, as OFASys has
it, is given reversed, ``table_HR.flip(1)``, and its base from the other end,
``num_rows - 1 - base``; or codes and base as they are, with the sign of the codes changed.

Only differences within what a query sees matter. Let the code of a text token be its place in the
whole stream, rather than in its document: codes then run on through a tile, which spares the kernels
the look-up of every single score.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....graph.errors import PlanError


class Relative(NamedTuple):
    """The relative bias of one layer over one stream.

    Query ``i`` adds ``table_HR[h, base_N[i] + code_N[j] - code_N[i]]`` to its score with key ``j``
    of the same slot. Where that is no row of the table the score is NaN, which no loss survives.

    Attributes:
        table_HR: Biases per head, the one that is learned.
        code_N: Code of each token, int32.
        base_N: Row of the table that stands for difference 0, int32.
        slot_N: Tokens of different slots add nothing, int32.
    """

    table_HR: Tensor
    code_N: Tensor
    base_N: Tensor
    slot_N: Tensor


def check_relative(q_NHD: Tensor, k_MHD: Tensor, relative: Relative) -> None:
    """Refuse a bias that does not fit the stream.

    Raises:
        PlanError: Queries and keys are not one stream, or heads or tokens differ in number.
    """
    (num_queries, num_heads), num_keys = q_NHD.shape[:2], k_MHD.shape[0]
    if not num_queries == num_keys == relative.code_N.shape[0]:
        counts = f"{num_queries} queries, {num_keys} keys and {relative.code_N.shape[0]} codes"
        raise PlanError.of("T0229", f"a relative bias needs one stream, got {counts}")
    if relative.table_HR.shape[0] != num_heads:
        counts = f"{relative.table_HR.shape[0]} and {num_heads}"
        raise PlanError.of("T0229", f"a relative bias has a row per head, got {counts}")


def relative_scores(relative: Relative, lo_N: Tensor, hi_N: Tensor) -> Tensor:
    """Return what is added to every score, shape ``(H, N, N)``; 0 where a key is not seen."""
    table_HR, code_N, base_N, slot_N = relative
    key_N = torch.arange(code_N.shape[0], device=code_N.device)
    is_near_NN = (key_N >= lo_N[:, None]) & (key_N < hi_N[:, None])
    is_near_NN &= slot_N[:, None] == slot_N
    row_NN = (base_N - code_N)[:, None] + code_N
    is_row_NN = (row_NN >= 0) & (row_NN < table_HR.shape[1])
    added_NNH = F.embedding(row_NN.where(is_row_NN & is_near_NN, 0), table_HR.t())
    outside_NN = torch.where(is_row_NN, 0.0, torch.nan).to(table_HR.dtype)
    return (added_NNH.permute(2, 0, 1) + outside_NN).where(is_near_NN, 0.0)
