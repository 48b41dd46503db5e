"""Golden cases, computed by us: their padded batches are laid into flat streams, document behind document.

The weights of a case are random values that follow from their names and shapes; only what OFASys made of them
is stored.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from taskloom.ops.device.cross_entropy import ChargeSpec, IdSets, charge_labels
from taskloom.ops.device.embedding import TokenTable
from taskloom.ops.device.loss import ScoreTokens
from taskloom.ops.device.relative.adapter import SlotShape, TokenSlots
from taskloom.ops.device.relative.audio import AudioSlots
from taskloom.ops.device.relative.image import ImageSlots, PatchSlots
from taskloom.ops.device.relative.layer import RelativeShape
from taskloom.ops.device.relative.motion import MotionSlots, charge_frames
from taskloom.ops.device.relative.names import KEPT, from_ofasys, to_ofasys
from taskloom.ops.device.relative.places import (
    FormSpecs,
    Items,
    find_starts,
    make_forms,
    to_items,
)
from taskloom.ops.device.relative.resnet import ResNet
from taskloom.ops.device.relative.stack_ops import DecodeRelative, EncodeRelative
from taskloom.ops.device.relative.unscaled import make_up_for_scales

FOLDER = Path(__file__).parents[3] / "golden"
PAD = 1


@dataclass(frozen=True, slots=True)
class Computed:
    """What our model makes of a case, padded as the case is."""

    memory: Tensor
    logits: Tensor
    loss: float
    grads: dict[str, Tensor]


class Case:
    """One golden case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self.arrays: dict[str, npt.NDArray[Any]] = dict(arrays)
        self.model: dict[str, Any] = self.told["model"]

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The weights, with the names of OFASys."""
        state = {
            name: torch.from_numpy(draw_weights(name, tuple(shape)))
            for name, shape in self.told["shapes"].items()
        }
        state["encoder.adaptor.embed_tokens.weight"][PAD] = 0
        return state

    @cached_property
    def given(self) -> dict[str, Tensor]:
        """The weights, with our names."""
        return from_ofasys(self.scaled_state()).tensors

    @property
    def is_trap(self) -> bool:
        """Whether OFASys' encoder goes through an attention that leaves scales out."""
        return not self.model["use_self_attn_bias"]

    def input(self, modality: str, side: str = "src", field: str = "value") -> npt.NDArray[Any]:
        """Return the only input of a modality on a side."""
        (found,) = (
            array
            for name, array in self.arrays.items()
            if f".{modality}.{side}.{field}" in name and name.endswith(field)
        )
        return found

    def pixels(self, modality: str) -> Tensor:
        """Return images or clips in [-1, 1]."""
        array = self.input(modality)
        if array.dtype == np.uint8:
            array = array * np.float32(2 / 255) - 1
        return torch.from_numpy(array)

    @property
    def is_source(self) -> Tensor:
        """Which tokens of the padded source there are."""
        if "encoder_padding_mask" in self.arrays:
            return torch.from_numpy(~self.arrays["encoder_padding_mask"])
        return torch.from_numpy(self.input("TEXT") != PAD)

    @property
    def modalities(self) -> list[str]:
        """Modalities of the source's slots, in order."""
        names = [name.split(".") for name in self.arrays if name.startswith("net_input")]
        found = {int(name[1]): name[2] for name in names if name[3] == "src"}
        return [found[number] for number in sorted(found)]

    @property
    def target(self) -> str:
        """Modality of the target."""
        (found,) = {name.split(".")[2] for name in self.arrays if ".tgt." in name}
        return found

    def shape(self, side: str) -> RelativeShape:
        """Return the shape of a stack."""
        model, stack = self.model, self.model[side]
        absolute = "bias"
        if model["entangle_position_embedding"]:
            is_added = model["adaptors"]["text"]["entangle_position_embedding"]
            absolute = "added" if is_added else "none"
        return RelativeShape(
            width=stack["embed_dim"],
            num_heads=stack["attention_heads"],
            ffn_width=stack["ffn_embed_dim"],
            num_layers=stack["layers"],
            is_pre_norm=stack["normalize_before"],
            attn_scale_factor=model["attn_scale_factor"],
            scale_attn=model["scale_attn"],
            scale_fc=model["scale_fc"],
            scale_heads=model["scale_heads"],
            scale_resids=model["scale_resids"],
            absolute=absolute,
            has_tables=model["use_self_attn_bias"],
            share_tables=model["share_attn_bias"],
        )

    def forms(self, side: str) -> FormSpecs:
        """Return the forms of slots on a side."""
        longest = self.model["max_source_positions"]
        forms: dict[str, dict[str, Any]] = {
            "text": _line("text", longest, bucket=256, longest=longest)
        }
        if side == "target" and self.target == "IMAGE":
            forms["code"] = _grid("code", 8, 8, has_start=True)
        if side == "target" and self.target == "MOTION":
            forms["motion"] = _line("motion", longest, bucket=256, longest=longest)
        for modality in self.modalities if side == "source" else ():
            if modality == "IMAGE":
                rows, columns = (size // self.cell for size in self.input(modality).shape[-2:])
                forms["image"] = _grid("image", rows, columns, has_start=self.is_trap)
            elif modality == "VIDEO":
                num_frames, *sizes = self.input(modality).shape[-3:]
                forms["video"] = {
                    "kind": "frames",
                    "table": "video",
                    "num_frames": num_frames,
                    "frame_table": "image",
                    "num_rows": sizes[0] // self.cell,
                    "num_columns": sizes[1] // self.cell,
                    "frame_bucket": 42,
                    "bucket": 256,
                    "longest": 1024,
                }
            elif modality == "AUDIO":
                forms["audio"] = _line("audio", longest, bucket=longest, longest=4096)
        return tuple((name, to_items(form)) for name, form in forms.items())

    @property
    def cell(self) -> int:
        """Side in pixels of what becomes a token."""
        return 14 if self.is_trap else 16

    def build(self) -> nn.ModuleDict:
        """Return the model with the weights of the case, by scope, in evaluation mode."""
        encode = EncodeRelative(shape=_fields(self.shape("encoder")), forms=self.forms("source"))
        decode = DecodeRelative(shape=_fields(self.shape("decoder")), forms=self.forms("target"))
        width = self.model["encoder"]["embed_dim"]
        is_added = self.shape("encoder").absolute == "added"
        source = SlotShape(width=width, adds_positions=is_added)
        target = SlotShape(width=width, adds_positions=is_added, has_type=False)
        num_ids = len(self.state["encoder.adaptor.embed_tokens.weight"])
        names = [name for name in ("text", "code") if name in dict(self.forms("target"))]
        scopes: dict[str, nn.Module] = {
            "vocabulary": TokenTable(num_ids, width),
            "source_tokens": TokenSlots(source, self.forms("source"), ["text"]),
            "target_tokens": TokenSlots(target, self.forms("target"), names),
            "encoder": encode.module(),
            "decoder": decode.module(),
        }
        if {"IMAGE", "VIDEO"} & {*self.modalities}:
            if self.is_trap:
                scopes["patch"] = PatchSlots(source, 64, 14)
            else:
                blocks = self._num_blocks()
                has_video = "VIDEO" in self.modalities
                trunk = ResNet(blocks)
                scopes["image"] = ImageSlots(source, trunk, 1024, bucket=42, has_video=has_video)
        if "AUDIO" in self.modalities:
            scopes["audio"] = AudioSlots(source, 80, self.model["max_source_positions"])
        if self.target == "MOTION":
            most = len(self.state["decoder.adaptor.motion_6d.frame_decoder.2.bias"])
            num_places = self.model["max_source_positions"]
            scopes["motion"] = MotionSlots(
                target, most_numbers=most, num_levels=1024, num_places=num_places
            )
        model = nn.ModuleDict(scopes)
        given = self.given
        used = {name: value for name, value in given.items() if not name.startswith(KEPT)}
        unused = {name for name in used if name not in model.state_dict()}
        # Tables that no slot of the case looks at.
        assert all(".relative.tables." in name for name in unused), unused
        model.load_state_dict({name: used[name] for name in used if name not in unused})
        return model.eval()

    def compute(
        self, *, label_smoothing: float = 0.1, is_closed: bool = True, backend: str = "sdpa"
    ) -> Computed:
        """Run the case forwards and backwards.

        Args:
            label_smoothing: As OFASys counts it.
            is_closed: Whether labels of closed sets are chosen among these alone.
            backend: Back end of attention.
        """
        model: Any = self.build()
        source, is_source, starts = self._source(model)
        num_documents = len(is_source)
        encode = EncodeRelative(
            shape=_fields(self.shape("encoder")), forms=self.forms("source"), backend=backend
        )
        memory = encode(model["encoder"], **source)
        ids = torch.from_numpy(self.input(self.target, "tgt").astype(np.int64))
        is_target = ids != PAD
        target = self._target(model, ids[is_target], is_target)
        document_of = is_target.nonzero()[:, 0]
        decode = DecodeRelative(
            shape=_fields(self.shape("decoder")), forms=self.forms("target"), backend=backend
        )
        states = decode(
            model["decoder"],
            **target,
            memory=memory,
            memory_positions=source["positions"],
            cross_keys=torch.stack((starts[document_of], starts[document_of + 1])),
        )
        table = model["vocabulary"]
        num_ids = len(table.weight_VC)
        labels = torch.from_numpy(self.arrays["target"].astype(np.int64))[is_target]
        if is_closed and "sample.constraint_masks" in self.arrays:
            allowed = torch.from_numpy(self.arrays["sample.constraint_masks"])[is_target]
            loss = _closed_loss(table, states, labels, allowed, label_smoothing)
        else:
            loss = _loss(table, states, labels, label_smoothing)
        loss.backward()
        grads = {
            name: parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        padded = memory.new_zeros(num_documents, is_source.shape[1], memory.shape[1])
        padded[is_source] = memory.detach()
        logits = memory.new_zeros(*is_target.shape, num_ids)
        logits[is_target] = table.score(states).detach()
        return Computed(padded, logits, loss.item(), to_ofasys(grads).tensors)

    @torch.no_grad()
    def read_source(self, model: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the flat source, the encoder's stream, and where documents begin, with the end."""
        source, _, starts = self._source(model)
        encode = EncodeRelative(shape=_fields(self.shape("encoder")), forms=self.forms("source"))
        return source, encode(model["encoder"], **source), starts

    def diffuse(self) -> tuple[Tensor, float, dict[str, Tensor]]:
        """Return what is predicted of noised frames, what it costs, and gradients."""
        model: Any = self.build()
        noised, frames, steps, shares = (
            torch.from_numpy(self.arrays[f"diff.{name}"])
            for name in ("x_t", "x_start", "t", "alphas_cumprod")
        )
        is_frame = self.is_frame
        padded = self.predictor(model)(noised, (steps + 1)[:, None].expand(is_frame.shape))
        document_of = is_frame.nonzero()[:, 0]
        costs = charge_frames(padded[is_frame], frames[is_frame], shares[steps.long()[document_of]])
        # A mean over the frames of each document, and over documents.
        means = torch.zeros(len(steps)).index_add(0, document_of, costs) / is_frame.sum(1)
        loss = means.mean()
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return padded.detach(), loss.item(), to_ofasys(grads).tensors

    @property
    def is_frame(self) -> Tensor:
        """Which frames of the padded target there are."""
        return torch.from_numpy(~self.input("MOTION", "tgt", "masks"))

    def predictor(self, model: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what predicts padded frames, of padded frames and the level that each is noised to."""
        source, _, starts = self._source(model)
        encode = EncodeRelative(shape=_fields(self.shape("encoder")), forms=self.forms("source"))
        memory = encode(model["encoder"], **source)
        is_frame = self.is_frame
        document_of, line = is_frame.nonzero().unbind(1)
        start = find_starts(make_forms(self.forms("target")))["motion"]
        begins = torch.cat((torch.zeros(1, dtype=torch.long), is_frame.sum(1).cumsum(0)))
        decode = DecodeRelative(shape=_fields(self.shape("decoder")), forms=self.forms("target"))

        def predict(noised: Tensor, levels: Tensor) -> Tensor:
            hidden, positions = model["motion"](noised[is_frame], levels[is_frame], line)
            states = decode(
                model["decoder"],
                hidden=hidden,
                positions=positions,
                slots=document_of,
                places=line + start,
                keys=torch.stack((begins[document_of], begins[document_of + 1])),
                memory=memory,
                memory_positions=source["positions"],
                cross_keys=torch.stack((starts[document_of], starts[document_of + 1])),
            )
            predicted = model["motion"].predict(states, noised.shape[-1])
            return torch.zeros_like(noised).index_put((document_of, line), predicted)

        return predict

    def _num_blocks(self) -> tuple[int, int, int]:
        prefix = "encoder.adaptor.image_resnet.embed_images.layer"
        names = [
            name.removeprefix(prefix).split(".") for name in self.state if name.startswith(prefix)
        ]
        counts = [max(int(name[1]) for name in names if name[0] == stage) + 1 for stage in "123"]
        return counts[0], counts[1], counts[2]

    def scaled_state(self) -> dict[str, Tensor]:
        """Return the weights such that scales which OFASys leaves out make no difference."""
        factor = self.model["attn_scale_factor"]
        return self.state | (make_up_for_scales(self.state, factor) if self.is_trap else {})

    def _source(self, model: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the flat stream, which tokens of the padded batch are in it, and where documents begin."""
        is_there = self.is_source
        starts = find_starts(make_forms(self.forms("source")))
        hidden, positions, places = [], [], []
        for modality in self.modalities:
            if modality == "TEXT":
                ids = torch.from_numpy(self.input("TEXT").astype(np.int64))
                line = (torch.arange(ids.shape[1]) + starts["text"]).expand_as(ids)
                embedded = model["vocabulary"].weight_VC[ids]
                own = model["source_tokens"](embedded.flatten(0, 1), line.flatten())
                own = tuple(each.unflatten(0, ids.shape) for each in own)
                places.append(line)
            else:
                own, form = self._see(modality, model)
                line = (torch.arange(own[0].shape[1]) + starts[form]).expand(own[0].shape[:2])
                places.append(line)
            hidden.append(own[0])
            positions.append(own[1])
        sizes = [len(part[0]) for part in places]
        slot = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        slots = torch.arange(len(is_there))[:, None] * len(sizes) + slot
        begins = torch.cat((torch.zeros(1, dtype=torch.long), is_there.sum(1).cumsum(0)))
        document_of = is_there.nonzero()[:, 0]
        stream = {
            "hidden": torch.cat(hidden, 1)[is_there],
            "positions": torch.cat(positions, 1)[is_there],
            "places": torch.cat(places, 1)[is_there],
            "slots": slots[is_there],
            "keys": torch.stack((begins[document_of], begins[document_of + 1])),
        }
        return stream, is_there, begins

    def _see(self, modality: str, parts: Any) -> tuple[tuple[Tensor, Tensor], str]:
        if modality == "AUDIO":
            return parts["audio"](torch.from_numpy(self.input("AUDIO", field="fbank"))), "audio"
        if modality == "VIDEO":
            return parts["image"].watch(self.pixels("VIDEO").transpose(1, 2)), "video"
        return parts["patch" if self.is_trap else "image"](self.pixels("IMAGE")), "image"

    def _target(self, model: Any, ids: Tensor, is_there: Tensor) -> dict[str, Tensor]:
        form = "code" if self.target == "IMAGE" else "text"
        start = find_starts(make_forms(self.forms("target")))[form]
        document_of, line = is_there.nonzero().unbind(1)
        hidden, positions = model["target_tokens"](model["vocabulary"].weight_VC[ids], line + start)
        index = torch.arange(len(ids))
        return {
            "hidden": hidden,
            "positions": positions,
            "places": line + start,
            "slots": document_of,
            "keys": torch.stack((index - line, index + 1)),
        }


def draw_weights(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the values of one parameter of a case; each is one that half precision holds exactly."""
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    noise = random.standard_normal(shape or 1)
    last, is_flat = name.rpartition(".")[2], len(shape) <= 1
    is_gain = last in ("c_attn", "w_resid") or (is_flat and last == "weight")
    if name.endswith("layernorm_embedding.weight"):
        mean, std = 0.3, 0.05
    elif is_gain:
        mean, std = 1.0, 0.1
    elif last == "running_var":
        noise, mean, std = np.abs(noise), 0.5, 0.5
    else:
        mean, std = 0.0, _std(name, shape)
    return (mean + std * noise).reshape(shape).astype(np.float16).astype(np.float32)


def _loss(table: TokenTable, states: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the sum over tokens, by the op that models are trained with."""
    num_ids, width = table.weight_VC.shape
    op = ScoreTokens(
        num_ids=num_ids, model_width=width, num_losses=1, label_smoothing=label_smoothing
    )
    loss, *_ = op(
        table,
        hidden=states,
        labels=labels,
        weights=(labels != PAD).float(),
        loss_ids=torch.zeros(len(labels), dtype=torch.int32),
        divisor=torch.tensor(1.0),
    )
    return loss


def _closed_loss(
    table: TokenTable,
    states: Tensor,
    labels: Tensor,
    is_allowed_NV: Tensor,
    label_smoothing: float,
) -> Tensor:
    """Return the sum over tokens where only some ids are allowed."""
    is_in_set_SV, sets_N = is_allowed_NV.unique(dim=0, return_inverse=True)
    offsets_S = torch.cat((torch.zeros(1, dtype=torch.long), is_in_set_SV.sum(1).cumsum(0)))
    sets = IdSets(sets_N, offsets_S, is_in_set_SV.nonzero()[:, 1])
    spec = ChargeSpec(label_smoothing=label_smoothing)
    weights_N = (labels != PAD).float()
    loss, _ = charge_labels(states, table.weight_VC, labels, weights_N, spec, sets)
    return loss


def _std(name: str, shape: tuple[int, ...]) -> float:
    last = name.rpartition(".")[2]
    if len(shape) <= 1 or last in ("bias", "running_mean") or "embed_tokens" in name:
        return 0.1
    if "rel_pos_table" in name:
        return 0.5
    if "embed" in name and "position" in name:
        return 0.3
    if len(shape) == 4 or (len(shape) == 3 and "conv" in name):
        return (2.0 / int(np.prod(shape[1:]))) ** 0.5
    is_vector = any(part in name for part in ("type_embedding", "cls_token", "noise_level_emb"))
    return 0.3 if is_vector else float(shape[-1]) ** -0.5


def _line(table: str, num_places: int, *, bucket: int, longest: int) -> dict[str, Any]:
    return {
        "kind": "line",
        "table": table,
        "num_places": num_places,
        "bucket": bucket,
        "longest": longest,
    }


def _grid(table: str, num_rows: int, num_columns: int, *, has_start: bool) -> dict[str, Any]:
    return {
        "kind": "grid",
        "table": table,
        "num_rows": num_rows,
        "num_columns": num_columns,
        "bucket": 42,
        "has_start": has_start,
    }


def _fields(shape: RelativeShape) -> Items:
    return to_items({name: getattr(shape, name) for name in RelativeShape.__dataclass_fields__})
