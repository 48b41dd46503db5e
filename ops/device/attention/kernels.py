"""Attention on a GPU, without a matrix of scores in memory: three Triton kernels over flat streams.

One program computes one tile for one head and walks over the tiles that the ranges let it meet:
`forward` and `backward_queries` over keys, `backward_keys` over queries. No two programs add to one
number, so gradients of queries, keys and values depend on no order. The table's gradient has rows
that many scores share; it is summed into several accumulators that programs take turns with. Where
the codes of both tiles run on, all scores of a diagonal share a row: diagonals are summed first,
which leaves few additions to memory instead of one per score.

With ``is_fixed`` the accumulators hold multiples of a small step as integers, and their sums depend
on no order either.

Vectors of a tile have one element per query (``rows``) or key (``keys``). Pointers to streams mean
shape ``(N, H, size)`` with whatever stride between tokens; sums and tables are ``(H, N)`` and ``(H,
R)``. Head sizes are padded to powers of two.
"""

# ruff: noqa: ANN001, ANN202, PLR0913, PLR0917  # Triton learns types and values at each call
# pyright: basic, reportArgumentType=false, reportAssignmentType=false

from __future__ import annotations

from typing import Any, Final

import triton
import triton.language as tl

INFINITY = tl.constexpr(float("inf"))
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _is_row(table_rows, num_table_rows):
    return (table_rows >= 0) & (table_rows < num_table_rows)


IS_INTERPRETED = tl.constexpr(not isinstance(_is_row, triton.JITFunction))


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
    tile: tl.constexpr,
    is_relative: tl.constexpr,
) -> None:
    """Compute what each query sees, and the log of its sum of exponentials."""
    index = tl.program_id(0)
    head = tl.program_id(1)
    rows = index * tile + tl.arange(0, tile)
    q = _load(q_ptr, rows, num_queries, head, q_stride, qk_size, qk_padded)
    lo, hi, shift, slot = _load_queries(ranges_ptr, codes_ptr, rows, num_queries, is_relative)
    table_ptr += head * num_table_rows
    greatest = tl.full([tile], -INFINITY, tl.float32)
    sums = tl.zeros([tile], tl.float32)
    out = tl.zeros([tile, v_padded], tl.float32)
    start, stop = _span(spans_ptr, index, num_queries, tile)
    whole, edge = _whole(lo, hi, rows, num_queries, start, stop, tile)
    # What all queries see needs no mask; the rest comes in a second loop.
    for key in range(whole, edge, tile):
        keys = key + tl.arange(0, tile)
        k = _load(k_ptr, keys, num_keys, head, k_stride, qk_size, qk_padded)
        v = _load(v_ptr, keys, num_keys, head, v_stride, v_size, v_padded)
        code_k, slot_k = _load_keys(codes_ptr, keys, num_keys, is_relative)
        table_rows, is_near = shift[:, None] + code_k[None, :], slot[:, None] == slot_k[None, :]
        scores = _score(q, k, scale, table_ptr, table_rows, is_near, num_table_rows, is_relative)
        greatest, sums, out = _accumulate(scores, v, greatest, sums, out)
    for place in range(start, stop - (edge - whole), tile):
        key = tl.where(place < whole, place, place + (edge - whole))
        keys = key + tl.arange(0, tile)
        k = _load(k_ptr, keys, num_keys, head, k_stride, qk_size, qk_padded)
        v = _load(v_ptr, keys, num_keys, head, v_stride, v_size, v_padded)
        code_k, slot_k = _load_keys(codes_ptr, keys, num_keys, is_relative)
        table_rows, is_near = shift[:, None] + code_k[None, :], slot[:, None] == slot_k[None, :]
        scores = _score(q, k, scale, table_ptr, table_rows, is_near, num_table_rows, is_relative)
        is_seen = (keys[None, :] >= lo[:, None]) & (keys[None, :] < hi[:, None])
        scores = tl.where(is_seen, scores, -INFINITY)
        greatest, sums, out = _accumulate(scores, v, greatest, sums, out)
    is_empty = sums == 0
    sums = tl.where(is_empty, 1.0, sums)
    out = out / sums[:, None]
    log_sums = tl.where(is_empty, INFINITY, (greatest + tl.log2(sums)) / LOG2_E)
    is_lost = (lo < hi) & ((lo < 0) | (hi > num_keys))
    out = tl.where(is_lost[:, None], float("nan"), out)
    log_sums = tl.where(is_lost, float("nan"), log_sums)
    _store(out_ptr, out, rows, num_queries, head, out_stride, v_size, v_padded)
    tl.store(log_sums_ptr + head * num_queries + rows, log_sums, mask=rows < num_queries)


