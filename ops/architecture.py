"""The device half of a mixture: one encoder-decoder over packs of all its tasks.

One node per adapter and side, one encoder, one decoder, one loss, however many tasks there are: which task a
document belongs to is data. Parameters are named by scopes alone, so a task added renames none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ..graph.node import Value
from ..graph.planner import Lane, Planned
from ..graph.vocabulary import Vocabulary
from .device.config import ModelConfig
from .device.decoder import DecodeStreams
from .device.embedding import EmbedTokens, PlaceTokens
from .device.encoder import EncodeStreams
from .device.loss import ScoreTokens
from .host.document import PackDocuments

VOCABULARY_SCOPE = "vocabulary"
ENCODER_SCOPE = "encoder"
DECODER_SCOPE = "decoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackLayout:
    """How documents lie in packs, as far as attention may rely on it; no parameter depends on it.

    Attributes:
        tile: Documents cross a multiple of it only if they start at one.
        longest_source: Longest source side in tokens; 0 where that is not known.
        longest_target: Longest target side in tokens; 0 where that is not known.
    """

    tile: int = 128
    longest_source: int = 0
    longest_target: int = 0


UNKNOWN = PackLayout()


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
        draft, width = planned.draft, self.config.width
        lanes = {name: _describe(lane) for name, lane in sorted(planned.lanes.items())}
        pack = draft.add(PackDocuments(lanes=lanes), planned.documents, address="pack").node
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
        memory = draft.add(
            replace(
                EncodeStreams.of(self.config),
                tile=self.layout.tile,
                longest=self.layout.longest_source,
            ),
            {
                "hidden": stream,
                "positions": Value(pack, "source_positions"),
                "keys": Value(pack, "source_keys"),
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
                DecodeStreams.of(self.config),
                tile=self.layout.tile,
                longest=self.layout.longest_target,
            ),
            {
                "hidden": written,
                "positions": Value(pack, "target_positions"),
                "keys": Value(pack, "target_keys"),
                "memory": memory,
                "cross_keys": Value(pack, "cross_keys"),
            },
            scope=DECODER_SCOPE,
            address="decoder",
        )
        if is_inference:
            return {"memory": memory, "states": states}
        score = ScoreTokens(
            num_ids=self.vocabulary.size,
            model_width=width,
            num_tasks=len(planned.documents),
            label_smoothing=self.config.label_smoothing,
        )
        ports = ("labels", "weights", "task_ids")
        loss = draft.add(
            score,
            {"hidden": states, **{port: Value(pack, port) for port in ports}},
            scope=VOCABULARY_SCOPE,
            address="loss",
        )
        sums = {port: Value(loss.node, port) for port in ("task_losses", "task_weights")}
        return {"loss": loss, **sums}


def _describe(lane: Lane) -> dict[str, object]:
    described = asdict(lane)
    return {key: described[key] for key in ("kind", "dtype", "shape", "length")}
