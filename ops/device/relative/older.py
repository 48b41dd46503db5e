"""Names of OFA, from which OFASys descends, as OFASys has them.

Source: OFA, ``models/ofa/unify_transformer.py``. What it has beside the stacks, OFASys has in adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch import Tensor

DERIVED: Final = re.compile(
    r".*(\.version|_rp_bucket|_position_idx|\.num_batches_tracked|^decoder\.output_projection\.weight"
    r"|decoder\.(adaptor\.)?embed_tokens\.weight|\._float_tensor)"
)
"""What follows from the rest of a state: buffers, and the vocabulary's table under its other names."""

_TEXT: Final = {
    "layernorm_embedding": "layernorm_embedding",
    "pos_ln": "layernorm_position",
    "embed_positions": "embed_positions",
    "token_rel_pos_table_list": "token_rel_pos_table_list",
}
_IMAGE: Final = {
    "patch_layernorm_embedding": "layernorm_embedding",
    "image_pos_ln": "layernorm_position",
    "embed_image_positions": "embed_image_positions",
    "image_rel_pos_table_list": "image_rel_pos_table_list",
    "embed_images": "embed_images",
    "image_proj": "image_proj",
}
_CODE: Final = {
    "code_layernorm_embedding": "layernorm_embedding",
    "image_pos_ln": "layernorm_position",
    "embed_image_positions": "embed_code_positions",
    "image_rel_pos_table_list": "code_rel_pos_table_list",
}
_BOTH: Final = {
    "embed_tokens": "embed_tokens",
    "pos_q_linear": "pos_q_linear",
    "pos_k_linear": "pos_k_linear",
    "self_pos_q_linear": "pos_q_linear",
    "self_pos_k_linear": "pos_k_linear",
}


def _names() -> Mapping[str, str]:
    names: dict[str, str] = {}
    grids = {"encoder": ("image_resnet", _IMAGE), "decoder": ("image_vqgan", _CODE)}
    for side, (adaptor, grid) in grids.items():
        names |= {f"{side}.{theirs}": f"{side}.adaptor.{ours}" for theirs, ours in _BOTH.items()}
        for place, parts in (("text", _TEXT), (adaptor, grid)):
            names |= {
                f"{side}.{old}": f"{side}.adaptor.{place}.{new}" for old, new in parts.items()
            }
    return MappingProxyType(names)


_NAMES: Final = _names()


def from_ofa(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` under names of OFASys; a state of OFASys is given back as it is."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        head = ".".join(name.split(".")[:2])
        renamed[_NAMES.get(head, head) + name.removeprefix(head)] = tensor
    # One table with a row for text and one for images.
    types = renamed.pop("encoder.type_embedding.weight", None)
    if types is not None:
        renamed["encoder.adaptor.text.type_embedding.weight"] = types[:1].clone()
        renamed["encoder.adaptor.image_resnet.type_embedding.weight"] = types[1:].clone()
    return renamed
