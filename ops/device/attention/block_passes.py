"""Both passes of attention in blocks, with memory that grows with the streams alone.

Queries and keys are gathered into blocks and results put back where they came from, which costs little beside
the scores that are spared. No more than the scores of one chunk are in memory, and none outlives its chunk, for
the backward pass computes weights again; unless they are few, and kept.

Shape letters: as in `taskloom.ops.device.attention.blocks`; G = blocks of a chunk times heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from .blocks import Blocks, Codes, Stage
from .call import Call, Passes, precise

_BEHIND: Final = (torch.nan, 0.0, -torch.inf)
"""What scores add by the rows behind a table, which `Chunk.find_rows` tells."""


class _Scoring(NamedTuple):
    """What scores are made of, beside queries and keys.

    Attributes:
        blocks: The blocks.
        table_HR: Biases and what is behind them, if there are any.
        codes: Code, base and slot of each token, if there is a table.
        num_heads: Heads.
        scale: Factor of the scores.
    """

    blocks: Blocks
    table_HR: Tensor | None
    codes: Codes | None
    num_heads: int
    scale: float

    @classmethod
    def of(
        cls,
        blocks: Blocks,
        q_NHD: Tensor,
        table_HR: Tensor | None,
        codes: Codes | None,
        scale: float,
    ) -> _Scoring:
        """Extend the table, in the type of the scores."""
        if table_HR is not None:
            table_HR = table_HR.to(precise(q_NHD.dtype))
            behind_HR = table_HR.new_tensor(_BEHIND).expand(len(table_HR), -1)
            table_HR = torch.cat((table_HR, behind_HR), 1)
        return cls(blocks, table_HR, codes, q_NHD.shape[1], scale)

    @property
    def stages(self) -> list[Stage]:
        """The stages, one after another."""
        return self.blocks.stages(self.num_heads)

    def rows(self, number: int) -> Tensor | None:
        """Return the row of the table that each score of a chunk adds, if there is a table."""
        if self.table_HR is None or self.codes is None:
            return None
        return self.blocks.rows(number, self.codes, self.table_HR.shape[1] - len(_BEHIND))

    def score(self, number: int, q: Tensor, k: Tensor) -> Tensor:
        """Return the scores of a chunk, shape ``(G, Q, K)``; minus infinity for what is not seen."""
        rows = self.rows(number)
        if self.table_HR is None or rows is None:
            scores = (q @ k.mT).mul_(self.scale)
            scores.unflatten(0, (self.num_heads, -1)).add_(self.blocks.mask(number))
            return scores
        added = self.table_HR.index_select(1, rows).view(len(q), q.shape[1], k.shape[1])
        return added.baddbmm_(q, k.mT, alpha=self.scale)


class _Gathered(NamedTuple):
    """What the chunks of a stage are computed from.

    Attributes:
        stage: The stage.
        q_XD: Heads of queries.
        k_YD: Heads of keys.
        v_YD: Heads of values.
        weights: Of each chunk, shape ``(G, Q, K)``; none where they are to be computed.
    """

    stage: Stage
    q_XD: Tensor
    k_YD: Tensor
    v_YD: Tensor
    weights: list[Tensor]


def _gather(stages: Iterable[Stage], streams: Sequence[Tensor]) -> Iterator[_Gathered]:
    """Yield what each stage reads of queries, keys and values."""
    q_XD, k_YD, v_YD = (x.to(precise(x.dtype)).flatten(0, 1) for x in streams)
    for stage in stages:
        own = [x.index_select(0, stage.key_Y) for x in (k_YD, v_YD)]
        yield _Gathered(stage, q_XD.index_select(0, stage.query_X), own[0], own[1], [])


def _restore(stages: Iterable[Stage], saved: Sequence[Tensor]) -> Iterator[_Gathered]:
    """Yield what has been kept of each stage."""
    rest = iter(saved)
    for stage in stages:
        q_XD, k_YD, v_YD = (next(rest) for _ in range(3))
        yield _Gathered(stage, q_XD, k_YD, v_YD, list(islice(rest, len(stage.chunks))))


def _see(
    scoring: _Scoring, streams: Sequence[Tensor], kept: list[_Gathered] | None = None
) -> tuple[Tensor, Tensor]:
    """Return what queries see, shape ``(N, H, D)``, and the log of each head's sum of exponentials.

    Args:
        scoring: What scores are made of.
        streams: Queries, keys and values.
        kept: Takes what the backward pass would compute again, if that is wanted.
    """
    num_queries, num_heads, _ = streams[0].shape
    size = streams[2].shape[-1]
    # Behind the last head there is one for what blocks are filled up with.
    shape = (num_queries * num_heads + 1, size)
    out_XD = streams[0].new_zeros(shape, dtype=precise(streams[0].dtype))
    log_sums_X1 = out_XD.new_zeros(len(out_XD), 1)
    for gathered in _gather(scoring.stages, streams):
        stage = gathered.stage
        own = [out_XD.new_empty(len(stage.query_X), width) for width in (size, 1, 1)]
        q, out, greatest, sums = (stage.cut_queries(x) for x in (gathered.q_XD, *own))
        k, v = (stage.cut_keys(x) for x in (gathered.k_YD, gathered.v_YD))
        for at, number in enumerate(stage.chunks):
            weights = scoring.score(number, q[at], k[at])
            torch.amax(weights, -1, keepdim=True, out=greatest[at])
            weights.sub_(greatest[at]).exp_()
            torch.sum(weights, -1, keepdim=True, out=sums[at])
            torch.bmm(weights.div_(sums[at]), v[at], out=out[at])
            if kept is not None:
                gathered.weights.append(weights)
        if kept is not None:
            kept.append(gathered)
        out_XD.index_copy_(0, stage.put_X, own[0])
        log_sums_X1.index_copy_(0, stage.put_X, own[1].add_(own[2].log_()))
    out_NHD = out_XD[:-1].view(num_queries, num_heads, size)
    return out_NHD.to(streams[0].dtype), log_sums_X1[:-1]


def _learn(
    scoring: _Scoring,
    shapes: Sequence[torch.Size],
    grad_NHD: Tensor,
    log_sums_X1: Tensor,
    seen: Iterable[_Gathered],
) -> tuple[list[Tensor], Tensor | None]:
    """Return the gradients of queries, keys and values, which have ``shapes``, and that of the table."""
    grad_XD = grad_NHD.to(log_sums_X1.dtype).flatten(0, 1)
    sums = [grad_XD.new_zeros(shape).flatten(0, 1) for shape in shapes]
    table_HR = scoring.table_HR
    grad_table_HR = None if table_HR is None else torch.zeros_like(table_HR)
    for gathered in seen:
        stage = gathered.stage
        grads = [torch.empty_like(x) for x in gathered[1:4]]
        # No gradient comes from what blocks are filled up with.
        own_XD = grad_XD.index_select(0, stage.query_X).index_fill_(0, stage.filler_X, 0)
        q, grad_q, grad = (stage.cut_queries(x) for x in (gathered.q_XD, grads[0], own_XD))
        k, v, grad_k, grad_v = (stage.cut_keys(x) for x in (*gathered[2:4], *grads[1:]))
        log_sums = stage.cut_queries(log_sums_X1.index_select(0, stage.query_X))
        for at, number in enumerate(stage.chunks):
            if gathered.weights:
                weights = gathered.weights[at]
            else:
                weights = scoring.score(number, q[at], k[at]).sub_(log_sums[at]).exp_()
            torch.bmm(weights.mT, grad[at], out=grad_v[at])
            grad_scores = _pass_softmax(grad[at] @ v[at].mT, weights)
            if grad_table_HR is not None and (rows := scoring.rows(number)) is not None:
                grad_table_HR.index_add_(1, rows, grad_scores.view(scoring.num_heads, -1))
            torch.bmm(grad_scores, k[at], out=grad_q[at])
            torch.bmm(grad_scores.mT, q[at], out=grad_k[at])
        sums[0].index_add_(0, stage.query_X, grads[0])
        sums[1].index_add_(0, stage.key_Y, grads[1])
        sums[2].index_add_(0, stage.key_Y, grads[2])
    for total in sums[:2]:
        total.mul_(scoring.scale)
    if grad_table_HR is not None:
        grad_table_HR = grad_table_HR[:, : -len(_BEHIND)].contiguous()
    return [total.view(shape) for total, shape in zip(sums, shapes, strict=True)], grad_table_HR


def _pass_softmax(grad: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of scores, given that of their weights."""
    # The underscore is part of an operator's name that all back ends of torch know.
    through: Tensor = torch.ops.aten._softmax_backward_data(  # noqa: SLF001
        grad, weights, -1, weights.dtype
    )
    return through


