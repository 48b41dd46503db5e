"""What rows have written, ids and frames, as keys and values that the next tokens of each look back on.

Rows are of different lengths. The next tokens of all rows are looked at together, as often as one likes: they
stand behind what is kept, where the next look writes over them, until `Canvas.keep` keeps them. So what a row
has written is computed once, however often its frames are.

Positions of ids and of each kind of frames are embedded apart, so what absolute ones add to scores is no table:
keys of positions are kept beside those of tokens, once for all layers.

Shape letters: R = rows, N = tokens that are looked at, T = tokens that there is room for, and one more where
those go that are none, P = places of all forms of slots, X = differences of places, S = longest source, J =
layers, or 1 for all; else as in `taskloom.ops.device.decode.stack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .relative_stack import RelativeStack, whole
from .stack import attend, hide
from .step import Cache, Sources, read, remember


class Look(NamedTuple):
    """The next tokens of each row, wherever they come from.

    Attributes:
        counts_R: How many each row has.
        targets_RN: Where in the row they stand.
        biases_JRHNT: What is added to their scores, or as it spreads.
        asked_RHNS: What is added to their scores of the source, or as it spreads.
    """

    counts_R: Tensor
    targets_RN: Tensor
    biases_JRHNT: Tensor
    asked_RHNS: Tensor


class Tables(NamedTuple):
    """The relative bias of any two places.

    Attributes:
        tables_JHX: By difference.
        codes_P: Code of each place.
        bases_P: Entry of difference 0.
    """

    tables_JHX: Tensor
    codes_P: Tensor
    bases_P: Tensor

    def look_up(self, places_RN: Tensor, keys_RT: Tensor, is_near_RNT: Tensor) -> Tensor:
        """Return the bias of keys in the same slot, 0 of others, shape ``(J, R, H, N, T)``."""
        start_RN1 = (self.bases_P[places_RN] - self.codes_P[places_RN])[..., None]
        entry_RNT = (start_RN1 + self.codes_P[keys_RT][:, None]).where(is_near_RNT, 0)
        bias_JRHNT = self.tables_JHX[:, :, entry_RNT].transpose(1, 2)
        return bias_JRHNT.masked_fill(~is_near_RNT[:, None], 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canvas:
    """What rows have written; all tensors are written in place.

    Attributes:
        stack: The decoder.
        cache: Keys and values of ``T`` tokens of each row, and the sources.
        tables: The relative bias, where the decoder has one.
        places_RHTD: Keys of positions, for all layers; None where they are not asked.
        slots_RT: Number of the slot that each token stands in, counted within the row.
        places_RT: Place of each token.
        lengths_R: How many tokens are kept of each row.
    """

    stack: RelativeStack
    cache: Cache
    tables: Tables | None
    places_RHTD: Tensor | None
    slots_RT: Tensor
    places_RT: Tensor
    lengths_R: Tensor

    @classmethod
    def open(cls, stack: RelativeStack, sources: Sources, room: int) -> Canvas:
        """Return one with room for ``room`` tokens of each document."""
        sizes = stack.sizes
        num_rows = sources.keys_2B.shape[1]
        shape = (num_rows, sizes.num_heads, room + 1, sizes.size)
        new, index = sources.memory_MC.new_zeros, sources.keys_2B.new_zeros
        return cls(
            stack=stack,
            cache=Cache(
                tuple(new(shape) for _ in range(sizes.num_layers)),
                tuple(new(shape) for _ in range(sizes.num_layers)),
                remember(stack, sources),
                places=None,
                has_kernel=False,
            ),
            tables=_tables(stack),
            places_RHTD=None if stack.decoder.positions is None else whole(new(shape)),
            slots_RT=index(num_rows, room + 1, dtype=torch.int64),
            places_RT=index(num_rows, room + 1, dtype=torch.int64),
            lengths_R=index(num_rows, dtype=torch.int64),
        )

    def prepare(
        self,
        places_RN: Tensor,
        positions_NC: Tensor,
        slots_R: Tensor,
        counts_R: Tensor,
        *,
        is_causal: bool,
    ) -> Look:
        """Return a look at the next tokens; until something is kept, it stays good.

        Args:
            places_RN: Place of each token.
            positions_NC: Embedded positions of all rows' tokens, one row after another.
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
        biases_JRHNT = hide(key_T >= stop_RN1)[None, :, None]
        if (absolute_RHNT := self._compare(positions_NC, targets_RN)) is not None:
            biases_JRHNT = biases_JRHNT + absolute_RHNT
        if self.tables is not None:
            is_near_R1T = self.slots_RT[:, None] == slots_R[:, None, None]
            is_near_RNT = is_near_R1T.expand(-1, places_RN.shape[1], -1)
            relative_JRHNT = self.tables.look_up(places_RN, self.places_RT, is_near_RNT)
            biases_JRHNT = biases_JRHNT + relative_JRHNT
        asked_RHNS = self._ask_places(positions_NC, targets_RN)
        return Look(counts_R, targets_RN, biases_JRHNT, asked_RHNS)

    def look(self, look: Look, x_NC: Tensor) -> Tensor:
        """Return the states of the next tokens, shape ``(R, N, C)``.

        Args:
            look: What they see.
            x_NC: The tokens of all rows, one row after another.
        """
        stack, shape = self.stack, look.targets_RN.shape
        row_R1 = torch.arange(shape[0], device=x_NC.device)[:, None]
        for layer in range(stack.sizes.num_layers):
            q_NHD, k_NHD, v_NHD = stack.project(layer, x_NC, None).unbind(1)
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            keys[row_R1, :, look.targets_RN] = k_NHD.unflatten(0, shape)
            values[row_R1, :, look.targets_RN] = v_NHD.unflatten(0, shape)
            q_RHND = q_NHD.unflatten(0, shape).transpose(1, 2)
            bias_RHNT = look.biases_JRHNT[layer % len(look.biases_JRHNT)]
            out_RHND = attend(q_RHND, keys, values, bias_RHNT, stack.sizes.scale)
            x_NC = stack.add(layer, x_NC, out_RHND.transpose(1, 2).flatten(0, 1))
            seen_NHD = read(stack, layer, x_NC, None, self.cache, look.asked_RHNS)
            x_NC = stack.add_read(layer, x_NC, seen_NHD)
            x_NC = stack.feed(layer, x_NC, None)
        return stack.leave(x_NC).unflatten(0, shape)

    def keep(self, look: Look) -> None:
        """Keep the tokens that were looked at last."""
        self.lengths_R.add_(look.counts_R)

    def _compare(self, positions_NC: Tensor, targets_RN: Tensor) -> Tensor | None:
        """Return what absolute positions add to scores, shape ``(R, H, N, T)``; their keys are kept."""
        projection, places_RHTD = self.stack.decoder.positions, self.places_RHTD
        if projection is None or places_RHTD is None:
            return None
        # As scores, in single precision at least.
        asks_NHD, keys_NHD = map(whole, projection(positions_NC, positions_NC))
        row_R1 = torch.arange(len(targets_RN), device=targets_RN.device)[:, None]
        places_RHTD[row_R1, :, targets_RN] = keys_NHD.unflatten(0, targets_RN.shape)
        asks_RHND = asks_NHD.unflatten(0, targets_RN.shape).transpose(1, 2)
        return asks_RHND @ places_RHTD.transpose(2, 3) * self.stack.sizes.scale

    def _ask_places(self, positions_NC: Tensor, targets_RN: Tensor) -> Tensor:
        """Return what is added to scores of the source, shape ``(R, H, N, S)``, or as it spreads."""
        remembered = self.cache.remembered
        projection = self.stack.decoder.cross_positions
        if projection is None or remembered.places_BHSD is None:
            return remembered.bias_B11S
        asks_NHD = projection.query(positions_NC).unflatten(-1, projection.heads)
        asks_RHND = asks_NHD.unflatten(0, targets_RN.shape).transpose(1, 2)
        scores_RHNS = asks_RHND @ remembered.places_BHSD.transpose(2, 3)
        return scores_RHNS * self.stack.sizes.scale + remembered.bias_B11S


def _tables(stack: RelativeStack) -> Tables | None:
    relative = stack.decoder.relative
    if relative is None:
        return None
    places_P = torch.arange(len(relative.codes_P), device=relative.codes_P.device)
    tables_JHX = torch.stack([each.table_HR for each in relative(places_P, places_P)])
    return Tables(tables_JHX, relative.codes_P.long(), relative.bases_P.long())
