"""One step of writing: a token for every row, with keys and values of static size that are written in place.

A row is a target that is being written; all rows of a document stand next to each other. The source is
remembered once for each document: its rows are so many queries to the same keys.

Shape letters: B = documents, R = rows, K = rows of a document, L = longest target, S = longest source, P =
positions that a step looks back on, H = heads, D = head size, E = size of queries and keys in a head, C =
channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .stack import Stack, attend, hide


class Sources(NamedTuple):
    """The sources of a batch, as they lie in the encoder's stream.

    Attributes:
        memory_MC: The encoder's stream.
        keys_2B: First token of each document's source, and one past the last; both 0 for rows of the batch
            that hold no document.
        longest: ``S``, most tokens of a source; static. A longer one gives NaN.
        positions_MC: Embedded positions of the stream, where the decoder reads them.
    """

    memory_MC: Tensor
    keys_2B: Tensor
    longest: int
    positions_MC: Tensor | None = None


class Remembered(NamedTuple):
    """What is kept of the sources, once for each document.

    Attributes:
        keys: Shape ``(B, H, S, E)``, by layer.
        values: Shape ``(B, H, S, D)``, by layer.
        bias_B11S: 0 for keys that are the document's, minus infinity for others.
        keep_B111: 1 where there are any, 0 elsewhere.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias_B11S: Tensor
    keep_B111: Tensor


class Cache(NamedTuple):
    """What writing keeps from step to step.

    Attributes:
        keys: Of the tokens written so far, shape ``(R, H, L, E)``, by layer.
        values: Shape ``(R, H, L, D)``, by layer.
        remembered: Of the sources.
        places: What follows from positions.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    remembered: Remembered
    places: Any


def remember(stack: Stack, sources: Sources) -> Remembered:
    """Return the keys and values of the sources of a batch."""
    rows_BS, bias_BS, keep_B = _see(sources)
    keys, values = zip(
        *(
            (
                k_MHD[rows_BS].transpose(1, 2).contiguous(),
                v_MHD[rows_BS].transpose(1, 2).contiguous(),
            )
            for layer in range(stack.sizes.num_layers)
            for k_MHD, v_MHD in [stack.remember(layer, sources.memory_MC, sources.positions_MC)]
        ),
        strict=True,
    )
    return Remembered(keys, values, bias_BS[:, None, None], keep_B[:, None, None, None])


def open_cache(stack: Stack, sources: Sources, *, num_rows: int, max_length: int) -> Cache:
    """Return the cache to write ``num_rows`` targets of at most ``max_length`` tokens for each document.

    Raises:
        PlanError: The decoder has fewer positions.
    """
    sizes, places = stack.sizes, stack.place(max_length)
    shape = (sources.keys_2B.shape[1] * num_rows, sizes.num_heads, max_length)
    new = sources.memory_MC.new_zeros
    return Cache(
        tuple(new(*shape, sizes.key) for _ in range(sizes.num_layers)),
        tuple(new(*shape, sizes.value) for _ in range(sizes.num_layers)),
        remember(stack, sources),
        places,
    )


def take_step(stack: Stack, ids_R: Tensor, index: Tensor, cache: Cache, num_seen: int) -> Tensor:
    """Return the states after one more token for every row, shape ``(R, C)``.

    Args:
        stack: The decoder.
        ids_R: The tokens.
        index: Their position, shape ``(1,)``; a tensor, so that steps are one program.
        cache: The tokens are added to it.
        num_seen: ``P``, more than ``index``; static.
    """
    sizes, remembered = stack.sizes, cache.remembered
    x_RC, at = stack.enter(ids_R, index, cache.places)
    key_P = torch.arange(num_seen, device=index.device)
    mask_P = hide(key_P > index)
    relative = [
        bias_1HP[:, :, None] + mask_P for bias_1HP in _look_back(stack, index, key_P, cache)
    ]
    biases = relative or [mask_P[None, None, None]]
    for layer in range(sizes.num_layers):
        q_RHE, k_RHE, v_RHD = stack.project(layer, x_RC, at)
        keys, values = cache.keys[layer], cache.values[layer]
        keys.index_copy_(2, index, k_RHE[:, :, None])
        values.index_copy_(2, index, v_RHD[:, :, None])
        bias = biases[layer % len(biases)]
        own = (keys[:, :, :num_seen], values[:, :, :num_seen])
        out_RH1D = attend(q_RHE[:, :, None], *own, bias, sizes.scale)
        x_RC = stack.add(layer, x_RC, out_RH1D[:, :, 0])
        x_RC = stack.add_read(layer, x_RC, read(stack, layer, x_RC, at, remembered))
        x_RC = stack.feed(layer, x_RC)
    return stack.leave(x_RC)


def read(stack: Stack, layer: int, x_RC: Tensor, at: Any, remembered: Remembered) -> Tensor:
    """Return what each row reads of its document's source, shape ``(R, H, D)``."""
    keys, values = remembered.keys[layer], remembered.values[layer]
    q_BHKE = stack.ask(layer, x_RC, at).unflatten(0, (len(keys), -1)).transpose(1, 2)
    read_BHKD = attend(q_BHKE, keys, values, remembered.bias_B11S, stack.sizes.scale)
    read_BHKD = read_BHKD * remembered.keep_B111.to(read_BHKD.dtype)
    return read_BHKD.transpose(1, 2).flatten(0, 1)


def follow_parents(cache: Cache, parents_R: Tensor, num_seen: int) -> None:
    """Let every row go on from the tokens that row ``parents_R`` has written, ``num_seen`` of them."""
    for kept in (*cache.keys, *cache.values):
        # In place: addresses are static, as a captured graph needs them.
        kept[:, :, :num_seen].copy_(kept[:, :, :num_seen].index_select(0, parents_R))


def _look_back(stack: Stack, index: Tensor, key_P: Tensor, cache: Cache) -> tuple[Tensor, ...]:
    return stack.biases(index, key_P[None], cache.places)


def _see(sources: Sources) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the tokens of each source lie, ``(B, S)``, the bias that hides others, and what has any."""
    lo_B, hi_B = sources.keys_2B
    index_S = torch.arange(sources.longest, device=lo_B.device)
    rows_BS = (lo_B[:, None] + index_S).clamp(max=len(sources.memory_MC) - 1)
    length_B = hi_B - lo_B
    # An empty source sees all keys and keeps nothing: no softmax is taken over nothing.
    bias_BS = hide((index_S >= length_B[:, None]) & (length_B > 0)[:, None])
    keep_B = (length_B > 0).float().masked_fill(length_B > sources.longest, torch.nan)
    return rows_BS, bias_BS, keep_B
