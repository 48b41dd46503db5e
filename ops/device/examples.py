"""Something for every device op to compute: one small pack."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..example import Example, Examples
from .contrast import AddLosses, ComparePairs, ContrastPairs
from .decoder import DecodeStreams
from .embedding import EmbedPatches, EmbedTokens, PlaceTokens
from .encoder import EncodeStreams
from .loss import ScoreTokens
from .modality import TellModalities
from .relative.places import to_items
from .relative.slot_ops import AdaptImages, AdaptTokens, EmbedIds, FindSlots
from .relative.stack_ops import DecodeRelative, EncodeRelative

_N, _C, _TILE = 8, 8, 4

_RANDOM = np.random.default_rng(0)
_HIDDEN = _RANDOM.normal(size=(_N, _C)).astype(np.float32)
_TOKENS = _RANDOM.normal(size=(1, 2, _C)).astype(np.float32)
_IMAGES = _RANDOM.integers(0, 256, (1, 4, 4, 3)).astype(np.uint8)


def _ints(*values: Any) -> npt.NDArray[np.int32]:
    return np.array(values, np.int32)


# Two documents of four tokens each.
_POSITIONS = _ints(0, 1, 2, 3, 0, 1, 2, 3)
_KEYS = _ints([0, 0, 0, 0, 4, 4, 4, 4], [4, 4, 4, 4, 8, 8, 8, 8])
_CAUSAL = _ints([0, 0, 0, 0, 4, 4, 4, 4], [1, 2, 3, 4, 5, 6, 7, 8])
_LAYERS: dict[str, Any] = {
    "model_width": _C,
    "num_heads": 2,
    "num_layers": 1,
    "ffn_width": 16,
    "tile": _TILE,
}

# Two documents, each of a cell of an image and three ids.
_FORMS = (
    (
        "image",
        to_items({"kind": "grid", "table": "image", "num_rows": 1, "num_columns": 1, "bucket": 2}),
    ),
    (
        "text",
        to_items({"kind": "line", "table": "text", "num_places": 8, "bucket": 4, "longest": 8}),
    ),
)
_SLOTS = {
    "positions": _HIDDEN,
    "slots": _ints(1, 2, 2, 2, 3, 4, 4, 4),
    "places": _ints(0, 1, 2, 3, 0, 1, 2, 3),
}
_STACK = to_items({"width": _C, "num_heads": 2, "ffn_width": 16, "num_layers": 1})
_ADAPTER = to_items({"width": _C})

_SUMS = {
    "out": np.float32(1),
    "losses": np.ones(2, np.float32),
    "loss_weights": np.full(2, 3, np.float32),
}

EXAMPLES: Final[Examples] = (
    Example(op=AdaptImages(height=4, width=4, patch=2, shape=_ADAPTER), rows={"images": _IMAGES}),
    Example(
        op=AdaptTokens(forms=_FORMS, names=("text",), shape=_ADAPTER),
        rows={"hidden": _HIDDEN, "places": _SLOTS["places"]},
    ),
    Example(
        op=AddLosses(num_losses=2),
        rows={
            f"{side}_{port}": np.array(v) for side in ("left", "right") for port, v in _SUMS.items()
        },
    ),
    Example(
        op=ComparePairs(model_width=_C),
        rows={"hidden": _HIDDEN, "ranges": _ints([[0, 2], [2, 4]], [[4, 6], [6, 8]])},
    ),
    Example(
        op=ContrastPairs(model_width=_C, num_losses=2),
        rows={
            "hidden": _HIDDEN,
            "ranges": _ints([[0, 2], [2, 4]], [[4, 6], [6, 8]], [[0, 0], [0, 0]]),
            "loss_ids": _ints(1, 1, -1),
        },
    ),
    Example(
        op=DecodeRelative(shape=_STACK, forms=_FORMS, tile=_TILE),
        rows={
            "hidden": _HIDDEN,
            **_SLOTS,
            "keys": _CAUSAL,
            "memory": _HIDDEN,
            "memory_positions": _HIDDEN,
            "cross_keys": _KEYS,
        },
    ),
    Example(
        op=DecodeStreams(**_LAYERS),
        rows={
            "hidden": _HIDDEN,
            "positions": _POSITIONS,
            "keys": _CAUSAL,
            "memory": _HIDDEN,
            "cross_keys": _KEYS,
        },
    ),
    Example(op=EmbedIds(num_ids=10, model_width=_C), rows={"ids": _POSITIONS}),
    Example(op=EmbedPatches(height=4, width=4, patch=2, model_width=_C), rows={"images": _IMAGES}),
    Example(op=EmbedTokens(num_ids=10, model_width=_C), rows={"ids": _POSITIONS}),
    Example(
        op=EncodeRelative(shape=_STACK, forms=_FORMS, tile=_TILE),
        rows={"hidden": _HIDDEN, **_SLOTS, "keys": _KEYS},
    ),
    Example(
        op=EncodeStreams(**_LAYERS),
        rows={"hidden": _HIDDEN, "positions": _POSITIONS, "keys": _KEYS},
    ),
    Example(
        op=FindSlots(forms=_FORMS, lanes=("image",)),
        rows={"positions": _POSITIONS, "image_places": _ints([0], [4])},
    ),
    Example(
        op=PlaceTokens(model_width=_C),
        rows={"hidden": _HIDDEN, "tokens": _TOKENS, "places": _ints([1, 2])},
    ),
    Example(
        op=ScoreTokens(num_ids=10, model_width=_C, num_losses=2, label_smoothing=0.1),
        rows={
            "hidden": _HIDDEN,
            "labels": _POSITIONS,
            "weights": np.ones(_N, np.float32),
            "loss_ids": _ints(0, 0, 0, 0, 1, 1, 1, 1),
        },
    ),
    Example(
        op=TellModalities(blocks=((2, "text"), (4, "bin")), lanes=(("image", "image"),)),
        rows={"ids": _POSITIONS, "image_places": _ints([0], [4])},
    ),
)