@triton.jit
def _accumulate(scores, v, greatest, sums, out):
    """Return the greatest score, the sum and the output of each query with those of more keys."""
    risen = tl.maximum(greatest, tl.max(scores, 1))
    level = tl.where(risen == -INFINITY, 0.0, risen)
    weights = tl.exp2(scores - level[:, None])
    shrink = tl.exp2(greatest - level)
    sums = sums * shrink + tl.sum(weights, 1)
    out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
    return risen, sums, out


@triton.jit(do_not_specialize=["num_queries", "num_keys", "num_table_rows"])
def backward_queries(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    grad_out_ptr,
    log_sums_ptr,
    dots_ptr,
    grad_q_ptr,
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
    block: tl.constexpr,
    is_relative: tl.constexpr,
    is_fixed: tl.constexpr,
    num_sums: tl.constexpr,
) -> None:
    """Compute the gradient of each query, and its output times its gradient; sum that of the table."""
    index = tl.program_id(0)
    head = tl.program_id(1)
    num_heads = tl.num_programs(1)
    rows = index * tile + tl.arange(0, tile)
    q = _load(q_ptr, rows, num_queries, head, q_stride, qk_size, qk_padded)
    grad_out = _load(grad_out_ptr, rows, num_queries, head, out_stride, v_size, v_padded)
    lo, hi, shift, slot = _load_queries(ranges_ptr, codes_ptr, rows, num_queries, is_relative)
    table_ptr += head * num_table_rows
    out = _load(out_ptr, rows, num_queries, head, out_stride, v_size, v_padded)
    dots = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), 1)
    of_row = head * num_queries + rows
    tl.store(dots_ptr + of_row, dots, mask=rows < num_queries)
    log_sums = tl.load(log_sums_ptr + of_row, mask=rows < num_queries, other=0.0) * LOG2_E
    grad_q = tl.zeros([tile, qk_padded], tl.float32)
    sums_ptr += ((index % num_sums) * num_heads + head) * num_table_rows
    per_step = 1.0
    if is_fixed:
        per_step = tl.load(per_step_ptr)
    start, stop = _span(spans_ptr, index, num_queries, tile)
    for key in range(start, stop, block):
        keys = key + tl.arange(0, block)
        k = _load(k_ptr, keys, num_keys, head, k_stride, qk_size, qk_padded)
        v = _load(v_ptr, keys, num_keys, head, v_stride, v_size, v_padded)
        code_k, slot_k = _load_keys(codes_ptr, keys, num_keys, is_relative)
        table_rows, is_near = shift[:, None] + code_k[None, :], slot[:, None] == slot_k[None, :]
        scores = _score(q, k, scale, table_ptr, table_rows, is_near, num_table_rows, is_relative)
        is_seen = (keys[None, :] >= lo[:, None]) & (keys[None, :] < hi[:, None])
        weights = tl.where(is_seen, tl.exp2(scores - log_sums[:, None]), 0.0)
        grad_weights = tl.dot(grad_out, tl.trans(v), input_precision="ieee")
        grad_scores = weights * (grad_weights - dots[:, None])
        grad_q = tl.dot(grad_scores.to(k.dtype), k, grad_q, input_precision="ieee")
        if is_relative:
            runs_on = tl.load(runs_ptr + index) + tl.load(runs_ptr + key // tile) == 2
            if runs_on:
                of_query, of_key = codes_ptr + index * tile, codes_ptr + num_queries + key
                is_one_slot = tl.load(of_query + 2 * num_queries) == tl.load(of_key + num_queries)
                corner = tl.load(of_query) + tl.load(of_key)
                rows_inside = tl.where(is_one_slot, num_table_rows, 0)
                _add_diagonals(
                    sums_ptr, grad_scores.to(k.dtype), corner, rows_inside, per_step, is_fixed
                )
            else:
                is_near = is_near & _is_row(table_rows, num_table_rows)
                _add(sums_ptr + table_rows, grad_scores, is_near, per_step, is_fixed)
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
    tile: tl.constexpr,
    block: tl.constexpr,
    is_relative: tl.constexpr,
) -> None:
    """Compute the gradients of each key and value.

    Scores lie the other way round here, a line per key: so what is multiplied next need not be turned.
    """
    index = tl.program_id(0)
    head = tl.program_id(1)
    num_heads = tl.num_programs(1)
    keys = index * tile + tl.arange(0, tile)
    k = _load(k_ptr, keys, num_keys, head, k_stride, qk_size, qk_padded)
    v = _load(v_ptr, keys, num_keys, head, v_stride, v_size, v_padded)
    code_k, slot_k = _load_keys(codes_ptr, keys, num_keys, is_relative)
    table_ptr += head * num_table_rows
    grad_k = tl.zeros([tile, qk_padded], tl.float32)
    grad_v = tl.zeros([tile, v_padded], tl.float32)
    start, stop = _span(spans_ptr, index, num_keys, tile)
    for row in range(start, stop, block):
        rows = row + tl.arange(0, block)
        q = _load(q_ptr, rows, num_queries, head, q_stride, qk_size, qk_padded)
        grad_out = _load(grad_out_ptr, rows, num_queries, head, out_stride, v_size, v_padded)
        lo, hi, shift, slot = _load_queries(ranges_ptr, codes_ptr, rows, num_queries, is_relative)
        of_row = head * num_queries + rows
        log_sums = tl.load(log_sums_ptr + of_row, mask=rows < num_queries, other=0.0) * LOG2_E
        dots = tl.load(dots_ptr + of_row, mask=rows < num_queries, other=0.0)
        table_rows, is_near = shift[None, :] + code_k[:, None], slot[None, :] == slot_k[:, None]
        scores = _score(k, q, scale, table_ptr, table_rows, is_near, num_table_rows, is_relative)
        is_seen = (keys[:, None] >= lo[None, :]) & (keys[:, None] < hi[None, :])
        weights = tl.where(is_seen, tl.exp2(scores - log_sums[None, :]), 0.0)
        grad_v = tl.dot(weights.to(grad_out.dtype), grad_out, grad_v, input_precision="ieee")
        grad_weights = tl.dot(v, tl.trans(grad_out), input_precision="ieee")
        grad_scores = weights * (grad_weights - dots[None, :])
        grad_k = tl.dot(grad_scores.to(q.dtype), q, grad_k, input_precision="ieee")
    k_out_stride, v_out_stride = num_heads * qk_size, num_heads * v_size
    _store(grad_k_ptr, grad_k * scale, keys, num_keys, head, k_out_stride, qk_size, qk_padded)
    _store(grad_v_ptr, grad_v, keys, num_keys, head, v_out_stride, v_size, v_padded)


