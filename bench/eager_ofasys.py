"""A training step as OFASys takes it: padded batches, a dense bias for every layer, all scores at once.

Written anew and plainly from what OFASys computes, for benches to compare with; only what text and patches of
images need, pre-norm, with NormFormer's scales, and without dropout. Parameters are tensors by the names of
OFASys, on whatever device; in half precision, softmax alone is computed in float32, as there. Where a better
way to pad is asked for, `Manner` says what is done otherwise.

Shape letters: B = rows of a batch, S = source tokens, T = target tokens, C = channels, H = heads, V = ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

PAD: Final = 1
TEXT_BUCKET, TEXT_LONGEST, IMAGE_BUCKET = 256, 1024, 42
SCALE_FACTOR: Final = 2.0
ENCODER, DECODER = "encoder", "decoder"

Kept: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""Keys and values of each attention of a decoder, shape ``(B, H, T, C / H)``, while it writes id by id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a padded batch is computed.

    Attributes:
        shares_bias: Whether rows that are laid out alike share one bias; OFASys makes it for each.
        is_fused: Whether attention is torch's own op, given the bias as its mask; OFASys multiplies matrices.
    """

    shares_bias: bool = False
    is_fused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows that are laid out alike: patches of an image, if any, and then text.

    Attributes:
        ids: Of the text, `PAD` behind it, shape ``(B, S - patches)``.
        images: uint8, shape ``(B, height, width, 3)``; None for text alone.
    """

    ids: Tensor
    images: Tensor | None = None

    def to(self, device: torch.device) -> Part:
        """Return the part on ``device``."""
        images = None if self.images is None else self.images.to(device)
        return Part(ids=self.ids.to(device), images=images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of a step; those of OFASys have one part, for it cannot mix what is laid out otherwise.

    Attributes:
        parts: The sources.
        target_ids: What the decoder reads, `PAD` behind it, shape ``(B, T)``.
        labels: What it is asked for, shape ``(B, T)``.
        weights: What each label counts, shape ``(B, T)``.
    """

    parts: Sequence[Part]
    target_ids: Tensor
    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        named = {name: getattr(self, name).to(device) for name in ("target_ids", "labels")}
        parts = [part.to(device) for part in self.parts]
        return replace(self, parts=parts, weights=self.weights.to(device), **named)


