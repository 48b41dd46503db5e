"""Attention one tile of queries after another, with memory that grows with the stream alone.

No more than the scores of one tile are in memory, and none outlives its tile. Ranges are read as
numbers, so a tile skips the keys that none of its queries sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor

from .call import Call, Passes, precise
from .codes import Codes, TileCodes


def _forward(call: Call) -> tuple[Tensor, Tensor]:
    """Return what queries see, and the log of each one's sum of exponentials."""
    q, k, v = (_by_head(x) for x in call[:3])
    num_heads, num_queries, _ = q.shape
    out_NHD = call.q_NHD.new_zeros(num_queries, num_heads, v.shape[-1])
    log_sums_HN = q.new_full((num_heads, num_queries), torch.inf)
    for tile in _tiles(call):
        weights_HQK = tile.scores(q, k)
        greatest_HQ1 = weights_HQK.amax(-1, keepdim=True)
        greatest_HQ1.masked_fill_(greatest_HQ1 == -torch.inf, 0)
        weights_HQK.sub_(greatest_HQ1).exp_()
        sums_HQ1 = weights_HQK.sum(-1, keepdim=True)
        is_empty_HQ1 = sums_HQ1 == 0
        out_HQD = (weights_HQK @ v[:, tile.keys]).div_(sums_HQ1.masked_fill(is_empty_HQ1, 1))
        out_NHD[tile.rows] = out_HQD.transpose(0, 1)
        log_sums_HQ1 = (greatest_HQ1 + sums_HQ1.log()).masked_fill_(is_empty_HQ1, torch.inf)
        log_sums_HN[:, tile.rows] = log_sums_HQ1[..., 0]
    log_sums_HN.masked_fill_(call.lost_N, torch.nan)
    return out_NHD.masked_fill_(call.lost_N[:, None, None], torch.nan), log_sums_HN


def _backward(
    call: Call, grad_NHD: Tensor, out_NHD: Tensor, log_sums_HN: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys, values and table."""
    grad, q, k, v = (_by_head(x) for x in (grad_NHD, *call[:3]))
    dots_HN1 = (grad * _by_head(out_NHD)).sum(-1, keepdim=True)
    grads = [q.new_zeros(x.shape) for x in call[:3]]
    grad_q, grad_k, grad_v = (x.transpose(0, 1) for x in grads)
    grad_table_HR = q.new_zeros(0 if call.table_HR is None else call.table_HR.shape)
    for tile in _tiles(call):
        rows, keys = tile.rows, tile.keys
        weights_HQK = tile.scores(q, k).sub_(log_sums_HN[:, rows, None]).exp_()
        grad_v[:, keys].baddbmm_(weights_HQK.mT, grad[:, rows])
        grad_scores_HQK = grad[:, rows] @ v[:, keys].mT
        grad_scores_HQK.sub_(dots_HN1[:, rows]).mul_(weights_HQK)
        del weights_HQK  # names would keep what is as large as anything here for the next tile
        if tile.codes is not None:
            tile.codes.add_gradient(grad_table_HR, grad_scores_HQK)
        grad_q[:, rows].baddbmm_(grad_scores_HQK, k[:, keys], alpha=call.scale)
        grad_k[:, keys].baddbmm_(grad_scores_HQK.mT, q[:, rows], alpha=call.scale)
        del grad_scores_HQK
    given = [grad.to(x.dtype) for grad, x in zip(grads, call[:3], strict=True)]
    return given[0], given[1], given[2], grad_table_HR


class _Tile(NamedTuple):
    """Some queries, and the keys from the first to the last that any of them sees.

    Attributes:
        rows: The queries.
        keys: The keys.
        scale: Factor of the scores.
        hidden_QK: Which queries do not see which keys; ``None`` where all see all.
        codes: What the bias needs, if there is one.
    """

    rows: slice
    keys: slice
    scale: float
    hidden_QK: Tensor | None
    codes: TileCodes | None

    def scores(self, q_HND: Tensor, k_HMD: Tensor) -> Tensor:
        """Return the scores, shape ``(H, Q, K)``; minus infinity for what is not seen."""
        q_HQD, k_HDK = q_HND[:, self.rows], k_HMD[:, self.keys].mT
        if self.codes is None:
            scores_HQK = (q_HQD @ k_HDK).mul_(self.scale)
        else:
            scores_HQK = torch.baddbmm(self.codes.bias(), q_HQD, k_HDK, alpha=self.scale)
        if self.hidden_QK is not None:
            scores_HQK.masked_fill_(self.hidden_QK, -torch.inf)
        return scores_HQK


def _tiles(call: Call) -> Iterator[_Tile]:
    """Yield the tiles of which some query sees something."""
    codes = None
    if call.table_HR is not None and call.codes_3N is not None:
        codes = Codes(call.table_HR.to(precise(call.q_NHD.dtype)), call.codes_3N)
    num_queries, num_keys = call.q_NHD.shape[0], call.k_MHD.shape[0]
    key_M = torch.arange(num_keys, device=call.k_MHD.device)
    lo_N, hi_N = call.ranges_2N
    for index, (start, stop) in enumerate(call.keys_2T.T.tolist()):
        if start >= stop:
            continue
        first = index * call.tile
        rows, keys = slice(first, min(first + call.tile, num_queries)), slice(start, stop)
        lo_Q, hi_Q, hidden_QK = lo_N[rows], hi_N[rows], None
        if int(lo_Q.max()) > start or int(hi_Q.min()) < stop:
            hidden_QK = (key_M[keys] < lo_Q[:, None]) | (key_M[keys] >= hi_Q[:, None])
        yield _Tile(rows, keys, call.scale, hidden_QK, codes and codes.of(rows, keys))


def _by_head(x_NHD: Tensor) -> Tensor:
    """Return ``x_NHD`` with heads first, in a type that sums may be taken in."""
    return x_NHD.to(precise(x_NHD.dtype)).transpose(0, 1)


STREAM: Final = Passes(_forward, _backward)
