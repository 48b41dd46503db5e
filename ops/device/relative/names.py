"""Names of parameters: those of OFASys and OFA, and ours.

Where OFASys has three projections of a state, or one table per layer, we have one tensor; so a name of ours
stands for one name of theirs or for several, joined. Both directions are the same table, read from either
end, and what is converted there and back is the same bit for bit. Tensors with names that are in neither are
kept, and told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ....graph.errors import CheckpointError

VOCABULARY: Final = "vocabulary.weight_VC"
KEPT: Final = "kept."
"""What names begin with that no part of a model reads."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One tensor of ours, and those of OFASys that make it up.

    Attributes:
        ours: Our name; ``#`` stands for a number.
        theirs: Their names; ``#`` for the same number, ``*`` for all numbers from 0.
        is_stacked: Whether theirs become a new first axis, rather than longer along it.
    """

    ours: str
    theirs: tuple[str, ...]
    is_stacked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """Tensors under other names.

    Attributes:
        tensors: By name.
        kept: Names, as they were, of those that no rule is about.
    """

    tensors: dict[str, Tensor]
    kept: tuple[str, ...]


def from_ofasys(state: Mapping[str, Tensor]) -> Converted:
    """Return ``state``, with names of OFASys, under ours.

    Raises:
        CheckpointError: Tensors that are one here have sizes that do not fit each other (T0741).
    """
    left = dict(state)
    tensors: dict[str, Tensor] = {}
    for rule in _RULES:
        for number in _numbers(rule.theirs[0], left):
            names = _expand(rule.theirs, number, left)
            if all(name in left for name in names):
                parts = {name: left.pop(name) for name in names}
                tensors[rule.ours.replace("#", number)] = _join(parts, rule)
    for name in [*left]:
        if (ours := _rename(name, _FORWARD)) is not None:
            tensors[ours] = left.pop(name)
    tensors |= {KEPT + name: tensor for name, tensor in left.items()}
    return Converted(tensors=tensors, kept=tuple(left))


def to_ofasys(tensors: Mapping[str, Tensor]) -> Converted:
    """Return ``tensors``, with names of ours, under those of OFASys."""
    left = dict(tensors)
    state: dict[str, Tensor] = {}
    for rule in _RULES:
        for number in _numbers(rule.ours, left):
            if (joined := left.pop(rule.ours.replace("#", number), None)) is not None:
                state |= _split(joined, rule, number)
    for name in [*left]:
        if name.startswith(KEPT):
            state[name.removeprefix(KEPT)] = left.pop(name)
        elif (theirs := _rename(name, _BACKWARD)) is not None:
            state[theirs] = left.pop(name)
    return Converted(tensors=state, kept=tuple(left))


def _join(parts: Mapping[str, Tensor], rule: Rule) -> Tensor:
    # Projections may differ in their own rows, and in nothing else.
    sizes = {name: tuple(part.shape)[not rule.is_stacked :] for name, part in parts.items()}
    if len({*sizes.values()}) > 1:
        told = ", ".join(f"{name} is {tuple(part.shape)}" for name, part in parts.items())
        raise CheckpointError.of("T0741", f"tensors of one part have sizes that do not fit: {told}")
    tensors = [*parts.values()]
    if rule.is_stacked:
        return torch.stack(tensors)
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _split(joined: Tensor, rule: Rule, number: str) -> dict[str, Tensor]:
    if rule.is_stacked:
        (theirs,) = rule.theirs
        return {theirs.replace("*", str(index)): part.clone() for index, part in enumerate(joined)}
    names = [name.replace("#", number) for name in rule.theirs]
    parts = [joined] if len(names) == 1 else [part.clone() for part in joined.chunk(len(names))]
    return dict(zip(names, parts, strict=True))


def _numbers(pattern: str, names: Iterable[str]) -> list[str]:
    """Return what ``#`` stands for in ``names``; one empty text where the pattern has none."""
    if "#" not in pattern:
        return [""]
    number = re.compile(re.escape(pattern).replace(r"\#", r"(\d+)"))
    return [match[1] for name in names if (match := number.fullmatch(name))]


