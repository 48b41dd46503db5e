"""Adapters: how what stands in a slot enters a stream of the OFA family.

Every adapter gives two vectors per token, its embedding and that of its place, and `SlotEnd` treats both in
the same way, with parameters of the adapter's own.

Shape letters: N = tokens of a stream, C = channels, P = places of a form of slot.

Source: OFASys, ``adaptor/base.py``, ``text.py`` and ``image_vqgan.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layer import INITIAL_STD
from .places import FormSpecs, find_starts, make_forms, position_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShape:
    """What adapters have in common.

    Attributes:
        width: Channels of a token.
        dropout: Share of channels dropped from embeddings.
        adds_positions: Whether embeddings of places are added to those of tokens.
        has_type: Whether all tokens of the adapter have a vector in common. OFASys adds it on the source side
            alone.
        has_norm: Whether embeddings are normalised.
        has_position_norm: Whether embeddings of places are.
    """

    width: int
    dropout: float = 0.0
    adds_positions: bool = False
    has_type: bool = True
    has_norm: bool = True
    has_position_norm: bool = True


class SlotEnd(nn.Module):
    """What happens to every token and place of an adapter."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.adds_positions = shape.adds_positions
        self.type_1C = position_table(1, shape.width).weight if shape.has_type else None
        self.norm = nn.LayerNorm(shape.width) if shape.has_norm else nn.Identity()
        self.position_norm = nn.LayerNorm(shape.width) if shape.has_position_norm else nn.Identity()
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, embedded: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places as the stack reads them; channels come last in all."""
        if self.adds_positions:
            embedded = embedded + positions
        if self.type_1C is not None:
            embedded = embedded + self.type_1C[0]
        return self.dropout(self.norm(embedded)), self.position_norm(positions)


class TokenSlots(nn.Module):
    """What enters as ids: text along a line, and the codes of images in a grid."""

    def __init__(self, shape: SlotShape, forms: FormSpecs, names: Collection[str]) -> None:
        """Build the adapters.

        Args:
            shape: As of all adapters.
            forms: All forms of slots that streams have.
            names: Those of them that hold ids.
        """
        super().__init__()
        self.ends = nn.ModuleDict()
        self.positions = nn.ModuleDict()
        self.spans: dict[str, tuple[int, int]] = {}
        made = make_forms(forms)
        starts = find_starts(made)
        for name in sorted(names):
            rows, size = position_rows(dict(forms)[name])
            self.ends[name] = SlotEnd(shape)
            self.positions[name] = position_table(size, shape.width)
            self.spans[name] = (starts[name], starts[name] + len(rows))
            self.register_buffer(f"rows_{name}", torch.from_numpy(rows), persistent=False)

    def forward(self, embedded_NC: Tensor, places_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and places as the stack reads them.

        Args:
            embedded_NC: Vectors of the ids.
            places_N: Place of each token.
        """
        hidden_NC, positions_NC = embedded_NC, embedded_NC
        for number, (name, (start, stop)) in enumerate(self.spans.items()):
            # Tokens of other forms are sent through as well, and not used: shapes stay static.
            local_N = (places_N - start).clamp(0, stop - start - 1)
            rows_N = self.get_buffer(f"rows_{name}")[local_N]
            own = self.ends[name](embedded_NC, self.positions[name](rows_N))
            is_own_N1 = ((places_N >= start) & (places_N < stop))[:, None]
            hidden_NC = torch.where(is_own_N1, own[0], hidden_NC) if number else own[0]
            positions_NC = torch.where(is_own_N1, own[1], positions_NC) if number else own[1]
        is_placed_N1 = (places_N >= 0)[:, None]
        return hidden_NC.where(is_placed_N1, torch.nan), positions_NC


def position_table(num_places: int, width: int) -> nn.Embedding:
    """Return a table of vectors, begun as in BERT."""
    table = nn.Embedding(num_places, width)
    nn.init.normal_(table.weight, std=INITIAL_STD)
    return table
