"""What rows have written, ids and frames, as keys and values that the next tokens of each look back on.

Rows are of different lengths. The next tokens of all rows are looked at together, as often as one likes: they
stand behind what is kept, where the next look writes over them, until `Canvas.keep` keeps them. So what a row
has written is computed once, however often its frames are.

Shape letters: R = rows, N = tokens that are looked at, T = tokens that there is room for, and one more where
those go that are none, P = places of all forms of slots; else as in `taskloom.ops.device.decode.stack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .relative_stack import At, RelativeStack
from .stack import attend, hide
from .step import Remembered, Sources, read, remember


class Look(NamedTuple):
    """The next tokens of each row, wherever they come from.

    Attributes:
        counts_R: How many each row has.
        targets_RN: Where in the row they stand.
        biases: What is added to their scores, shape ``(R, H, N, T)`` for each layer, or one for all.
    """

    counts_R: Tensor
    targets_RN: Tensor
    biases: tuple[Tensor, ...]


class Tables(NamedTuple):
    """The relative bias of any two places.

    Attributes:
        tables: By difference, ``(H, differences)`` for each layer, or one for all.
        codes_P: Code of each place.
        bases_P: Entry of difference 0.
    """

    tables: tuple[Tensor, ...]
    codes_P: Tensor
    bases_P: Tensor

    def look_up(self, places_RN: Tensor, keys_RT: Tensor, is_near_RNT: Tensor) -> list[Tensor]:
        """Return the bias of keys in the same slot, 0 of others, ``(R, H, N, T)`` for each table."""
        start_RN1 = (self.bases_P[places_RN] - self.codes_P[places_RN])[..., None]
        entry_RNT = (start_RN1 + self.codes_P[keys_RT][:, None]).where(is_near_RNT, 0)
        return [
            table_HD[:, entry_RNT].transpose(0, 1).masked_fill(~is_near_RNT[:, None], 0.0)
            for table_HD in self.tables
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canvas:
    """What rows have written; all tensors are written in place.

    Attributes:
        stack: The decoder.
        remembered: The sources.
        tables: The relative bias, where the decoder has one.
        keys: Shape ``(R, H, T, E)``, by layer.
        values: Shape ``(R, H, T, D)``, by layer.
        slots_RT: Number of the slot that each token stands in, counted within the row.
        places_RT: Place of each token.
        lengths_R: How many tokens are kept of each row.
    """

    stack: RelativeStack
    remembered: Remembered
    tables: Tables | None
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    slots_RT: Tensor
    places_RT: Tensor
    lengths_R: Tensor

    @classmethod
    def open(cls, stack: RelativeStack, sources: Sources, room: int) -> Canvas:
        """Return one with room for ``room`` tokens of each document."""
        sizes = stack.sizes
        num_rows = sources.keys_2B.shape[1]
        shape = (num_rows, sizes.num_heads, room + 1)
        new, index = sources.memory_MC.new_zeros, sources.keys_2B.new_zeros
        return cls(
            stack=stack,
            remembered=remember(stack, sources),
            tables=_tables(stack),
            keys=tuple(new(*shape, sizes.key) for _ in range(sizes.num_layers)),
            values=tuple(new(*shape, sizes.value) for _ in range(sizes.num_layers)),
            slots_RT=index(num_rows, room + 1, dtype=torch.int64),
            places_RT=index(num_rows, room + 1, dtype=torch.int64),
            lengths_R=index(num_rows, dtype=torch.int64),
        )

    def prepare(
        self, places_RN: Tensor, slots_R: Tensor, counts_R: Tensor, *, is_causal: bool
    ) -> Look:
        """Return a look at the next tokens; until something is kept, it stays good.

        Args:
            places_RN: Place of each token.
            slots_R: Number of the slot that a row's tokens stand in.
            counts_R: How many of them each row has; what is looked at of the others is nothing.
            is_causal: Whether each sees those up to itself, rather than all of its row.
        """
        spare = self.slots_RT.shape[1] - 1
        index_N = torch.arange(places_RN.shape[1], device=places_RN.device)
        is_token_RN = index_N < counts_R[:, None]
        targets_RN = (self.lengths_R[:, None] + index_N).where(is_token_RN, spare)
        self.slots_RT.scatter_(1, targets_RN, slots_R[:, None].expand_as(targets_RN))
        self.places_RT.scatter_(1, targets_RN, places_RN)
        num_seen_RN = (index_N + 1).expand_as(places_RN) if is_causal else counts_R[:, None]
        # What is no token sees something as well: no softmax is taken over nothing.
        stop_RN1 = (self.lengths_R[:, None] + num_seen_RN).clamp(min=1)[..., None]
        key_T = torch.arange(spare + 1, device=places_RN.device)
        mask_R1NT = hide(key_T >= stop_RN1)[:, None]
        if self.tables is None:
            return Look(counts_R, targets_RN, (mask_R1NT,))
        is_near_RNT = (self.slots_RT[:, None] == slots_R[:, None, None]).expand(
            -1, places_RN.shape[1], -1
        )
        biases = self.tables.look_up(places_RN, self.places_RT, is_near_RNT)
        return Look(counts_R, targets_RN, tuple(bias + mask_R1NT for bias in biases))

    def look(self, look: Look, x_NC: Tensor, at: At) -> Tensor:
        """Return the states of the next tokens, shape ``(R, N, C)``.

        Args:
            look: What they see.
            x_NC: The tokens of all rows, one row after another.
            at: What follows from their positions.
        """
        stack, shape = self.stack, look.targets_RN.shape
        row_R1 = torch.arange(shape[0], device=x_NC.device)[:, None]
        for layer in range(stack.sizes.num_layers):
            q_NHE, k_NHE, v_NHD = stack.project(layer, x_NC, at)
            keys, values = self.keys[layer], self.values[layer]
            keys[row_R1, :, look.targets_RN] = k_NHE.unflatten(0, shape)
            values[row_R1, :, look.targets_RN] = v_NHD.unflatten(0, shape)
            q_RHNE = q_NHE.unflatten(0, shape).transpose(1, 2)
            bias = look.biases[layer % len(look.biases)]
            out_RHND = attend(q_RHNE, keys, values, bias, stack.sizes.scale)
            x_NC = stack.add(layer, x_NC, out_RHND.transpose(1, 2).flatten(0, 1))
            x_NC = stack.add_read(layer, x_NC, read(stack, layer, x_NC, at, self.remembered))
            x_NC = stack.feed(layer, x_NC)
        return stack.leave(x_NC).unflatten(0, shape)

    def keep(self, look: Look) -> None:
        """Keep the tokens that were looked at last."""
        self.lengths_R.add_(look.counts_R)


def place_tokens(stack: RelativeStack, positions_NC: Tensor) -> At:
    """Return what follows from embedded positions."""
    decoder = stack.decoder
    folded = asked_NHD = None
    if decoder.positions is not None:
        folded = decoder.positions(positions_NC, positions_NC)
    if (projection := decoder.cross_positions) is not None:
        asked_NHD = projection.query(positions_NC).unflatten(-1, projection.heads)
    return At(folded, asked_NHD)


def _tables(stack: RelativeStack) -> Tables | None:
    relative = stack.decoder.relative
    if relative is None:
        return None
    places_P = torch.arange(len(relative.codes_P), device=relative.codes_P.device)
    relatives = relative(places_P, places_P)
    tables = tuple(each.table_HR for each in relatives)
    return Tables(tables, relative.codes_P.long(), relative.bases_P.long())
