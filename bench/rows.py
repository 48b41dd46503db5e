"""Padded batches through our own program: each document in a row to itself, all rows as long as the longest.

What is computed is the same as of packs, layer by layer, but for what is padding. Attention has the windows
that rows are, or it is in blocks that know where padding begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from padded import LANE, Document
from steps import Ours
from torch import Tensor

from taskloom.graph.vocabulary import PAD
from taskloom.ops.device.decoder import DecodeStreams
from taskloom.ops.device.encoder import EncodeStreams
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.program import Program
from taskloom.storage.pack import Pack

MANNERS: Final = ("windows", "blocks")


def in_rows(stream: Stream, ours: Ours, documents: Sequence[Document], manner: str) -> Ours:
    """Return our program, its parameters and all, with ``documents`` as one padded batch."""
    target = max(len(each.target_ids) for each in documents)
    # A row of a source is some of the windows that rows of targets are.
    source = -(-max(each.source_length for each in documents) // target) * target
    program = Program(stream.plan, ours.program.scopes).train()
    has_windows = manner == "windows"
    # No plan tells the lengths of both sides apart, for packs need no such thing.
    ops: dict[Any, Any] = program._ops  # noqa: SLF001
    for node_id, op in ops.items():
        if isinstance(op, EncodeStreams):
            ops[node_id] = replace(
                op, backend="blockwise", tile=source, longest=source * has_windows
            )
        elif isinstance(op, DecodeStreams):
            ops[node_id] = replace(
                op,
                backend="blockwise",
                tile=target,
                longest=target * has_windows,
                cross_window=source * has_windows,
            )
    pack = lay_out(documents, source, target)
    return Ours(program=program, inputs=[to_inputs(stream.plan, pack, torch.device("cpu"))])


def check(ours: Ours, padded: Ours) -> None:
    """Compare the loss and all gradients of our first pack with those of its documents, padded."""
    losses: list[Tensor] = []
    grads: list[list[Tensor]] = []
    for each in (ours, padded):
        losses.append(each.teach(each.inputs[0]))
        parameters = ours.program.parameters()
        grads.append([p.grad.clone() for p in parameters if p.grad is not None])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    for grad, other in zip(*grads, strict=True):
        assert (grad - other).norm() <= 2e-3 * grad.norm() + 1e-6


def lay_out(documents: Sequence[Document], source: int, target: int) -> Pack:
    """Return ``documents`` in rows of ``source`` and ``target`` positions."""
    number = len(documents)
    starts, target_starts = np.arange(number) * source, np.arange(number) * target
    lengths = np.array([each.source_length for each in documents])
    target_lengths = np.array([len(each.target_ids) for each in documents])
    own, others = _see(starts, lengths, source), _see(target_starts, target_lengths, target)
    position = np.tile(np.arange(target, dtype=np.int32), number)
    crossing = np.repeat(np.stack((starts, starts + lengths)).astype(np.int32), target, axis=1)
    crossing = np.where(others[0] < others[1], crossing, 0)
    images = [each.image for each in documents if each.image is not None]
    lane: dict[str, Any] = {}
    places: dict[str, Any] = {}
    if images:
        patches = [each.source_length - len(each.ids) for each in documents]
        firsts = [start for start, count in zip(starts, patches, strict=True) if count]
        lane[LANE] = np.stack(images)
        places[LANE] = np.add.outer(firsts, np.arange(max(patches))).astype(np.int32)
    ids = [np.pad(each.ids, (each.source_length - len(each.ids), 0)) for each in documents]
    return Pack(
        source_ids=_fill(ids, source, PAD),
        source_positions=_fill([np.arange(n, dtype=np.int32) for n in lengths], source, 0),
        source_lo=own[0],
        source_hi=own[1],
        target_ids=_fill([each.target_ids for each in documents], target, PAD),
        labels=_fill([each.labels for each in documents], target, PAD),
        weights=_fill([each.weights for each in documents], target, 0),
        loss_ids=_fill([each.loss_ids for each in documents], target, 0),
        target_positions=np.where(others[0] < others[1], position, 0),
        target_lo=others[0],
        target_hi=np.where(others[0] < others[1], others[0] + position + 1, 0),
        cross_lo=crossing[0],
        cross_hi=crossing[1],
        tensors=lane,
        places=places,
        pair_ranges=np.empty((0, 2, 2), np.int32),
        pair_loss_ids=np.empty(0, np.int32),
        rows=np.empty((0, 2), np.int64),
        source_ranges=np.empty((0, 2), np.int32),
        target_ranges=np.empty((0, 2), np.int32),
    )


def _see(starts: Any, lengths: Any, size: int) -> npt.NDArray[np.int32]:
    """Return the range of each position of rows, shape ``(2, rows * size)``; empty behind documents."""
    stops = np.repeat(starts + lengths, size)
    ranges = np.stack((np.repeat(starts, size), stops))
    is_used = np.arange(len(starts) * size) < stops
    return np.where(is_used, ranges, 0).astype(np.int32)


def _fill(rows: Sequence[npt.NDArray[Any]], size: int, filler: float) -> npt.NDArray[Any]:
    padded = [np.pad(row, (0, size - len(row)), constant_values=filler) for row in rows]
    return np.concatenate(padded).astype(rows[0].dtype)
