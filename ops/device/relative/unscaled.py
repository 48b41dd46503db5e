"""Models of OFASys without biases of attention: their encoder leaves scales out, for which weights make up.

With ``use_self_attn_bias=False`` OFASys sends its encoder, not its decoder, through an attention of torch,
which knows neither the factor of the scores nor the gains of heads. Ours has both; it computes the same with
queries times the factor's root and gains of 1.

Names are those of OFASys; only tensors that change are returned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

_QUERY: Final = re.compile(r"encoder\.layers\.\d+\.self_attn\.q_proj\.(weight|bias)")
_GAIN: Final = re.compile(r"(encoder\.layers\.\d+\.self_attn)\.c_attn")


def make_up_for_scales(state: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Return weights with which our encoder computes what OFASys' computes without scales.

    Args:
        state: The weights there.
        factor: What ours divides the square of scores by, ``attn_scale_factor``.
    """
    queries = {n: t * factor**0.5 for n, t in state.items() if _QUERY.fullmatch(n)}
    return queries | {n: torch.ones_like(t) for n, t in state.items() if _GAIN.fullmatch(n)}


def leave_out_scales(state: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Return weights with which OFASys' encoder computes without scales what ours computes with ``state``.

    Gains go into the layer behind the heads.
    """
    changed = {n: t / factor**0.5 for n, t in state.items() if _QUERY.fullmatch(n)}
    for name, gain_H in state.items():
        if (match := _GAIN.fullmatch(name)) is not None:
            out = f"{match[1]}.out_proj.weight"
            gains_C = gain_H.repeat_interleave(state[out].shape[1] // len(gain_H))
            changed |= {out: state[out] * gains_C, name: torch.ones_like(gain_H)}
    return changed
