"""The two programs of a package, as modules that torch can export: documents in, and one more id of each out.

All shapes are static. A document takes a fixed stretch of the encoder's stream; what is left of it is seen by
nobody.

Shape letters: B = documents, S = source tokens of a document, L = target tokens, I = tensors of a lane, P =
positions that a tensor takes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ...graph.vocabulary import BOS
from ...ops.device.automaton import DecodeAutomaton
from ...ops.device.decode.options import Chooser
from ...ops.device.decode.stack import Stack
from ...ops.device.decode.step import Cache, Remembered, Sources, remember, take_step
from ..model.program import Program
from .reading import read_sources

Lanes: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""Tensors of each lane, shape ``(I, ...)``, and the positions of the stream that they take, ``(I, P)``."""


Kept: TypeAlias = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Keys of targets and their values, shape ``(B, H, L, D)``, by layer."""

Read: TypeAlias = tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...], Tensor]
"""The fields of `Remembered`, keys of positions as one or none: packages know no named tuples, and no None."""


class Encoder(nn.Module):
    """Reads documents.

    Attributes:
        program: The task's program for inference.
        head: What scores in place of the vocabulary's table, if anything.
    """

    def __init__(self, program: Program, head: nn.Module | None) -> None:
        super().__init__()
        self.program = program
        self.head = head

    def forward(self, ids_BS: Tensor, lengths_B: Tensor, lanes: Lanes) -> Read:
        """Return what steps read of the sources.

        Args:
            ids_BS: Ids of the documents; whatever stands behind the end of one is not read.
            lengths_B: Tokens of each.
            lanes: Tensors.
        """
        memory_MC, positions_MC, stack = self.read(ids_BS, lengths_B, lanes)
        first_B = torch.arange(len(ids_BS)) * ids_BS.shape[1]
        keys_2B = torch.stack((first_B, first_B + lengths_B))
        sources = Sources(memory_MC, keys_2B, ids_BS.shape[1], positions_MC)
        keys, values, places, bias = remember(stack, sources)
        return keys, values, () if places is None else (places,), bias

    def read(
        self, ids_BS: Tensor, lengths_B: Tensor, lanes: Lanes
    ) -> tuple[Tensor, Tensor | None, Stack]:
        """Return the encoder's stream, its positions if the decoder reads them, and what writes."""
        num_documents, size = ids_BS.shape
        place_S = torch.arange(size, dtype=torch.int32)
        first_B1 = (torch.arange(num_documents, dtype=torch.int32) * size)[:, None]
        is_read_BS = place_S < lengths_B[:, None]
        ends = (first_B1 * is_read_BS, (first_B1 + lengths_B[:, None]).int() * is_read_BS)
        inputs = {
            "source_ids": ids_BS.where(is_read_BS, 0).flatten(),
            "source_positions": (place_S * is_read_BS).flatten(),
            "source_keys": torch.stack([each.flatten() for each in ends]),
        }
        for name, (tensors, places_IP) in lanes.items():
            inputs |= {name: tensors, f"{name}_places": places_IP}
        return read_sources(self.program, inputs, self.head)


class Step(nn.Module):
    """Writes one more id of each document: of those that are allowed the likeliest.

    Attributes:
        scopes: Whose parameters the stack has.
        max_length: ``L``.
    """

    def __init__(
        self, scopes: nn.Module, stack: Stack, automaton: DecodeAutomaton, max_length: int
    ) -> None:
        super().__init__()
        self.scopes = scopes
        self.max_length = max_length
        self._stack = stack
        self._places: Any = stack.place(max_length)
        self._chooser = Chooser.of(automaton, stack, 1.0)
        self._root = automaton.roots[0]

    def forward(
        self, ids_B: Tensor, states_B: Tensor, index: Tensor, kept: Kept, read: Read
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, log probability of each among those allowed, and next states.

        Args:
            ids_B: What was written last.
            states_B: States of the automaton.
            index: Position of ``ids_B``, shape ``(1,)``.
            kept: Written in place.
            read: What the encoder returned.
        """
        keys, values, places, bias = read
        remembered = Remembered(keys, values, next(iter(places), None), bias)
        cache = Cache(*kept, remembered, self._places, has_kernel=False)
        hidden_BC = take_step(self._stack, ids_B, index, cache, self.max_length)
        options = self._chooser.weigh(self._stack, hidden_BC, states_B)
        ended_BX, can_end_B1 = options.end()
        is_ended_B1 = can_end_B1 & (index == self.max_length - 1)
        chosen_B = ended_BX.where(is_ended_B1, options.scores_RX).argmax(-1)
        rows_B = torch.arange(len(ids_B))
        log_probs_B = options.log_probs_of(rows_B, chosen_B)
        states_B = self._chooser.follow(options, states_B, rows_B, chosen_B)
        return options.pick_ids(rows_B, chosen_B), log_probs_B, states_B

    def begin(self, num_documents: int) -> tuple[Tensor, Tensor, Tensor, Kept]:
        """Return what the first step takes of every document, before anything is read."""
        sizes = self._stack.sizes
        shape = (num_documents, sizes.num_heads, self.max_length, sizes.size)
        keys, values = (
            tuple(torch.zeros(shape) for _ in range(sizes.num_layers)) for _ in range(2)
        )
        kept = (keys, values)
        ids_B = torch.full((num_documents,), BOS)
        return ids_B, torch.full_like(ids_B, self._root), torch.zeros(1, dtype=torch.int64), kept


__all__ = ["Encoder", "Kept", "Lanes", "Read", "Step"]
