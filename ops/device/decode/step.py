"""One step of writing: a token for every row, with keys and values of static size that are written in place.

A row is a target that is being written; all rows of a document stand next to each other. The source is
remembered once for each document: its rows are so many queries to the same keys.

Shape letters: B = documents, R = rows, K = rows of a document, L = longest target, S = longest source, P =
positions that a step looks back on, H = heads, D = head size, C = channels, J = layers, or 1 for all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attention.triton_passes import suits_triton
from .attend_row import attend_source, attend_target
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
        keys: Shape ``(B, H, S, D)``, by layer.
        values: The same of values; 0 of documents without a source, NaN where it is too long.
        places_BHSD: Keys of positions, for all layers; None where they are not asked.
        bias_B11S: 0 for keys that are the document's, minus infinity for others.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    places_BHSD: Tensor | None
    bias_B11S: Tensor


class Cache(NamedTuple):
    """What writing keeps from step to step.

    Attributes:
        keys: Of the tokens written so far, shape ``(R, H, L, D)``, by layer.
        values: The same of values.
        remembered: Of the sources.
        places: What follows from positions.
        has_kernel: Whether a kernel attends to it.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    remembered: Remembered
    places: Any
    has_kernel: bool


def remember(stack: Stack, sources: Sources) -> Remembered:
    """Return the keys and values of the sources of a batch."""
    rows_BS, bias_BS, keep_B = _see(sources)

    def gather(x_MHD: Tensor) -> Tensor:
        return x_MHD[rows_BS].transpose(1, 2).contiguous()

    keep_B111 = keep_B[:, None, None, None].to(sources.memory_MC.dtype)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for layer in range(stack.sizes.num_layers):
        k_MHD, v_MHD = stack.remember(layer, sources.memory_MC)
        keys.append(gather(k_MHD))
        values.append(gather(v_MHD).mul_(keep_B111))
    places_MHD = stack.remember_places(sources.positions_MC)
    places_BHSD = None if places_MHD is None else gather(places_MHD)
    return Remembered(tuple(keys), tuple(values), places_BHSD, bias_BS[:, None, None])


