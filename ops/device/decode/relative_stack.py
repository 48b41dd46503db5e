"""The decoder of the OFA family, part by part. What it writes stands in one slot, by default of text.

The absolute bias is a product of two vectors of positions. Those of targets are multiplied once for all steps,
and what a step asks of the source once for all layers.

Shape letters: as in `taskloom.ops.device.decode.stack`; R = differences of places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....graph.errors import PlanError
from ..embedding import TokenTable
from ..modality import Route, feed, route_ids
from ..relative.adapter import TokenSlots
from ..relative.layer import PositionProjection, RelativeDecoderLayer
from ..relative.stack import RelativeDecoder
from .stack import Sizes, score_ids


class RelativePlaces(NamedTuple):
    """What follows from each position.

    Attributes:
        absolute_HLL: What absolute positions add to scores, of queries by keys.
        asked_LHD: What absolute positions ask of those of the source.
        tables_JHR: Relative bias by difference, for each layer; one for all, or none.
        codes_L: Code of each position.
        bases_L: Entry of difference 0.
    """

    absolute_HLL: Tensor | None
    asked_LHD: Tensor | None
    tables_JHR: Tensor | None
    codes_L: Tensor
    bases_L: Tensor


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
        return Sizes(shape.num_layers, *shape.heads, shape.score_scale)

    @property
    def weight_VC(self) -> Tensor:
        """The table that scores."""
        return self.table.weight_VC

    def check(self, max_length: int) -> None:
        """Check that there are ``max_length`` positions.

        Raises:
            PlanError: The model has fewer (T0232).
        """
        start, stop = self.tokens.spans[self.form]
        if max_length > stop - start:
            message = f"targets of {max_length} ids were asked for, the model has {stop - start} positions"
            raise PlanError.of("T0232", message, "ask for less, or train with more max_positions")

    def place(self, max_length: int) -> RelativePlaces:
        """Return what follows from each of ``max_length`` positions.

        Raises:
            PlanError: The model tells fewer positions apart.
        """
        self.check(max_length)
        start, _ = self.tokens.spans[self.form]
        decoder, weight_VC = self.decoder, self.weight_VC
        places_L = torch.arange(start, start + max_length, device=weight_VC.device)
        none_LC = weight_VC.new_zeros(max_length, weight_VC.shape[1])
        _, positions_LC = self.tokens(none_LC, places_L)
        absolute_HLL = asked_LHD = tables_JHR = None
        if decoder.positions is not None:
            # As scores, in single precision at least.
            asks_LHD, keys_LHD = map(whole, decoder.positions(positions_LC, positions_LC))
            absolute_HLL = asks_LHD.transpose(0, 1) @ keys_LHD.permute(1, 2, 0) * self.sizes.scale
        if decoder.cross_positions is not None:
            asked_LHD = _heads(decoder.cross_positions, "query", positions_LC)
        codes_L = bases_L = places_L
        if decoder.relative is not None:
            relatives = decoder.relative(places_L, places_L)
            codes_L, bases_L = relatives[0].code_N.long(), relatives[0].base_N.long()
            tables_JHR = torch.stack([relative.table_HR for relative in relatives])
        return RelativePlaces(absolute_HLL, asked_LHD, tables_JHR, codes_L, bases_L)

    def enter(
        self, ids_N: Tensor, positions_N: Tensor, places: RelativePlaces
    ) -> tuple[Tensor, Route | None]:
        """Return the states of ids as the first layer reads them, and which weights the ids go through.

        Positions have no part in layers.
        """
        del places
        embedded_NC = F.embedding(ids_N, self.weight_VC)
        place_N = (positions_N + self.tokens.spans[self.form][0]).expand(len(ids_N))
        return self.tokens(embedded_NC, place_N)[0], route_ids(ids_N, self.decoder.blocks)

    def project(self, layer: int, x_NC: Tensor, at: Route | None) -> Tensor:
        """Return queries, keys and values."""
        del at
        part, own = self._layer(layer), self._layer(layer).attention
        return own.query_key_value(part.attention_sum.before(x_NC)).unflatten(-1, (3, *own.heads))

    def biases(
        self, positions_N: Tensor, key_positions_NA: Tensor, places: RelativePlaces
    ) -> Tensor | None:
        """Return what absolute and relative positions add."""
        bias_JHNA = None
        if places.tables_JHR is not None:
            start_N1 = (places.bases_L[positions_N] - places.codes_L[positions_N])[:, None]
            bias_JHNA = places.tables_JHR[:, :, start_N1 + places.codes_L[key_positions_NA]]
        if places.absolute_HLL is not None:
            absolute_HNA = places.absolute_HLL[:, positions_N[:, None], key_positions_NA]
            bias_JHNA = absolute_HNA[None] if bias_JHNA is None else bias_JHNA + absolute_HNA
        return None if bias_JHNA is None else bias_JHNA.transpose(1, 2)

    def add(self, layer: int, x_NC: Tensor, seen_NHD: Tensor) -> Tensor:
        """Return the states after attention to the target."""
        part = self._layer(layer)
        return part.attention_sum.after(x_NC, part.attention.merge(seen_NHD))

    def ask(self, layer: int, x_NC: Tensor, at: Route | None) -> Tensor:
        """Return queries to the source."""
        del at
        part = self._layer(layer)
        return part.cross.ask(part.cross_sum.before(x_NC), None)

    def ask_places(self, positions_N: Tensor, places: RelativePlaces) -> Tensor | None:
        """Return what absolute positions ask of those of the source."""
        asked_LHD = places.asked_LHD
        return None if asked_LHD is None else asked_LHD.index_select(0, positions_N)

    def remember(self, layer: int, memory_MC: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the source."""
        return self._layer(layer).cross.remember(memory_MC, None)

    def remember_places(self, positions_MC: Tensor | None) -> Tensor | None:
        """Return keys of the source's absolute positions."""
        projection = self.decoder.cross_positions
        if projection is None:
            return None
        assert positions_MC is not None, "positions of the source are read"
        return _heads(projection, "key", positions_MC)

    def add_read(self, layer: int, x_NC: Tensor, read_NHD: Tensor) -> Tensor:
        """Return the states after attention to the source."""
        part = self._layer(layer)
        return part.cross_sum.after(x_NC, part.cross.merge(read_NHD))

    def feed(self, layer: int, x_NC: Tensor, at: Route | None) -> Tensor:
        """Return the states after the feed-forward part."""
        part = self._layer(layer)
        return part.ffn_sum.after(x_NC, feed(part.ffn, part.ffn_sum.before(x_NC), at))

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


def whole(x: Tensor) -> Tensor:
    """Return ``x`` in single precision at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