@triton.jit
def _score(
    x,
    y,
    scale,
    table_ptr,
    table_rows,
    is_near,
    num_table_rows,
    is_relative: tl.constexpr,
):
    """Return the scores of each of ``x`` with each of ``y``, for powers of 2."""
    scores = tl.dot(x, tl.trans(y), input_precision="ieee") * (scale * LOG2_E)
    if is_relative:
        scores += _look_up(table_ptr, table_rows, is_near, num_table_rows)
    return scores


@triton.jit
def _look_up(table_ptr, table_rows, is_near, num_table_rows):
    """Return what the table adds to scores, for powers of 2; NaN where it has no such row."""
    if IS_INTERPRETED:
        is_row = _is_row(table_rows, num_table_rows)
        added = tl.load(table_ptr + table_rows, mask=is_row, other=float("nan"))
    else:
        # Triton would fetch what lies at computed places ahead, by copies of 4 bytes that cost several
        # times what is multiplied, and lay it out for stores. So each thread loads what it adds.
        added = tl.inline_asm_elementwise(
            """{
            .reg .pred is_row;
            setp.lt.u32 is_row, $2, $3;
            mov.f32 $0, 0f7FC00000;
            @is_row ld.global.nc.f32 $0, [$1];
            }""",
            "=f,l,r,r",
            [(table_ptr + table_rows).to(tl.int64), table_rows, num_table_rows],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    return tl.where(is_near, added * LOG2_E, 0.0)


@triton.jit
def _whole(lo, hi, rows, num_queries, start, stop, tile: tl.constexpr):
    """Return the first of the keys that all queries see, and one past the last; whole tiles."""
    is_row = rows < num_queries
    lo = tl.where(hi <= lo, stop, lo)
    first = tl.max(tl.where(is_row, lo, 0), 0)
    last = tl.min(tl.where(is_row, hi, 2147483647), 0)
    # Tiles are counted from the start.
    first = start + (tl.maximum(first - start, 0) + tile - 1) // tile * tile
    last = start + tl.maximum(tl.minimum(last, stop) - start, 0) // tile * tile
    return tl.minimum(first, last), last


@triton.jit
def _add_diagonals(sums_ptr, added, corner, num_table_rows, per_step, is_fixed: tl.constexpr):
    """Add each diagonal of a tile to its row of the table; ``corner`` is that of the first score.

    With lines ``a * fine + b`` and columns ``c * fine + d``, a diagonal is ``(c - a) * fine + (d - b)``. So two
    products with zeros and ones sum it, first over what has one ``c - a``, then over what has one ``d - b``.
    """
    fine: tl.constexpr = 8 if added.shape[1] > 16 else 4
    lines: tl.constexpr = added.shape[0] // fine
    columns: tl.constexpr = added.shape[1] // fine
    width: tl.constexpr = 16  # of the products, and more than there are differences
    parts = tl.reshape(added, [lines, fine, columns, fine])
    parts = tl.reshape(tl.permute(parts, [1, 3, 0, 2]), [fine * fine, lines * columns])
    difference = tl.arange(0, width)
    pair = tl.arange(0, lines * columns)
    is_coarse = (pair % columns - pair // columns + lines - 1)[:, None] == difference[None, :]
    sums = tl.dot(parts, is_coarse.to(parts.dtype), input_precision="ieee")
    pair = tl.arange(0, fine * fine)
    is_fine = difference[:, None] == (pair % fine - pair // fine + fine - 1)[None, :]
    sums = tl.dot(is_fine.to(tl.float32), sums, input_precision="ieee")
    place = difference[:, None] - (fine - 1) + (difference[None, :] - (lines - 1)) * fine
    _add(
        sums_ptr + corner + place, sums, _is_row(corner + place, num_table_rows), per_step, is_fixed
    )


@triton.jit
def _add(pointers, values, mask, per_step, is_fixed: tl.constexpr):
    if is_fixed:
        values = (values * per_step).to(tl.int64)
    tl.atomic_add(pointers, values, mask=mask, sem="relaxed")


@triton.jit
def _span(spans_ptr, index, num_tokens, tile: tl.constexpr):
    """Return the first and last of what a tile meets; spans are two rows, a tile a column."""
    num_tiles = (num_tokens + tile - 1) // tile
    start, stop = tl.load(spans_ptr + index), tl.load(spans_ptr + num_tiles + index)
    return start // tile * tile, stop


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
    """Return range, shift and slot of each query; codes are shift, code and slot."""
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