def open_cache(stack: Stack, sources: Sources, *, num_rows: int, max_length: int) -> Cache:
    """Return the cache to write ``num_rows`` targets of at most ``max_length`` tokens for each document.

    Raises:
        PlanError: The decoder has fewer positions.
    """
    sizes, memory_MC = stack.sizes, sources.memory_MC
    shape = (sources.keys_2B.shape[1] * num_rows, sizes.num_heads, max_length, sizes.size)
    return Cache(
        tuple(memory_MC.new_zeros(shape) for _ in range(sizes.num_layers)),
        tuple(memory_MC.new_zeros(shape) for _ in range(sizes.num_layers)),
        remember(stack, sources),
        stack.place(max_length),
        suits_triton(memory_MC),
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
    sizes = stack.sizes
    x_RC, at = stack.enter(ids_R, index, cache.places)
    biases = look_back(stack, index, cache, num_seen)
    asked_BHKS = ask_places(stack, index, cache)
    for layer in range(sizes.num_layers):
        states = stack.project(layer, x_RC, at)
        own = (cache.keys[layer], cache.values[layer])
        attend_own = attend_target if cache.has_kernel else _attend_plainly
        out_RHD = attend_own(states, *own, index, biases, layer, sizes.scale)
        x_RC = stack.add(layer, x_RC, out_RHD)
        x_RC = stack.add_read(layer, x_RC, read(stack, layer, x_RC, at, cache, asked_BHKS))
        x_RC = stack.feed(layer, x_RC, at)
    return stack.leave(x_RC)


def look_back(stack: Stack, index: Tensor, cache: Cache, num_seen: int) -> Tensor | None:
    """Return what is added to scores of the target, if anything, shape ``(J, 1, H, P)``."""
    key_P = torch.arange(num_seen, device=index.device)
    biases = stack.biases(index, key_P[None], cache.places)
    if cache.has_kernel:
        # It looks no further than it may.
        return biases
    mask_P = hide(key_P > index)
    return mask_P[None, None, None] if biases is None else biases + mask_P


def ask_places(stack: Stack, positions_N: Tensor, cache: Cache) -> Tensor:
    """Return what is added to scores of the source, for all layers; shape ``(B, H, K, S)``, or as it spreads.

    Args:
        stack: The decoder.
        positions_N: Position of each of the rows, or one for all.
        cache: What is kept.
    """
    bias_B11S, places_BHSD = cache.remembered.bias_B11S, cache.remembered.places_BHSD
    asks_NHD = stack.ask_places(positions_N, cache.places)
    if asks_NHD is None or places_BHSD is None:
        return bias_B11S
    num_documents = len(places_BHSD) if len(positions_N) > 1 else 1
    asks_BHKD = asks_NHD.unflatten(0, (num_documents, -1)).transpose(1, 2)
    if cache.has_kernel and asks_BHKD.shape[2] == 1:
        # A sum of products is compiled into one kernel with what is added.
        scores_BHKS = (asks_BHKD.float() * places_BHSD.float()).sum(-1)[:, :, None]
    else:
        scores_BHKS = asks_BHKD @ places_BHSD.transpose(2, 3)
    return scores_BHKS * stack.sizes.scale + bias_B11S


def read(
    stack: Stack, layer: int, x_RC: Tensor, at: Any, cache: Cache, asked_BHKS: Tensor
) -> Tensor:
    """Return what each row reads of its document's source, shape ``(R, H, D)``.

    Args:
        stack: The decoder.
        layer: The layer.
        x_RC: The rows' states.
        at: What follows from their positions.
        cache: What is kept.
        asked_BHKS: What is added to scores.
    """
    keys, values = cache.remembered.keys[layer], cache.remembered.values[layer]
    q_RHD, scale = stack.ask(layer, x_RC, at), stack.sizes.scale
    if cache.has_kernel and asked_BHKS.shape[2] == 1:
        return attend_source(q_RHD, keys, values, asked_BHKS, scale)
    q_BHKD = q_RHD.unflatten(0, (len(keys), -1)).transpose(1, 2)
    return attend(q_BHKD, keys, values, asked_BHKS, scale).transpose(1, 2).flatten(0, 1)


def follow_parents(cache: Cache, parents_R: Tensor, num_seen: int) -> None:
    """Let every row go on from the tokens that row ``parents_R`` has written, ``num_seen`` of them."""
    for kept in (*cache.keys, *cache.values):
        # In place: addresses are static, as a captured graph needs them.
        kept[:, :, :num_seen].copy_(kept[:, :, :num_seen].index_select(0, parents_R))


def _attend_plainly(
    states_R3HD: Tensor,
    keys: Tensor,
    values: Tensor,
    index: Tensor,
    bias_J1HP: Tensor | None,
    layer: int,
    scale: float,
) -> Tensor:
    assert bias_J1HP is not None, "it hides what is not written"
    num_seen = bias_J1HP.shape[-1]
    q_RHD, k_RHD, v_RHD = states_R3HD.unbind(1)
    keys.index_copy_(2, index, k_RHD[:, :, None])
    values.index_copy_(2, index, v_RHD[:, :, None])
    seen = (keys[:, :, :num_seen], values[:, :, :num_seen])
    bias_1H1P = bias_J1HP[layer % len(bias_J1HP), :, :, None]
    return attend(q_RHD[:, :, None], *seen, bias_1H1P, scale)[:, :, 0]


def _see(sources: Sources) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the tokens of each source lie, ``(B, S)``, the bias that hides others, and what has any."""
    lo_B, hi_B = sources.keys_2B
    index_S = torch.arange(sources.longest, device=lo_B.device)
    rows_BS = (lo_B[:, None] + index_S).clamp(max=len(sources.memory_MC) - 1)
    length_B = hi_B - lo_B
    # An empty source sees all keys and keeps nothing of their values: no softmax is taken over nothing.
    bias_BS = hide((index_S >= length_B[:, None]) & (length_B > 0)[:, None])
    keep_B = (length_B > 0).float().masked_fill(length_B > sources.longest, torch.nan)
    return rows_BS, bias_BS, keep_B