def _scoring_of(call: Call) -> _Scoring:
    lo_N, hi_N = call.ranges_2N
    blocks = Blocks(lo_N, hi_N, call.k_MHD.shape[0], call.tile)
    codes = None
    if call.codes_3N is not None:
        shift_N, code_N, slot_N = call.codes_3N
        codes = (code_N, shift_N + code_N, slot_N)
    return _Scoring.of(blocks, call.q_NHD, call.table_HR, codes, call.scale)


def _forward(call: Call) -> tuple[Tensor, Tensor]:
    scoring = _scoring_of(call)
    out_NHD, log_sums_X1 = _see(scoring, call[:3])
    log_sums_HN = log_sums_X1.view(call.q_NHD.shape[:2]).T.contiguous()
    return scoring.blocks.spoil_lost(out_NHD), log_sums_HN


def _backward(
    call: Call,
    grad_NHD: Tensor,
    out_NHD: Tensor,  # noqa: ARG001
    log_sums_HN: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scoring = _scoring_of(call)
    shapes = [x.shape for x in call[:3]]
    log_sums_X1 = log_sums_HN.T.reshape(-1, 1)
    seen = _gather(scoring.stages, call[:3])
    grads, grad_table_HR = _learn(scoring, shapes, grad_NHD, log_sums_X1, seen)
    grad_q, grad_k, grad_v = (grad.to(call.q_NHD.dtype) for grad in grads)
    none = log_sums_HN.new_zeros(0)
    return grad_q, grad_k, grad_v, none if grad_table_HR is None else grad_table_HR


BLOCKS: Final = Passes(_forward, _backward)


class Way(NamedTuple):
    """How one layer attends in blocks.

    Attributes:
        blocks: The blocks, planned before.
        codes: Code, base and slot of each token, if there is a table.
        scale: Factor of the scores.
        keeps: Whether weights are kept for the backward pass.
    """

    blocks: Blocks
    codes: Codes | None
    scale: float
    keeps: bool


class AttendInBlocks(torch.autograd.Function):
    """What `BLOCKS` computes, given queries, keys, values, a table and a `Way`."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:  # noqa: D102
        *streams, table_HR, way = given
        scoring = _Scoring.of(way.blocks, streams[0], table_HR, way.codes, way.scale)
        kept: list[_Gathered] | None = [] if way.keeps else None
        out_NHD, log_sums_X1 = _see(scoring, streams, kept)
        ctx.scoring, ctx.shapes, ctx.keeps = scoring, [x.shape for x in streams], way.keeps
        flat = [x for each in kept or () for x in (*each[1:4], *each.weights)]
        ctx.save_for_backward(log_sums_X1, table_HR, *(flat if way.keeps else streams))
        return out_NHD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (grad_NHD,) = grad_outputs
        log_sums_X1, table_HR, *saved = ctx.saved_tensors
        stages = ctx.scoring.stages
        seen = _restore(stages, saved) if ctx.keeps else _gather(stages, saved)
        grads, grad_table_HR = _learn(ctx.scoring, ctx.shapes, grad_NHD, log_sums_X1, seen)
        if grad_table_HR is not None:
            grad_table_HR = grad_table_HR.to(table_HR.dtype)
        return *(grad.to(grad_NHD.dtype) for grad in grads), grad_table_HR, None
