"""Both passes of attention in blocks, with memory that grows with the streams alone.

No more than the scores of one chunk are in memory, and none outlives its chunk, for the backward pass computes
weights again; unless they are few, and kept.

Shape letters: as in `taskloom.ops.device.attention.stages`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from .blocks import Blocks, Codes, find_blocks
from .call import Call, Passes, precise
from .rows import Rows, ScoreRows
from .stages import Stage

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

    def rows(self, number: int) -> Rows | None:
        """Return the rows of the table that the scores of a chunk add, if there is a table."""
        if self.table_HR is None or self.codes is None:
            return None
        return self.blocks.rows(number, self.codes, self.table_HR.shape[1] - len(_BEHIND))

    def score(self, number: int, q: Tensor, k: Tensor) -> Tensor:
        """Return the scores of a chunk, shape ``(G, Q, K)``; minus infinity for what is not seen."""
        rows = self.rows(number)
        if self.table_HR is None or rows is None:
            scores = (q @ k.mT).mul_(self.scale)
        else:
            shape = (len(q), q.shape[1], k.shape[1])
            scores = rows.read(self.table_HR, shape).baddbmm_(q, k.mT, alpha=self.scale)
        # Rows of their own tell of what is not seen, too.
        mask = None if isinstance(rows, ScoreRows) else self.blocks.mask(number)
        if mask is not None:
            scores.unflatten(0, (self.num_heads, -1)).add_(mask)
        return scores


class _Read(NamedTuple):
    """What the chunks of a stage are computed from.

    Attributes:
        stage: The stage.
        q: Queries, as the stage reads them.
        k: Keys.
        v: Values.
        weights: Of each chunk, shape ``(G, Q, K)``; none where they are to be computed.
    """

    stage: Stage
    q: Tensor
    k: Tensor
    v: Tensor
    weights: list[Tensor]


def _read(stages: Iterable[Stage], streams: Sequence[Tensor]) -> Iterator[_Read]:
    """Yield what each stage reads of queries, keys and values."""
    q_NHD, k_MHD, v_MHD = (x.to(precise(x.dtype)).contiguous() for x in streams)
    for stage in stages:
        k, v = (stage.read_keys(x) for x in (k_MHD, v_MHD))
        yield _Read(stage, stage.read_queries(q_NHD), k, v, [])


def _restore(stages: Iterable[Stage], saved: Sequence[Tensor]) -> Iterator[_Read]:
    """Yield what has been kept of each stage."""
    rest = iter(saved)
    for stage in stages:
        q, k, v = (next(rest) for _ in range(3))
        yield _Read(stage, q, k, v, list(islice(rest, len(stage.chunks))))


def _see(
    scoring: _Scoring, streams: Sequence[Tensor], kept: list[_Read] | None = None
) -> tuple[Tensor, Tensor]:
    """Return what queries see, shape ``(N, H, D)``, and the log of each head's sum of exponentials.

    Args:
        scoring: What scores are made of.
        streams: Queries, keys and values.
        kept: Takes what the backward pass would compute again, if that is wanted.
    """
    out_NHD = _zeros_like(streams[0], streams[2].shape[2])
    log_sums_NH1 = _zeros_like(streams[0], 1)
    for read in _read(scoring.stages, streams):
        stage = read.stage
        own_out, own_sums = (stage.hold_queries(x) for x in (out_NHD, log_sums_NH1))
        own = (read.q, own_out, own_sums, torch.empty_like(own_sums))
        q, out, greatest, sums = (stage.cut_queries(x) for x in own)
        k, v = (stage.cut_keys(x) for x in (read.k, read.v))
        for at, number in enumerate(stage.chunks):
            weights = _weigh(scoring.score(number, q[at], k[at]), greatest[at], sums[at])
            torch.bmm(weights, v[at], out=out[at])
            if kept is not None:
                read.weights.append(weights)
            # No two chunks are in memory.
            del weights
        if kept is not None:
            kept.append(read)
        stage.put_queries(out_NHD, own_out)
        stage.put_queries(log_sums_NH1, own_sums.add_(own[3].log_()))
    return out_NHD[:-1].to(streams[0].dtype), log_sums_NH1[:-1]


def _weigh(scores: Tensor, greatest: Tensor, sums: Tensor) -> Tensor:
    """Turn scores into weights, and write down the greatest and the sum of exponentials of each query."""
    torch.amax(scores, -1, keepdim=True, out=greatest)
    scores.sub_(greatest).exp_()
    torch.sum(scores, -1, keepdim=True, out=sums)
    return scores.div_(sums)


def _zeros_like(stream_NHD: Tensor, size: int) -> Tensor:
    """Return heads of ``size``, for a token more, which takes what blocks are filled up with."""
    num_tokens, num_heads, _ = stream_NHD.shape
    return stream_NHD.new_zeros(num_tokens + 1, num_heads, size, dtype=precise(stream_NHD.dtype))


def _learn(
    scoring: _Scoring,
    shapes: Sequence[torch.Size],
    grad_NHD: Tensor,
    log_sums_NH1: Tensor,
    seen: Iterable[_Read],
) -> tuple[list[Tensor], Tensor | None]:
    """Return the gradients of queries, keys and values, which have ``shapes``, and that of the table."""
    grad_NHD = grad_NHD.to(log_sums_NH1.dtype).contiguous()
    grad_q_NHD = _zeros_like(grad_NHD, shapes[0][2])
    grad_k_MHD, grad_v_MHD = (grad_NHD.new_zeros(shape) for shape in shapes[1:])
    table_HR = scoring.table_HR
    grad_table_HR = None if table_HR is None else torch.zeros_like(table_HR)
    for read in seen:
        stage = read.stage
        own_q = stage.hold_queries(grad_q_NHD)
        own_k, own_v = (stage.hold_keys(x) for x in (grad_k_MHD, grad_v_MHD))
        own = (read.q, own_q, stage.read_grads(grad_NHD), stage.read_queries(log_sums_NH1))
        q, grad_q, grad, log_sums = (stage.cut_queries(x) for x in own)
        k, v, grad_k, grad_v = (stage.cut_keys(x) for x in (read.k, read.v, own_k, own_v))
        for at, number in enumerate(stage.chunks):
            if read.weights:
                weights = read.weights[at]
            else:
                weights = scoring.score(number, q[at], k[at]).sub_(log_sums[at]).exp_()
            grad_v[at].baddbmm_(weights.mT, grad[at], beta=stage.keeps_keys)
            grad_scores = _pass_softmax(grad[at] @ v[at].mT, weights)
            if grad_table_HR is not None and (rows := scoring.rows(number)) is not None:
                rows.add(grad_table_HR, grad_scores)
            torch.bmm(grad_scores, k[at], out=grad_q[at])
            grad_k[at].baddbmm_(grad_scores.mT, q[at], beta=stage.keeps_keys)
            del weights, grad_scores
        stage.put_queries(grad_q_NHD, own_q)
        stage.add_keys(grad_k_MHD, own_k)
        stage.add_keys(grad_v_MHD, own_v)
    for total in (grad_q_NHD, grad_k_MHD):
        total.mul_(scoring.scale)
    if grad_table_HR is not None:
        grad_table_HR = grad_table_HR[:, : -len(_BEHIND)].contiguous()
    return [grad_q_NHD[:-1], grad_k_MHD, grad_v_MHD], grad_table_HR


def _pass_softmax(grad: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of scores, given that of their weights."""
    # The underscore is part of an operator's name that all back ends of torch know.
    through: Tensor = torch.ops.aten._softmax_backward_data(  # noqa: SLF001
        grad, weights, -1, weights.dtype
    )
    return through


