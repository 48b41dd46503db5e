"""Take what the tests compare from golden cases in full: `python take.py FOLDER`, with a folder per case."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

MOST_BYTES = 400_000
DIFFUSION = ("diff.t", "diff.x_t", "diff.x_start", "diff.prediction", "diff.alphas_cumprod")
TINY: dict[str, Any] = {
    "encoder": {
        "embed_dim": 256,
        "ffn_embed_dim": 1024,
        "layers": 2,
        "attention_heads": 4,
        "normalize_before": True,
    },
    "attn_scale_factor": 2,
    "scale_attn": True,
    "scale_fc": True,
    "scale_heads": True,
    "scale_resids": False,
    "use_self_attn_bias": True,
    "share_attn_bias": False,
    "entangle_position_embedding": False,
    "max_source_positions": 256,
}
"""Settings of the case that does not tell them."""

TINY["decoder"] = TINY["encoder"]


def take(case: Path, out: Path) -> None:
    """Write ``<case>.json`` and ``<case>.npz``: small inputs, and some of each output's channels."""
    told: dict[str, Any] = json.loads((case / "case.json").read_text())
    tensors = load_file(case / "tensors.safetensors")
    kept = {
        "about": told["notes"],
        "model": told.get("model_cfg", TINY),
        "losses": told["losses"] if "losses" in told else {"diffusion": told["loss"]},
        "grad_norms": {
            name: float(f"{norm:.8g}") for name, norm in told["grad_norms"].items() if norm
        },
        "num_parameters": told["weights"].get("n_params", 0),
        "shapes": json.loads((case / "shapes.json").read_text()),
    }
    (out / f"{case.name}.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n")
    arrays: dict[str, Any] = {
        name: _small(array) for name, array in tensors.items() if name.startswith("net_input")
    }
    if "sample.target" in tensors:
        arrays["target"] = tensors["sample.target"].astype(np.int16)
    for name in ("encoder_padding_mask", "sample.constraint_masks", *DIFFUSION):
        if name in tensors:
            arrays[name] = tensors[name]
    for name in ("encoder_out", "logits") if "logits" in tensors else ():
        step = -(-tensors[name].nbytes // MOST_BYTES)
        arrays[name] = tensors[name][..., ::step]
    np.savez_compressed(out / f"{case.name}.npz", **arrays)
    if runs := told.get("generation") or told.get("generation_test"):
        text = json.dumps(
            {name: _small_run(run) for name, run in runs.items()}, separators=(",", ":")
        )
        (out / "generated" / f"{case.name}.json").write_text(text + "\n")


def _small_run(run: dict[str, Any]) -> dict[str, Any]:
    """Return what was generated with each digit that single precision has in such numbers."""
    hyps = [
        [
            {
                "tokens": hyp["tokens"],
                "score": round(hyp["score"], 5),
                "positional_scores": [round(score, 5) for score in hyp["positional_scores"]],
            }
            for hyp in document
        ]
        for document in run["hyps"]
    ]
    return {"args": run["args"], "hyps": hyps}


def _small(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return ids in 16 bits, and pixels, of which [-1, 1] is made, in bytes."""
    if array.dtype == np.int64:
        return array.astype(np.int16)
    whole = np.rint((array + 1) * 127.5).clip(0, 255).astype(np.uint8)
    is_pixels = np.allclose(whole * np.float32(2 / 255) - 1, array, rtol=0, atol=1e-6)
    return whole if is_pixels else array


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).glob("*/case.json")):
        take(path.parent, Path(__file__).parent)
