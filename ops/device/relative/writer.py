"""Targets written token by token by a decoder of the OFA family.

A writer is a decoder, what ids are given before it reads them, and the positions of the source: all of it that
`taskloom.ops.device.generation` asks of a decoder and a table. Only text is written.

Shape letters: as in `taskloom.ops.device.decoder`; R = differences of places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ....graph.errors import PlanError
from ..attention import attend_windows
from ..decoder import see_sources
from ..embedding import TokenTable
from ..layer import Seen
from .adapter import TokenSlots
from .layer import PositionProjection, RelativeDecoderLayer
from .stack import RelativeDecoder

TEXT = "text"


class RelativeCache(NamedTuple):
    """What writing keeps from token to token; static in size, its own part written in place.

    Attributes:
        keys: Keys of the tokens written so far, a tensor ``(B, L, H, D)`` per layer.
        values: Their values.
        cross: Keys and values of each document's source, shape ``(B, K, H, D)``, per layer.
        cross_seen: Which of these are the document's.
        biases: Relative bias of each layer for every two places, ``(H, L, L)``; one for all, or none.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    cross: tuple[tuple[Tensor, Tensor], ...]
    cross_seen: Seen
    biases: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class RelativeWriter:
    """Writes targets.

    Attributes:
        decoder: In evaluation mode.
        tokens: What ids are given on the target side.
        table: The table that embeds and scores.
        memory_positions_MC: Embedded positions of the encoder's stream.
    """

    decoder: RelativeDecoder
    tokens: TokenSlots
    table: TokenTable
    memory_positions_MC: Tensor

    def embed(self, ids_N: Tensor) -> Tensor:
        """Return the vectors of ``ids_N``, as long as they are."""
        return F.embedding(ids_N, self.table.weight_VC)

    def score(self, hidden_NC: Tensor) -> Tensor:
        """Return the score of every id for each state."""
        return self.table.score(hidden_NC)

    def begin(
        self, memory_MC: Tensor, keys_2B: Tensor, *, longest_source: int, max_length: int
    ) -> RelativeCache:
        """Return the cache to write one target per document.

        Args:
            memory_MC: The encoder's stream.
            keys_2B: First source token of each document, and one past the last.
            longest_source: ``K``; a document with a longer source gets NaN.
            max_length: ``L``.

        Raises:
            PlanError: ``max_length`` is more than the positions that the model tells apart.
        """
        start, stop = self.tokens.spans[TEXT]
        if max_length > stop - start:
            message = f"targets of {max_length} ids were asked for, the model has {stop - start} positions"
            raise PlanError.of("T0232", message, "ask for less, or train with more max_positions")
        decoder = self.decoder
        rows_BK, seen = see_sources(keys_2B, memory_MC.shape[0], longest_source)
        positions_MHD = _project(decoder.cross_positions, self.memory_positions_MC, "key")
        remembered = [layer.cross.remember(memory_MC, positions_MHD) for layer in self._layers()]
        num_heads, size = decoder.shape.heads
        own = memory_MC.new_zeros(keys_2B.shape[1], max_length, num_heads, size)
        keys = own.repeat(1, 1, 1, 1 if decoder.positions is None else 2)
        return RelativeCache(
            tuple(keys.clone() for _ in remembered),
            tuple(own.clone() for _ in remembered),
            tuple((k_MHD[rows_BK], v_MHD[rows_BK]) for k_MHD, v_MHD in remembered),
            seen,
            self._biases(max_length),
        )

    def step(self, hidden_BC: Tensor, index: Tensor, cache: RelativeCache) -> Tensor:
        """Return the states after one more token per document, shape ``(B, C)``.

        Args:
            hidden_BC: The token, embedded.
            index: Its position, shape ``(1,)``.
            cache: What `begin` made; the token is added to it.
        """
        decoder, num_documents = self.decoder, len(hidden_BC)
        place_B = (index + self.tokens.spans[TEXT][0]).expand(num_documents)
        x_BC, positions_BC = self.tokens(hidden_BC, place_B)
        folded = None
        if decoder.positions is not None:
            folded = decoder.positions(positions_BC, positions_BC)
        asked_BHD = _project(decoder.cross_positions, positions_BC, "query")
        is_later_L = torch.arange(cache.keys[0].shape[1], device=index.device) > index
        mask_L = hidden_BC.new_zeros(is_later_L.shape).masked_fill(is_later_L, -torch.inf)
        seen = Seen(mask_L[None, None, None], hidden_BC.new_ones(1, 1, 1))
        for number, layer in enumerate(self._layers()):
            own = seen
            if cache.biases:
                bias_HL = cache.biases[number % len(cache.biases)].index_select(1, index)
                own = Seen(seen.bias_B11K + bias_HL[None], seen.keep_B11)
            state_BC = layer.attention_sum.before(x_BC)
            q_BHD, k_BHD, v_BHD = layer.attention.project(state_BC, folded)
            keys, values = cache.keys[number], cache.values[number]
            keys.index_copy_(1, index, k_BHD[:, None])
            values.index_copy_(1, index, v_BHD[:, None])
            x_BC = layer.attention_sum.after(
                x_BC, layer.attention.merge(self._attend(q_BHD, keys, values, own))
            )
            q_BHD = layer.cross.ask(layer.cross_sum.before(x_BC), asked_BHD)
            read_BHD = self._attend(q_BHD, *cache.cross[number], cache.cross_seen)
            x_BC = layer.cross_sum.after(x_BC, layer.cross.merge(read_BHD))
            x_BC = layer.ffn_sum.after(x_BC, layer.ffn(layer.ffn_sum.before(x_BC)))
        return decoder.norm(x_BC)

    def _attend(self, q_BHD: Tensor, k_BKHD: Tensor, v_BKHD: Tensor, seen: Seen) -> Tensor:
        scale = self.decoder.shape.score_scale
        out_BHD = attend_windows(q_BHD[:, None], k_BKHD, v_BKHD, seen.bias_B11K, scale)[:, 0]
        return out_BHD * seen.keep_B11.to(q_BHD.dtype)

    def _biases(self, max_length: int) -> tuple[Tensor, ...]:
        tables = self.decoder.relative
        if tables is None:
            return ()
        start, _ = self.tokens.spans[TEXT]
        places_L = torch.arange(start, start + max_length, device=tables.codes_P.device)
        relatives = tables(places_L, places_L)
        code_L, base_L = relatives[0].code_N, relatives[0].base_N
        entry_LL = base_L[:, None] + code_L - code_L[:, None]
        return tuple(relative.table_HR[:, entry_LL] for relative in relatives)

    def _layers(self) -> list[RelativeDecoderLayer]:
        return [cast("RelativeDecoderLayer", layer) for layer in self.decoder.layers]


def _project(
    projection: PositionProjection | None, positions_NC: Tensor, side: str
) -> Tensor | None:
    """Return the vectors of positions that ask, or that are asked."""
    if projection is None:
        return None
    layer = projection.query if side == "query" else projection.key
    return layer(positions_NC).unflatten(-1, projection.heads)
