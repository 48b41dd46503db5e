"""The device half of a mixture in the OFA family: streams of slots, and both stacks.

Which slot a token stands in, and at which place, is found on the device from where documents and tensors lie,
so packs are those of every other model. Ids of one side that stand together are one slot, as in OFASys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..graph.draft import Draft
from ..graph.errors import PlanError
from ..graph.node import NodeId, Value
from ..graph.op import Plain
from ..graph.planned import Lane
from .device.config import TRUNKS, ModelConfig
from .device.embedding import PlaceTokens
from .device.modality import Blocks
from .device.relative.places import FormSpecs, Items, to_items
from .device.relative.slot_ops import AdaptImages, AdaptTokens, EmbedIds, FindSlots
from .device.relative.stack_ops import DecodeRelative, EncodeRelative
from .modality import add_modalities, find_modalities

BUCKET = 256
IMAGE_BUCKET = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeStreams:
    """Adds the nodes of the streams and the stacks to a draft.

    Attributes:
        config: Sizes.
        num_ids: Size of the vocabulary.
        blocks: Of ids and their modalities, where each of these has feed-forward weights of its own.
        lanes: Lanes of tensors by name.
        tile: As of `PackLayout`.
        longest: Longest source and longest target side in tokens; 0 where that is not known.
    """

    config: ModelConfig
    num_ids: int
    blocks: Blocks
    lanes: Mapping[str, Lane]
    tile: int
    longest: tuple[int, int]

    def add(self, draft: Draft, pack: NodeId, scope: str) -> tuple[Value, Value, Value]:
        """Return the states of the source, its embedded positions, and the states of the target.

        Args:
            draft: The graph in the making.
            pack: The node of the pack.
            scope: Name of the table that embeds and scores.

        Raises:
            PlanError: Images are not of a form that the model sees (T0239).
        """
        source = self._embed(draft, pack, "source", scope, sorted(self.lanes.items()))
        target = self._embed(draft, pack, "target", scope, [])
        memory = draft.add(
            EncodeRelative(
                shape=self._shape(
                    self.config.num_encoder_layers, find_modalities(self.blocks, self.lanes)
                ),
                forms=self._forms(self.lanes),
                tile=self.tile,
                longest=self.longest[0],
            ),
            {
                **source,
                "keys": Value(pack, "source_keys"),
                **add_modalities(draft, pack, "source", self.blocks, self.lanes),
            },
            scope="encoder",
            address="encoder",
        )
        states = draft.add(
            DecodeRelative(
                shape=self._shape(self.config.num_decoder_layers),
                forms=self._forms({}),
                blocks=self.blocks,
                tile=self.tile,
                longest=self.longest[1],
            ),
            {
                **target,
                "keys": Value(pack, "target_keys"),
                "memory": memory,
                "memory_positions": source["positions"],
                "cross_keys": Value(pack, "cross_keys"),
                **add_modalities(draft, pack, "target", self.blocks, {}),
            },
            scope="decoder",
            address="decoder",
        )
        return memory, source["positions"], states

    def _embed(
        self, draft: Draft, pack: NodeId, side: str, scope: str, lanes: list[tuple[str, Lane]]
    ) -> dict[str, Value]:
        """Return the stream of a side, by the ports of its stack."""
        forms = self._forms(dict(lanes))
        find = FindSlots(forms=forms, lanes=tuple(name for name, _ in lanes))
        places = {f"{name}_places": Value(pack, f"{name}_places") for name, _ in lanes}
        positions = {"positions": Value(pack, f"{side}_positions")}
        slots = draft.add(find, {**positions, **places}, address=f"{side}/slots")
        width = self.config.width
        embedded = draft.add(
            EmbedIds(num_ids=self.num_ids, model_width=width),
            {"ids": Value(pack, f"{side}_ids")},
            scope=scope,
            address=f"{side}/embed",
        )
        shape = self._slot_shape(has_type=side == "source")
        tokens = draft.add(
            AdaptTokens(forms=forms, names=("text",), shape=shape),
            {"hidden": embedded, "places": Value(slots.node, "places")},
            scope=f"{side}_tokens",
            address=f"{side}/text",
        )
        stream = {"hidden": tokens, "positions": Value(tokens.node, "positions")}
        for name, lane in lanes:
            op = self._image_op(name, lane, shape)
            seen = draft.add(
                op,
                {"images": Value(pack, name)},
                scope=self._image_scope(lane),
                address=f"{side}/{name}",
            )
            for port, made in (("hidden", seen), ("positions", Value(seen.node, "positions"))):
                stream[port] = draft.add(
                    PlaceTokens(model_width=width),
                    {
                        "hidden": stream[port],
                        "tokens": made,
                        "places": Value(pack, f"{name}_places"),
                    },
                    address=f"{side}/{name}/{'place' if port == 'hidden' else 'position'}",
                )
        return {**stream, "slots": slots, "places": Value(slots.node, "places")}

    def _shape(self, num_layers: int, modalities: tuple[str, ...] = ()) -> Items:
        config = self.config
        shape: dict[str, Plain] = {
            "width": config.width,
            "num_heads": config.num_heads,
            "ffn_width": config.ffn_width,
            "num_layers": num_layers,
            "dropout": config.dropout,
            "drop_path": config.drop_path,
            "is_pre_norm": config.pre_norm,
            "attn_scale_factor": config.attn_scale_factor,
            "scale_attn": config.scale_attn,
            "scale_fc": config.scale_fc,
            "scale_heads": config.scale_heads,
            "scale_resids": config.scale_resids,
            "absolute": config.absolute_position,
            "has_tables": config.relative_bias,
            "share_tables": config.share_relative_bias,
            "modalities": modalities,
        }
        return to_items(shape)

    def _slot_shape(self, *, has_type: bool) -> Items:
        shape: dict[str, Plain] = {
            "width": self.config.width,
            "dropout": self.config.dropout,
            "adds_positions": self.config.absolute_position == "added",
            "has_type": has_type,
        }
        return to_items(shape)

    def _forms(self, lanes: Mapping[str, Lane]) -> FormSpecs:
        most = self.config.max_positions
        line = {
            "kind": "line",
            "table": "text",
            "num_places": most,
            "bucket": BUCKET,
            "longest": most,
        }
        forms: dict[str, Mapping[str, Plain]] = {"text": line}
        for name, lane in lanes.items():
            params: dict[str, Any] = dict(lane.adapter.params)
            patch = params["patch"]
            forms[name] = {
                "kind": "grid",
                "table": "vit" if self.config.trunk.startswith("vit") else "image",
                "num_rows": params["height"] // patch,
                "num_columns": params["width"] // patch,
                "bucket": IMAGE_BUCKET,
            }
        return tuple(sorted((name, to_items(form)) for name, form in forms.items()))

    def _image_op(self, name: str, lane: Lane, shape: Items) -> AdaptImages:
        if lane.adapter.op != "embed_patches":
            message = f"lane {name} enters by {lane.adapter.op}, which this model has no place for"
            raise PlanError.of(
                "T0239", message, "a model with relative positions sees images alone"
            )
        params: dict[str, Any] = dict(lane.adapter.params)
        cell: int = TRUNKS.get(self.config.trunk) or params["patch"]
        if params["patch"] != cell:
            message = f"{self.config.trunk} sees cells of {cell} pixels, not of {params['patch']}"
            raise PlanError.of("T0239", message, f"set patch={cell} at the slot")
        if max(params["height"], params["width"]) > cell * IMAGE_BUCKET:
            message = (
                f"images of {params['height']} x {params['width']} have too many cells of {cell}"
            )
            raise PlanError.of("T0239", message, f"at most {IMAGE_BUCKET} a side are told apart")
        return AdaptImages(**params, trunk=self.config.trunk, bucket=IMAGE_BUCKET, shape=shape)

    def _image_scope(self, lane: Lane) -> str:
        """Return the scope of an adapter: a trunk sees images of all sizes, patches are of one."""
        if not self.config.trunk:
            return lane.adapter.scope
        return "vit" if self.config.trunk.startswith("vit") else "image"
