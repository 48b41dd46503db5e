"""Attention on a GPU, without a matrix of scores in memory: three Triton kernels over flat streams.

One program computes one tile for one head and walks over the tiles that the ranges let it meet:
`forward` and `backward_queries` over keys, `backward_keys` over queries. No two programs add to one
number, so gradients of queries, keys and values depend on no order. The table's gradient has rows
that many scores share; it is summed into several accumulators that programs take turns with. Where
the codes of both tiles run on, all scores of a diagonal share a row: diagonals are turned into
columns and summed first, which leaves two additions to memory per key instead of one per score.

With ``is_fixed`` the accumulators hold multiples of a small step as integers, and their sums depend
on no order either.

Vectors of a tile have one element per query (``rows``) or key (``keys``). Pointers to streams mean
shape ``(N, H, size)`` with whatever stride between tokens; sums and tables are ``(H, N)`` and ``(H,
R)``. Head sizes are padded to powers of two.
"""

# ruff: noqa: ANN001, ANN202, PLR0913, PLR0917  # Triton learns types and values at each call
# pyright: basic, reportArgumentType=false

from __future__ import annotations

from typing import Any, Final

import triton
import triton.language as tl

INFINITY = tl.constexpr(float("inf"))
NAN = tl.constexpr(float("nan"))


@triton.jit(do_not_specialize=["num_queries", "num_keys", "num_table_rows"])
def forward(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    log_sums_ptr,
    ranges_ptr,
    spans_ptr,
    codes_ptr,
    table_ptr,
    scale,
    num_queries,
    num_keys,
    num_table_rows,
    q_stride,
    k_stride,
    v_stride,
    out_stride,
    qk_size: tl.constexpr,
    v_size: tl.constexpr,
    qk_padded: tl.constexpr,
    v_padded: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
    tile: tl.constexpr,
    is_relative: tl.constexpr,
) -> None:
    """Compute what each query sees, and the log of its sum of exponentials."""
    head = tl.program_id(1)
    first = tl.program_id(0) * block_q
    rows = first + tl.arange(0, block_q)
    q = _load(q_ptr, rows, num_queries, head, q_stride, qk_size, qk_padded)
    lo, hi, shift, slot = _load_queries(ranges_ptr, codes_ptr, rows, num_queries, is_relative)
    greatest = tl.full([block_q], -INFINITY, tl.float32)
    sums = tl.zeros([block_q], tl.float32)
    out = tl.zeros([block_q, v_padded], tl.float32)
    start, stop = _span(spans_ptr, first // tile, num_queries, block_q // tile, tile)
    for key in range(start, stop, block_k):
        keys = key + tl.arange(0, block_k)
        k = _load(k_ptr, keys, num_keys, head, k_stride, qk_size, qk_padded)
        v = _load(v_ptr, keys, num_keys, head, v_stride, v_size, v_padded)
        code_k, slot_k = _load_keys(codes_ptr, keys, num_keys, is_relative)
        scores = _score(
            q,
            k,
            keys,
            lo,
            hi,
            shift,
            slot,
            code_k,
            slot_k,
            table_ptr,
            head,
            scale,
            num_table_rows,
            is_relative,
        )
        risen = tl.maximum(greatest, tl.max(scores, 1))
        level = tl.where(risen == -INFINITY, 0.0, risen)
        weights = tl.exp(scores - level[:, None])
        shrink = tl.exp(greatest - level)
        sums = sums * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None]
        out = tl.dot(weights.to(v.dtype), v, out, input_precision="ieee")
        greatest = risen
    is_empty = sums == 0
    sums = tl.where(is_empty, 1.0, sums)
    out = out / sums[:, None]
    log_sums = tl.where(is_empty, INFINITY, greatest + tl.log(sums))
    _store(out_ptr, out, rows, num_queries, head, out_stride, v_size, v_padded)
    tl.store(log_sums_ptr + head * num_queries + rows, log_sums, mask=rows < num_queries)


