"""What tensors do not tell of a model of the OFA family, by the names of OFASys; OFA has the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ....graph.errors import CheckpointError
from ..config import ModelConfig

_ENTANGLED: Final = "entangle_position_embedding"
_NEEDED: Final[Mapping[str, Any]] = {
    "activation_fn": "gelu",
    "no_scale_embedding": True,
    "no_cross_attention": False,
    "cross_self_attention": False,
}
"""Settings that every model here has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What tensors do not tell.

    Attributes:
        attn_scale_factor: What the square of scores of attention is divided by, beside the size of heads.
        num_heads: Heads of attention; None where it is not said.
        has_biases: Whether attention has biases, ``use_self_attn_bias``; None where it is not said.
        is_entangled: Whether positions are to be no biases.
        no_bias: How they enter then, ``added`` or ``none``; None where it is not said.
        is_pre_norm: Whether parts of layers normalise what they read; None where it is not said.
    """

    attn_scale_factor: float = 2.0
    num_heads: int | None = None
    has_biases: bool | None = None
    is_entangled: bool = False
    no_bias: str | None = None
    is_pre_norm: bool | None = None

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Settings:
        """Return what the settings of a model say; defaults of OFASys hold for what they leave out.

        Raises:
            CheckpointError: They are those of a model that none here is like (T0741).
        """
        adaptors, is_entangled = _find_adaptors(plain), bool(plain.get(_ENTANGLED))
        for where, told in {"the model": plain, **adaptors}.items():
            for name, needed in _NEEDED.items():
                if (value := told.get(name, needed)) not in (needed, None):
                    message = f"{where} has {name} {value!r}: models here have {needed!r}"
                    raise CheckpointError.of("T0741", message)
        factor = plain.get("attn_scale_factor")
        if not isinstance(factor, int | float | None):
            message = f"the model has attn_scale_factor {factor!r}, and it is a number"
            raise CheckpointError.of("T0741", message)
        encoder = _find_map(plain, "encoder")
        heads = encoder.get("attention_heads")
        is_pre_norm = encoder.get("normalize_before", plain.get("encoder_normalize_before"))
        has_biases = plain.get("use_self_attn_bias")
        return cls(
            attn_scale_factor=2.0 if factor is None else float(factor),
            num_heads=plain.get("encoder_attention_heads") if heads is None else heads,
            has_biases=None if has_biases is None else bool(has_biases),
            is_entangled=is_entangled,
            no_bias=_find_no_bias(adaptors, is_entangled=is_entangled),
            is_pre_norm=None if is_pre_norm is None else bool(is_pre_norm),
        )


def describe(model: ModelConfig, adaptors: list[str]) -> dict[str, Any]:
    """Return the settings with which OFASys has ``model``, for an adapter each of ``adaptors``."""
    side = {
        "embed_dim": model.width,
        "ffn_embed_dim": model.ffn_width,
        "attention_heads": model.num_heads,
        "normalize_before": model.pre_norm,
    }
    return {
        "encoder": {**side, "layers": model.num_encoder_layers},
        "decoder": {**side, "layers": model.num_decoder_layers},
        "activation_fn": _NEEDED["activation_fn"],
        "attn_scale_factor": model.attn_scale_factor,
        "scale_attn": model.scale_attn,
        "scale_fc": model.scale_fc,
        "scale_heads": model.scale_heads,
        "scale_resids": model.scale_resids,
        "use_self_attn_bias": model.relative_bias,
        "share_attn_bias": model.share_relative_bias,
        _ENTANGLED: model.absolute_position != "bias",
        "max_source_positions": model.max_positions,
        "adaptor": {
            name: {"is_active": True, _ENTANGLED: model.absolute_position == "added"}
            for name in adaptors
        },
    }


def _find_map(plain: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = plain.get(name)
    return value if isinstance(value, Mapping) else {}


def _find_adaptors(plain: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of adapters that are used, by name."""
    adaptors = _find_map(plain, "adaptor")
    found = {f"adaptor.{name}": _find_map(adaptors, name) for name in adaptors}
    return {name: told for name, told in found.items() if told.get("is_active", True)}


def _find_no_bias(adaptors: Mapping[str, Mapping[str, Any]], *, is_entangled: bool) -> str | None:
    """Return how positions enter that are no biases, which every adapter says for itself."""
    found = {
        name: "added" if told[_ENTANGLED] else "none"
        for name, told in adaptors.items()
        if told.get(_ENTANGLED) is not None
    }
    if len({*found.values()}) > 1 and is_entangled:
        told = ", ".join(f"{name} {way}" for name, way in found.items())
        message = f"positions enter otherwise by adapter: {told}"
        raise CheckpointError.of("T0741", message, f"models here have one {_ENTANGLED}")
    return next(iter(found.values()), None)