def _scoring_of(call: Call) -> _Scoring:
    given = (call.ranges_2N, call.codes_3N)
    ranges, codes = (b"" if x is None else x.cpu().numpy().tobytes() for x in given)
    blocks, own_codes = find_blocks(
        ranges, codes, call.k_MHD.shape[0], call.tile, str(call.q_NHD.device)
    )
    return _Scoring.of(blocks, call.q_NHD, call.table_HR, own_codes, call.scale)


def _forward(call: Call) -> tuple[Tensor, Tensor]:
    scoring = _scoring_of(call)
    out_NHD, log_sums_NH1 = _see(scoring, call[:3])
    log_sums_HN = log_sums_NH1.squeeze(2).T.contiguous()
    return scoring.blocks.spoil_lost(out_NHD), log_sums_HN


def _backward(
    call: Call,
    grad_NHD: Tensor,
    out_NHD: Tensor,  # noqa: ARG001
    log_sums_HN: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scoring = _scoring_of(call)
    shapes = [x.shape for x in call[:3]]
    log_sums_NH1 = log_sums_HN.T.unsqueeze(2)
    seen = _read(scoring.stages, call[:3])
    grads, grad_table_HR = _learn(scoring, shapes, grad_NHD, log_sums_NH1, seen)
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
        kept: list[_Read] | None = [] if way.keeps else None
        out_NHD, log_sums_NH1 = _see(scoring, streams, kept)
        ctx.scoring, ctx.shapes, ctx.keeps = scoring, [x.shape for x in streams], way.keeps
        flat = [x for each in kept or () for x in (*each[1:4], *each.weights)]
        ctx.save_for_backward(log_sums_NH1, table_HR, *(flat if way.keeps else streams))
        return out_NHD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (grad_NHD,) = grad_outputs
        log_sums_NH1, table_HR, *saved = ctx.saved_tensors
        stages = ctx.scoring.stages
        seen = _restore(stages, saved) if ctx.keeps else _read(stages, saved)
        grads, grad_table_HR = _learn(ctx.scoring, ctx.shapes, grad_NHD, log_sums_NH1, seen)
        if grad_table_HR is not None:
            grad_table_HR = grad_table_HR.to(table_HR.dtype)
        return *(grad.to(grad_NHD.dtype) for grad in grads), grad_table_HR, None
