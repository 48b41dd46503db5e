"""The device half of a mixture: one encoder-decoder over packs of all its tasks.

One node per adapter and side, one encoder, one decoder, one loss, however many tasks there are: which task a
document belongs to is data. Parameters are named by scopes alone, so a task added renames none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..graph.draft import Draft
from ..graph.node import NodeId, Value
from ..graph.planned import Planned
from ..graph.vocabulary import Vocabulary
from .device.config import ModelConfig
from .device.contrast import AddLosses, ComparePairs, ContrastPairs
from .device.decoder import DecodeStreams
from .device.embedding import EmbedTokens, PlaceTokens
from .device.encoder import EncodeStreams
from .device.loss import ScoreTokens
from .modality import add_modalities, find_blocks, find_modalities
from .pack_layout import UNKNOWN, PackLayout, add_pack
from .relative import RelativeStreams

VOCABULARY_SCOPE = "vocabulary"
ENCODER_SCOPE = "encoder"
DECODER_SCOPE = "decoder"
PAIR_SCOPE = "pairs"

MEMORY_POSITIONS = "memory_positions"
"""What a model with relative positions gives besides its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderDecoder:
    """The default architecture.

    Attributes:
        config: Sizes.
        vocabulary: The blocks of ids, which fix the size of the table that embeds and scores.
        layout: What packs will hold.
    """

    config: ModelConfig
    vocabulary: Vocabulary
    layout: PackLayout = UNKNOWN

    def add(self, planned: Planned, *, is_inference: bool) -> dict[str, Value]:
        """Add the nodes that follow the documents of ``planned``; return the graph's outputs by name."""
        draft, pack = planned.draft, add_pack(planned)
        if self.config.position == "relative":
            streams = RelativeStreams(
                config=self.config,
                num_ids=self.vocabulary.size,
                blocks=find_blocks(self.config, self.vocabulary),
                lanes=planned.lanes,
                tile=self.layout.tile,
                longest=(self.layout.longest_source, self.layout.longest_target),
            )
            memory, positions, states = streams.add(draft, pack, VOCABULARY_SCOPE)
            placed = {MEMORY_POSITIONS: positions}
        else:
            placed = {}
            memory, states = self._add_streams(planned, pack)
        if is_inference:
            told = {"states": states} if planned.has_targets else {}
            compared = {"scores": self._compare(draft, pack, memory)} if planned.has_pairs else {}
            return {"memory": memory, **placed, **told, **compared}
        kinds = [self._score(draft, pack, states, planned)] if planned.has_targets else []
        kinds += [self._contrast(draft, pack, memory, planned)] if planned.has_pairs else []
        return _name_outputs(self._add_losses(draft, kinds, planned))

    def _add_streams(self, planned: Planned, pack: NodeId) -> tuple[Value, Value]:
        """Return the states of the source and of the target."""
        draft, width = planned.draft, self.config.width
        embed = EmbedTokens(num_ids=self.vocabulary.size, model_width=width)
        stream = draft.add(
            embed,
            {"ids": Value(pack, "source_ids")},
            scope=VOCABULARY_SCOPE,
            address="source/embed",
        )
        for name, lane in sorted(planned.lanes.items()):
            op = draft.catalogue[lane.adapter.op](**lane.adapter.params, model_width=width)
            (port,) = op.signature.inputs
            tokens = draft.add(
                op,
                {port: Value(pack, name)},
                scope=lane.adapter.scope,
                address=f"source/{name}",
            )
            placed = {"hidden": stream, "tokens": tokens, "places": Value(pack, f"{name}_places")}
            stream = draft.add(
                PlaceTokens(model_width=width), placed, address=f"source/{name}/place"
            )
        blocks = find_blocks(self.config, self.vocabulary)
        memory = draft.add(
            replace(
                EncodeStreams.of(self.config, find_modalities(blocks, planned.lanes)),
                tile=self.layout.tile,
                longest=self.layout.longest_source,
            ),
            {
                "hidden": stream,
                "positions": Value(pack, "source_positions"),
                "keys": Value(pack, "source_keys"),
                **add_modalities(draft, pack, "source", blocks, planned.lanes),
            },
            scope=ENCODER_SCOPE,
            address="encoder",
        )
        written = draft.add(
            embed,
            {"ids": Value(pack, "target_ids")},
            scope=VOCABULARY_SCOPE,
            address="target/embed",
        )
        states = draft.add(
            replace(
                DecodeStreams.of(self.config, blocks),
                tile=self.layout.tile,
                longest=self.layout.longest_target,
            ),
            {
                "hidden": written,
                "positions": Value(pack, "target_positions"),
                "keys": Value(pack, "target_keys"),
                "memory": memory,
                "cross_keys": Value(pack, "cross_keys"),
                **add_modalities(draft, pack, "target", blocks, {}),
            },
            scope=DECODER_SCOPE,
            address="decoder",
        )
        return memory, states

    def _score(self, draft: Draft, pack: NodeId, states: Value, planned: Planned) -> Value:
        """Add what target tokens cost."""
        score = ScoreTokens(
            num_ids=self.vocabulary.size,
            model_width=self.config.width,
            num_losses=len(planned.scored),
            label_smoothing=self.config.label_smoothing,
        )
        inputs = {port: Value(pack, port) for port in ("labels", "weights", "loss_ids")}
        inputs["hidden"] = states
        return draft.add(score, inputs, scope=VOCABULARY_SCOPE, address="loss")

    def _contrast(self, draft: Draft, pack: NodeId, memory: Value, planned: Planned) -> Value:
        """Add what pairs cost."""
        op = ContrastPairs(model_width=self.config.width, num_losses=len(planned.scored))
        inputs = {
            "hidden": memory,
            "ranges": Value(pack, "pair_ranges"),
            "loss_ids": Value(pack, "pair_loss_ids"),
        }
        return draft.add(op, inputs, scope=PAIR_SCOPE, address="contrast")

    def _compare(self, draft: Draft, pack: NodeId, memory: Value) -> Value:
        """Add how well the halves of pairs go together."""
        op = ComparePairs(model_width=self.config.width)
        inputs = {"hidden": memory, "ranges": Value(pack, "pair_ranges")}
        return draft.add(op, inputs, scope=PAIR_SCOPE, address="compare")

    def _add_losses(self, draft: Draft, kinds: Sequence[Value], planned: Planned) -> Value:
        if len(kinds) == 1:
            return kinds[0]
        op = AddLosses(num_losses=len(planned.scored))
        inputs = {
            f"{side}_{port}": Value(kind.node, port)
            for side, kind in zip(("left", "right"), kinds, strict=True)
            for port in op.signature.outputs
        }
        return draft.add(op, inputs, address="loss/add")


def _name_outputs(loss: Value) -> dict[str, Value]:
    """Return the outputs of the node that gives the whole loss, as the graph calls them."""
    ports = {"loss": "out", "losses": "losses", "loss_weights": "loss_weights"}
    return {name: Value(loss.node, port) for name, port in ports.items()}