def _expand(patterns: tuple[str, ...], number: str, names: Mapping[str, object]) -> list[str]:
    expanded: list[str] = []
    for pattern in patterns:
        name = pattern.replace("#", number)
        if "*" not in name:
            expanded.append(name)
            continue
        index = 0
        while (one := name.replace("*", str(index))) in names or index == 0:
            expanded.append(one)
            index += 1
    return expanded


def _rename(name: str, prefixes: Mapping[str, str]) -> str | None:
    for prefix, other in prefixes.items():
        if (match := re.fullmatch(prefix, name)) is not None:
            return match.expand(other)
    return None


_SIDES = ("encoder", "decoder")
_SCOPES = {"encoder": "source", "decoder": "target"}


def _rules() -> Iterable[Rule]:
    yield Rule(VOCABULARY, ("encoder.adaptor.embed_tokens.weight",))
    tables = {
        "text": "text.token",
        "image": "image_resnet.image",
        "vit": "image_vit.image",
        "video": "video_image_sequence.video",
        "audio": "audio_fbank.audio",
        "code": "image_vqgan.code",
        "motion": "motion_6d.token",
    }
    for side in _SIDES:
        for ours, theirs in tables.items():
            listed = f"{side}.adaptor.{theirs}_rel_pos_table_list.*.weight"
            yield Rule(f"{side}.relative.tables.{ours}", (listed,), is_stacked=True)
        for kind in ("weight", "bias"):
            layer, own = f"{side}.layers.#", f"{side}.layers.#.self_attn"
            states = tuple(f"{own}.{letter}_proj.{kind}" for letter in "qkv")
            yield Rule(f"{layer}.attention.query_key_value.{kind}", states)
    for kind in ("weight", "bias"):
        states = tuple(f"decoder.layers.#.encoder_attn.{letter}_proj.{kind}" for letter in "kv")
        yield Rule(f"decoder.layers.#.cross.key_value.{kind}", states)


_PARTS: Final = {
    "self_attn.c_attn": "attention.gain_H",
    "self_attn.out_proj": "attention.out",
    "self_attn_layer_norm": "attention_sum.norm",
    "encoder_attn.c_attn": "cross.gain_H",
    "encoder_attn.q_proj": "cross.query",
    "encoder_attn.out_proj": "cross.out",
    "encoder_attn_layer_norm": "cross_sum.norm",
    "cross_attn_ln": "cross_sum.scale",
    "fc1": "ffn.up",
    "ffn_layernorm": "ffn.norm",
    "fc2": "ffn.down",
    "final_layer_norm": "ffn_sum.norm",
    "w_resid": "ffn_sum.factor_C",
}
"""Parts of a layer that are named otherwise, and no more."""