@dataclass(frozen=True, slots=True)
class Side:
    """A side of a batch as its stack reads it.

    Attributes:
        hidden: Embedded tokens, shape ``(B, S, C)``.
        positions: Embedded places, shape ``(B, S, C)``, or ``(1, S, C)`` where rows share them.
        is_padding: Which tokens are none, shape ``(B, S)``.
    """

    hidden: Tensor
    positions: Tensor
    is_padding: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class EagerOfasys:
    """The model.

    Attributes:
        state: Parameters by the names of OFASys.
        num_heads: Of attention.
        manner: How batches are computed.
    """

    state: Mapping[str, Tensor]
    num_heads: int
    manner: Manner = Manner()

    def score(self, batch: Batch) -> Tensor:
        """Return the scores of all ids at every target position, shape ``(B, T, V)``."""
        source, memory = self.read(batch.parts)
        return self.score_states(self.decode(batch.target_ids, source, memory))

    def read(self, parts: Sequence[Part]) -> tuple[Side, Tensor]:
        """Return the sources, and the memory of them, shape ``(B, S, C)``."""
        source = self._read_source(parts)
        return source, self._encode(source, parts)

    def decode(self, ids: Tensor, source: Side, memory: Tensor) -> Tensor:
        """Return the states of all target positions, shape ``(B, T, C)``; ``ids`` have shape ``(B, T)``."""
        return self._decode(self._read_text(DECODER, ids), source, memory)

    def step(self, ids: Tensor, source: Side, memory: Tensor, kept: Kept) -> Tensor:
        """Return the state of the last target position, shape ``(B, C)``; ``kept`` gets what is kept of it.

        As in OFASys, embeddings and biases are made anew for all of ``ids``, and one row of them is used.
        """
        return self._decode(self._read_text(DECODER, ids), source, memory, kept)[:, -1]

    def score_states(self, states: Tensor) -> Tensor:
        """Return the scores of all ids, shape ``(..., V)``, for states of shape ``(..., C)``."""
        return F.linear(states, self._table)

    def charge(self, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the weighted sum of the label-smoothed cross entropy."""
        log_probs = self.score(batch).log_softmax(-1, dtype=torch.float32)
        picked = -log_probs.gather(-1, batch.labels[..., None])[..., 0]
        spread = label_smoothing / (log_probs.shape[-1] - 1)
        losses = (1 - label_smoothing - spread) * picked - spread * log_probs.sum(-1)
        return (losses * batch.weights).sum()

    @property
    def _table(self) -> Tensor:
        return self.state["encoder.adaptor.embed_tokens.weight"]

    def _read_source(self, parts: Sequence[Part]) -> Side:
        """Return all parts as one batch, padded to the longest."""
        sides = [self._read_part(part) for part in parts]
        if len(sides) == 1:
            return sides[0]
        longest = max(side.hidden.shape[1] for side in sides)
        hidden, positions, is_padding = [], [], []
        for side in sides:
            gap = longest - side.hidden.shape[1]
            hidden.append(F.pad(side.hidden, (0, 0, 0, gap)))
            places = F.pad(side.positions, (0, 0, 0, gap))
            positions.append(places.expand(len(side.hidden), -1, -1))
            is_padding.append(F.pad(side.is_padding, (0, gap), value=True))
        return Side(torch.cat(hidden), torch.cat(positions), torch.cat(is_padding))

    def _read_part(self, part: Part) -> Side:
        text = self._read_text(ENCODER, part.ids)
        if part.images is None:
            return text
        image = self._read_images(part.images)
        return Side(
            torch.cat((image.hidden, text.hidden), 1),
            torch.cat((image.positions, text.positions), 1),
            torch.cat((image.is_padding, text.is_padding), 1),
        )

    def _read_text(self, side: str, ids: Tensor) -> Side:
        name = f"{side}.adaptor.text"
        places = self.state[f"{name}.embed_positions.weight"][: ids.shape[1]]
        return self._enter(name, F.embedding(ids, self._table), places, ids == PAD)

    def _read_images(self, images: Tensor) -> Side:
        name = "encoder.adaptor.image_patch_embed"
        weight, bias = self.state[f"{name}.proj.weight"], self.state[f"{name}.proj.bias"]
        pixels = images.permute(0, 3, 1, 2).to(weight.dtype) * (2 / 255) - 1
        tokens = F.conv2d(pixels, weight, bias, weight.shape[-1]).flatten(2).transpose(1, 2)
        is_padding = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        places = self.state[f"{name}.embed_image_positions.weight"]
        return self._enter(name, tokens, places, is_padding)

    def _enter(self, name: str, embedded: Tensor, places: Tensor, is_padding: Tensor) -> Side:
        """Return what an adaptor makes of its tokens and places; a type is added on the source side alone."""
        if name.startswith(ENCODER):
            embedded = embedded + self.state[f"{name}.type_embedding.weight"]
        positions = self._norm(f"{name}.layernorm_position", places)[None]
        if not self.manner.shares_bias:
            positions = positions.expand(len(embedded), -1, -1)
        return Side(self._norm(f"{name}.layernorm_embedding", embedded), positions, is_padding)

    def _encode(self, source: Side, parts: Sequence[Part]) -> Tensor:
        absolute = self._lay_out_absolute("encoder.adaptor.pos", source, source)
        x = source.hidden
        for number in range(self._count_layers(ENCODER)):
            bias = absolute.clone()
            self._add_source_tables(bias, parts, number)
            layer = f"encoder.layers.{number}"
            normed = self._norm(f"{layer}.self_attn_layer_norm", x)
            added = self._attend(f"{layer}.self_attn", normed, normed, bias, source.is_padding)
            x = x + self._norm(f"{layer}.attn_ln", added)
            x = x + self._feed_forward(layer, x)
        return self._norm("encoder.layer_norm", x)

    def _decode(
        self, target: Side, source: Side, memory: Tensor, kept: Kept | None = None
    ) -> Tensor:
        absolute = self._lay_out_absolute("decoder.adaptor.pos", target, target)
        cross = self._lay_out_absolute("decoder.cross_pos", target, source)
        length = target.hidden.shape[1]
        first = 0 if kept is None else length - 1
        x = target.hidden[:, first:]
        cross = cross[:, :, first:]
        future = absolute.new_full((length, length), -torch.inf).triu(1)
        for number in range(self._count_layers(DECODER)):
            bias = absolute.clone()
            bias += self._look_up_text(DECODER, number, length)
            bias += future
            layer = f"decoder.layers.{number}"
            normed = self._norm(f"{layer}.self_attn_layer_norm", x)
            bias = bias[:, :, first:]
            added = self._attend(
                f"{layer}.self_attn", normed, normed, bias, target.is_padding, kept
            )
            x = x + self._norm(f"{layer}.self_attn_ln", added)
            normed = self._norm(f"{layer}.encoder_attn_layer_norm", x)
            added = self._attend(
                f"{layer}.encoder_attn", normed, memory, cross, source.is_padding, kept
            )
            x = x + self._norm(f"{layer}.cross_attn_ln", added)
            x = x + self._feed_forward(layer, x)
        return self._norm("decoder.layer_norm", x)

    def _lay_out_absolute(self, name: str, queries: Side, keys: Side) -> Tensor:
        """Return the bias of absolute positions, shape ``(B, H, T, S)``."""
        q = self._split(self._linear(f"{name}_q_linear", queries.positions))
        k = self._split(self._linear(f"{name}_k_linear", keys.positions))
        return q @ k.mT * self._scale(q)

    def _add_source_tables(self, bias: Tensor, parts: Sequence[Part], number: int) -> None:
        """Add to ``bias`` those of the distances within each slot of each part."""
        row = 0
        for part in parts:
            own = bias[row : row + len(part.ids)]
            row += len(part.ids)
            start = 0
            if part.images is not None:
                patch = self.state["encoder.adaptor.image_patch_embed.proj.weight"].shape[-1]
                rows, columns = (size // patch for size in part.images.shape[1:3])
                start = rows * columns
                own[:, :, :start, :start] += self._look_up_grid(number, rows, columns)
            stop = start + part.ids.shape[1]
            text = self._look_up_text(ENCODER, number, stop - start)
            own[:, :, start:stop, start:stop] += text

    def _look_up_text(self, side: str, number: int, length: int) -> Tensor:
        """Return the bias of distances along a line, shape ``(H, length, length)``."""
        table = self.state[f"{side}.adaptor.text.token_rel_pos_table_list.{number}.weight"]
        buckets = bucket_text(table.device)[:length, :length]
        return F.embedding(buckets, table).permute(2, 0, 1)

    def _look_up_grid(self, number: int, rows: int, columns: int) -> Tensor:
        """Return the bias of distances in a grid, shape ``(H, cells, cells)``."""
        table = self.state[f"encoder.adaptor.image_resnet.image_rel_pos_table_list.{number}.weight"]
        return F.embedding(bucket_grid(rows, columns, table.device), table).permute(2, 0, 1)

    def _attend(
        self,
        name: str,
        x: Tensor,
        memory: Tensor,
        bias: Tensor,
        hidden: Tensor,
        kept: Kept | None = None,
    ) -> Tensor:
        """Return what attention to ``memory`` adds, but for its norm; ``hidden`` keys are not seen."""
        q = self._split(self._linear(f"{name}.q_proj", x))
        k, v = self._remember(name, memory, kept)
        hidden = hidden[:, None, None, :]
        if self.manner.is_fused:
            # Who looks, waits for the device; what is compiled cannot.
            is_masked = torch.compiler.is_compiling() or hidden.any()
            mask = bias.masked_fill(hidden, -torch.inf) if is_masked else bias
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self._scale(q))
        else:
            scores = (q * self._scale(q)) @ k.mT + bias
            shares = scores.masked_fill(hidden, -torch.inf).softmax(-1, dtype=torch.float32)
            out = shares.to(v.dtype) @ v
        out = out * self.state[f"{name}.c_attn"][:, None, None]
        return self._linear(f"{name}.out_proj", out.transpose(1, 2).flatten(2))

    def _remember(self, name: str, memory: Tensor, kept: Kept | None) -> tuple[Tensor, Tensor]:
        """Return keys and values; of those kept, the source's stay and the target's grow."""
        if kept is not None and name in kept and name.endswith("encoder_attn"):
            return kept[name]
        k = self._split(self._linear(f"{name}.k_proj", memory))
        v = self._split(self._linear(f"{name}.v_proj", memory))
        if kept is not None:
            if name in kept:
                k, v = torch.cat((kept[name][0], k), 2), torch.cat((kept[name][1], v), 2)
            kept[name] = k, v
        return k, v

    def _feed_forward(self, layer: str, x: Tensor) -> Tensor:
        up = self._linear(f"{layer}.fc1", self._norm(f"{layer}.final_layer_norm", x))
        return self._linear(f"{layer}.fc2", self._norm(f"{layer}.ffn_layernorm", F.gelu(up)))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _scale(self, q: Tensor) -> float:
        return (q.shape[-1] * SCALE_FACTOR) ** -0.5

    def _count_layers(self, side: str) -> int:
        return sum(
            name.startswith(f"{side}.layers.") and ".fc1.weight" in name for name in self.state
        )


def bucket_text(device: torch.device) -> Tensor:
    """Return the row of a table of text for each query and key, of the longest; made once, as in OFASys.

    It is kept in a dict: compiled code would look past a cache and make it anew.
    """
    if device not in _BUCKETS:
        _BUCKETS[device] = _make_buckets().to(device)
    return _BUCKETS[device]


_BUCKETS: Final[dict[torch.device, Tensor]] = {}


def _make_buckets() -> Tensor:
    index = torch.arange(TEXT_LONGEST)
    behind = index[:, None] - index
    middle = TEXT_BUCKET // 2
    far = behind.abs().clamp(min=middle).float()
    steps = (far / middle).log() / torch.tensor((TEXT_LONGEST - 1) / middle).log() * (middle - 1)
    # Rounding may carry the last one past the end.
    beyond = (steps.ceil().long() + middle).clamp(max=TEXT_BUCKET - 1)
    buckets = torch.where(behind.abs() <= middle, behind, behind.sign() * beyond)
    return buckets + TEXT_BUCKET - 1


@cache
def bucket_grid(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return the row of a table of images for each query and key, shape ``(cells, cells)``."""
    row, column = torch.arange(rows * columns) // columns, torch.arange(rows * columns) % columns
    down = row[:, None] - row + IMAGE_BUCKET - 1
    right = column[:, None] - column + IMAGE_BUCKET - 1
    return (down * (2 * IMAGE_BUCKET - 1) + right).to(device)
