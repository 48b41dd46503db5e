"""The two stacks of the OFA family: an encoder and a decoder over flat streams.

What a token's place means for attention is in the stream as data, three numbers per token: which slot it
stands in, and its place there, counted through the places of all forms of slots that the stack knows
(`taskloom.ops.device.relative.places`).

Shape letters: as in `taskloom.ops.device.relative.layer`; P = places, L = layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..attention import AttentionSpec, Relative, plan_attention
from ..drop_path import DropPath
from ..modality import Blocks, names_of, plan_route
from .layer import (
    INITIAL_STD,
    Folded,
    PositionProjection,
    RelativeDecoderLayer,
    RelativeEncoderLayer,
    RelativeShape,
)
from .places import FormSpecs, make_forms


class Stream(NamedTuple):
    """A stream as a stack reads it.

    Attributes:
        hidden_NC: Embedded tokens.
        positions_NC: Embedded positions.
        slots_N: Number of the slot that each token stands in; no two documents share one.
        places_N: Place of each token.
        keys_2N: First key each token sees, and one past the last.
        modalities_N: Number of each token's modality, where these have weights of their own.
        modalities: The modalities by number.
    """

    hidden_NC: Tensor
    positions_NC: Tensor
    slots_N: Tensor
    places_N: Tensor
    keys_2N: Tensor
    modalities_N: Tensor | None = None
    modalities: tuple[str, ...] = ()


class RelativeTables(nn.Module):
    """The learned relative biases of all layers, by table; each has shape ``(L, rows, H)``."""

    codes_P: Tensor
    bases_P: Tensor

    def __init__(self, shape: RelativeShape, forms: FormSpecs) -> None:
        super().__init__()
        self.forms = tuple(make_forms(forms).values())
        num_layers = 1 if shape.share_tables else shape.num_layers
        sizes = {name: size for form in self.forms for name, size in form.sizes.items()}
        self.tables = nn.ParameterDict(
            {
                name: nn.Parameter(torch.randn(num_layers, size, shape.num_heads) * INITIAL_STD)
                for name, size in sizes.items()
            }
        )
        stops = np.cumsum([form.num_differences for form in self.forms])
        starts = stops - [form.num_differences for form in self.forms]
        codes = np.concatenate([form.codes_P for form in self.forms])
        bases = np.concatenate(
            [form.bases_P + start for form, start in zip(self.forms, starts, strict=True)]
        )
        self.register_buffer("codes_P", torch.from_numpy(codes.astype(np.int32)), persistent=False)
        self.register_buffer("bases_P", torch.from_numpy(bases.astype(np.int32)), persistent=False)
        for number, form in enumerate(self.forms):
            for name, rows in form.rows.items():
                self.register_buffer(
                    _rows_name(number, name), torch.from_numpy(rows), persistent=False
                )

    def forward(self, slots_N: Tensor, places_N: Tensor) -> tuple[Relative, ...]:
        """Return the relative bias of each layer, or the one that all of them share."""
        codes_N, bases_N = self.codes_P[places_N], self.bases_P[places_N]
        tables_LHR = torch.cat([self._expand(number) for number in range(len(self.forms))], -1)
        slots_N = slots_N.to(torch.int32)
        return tuple(Relative(table_HR, codes_N, bases_N, slots_N) for table_HR in tables_LHR)

    def _expand(self, number: int) -> Tensor:
        """Return the bias of every difference of a form, shape ``(L, H, R)``."""
        parts = [
            self.tables[name][:, self.get_buffer(_rows_name(number, name))]
            for name in self.forms[number].rows
        ]
        return torch.stack(parts).sum(0).transpose(1, 2)


class RelativeEncoder(nn.Module):
    """Layers, then a last norm if they are pre-norm."""

    def __init__(self, shape: RelativeShape, forms: FormSpecs) -> None:
        super().__init__()
        self.shape = shape
        self.relative = RelativeTables(shape, forms) if shape.has_tables else None
        self.positions = PositionProjection(shape) if shape.absolute == "bias" else None
        self.layers = nn.ModuleList(RelativeEncoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.width) if shape.is_pre_norm else nn.Identity()
        self.paths = _paths(shape, num_parts=2)

    def forward(self, stream: Stream, spec: AttentionSpec) -> Tensor:
        """Return the stream as the decoder reads it, shape ``(N, C)``."""
        lo_N, hi_N = stream.keys_2N
        plan = plan_attention(lo_N, hi_N, len(lo_N), spec)
        folded = _fold(self.positions, stream.positions_NC, stream.positions_NC)
        relatives = _relatives(self.relative, stream, self.shape.num_layers)
        x_NC = stream.hidden_NC
        factors = self.paths(lo_N)
        route = plan_route(stream.modalities_N, stream.modalities, self.shape.modalities)
        for layer, relative, factors_SN1 in zip(self.layers, relatives, factors, strict=True):
            x_NC = layer(x_NC, plan, folded, relative, factors_SN1, route)
        return self.norm(x_NC)


class RelativeDecoder(nn.Module):
    """Layers, then a last norm if they are pre-norm."""

    def __init__(self, shape: RelativeShape, forms: FormSpecs, blocks: Blocks = ()) -> None:
        """Build the layers.

        Args:
            shape: Sizes; the modalities are those of ``blocks``.
            forms: All forms of slots that the stream has.
            blocks: Of ids, where each modality has feed-forward weights of its own.
        """
        super().__init__()
        self.blocks = blocks
        shape = replace(shape, modalities=names_of(blocks))
        self.shape = shape
        self.relative = RelativeTables(shape, forms) if shape.has_tables else None
        self.positions = PositionProjection(shape) if shape.absolute == "bias" else None
        self.cross_positions = PositionProjection(shape) if shape.absolute == "bias" else None
        self.layers = nn.ModuleList(RelativeDecoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.width) if shape.is_pre_norm else nn.Identity()
        self.paths = _paths(shape, num_parts=3)

    def forward(
        self,
        stream: Stream,
        memory_MC: Tensor,
        memory_positions_MC: Tensor,
        cross_keys_2N: Tensor,
        specs: tuple[AttentionSpec, AttentionSpec],
    ) -> Tensor:
        """Return the states from which the next tokens are scored, shape ``(N, C)``.

        Args:
            stream: The target.
            memory_MC: The encoder's stream.
            memory_positions_MC: Its embedded positions.
            cross_keys_2N: First source token each target token sees, and one past the last.
            specs: What is static about attention to the target and to the source.
        """
        lo_N, hi_N = stream.keys_2N
        plan = plan_attention(lo_N, hi_N, len(lo_N), specs[0])
        cross_lo_N, cross_hi_N = cross_keys_2N
        cross_plan = plan_attention(cross_lo_N, cross_hi_N, len(memory_MC), specs[1])
        folded = _fold(self.positions, stream.positions_NC, stream.positions_NC)
        cross_folded = _fold(self.cross_positions, stream.positions_NC, memory_positions_MC)
        x_NC = stream.hidden_NC
        relatives = _relatives(self.relative, stream, self.shape.num_layers)
        cross = (memory_MC, cross_plan, cross_folded)
        factors = self.paths(lo_N)
        route = plan_route(stream.modalities_N, stream.modalities, self.shape.modalities)
        for layer, relative, factors_SN1 in zip(self.layers, relatives, factors, strict=True):
            x_NC = layer(x_NC, plan, folded, relative, *cross, factors_SN1, route)
        return self.norm(x_NC)


def _paths(shape: RelativeShape, *, num_parts: int) -> DropPath:
    return DropPath(shape.drop_path, num_layers=shape.num_layers, num_parts=num_parts)


def _fold(projection: PositionProjection | None, query_NC: Tensor, key_MC: Tensor) -> Folded | None:
    return None if projection is None else projection(query_NC, key_MC)


def _relatives(
    tables: RelativeTables | None, stream: Stream, num_layers: int
) -> tuple[Relative | None, ...]:
    if tables is None:
        return (None,) * num_layers
    relatives = tables(stream.slots_N, stream.places_N)
    return relatives if len(relatives) == num_layers else relatives * num_layers


def _rows_name(number: int, table: str) -> str:
    return f"rows_{number}_{table}"
