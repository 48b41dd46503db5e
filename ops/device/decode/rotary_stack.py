"""The decoder with rotary positions, part by part.

Shape letters: as in `taskloom.ops.device.decode.stack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..decoder import Decoder
from ..embedding import TokenTable
from ..layer import DecoderLayer
from ..modality import Route, feed, route_ids
from ..rotary import Rotary, plan_rotary, rotate
from .stack import Sizes, score_ids


class At(NamedTuple):
    """What follows from ids and positions.

    Attributes:
        rotary: Angles of the positions.
        route: Which feed-forward weights the ids go through, where not all share them.
    """

    rotary: Rotary
    route: Route | None


@dataclass(frozen=True, slots=True)
class RotaryStack:
    """A decoder and its table, as a `Stack`.

    Attributes:
        decoder: In evaluation mode.
        table: The table that embeds and scores.
        head: What scores in place of the table, such as `Int8Linear`.
    """

    decoder: Decoder
    table: TokenTable
    head: nn.Module | None = None

    @property
    def sizes(self) -> Sizes:
        """Sizes of attention."""
        num_heads, size = self.decoder.heads
        return Sizes(len(self.decoder.layers), num_heads, size, size**-0.5)

    @property
    def weight_VC(self) -> Tensor:
        """The table that scores."""
        return self.table.weight_VC

    def place(self, max_length: int) -> Rotary:
        """Return the angles of ``max_length`` positions."""
        positions_L = torch.arange(max_length, device=self.weight_VC.device)
        return plan_rotary(positions_L, self.decoder.heads[1])

    def enter(self, ids_N: Tensor, positions_N: Tensor, places: Rotary) -> tuple[Tensor, At]:
        """Return the states of ids as the first layer reads them, and what follows from ids and positions."""
        cos, sin = (x.index_select(0, positions_N) for x in places)
        return self.table.embed(ids_N), At(Rotary(cos, sin), route_ids(ids_N, self.decoder.blocks))

    def project(self, layer: int, x_NC: Tensor, at: At) -> Tensor:
        """Return queries, keys and values."""
        part, own = self._layer(layer), self._layer(layer).attention
        states_N3HD = own.query_key_value(part.attention_norm(x_NC)).unflatten(-1, (3, *own.heads))
        turn_N2HD, v_N1HD = states_N3HD.split((2, 1), dim=1)
        turned_NHD = rotate(turn_N2HD.flatten(1, 2), at.rotary)
        return torch.cat((turned_NHD.unflatten(1, (2, -1)), v_N1HD), 1)

    def biases(self, positions_N: Tensor, key_positions_NA: Tensor, places: Rotary) -> None:
        """Return nothing: queries and keys are turned, and that is all."""
        del positions_N, key_positions_NA, places

    def add(self, layer: int, x_NC: Tensor, seen_NHD: Tensor) -> Tensor:
        """Return the states after attention to the target."""
        return x_NC + self._layer(layer).attention.out(seen_NHD.flatten(1))

    def ask(self, layer: int, x_NC: Tensor, at: At) -> Tensor:
        """Return queries to the source."""
        del at
        part = self._layer(layer)
        return part.cross.query(part.cross_norm(x_NC)).unflatten(-1, part.cross.heads)

    def ask_places(self, positions_N: Tensor, places: Rotary) -> None:
        """Return nothing: the source has no positions."""
        del positions_N, places

    def remember(self, layer: int, memory_MC: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the source."""
        k_MHD, v_MHD = self._layer(layer).cross.remember(memory_MC).unbind(1)
        return k_MHD, v_MHD

    def remember_places(self, positions_MC: Tensor | None) -> None:
        """Return nothing: the source has no positions."""
        del positions_MC

    def add_read(self, layer: int, x_NC: Tensor, read_NHD: Tensor) -> Tensor:
        """Return the states after attention to the source."""
        return x_NC + self._layer(layer).cross.out(read_NHD.flatten(1))

    def feed(self, layer: int, x_NC: Tensor, at: At) -> Tensor:
        """Return the states after the feed-forward part."""
        part = self._layer(layer)
        return x_NC + feed(part.ffn, part.ffn_norm(x_NC), at.route)

    def leave(self, x_NC: Tensor) -> Tensor:
        """Return what is scored."""
        return self.decoder.norm(x_NC)

    def score(self, hidden_NC: Tensor) -> Tensor:
        """Return the score of every id."""
        return score_ids(hidden_NC, self.table, self.head)

    def _layer(self, number: int) -> DecoderLayer:
        return cast("DecoderLayer", self.decoder.layers[number])
