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
from ..rotary import Rotary, plan_rotary
from .stack import Sizes, score_ids


class Turn(NamedTuple):
    """How positions turn queries, keys and values, which lie in one piece: values stay as they are.

    Attributes:
        own_N31D: What a number is multiplied by.
        other_N31D: What the number half a head away is.
    """

    own_N31D: Tensor
    other_N31D: Tensor

    @classmethod
    def of(cls, rotary: Rotary) -> Turn:
        """Return the turn by the angles of ``rotary``."""
        cos, sin = rotary
        own, other = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return cls(
            torch.stack((own, own, torch.ones_like(own)), 1),
            torch.stack((other, other, torch.zeros_like(other)), 1),
        )

    def apply(self, states_N3HD: Tensor) -> Tensor:
        """Return what is turned; three ops, where queries and keys taken apart and put together take ten."""
        half_away = states_N3HD.roll(states_N3HD.shape[-1] // 2, -1)
        turned = torch.addcmul(states_N3HD * self.own_N31D, half_away, self.other_N31D)
        return turned.to(states_N3HD.dtype)


class At(NamedTuple):
    """What follows from ids and positions.

    Attributes:
        turn: How the positions turn.
        route: Which feed-forward weights the ids go through, where not all share them.
    """

    turn: Turn
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

    def place(self, max_length: int) -> Turn:
        """Return how ``max_length`` positions turn."""
        positions_L = torch.arange(max_length, device=self.weight_VC.device)
        return Turn.of(plan_rotary(positions_L, self.decoder.heads[1]))

    def enter(self, ids_N: Tensor, positions_N: Tensor, places: Turn) -> tuple[Tensor, At]:
        """Return the states of ids as the first layer reads them, and what follows from ids and positions."""
        turn = Turn(*(x.index_select(0, positions_N) for x in places))
        return self.table.embed(ids_N), At(turn, route_ids(ids_N, self.decoder.blocks))

    def project(self, layer: int, x_NC: Tensor, at: At) -> Tensor:
        """Return queries, keys and values."""
        part, own = self._layer(layer), self._layer(layer).attention
        states_NC = own.query_key_value(part.attention_norm(x_NC))
        return at.turn.apply(states_NC.unflatten(-1, (3, *own.heads)))

    def biases(self, positions_N: Tensor, key_positions_NA: Tensor, places: Turn) -> None:
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

    def ask_places(self, positions_N: Tensor, places: Turn) -> None:
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