@triton.jit(do_not_specialize=["num_queries", "num_keys", "num_table_rows"])
def backward_queries(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,
    log_sums_ptr,
    dots_ptr,
    grad_q_ptr,
    ranges_ptr,
    spans_ptr,
    codes_ptr,
    table_ptr,
    scale,
    num_queries,
    num_keys,
    num_table_rows,
    q_stride,
    k_stride,
    v_stride,
    out_stride,
    qk_size: tl.constexpr,
    v_size: tl.constexpr,
    qk_padded: tl.constexpr,
    v_padded: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
    tile: tl.constexpr,
    is_relative: tl.constexpr,
) -> None:
    """Compute the gradient of each query."""
    head = tl.program_id(1)
    num_heads = tl.num_programs(1)
    first = tl.program_id(0) * block_q
    rows = first + tl.arange(0, block_q)
    q = _load(q_ptr, rows, num_queries, head, q_stride, qk_size, qk_padded)
    grad_out = _load(grad_out_ptr, rows, num_queries, head, out_stride, v_size, v_padded)
    lo, hi, shift, slot = _load_queries(ranges_ptr, codes_ptr, rows, num_queries, is_relative)
    of_row = head * num_queries + rows
    log_sums = tl.load(log_sums_ptr + of_row, mask=rows < num_queries, other=0.0)
    dots = tl.load(dots_ptr + of_row, mask=rows < num_queries, other=0.0)
    grad_q = tl.zeros([block_q, qk_padded], tl.float32)
    start, stop = _span(spans_ptr, first // tile, num_queries, block_q // tile, tile)
    for key in range(start, stop, block_k):
        keys = key + tl.arange(0, block_k)
        k = _load(k_ptr, keys, num_keys, head, k_stride, qk_size, qk_padded)
        v = _load(v_ptr, keys, num_keys, head, v_stride, v_size, v_padded)
        code_k, slot_k = _load_keys(codes_ptr, keys, num_keys, is_relative)
        scores = _score(
            q,
            k,
            keys,
            lo,
            hi,
            shift,
            slot,
            code_k,
            slot_k,
            table_ptr,
            head,
            scale,
            num_table_rows,
            is_relative,
        )
        weights = tl.exp(scores - log_sums[:, None])
        grad_weights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")
        grad_scores = weights * (grad_weights - dots[:, None])
        grad_q = tl.dot(grad_scores.to(k.dtype), k, grad_q, input_precision="ieee")
    stride = num_heads * qk_size
    _store(grad_q_ptr, grad_q * scale, rows, num_queries, head, stride, qk_size, qk_padded)


@triton.jit(do_not_specialize=["num_queries", "num_keys", "num_table_rows"])
def backward_keys(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,
    log_sums_ptr,
    dots_ptr,
    grad_k_ptr,
    grad_v_ptr,
    sums_ptr,
    per_step_ptr,
    ranges_ptr,
    spans_ptr,
    codes_ptr,
    runs_ptr,
    table_ptr,
    scale,
    num_queries,
    num_keys,
    num_table_rows,
    q_stride,
    k_stride,
    v_stride,
    out_stride,
    qk_size: tl.constexpr,
    v_size: tl.constexpr,
    qk_padded: tl.constexpr,
    v_padded: tl.constexpr,
    tile: tl.constexpr,
    is_relative: tl.constexpr,
    is_fixed: tl.constexpr,
    num_sums: tl.constexpr,
) -> None:
    """Compute the gradients of each key and value, and sum that of the table."""
    index = tl.program_id(0)
    head = tl.program_id(1)
    num_heads = tl.num_programs(1)
    keys = index * tile + tl.arange(0, tile)
    k = _load(k_ptr, keys, num_keys, head, k_stride, qk_size, qk_padded)
    v = _load(v_ptr, keys, num_keys, head, v_stride, v_size, v_padded)
    code_k, slot_k = _load_keys(codes_ptr, keys, num_keys, is_relative)
    grad_k = tl.zeros([tile, qk_padded], tl.float32)
    grad_v = tl.zeros([tile, v_padded], tl.float32)
    sums_ptr += ((index % num_sums) * num_heads + head) * num_table_rows
    per_step = 1.0
    if is_fixed:
        per_step = tl.load(per_step_ptr)
    start, stop = _span(spans_ptr, index, num_keys, 1, tile)
    for row in range(start, stop, tile):
        rows = row + tl.arange(0, tile)
        q = _load(q_ptr, rows, num_queries, head, q_stride, qk_size, qk_padded)
        grad_out = _load(grad_out_ptr, rows, num_queries, head, out_stride, v_size, v_padded)
        lo, hi, shift, slot = _load_queries(ranges_ptr, codes_ptr, rows, num_queries, is_relative)
        of_row = head * num_queries + rows
        log_sums = tl.load(log_sums_ptr + of_row, mask=rows < num_queries, other=0.0)
        dots = tl.load(dots_ptr + of_row, mask=rows < num_queries, other=0.0)
        scores = _score(
            q,
            k,
            keys,
            lo,
            hi,
            shift,
            slot,
            code_k,
            slot_k,
            table_ptr,
            head,
            scale,
            num_table_rows,
            is_relative,
        )
        weights = tl.exp(scores - log_sums[:, None])
        grad_v = tl.dot(
            tl.trans(weights.to(grad_out.dtype)), grad_out, grad_v, input_precision="ieee"
        )
        grad_weights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")
        grad_scores = weights * (grad_weights - dots[:, None])
        if is_relative:
            runs_on = tl.load(runs_ptr + row // tile) + tl.load(runs_ptr + index) == 2
            if runs_on:
                of_query, of_key = codes_ptr + row, codes_ptr + num_queries + index * tile
                is_one_slot = tl.load(of_query + 2 * num_queries) == tl.load(of_key + num_queries)
                corner = tl.load(of_query) + tl.load(of_key)
                rows_inside = tl.where(is_one_slot, num_table_rows, 0)
                _add_diagonals(sums_ptr, grad_scores, corner, rows_inside, per_step, tile, is_fixed)
            else:
                table_rows = shift[:, None] + code_k[None, :]
                is_near = (slot[:, None] == slot_k[None, :]) & _is_row(table_rows, num_table_rows)
                _add(sums_ptr + table_rows, grad_scores, is_near, per_step, is_fixed)
        grad_k = tl.dot(tl.trans(grad_scores.to(q.dtype)), q, grad_k, input_precision="ieee")
    k_out_stride, v_out_stride = num_heads * qk_size, num_heads * v_size
    _store(grad_k_ptr, grad_k * scale, keys, num_keys, head, k_out_stride, qk_size, qk_padded)
    _store(grad_v_ptr, grad_v, keys, num_keys, head, v_out_stride, v_size, v_padded)


@triton.jit
def _score(
    q,
    k,
    keys,
    lo,
    hi,
    shift,
    slot,
    code_k,
    slot_k,
    table_ptr,
    head,
    scale,
    num_table_rows,
    is_relative: tl.constexpr,
):
    """Return the scores, minus infinity where a key is not seen."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if is_relative:
        table_rows = shift[:, None] + code_k[None, :]
        pointers = table_ptr + head * num_table_rows + table_rows
        added = tl.load(pointers, mask=_is_row(table_rows, num_table_rows), other=NAN)
        scores += tl.where(slot[:, None] == slot_k[None, :], added, 0.0)
    is_seen = (keys[None, :] >= lo[:, None]) & (keys[None, :] < hi[:, None])
    return tl.where(is_seen, scores, -INFINITY)


@triton.jit
def _is_row(table_rows, num_table_rows):
    return (table_rows >= 0) & (table_rows < num_table_rows)


@triton.jit
def _add_diagonals(
    sums_ptr, added, corner, num_table_rows, per_step, tile: tl.constexpr, is_fixed: tl.constexpr
):
    """Add each diagonal of a tile to its row of the table; ``corner`` is that of the first score."""
    line = tl.arange(0, tile)
    # In line i what stood at i + c stands at c: column c holds the diagonals c and c - tile.
    turned_from = line[:, None] + line[None, :]
    turned = tl.gather(added, turned_from % tile, 1)
    upper = tl.sum(tl.where(turned_from < tile, turned, 0.0), 0)
    lower = tl.sum(tl.where(turned_from >= tile, turned, 0.0), 0)
    rows = corner + line
    _add(sums_ptr + rows, upper, _is_row(rows, num_table_rows), per_step, is_fixed)
    rows -= tile
    _add(sums_ptr + rows, lower, _is_row(rows, num_table_rows), per_step, is_fixed)


@triton.jit
def _add(pointers, values, mask, per_step, is_fixed: tl.constexpr):
    if is_fixed:
        values = (values * per_step).to(tl.int64)
    tl.atomic_add(pointers, values, mask=mask, sem="relaxed")


@triton.jit
def _span(spans_ptr, index, num_tokens, count: tl.constexpr, tile: tl.constexpr):
    """Return the first and last of what ``count`` tiles meet; spans are two rows, a tile a column."""
    num_tiles = (num_tokens + tile - 1) // tile
    tiles = index + tl.arange(0, count)
    is_tile = tiles < num_tiles
    starts = tl.load(spans_ptr + tiles, mask=is_tile, other=2147483647)
    stops = tl.load(spans_ptr + num_tiles + tiles, mask=is_tile, other=0)
    return tl.min(starts, 0) // tile * tile, tl.max(stops, 0)


@triton.jit
def _load(ptr, tokens, num_tokens, head, stride, size: tl.constexpr, padded: tl.constexpr):
    channels = tl.arange(0, padded)
    mask = (tokens < num_tokens)[:, None]
    if size != padded:
        mask = mask & (channels < size)[None, :]
    pointers = ptr + tokens[:, None] * stride + head * size + channels[None, :]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _store(ptr, values, tokens, num_tokens, head, stride, size: tl.constexpr, padded: tl.constexpr):
    channels = tl.arange(0, padded)
    mask = (tokens < num_tokens)[:, None] & (channels < size)[None, :]
    pointers = ptr + tokens[:, None] * stride + head * size + channels[None, :]
    tl.store(pointers, values.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _load_queries(ranges_ptr, codes_ptr, rows, num_queries, is_relative: tl.constexpr):
    """Return range, base less code, and slot of each query; codes are shift, code and slot."""
    mask = rows < num_queries
    lo = tl.load(ranges_ptr + rows, mask=mask, other=0)
    hi = tl.load(ranges_ptr + num_queries + rows, mask=mask, other=0)
    shift, slot = lo, lo
    if is_relative:
        shift = tl.load(codes_ptr + rows, mask=mask, other=0)
        slot = tl.load(codes_ptr + 2 * num_queries + rows, mask=mask, other=0)
    return lo, hi, shift, slot


@triton.jit
def _load_keys(codes_ptr, keys, num_keys, is_relative: tl.constexpr):
    code, slot = keys, keys
    if is_relative:
        mask = keys < num_keys
        code = tl.load(codes_ptr + num_keys + keys, mask=mask, other=0)
        slot = tl.load(codes_ptr + 2 * num_keys + keys, mask=mask, other=0)
    return code, slot


KERNELS: Final[dict[str, Any]] = {
    "forward": forward,
    "backward_queries": backward_queries,
    "backward_keys": backward_keys,
}

IS_INTERPRETED: Final = not isinstance(forward, triton.JITFunction)
