"""The decoder of the OFA family, part by part. What it writes stands in one slot, by default of text.

Shape letters: as in `taskloom.ops.device.decode.stack`; P = places, R = differences of places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....graph.errors import PlanError
from ..embedding import TokenTable
from ..relative.adapter import TokenSlots
from ..relative.layer import Folded, PositionProjection, RelativeDecoderLayer
from ..relative.stack import RelativeDecoder
from .stack import Sizes, score_ids


class RelativePlaces(NamedTuple):
    """What follows from each position, and for queries of the tokens at hand.

    Attributes:
        folded: Absolute positions as queries and as keys to the target, shape ``(L, H, D)`` each.
        asked_LHD: Absolute positions as queries to the source.
        tables: Relative bias by difference, ``(H, R)`` for each layer; one for all, or none.
        codes_L: Code of each position.
        bases_L: Entry of difference 0.
    """

    folded: Folded | None
    asked_LHD: Tensor | None
    tables: tuple[Tensor, ...]
    codes_L: Tensor
    bases_L: Tensor


class At(NamedTuple):
    """What follows from the positions of the tokens at hand."""

    folded: Folded | None
    asked_NHD: Tensor | None


@dataclass(frozen=True, slots=True)
class RelativeStack:
    """A decoder and its table, as a `Stack`.

    Attributes:
        decoder: In evaluation mode.
        tokens: What ids are given on the target side.
        table: The table that embeds and scores.
        form: The form of slot that is written.
        head: What scores in place of the table, such as `Int8Linear`.
    """

    decoder: RelativeDecoder
    tokens: TokenSlots
    table: TokenTable
    form: str = "text"
    head: nn.Module | None = None

    @property
    def sizes(self) -> Sizes:
        """Sizes of attention."""
        shape = self.decoder.shape
        num_heads, size = shape.heads
        key = size if self.decoder.positions is None else 2 * size
        return Sizes(shape.num_layers, num_heads, key, size, shape.score_scale)

    @property
    def weight_VC(self) -> Tensor:
        """The table that scores."""
        return self.table.weight_VC

    def place(self, max_length: int) -> RelativePlaces:
        """Return what follows from each of ``max_length`` positions.

        Raises:
            PlanError: The model tells fewer positions apart.
        """
        start, stop = self.tokens.spans[self.form]
        if max_length > stop - start:
            message = f"targets of {max_length} ids were asked for, the model has {stop - start} positions"
            raise PlanError.of("T0232", message, "ask for less, or train with more max_positions")
        decoder, weight_VC = self.decoder, self.weight_VC
        places_L = torch.arange(start, start + max_length, device=weight_VC.device)
        none_LC = weight_VC.new_zeros(max_length, weight_VC.shape[1])
        _, positions_LC = self.tokens(none_LC, places_L)
        folded = asked_LHD = None
        if decoder.positions is not None:
            folded = decoder.positions(positions_LC, positions_LC)
        if decoder.cross_positions is not None:
            asked_LHD = _heads(decoder.cross_positions, "query", positions_LC)
        relatives = () if decoder.relative is None else decoder.relative(places_L, places_L)
        codes_L = relatives[0].code_N.long() if relatives else places_L
        bases_L = relatives[0].base_N.long() if relatives else places_L
        tables = tuple(relative.table_HR for relative in relatives)
        return RelativePlaces(folded, asked_LHD, tables, codes_L, bases_L)

    def enter(
        self, ids_N: Tensor, positions_N: Tensor, places: RelativePlaces
    ) -> tuple[Tensor, At]:
        """Return the states of ids as the first layer reads them, and what follows from their positions."""
        embedded_NC = F.embedding(ids_N, self.weight_VC)
        place_N = (positions_N + self.tokens.spans[self.form][0]).expand(len(ids_N))
        x_NC, _ = self.tokens(embedded_NC, place_N)
        folded = asked_NHD = None
        if places.folded is not None:
            # One position for all is looked up once.
            folded = Folded(*(x.index_select(0, positions_N) for x in places.folded))
        if places.asked_LHD is not None:
            asked_NHD = places.asked_LHD.index_select(0, positions_N)
        return x_NC, At(folded, asked_NHD)

    def project(self, layer: int, x_NC: Tensor, at: At) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, positions folded in, and values."""
        part = self._layer(layer)
        state_NC = part.attention_sum.before(x_NC)
        q_NHD, k_NHD, v_NHD = part.attention.project(state_NC, None)
        if at.folded is not None:
            q_NHD, k_NHD = _behind(q_NHD, at.folded.q_NHD), _behind(k_NHD, at.folded.k_MHD)
        return q_NHD, k_NHD, v_NHD

    def biases(
        self, positions_N: Tensor, key_positions_NA: Tensor, places: RelativePlaces
    ) -> tuple[Tensor, ...]:
        """Return the relative biases, ``(N, H, A)`` each."""
        if not places.tables:
            return ()
        start_N1 = (places.bases_L[positions_N] - places.codes_L[positions_N])[:, None]
        entry_NA = start_N1 + places.codes_L[key_positions_NA]
        return tuple(table_HR[:, entry_NA].transpose(0, 1) for table_HR in places.tables)

    def add(self, layer: int, x_NC: Tensor, seen_NHD: Tensor) -> Tensor:
        """Return the states after attention to the target."""
        part = self._layer(layer)
        return part.attention_sum.after(x_NC, part.attention.merge(seen_NHD))

    def ask(self, layer: int, x_NC: Tensor, at: At) -> Tensor:
        """Return queries to the source, positions folded in."""
        part = self._layer(layer)
        q_NHD = part.cross.ask(part.cross_sum.before(x_NC), None)
        return q_NHD if at.asked_NHD is None else _behind(q_NHD, at.asked_NHD)

    def remember(
        self, layer: int, memory_MC: Tensor, positions_MC: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return keys, positions folded in, and values of the source."""
        projection = self.decoder.cross_positions
        positions_MHD = None
        if projection is not None:
            assert positions_MC is not None, "positions of the source are read"
            positions_MHD = _heads(projection, "key", positions_MC)
        return self._layer(layer).cross.remember(memory_MC, positions_MHD)

    def add_read(self, layer: int, x_NC: Tensor, read_NHD: Tensor) -> Tensor:
        """Return the states after attention to the source."""
        part = self._layer(layer)
        return part.cross_sum.after(x_NC, part.cross.merge(read_NHD))

    def feed(self, layer: int, x_NC: Tensor) -> Tensor:
        """Return the states after the feed-forward part."""
        part = self._layer(layer)
        return part.ffn_sum.after(x_NC, part.ffn(part.ffn_sum.before(x_NC)))

    def leave(self, x_NC: Tensor) -> Tensor:
        """Return what is scored."""
        return self.decoder.norm(x_NC)

    def score(self, hidden_NC: Tensor) -> Tensor:
        """Return the score of every id."""
        return score_ids(hidden_NC, self.table, self.head)

    def _layer(self, number: int) -> RelativeDecoderLayer:
        return cast("RelativeDecoderLayer", self.decoder.layers[number])


def _heads(projection: PositionProjection, side: str, positions_NC: Tensor) -> Tensor:
    layer = projection.query if side == "query" else projection.key
    return layer(positions_NC).unflatten(-1, projection.heads)


def _behind(x_NHD: Tensor, positions_NHD: Tensor) -> Tensor:
    return torch.cat((x_NHD, positions_NHD.expand_as(x_NHD)), -1)