def _pairs() -> Iterable[tuple[str, str]]:
    """Yield names of theirs and ours that only differ in how they begin; ``#`` stands for a number."""
    for side, scope in _SCOPES.items():
        normed = "attn_ln" if side == "encoder" else "self_attn_ln"
        for theirs, ours in {**_PARTS, normed: "attention_sum.scale"}.items():
            yield f"{side}.layers.#.{theirs}", f"{side}.layers.#.{ours}"
        yield f"{side}.layer_norm", f"{side}.norm"
        yield f"{side}.adaptor.pos_q_linear", f"{side}.positions.query"
        yield f"{side}.adaptor.pos_k_linear", f"{side}.positions.key"
        for form, adaptor, table in (("text", "text", ""), ("code", "image_vqgan", "_code")):
            theirs, ours = f"{side}.adaptor.{adaptor}", f"{scope}_tokens"
            yield f"{theirs}.embed{table or ''}_positions", f"{ours}.positions.{form}"
            yield from _ends(theirs, f"{ours}.ends.{form}")
    yield "decoder.cross_pos_q_linear", "decoder.cross_positions.query"
    yield "decoder.cross_pos_k_linear", "decoder.cross_positions.key"
    for adaptor, scope in (("image_resnet", "image"), ("image_vit", "vit")):
        theirs = f"encoder.adaptor.{adaptor}"
        yield f"{theirs}.image_proj", f"{scope}.projection"
        yield f"{theirs}.embed_image_positions", f"{scope}.positions"
        yield from _ends(theirs, f"{scope}.end")
    yield "encoder.adaptor.image_resnet.embed_images", "image.trunk"
    theirs = "encoder.adaptor.video_image_sequence"
    yield f"{theirs}.embed_frame_positions", "image.frame_positions"
    yield from _ends(theirs, "image.video_end")
    theirs = "encoder.adaptor.image_patch_embed"
    yield f"{theirs}.cls_token", "patch.start_11C"
    yield f"{theirs}.proj", "patch.projection"
    yield f"{theirs}.embed_image_positions", "patch.positions"
    yield from _ends(theirs, "patch.end")
    theirs = "encoder.adaptor.audio_fbank"
    yield f"{theirs}.subsample.conv.0", "audio.first"
    yield f"{theirs}.subsample.conv.2", "audio.second"
    yield f"{theirs}.subsample.out.0", "audio.projection"
    yield f"{theirs}.embed_audio_positions", "audio.positions"
    yield from _ends(theirs, "audio.end")
    theirs = "decoder.adaptor.motion_6d"
    yield f"{theirs}.frame_encoder", "motion.reader"
    yield f"{theirs}.frame_decoder", "motion.writer"
    yield f"{theirs}.noise_level_emb", "motion.noise"
    yield f"{theirs}.embed_positions", "motion.positions"
    yield from _ends(theirs, "motion.end")
    yield from _vit_pairs()


def _ends(theirs: str, ours: str) -> Iterable[tuple[str, str]]:
    yield f"{theirs}.layernorm_embedding", f"{ours}.norm"
    yield f"{theirs}.layernorm_position", f"{ours}.position_norm"
    # A decoder's is used nowhere, and kept so that it can be given back.
    if theirs.startswith("encoder."):
        yield f"{theirs}.type_embedding.weight", f"{ours}.type_1C"


def _vit_pairs() -> Iterable[tuple[str, str]]:
    theirs, ours = "encoder.adaptor.image_vit.embed_images", "vit.trunk"
    yield f"{theirs}.conv1", f"{ours}.projection"
    yield f"{theirs}.positional_embedding", f"{ours}.positions_PC"
    yield f"{theirs}.ln_pre", f"{ours}.norm"
    block, layer = f"{theirs}.transformer.resblocks.#", f"{ours}.layers.#"
    yield f"{block}.attn.in_proj_weight", f"{layer}.query_key_value.weight"
    yield f"{block}.attn.in_proj_bias", f"{layer}.query_key_value.bias"
    yield f"{block}.attn.out_proj", f"{layer}.out"
    yield f"{block}.ln_1", f"{layer}.attention_norm"
    yield f"{block}.ln_2", f"{layer}.ffn_norm"
    yield f"{block}.mlp.c_fc", f"{layer}.up"
    yield f"{block}.mlp.c_proj", f"{layer}.down"


def _compile(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return patterns and what they become; what follows a name after a dot stays.

    Behind a part of a layer that is the name of one tensor: ``fc1.image.weight`` is none of OFASys.
    """
    compiled: dict[str, str] = {}
    for name, other in pairs:
        number = "#" in name
        rest = r"((?:\.[^.]+)?)" if number else r"((?:\..+)?)"
        pattern = re.escape(name).replace(r"\#", r"(\d+)") + rest
        compiled[pattern] = other.replace("#", r"\1") + (r"\2" if number else r"\1")
    return compiled


_RULES: Final = tuple(_rules())
_FORWARD: Final = _compile(_pairs())
_BACKWARD: Final = _compile((ours, theirs) for theirs, ours in _pairs())
