"""Take what the tests compare from golden cases in full: `python take.py FOLDER VOCAB_BPE`.

The folder holds one for each case; the file is GPT-2's, which lists the merges of its BPE.
"""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

INPUTS = "inputs"
ROWS = "rows.json"
NUM_COMMON = 1200
"""Texts of the BPE that every case's dictionary begins with, commonest first."""

MOST_BYTES = 400_000
DIFFUSION = (
    "diff.t",
    "diff.x_t",
    "diff.x_start",
    "diff.prediction",
    "diff.alphas_cumprod",
    "sample.timesteps",
    "sample.model_outputs",
    "sample.features",
)
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
    if "sample.noises" in tensors:
        # The first is what sampling begins with; the others are used by nothing.
        arrays["sample.noise"] = tensors["sample.noises"][0]
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


def take_rows(cases: Path, vocab_bpe: Path, out: Path) -> None:
    """Write what cases began with: instructions, rows, dictionaries, and the vocabulary of texts."""
    sentences: dict[str, Any] = json.loads((cases / "tokens_fulldict/sentences.json").read_text())
    kept = {
        "cases": {path.parent.name: _take_rows(path.parent) for path in _find_cases(cases)},
        "sentences": [
            {name: row[name] for name in ("text", "bpe", "ids")} for row in sentences["rows"]
        ],
    }
    text = json.dumps(kept, separators=(",", ":"), ensure_ascii=False)
    (out / ROWS).write_text(f"{text}\n", "utf-8")
    symbols = (cases / "bpe/dict.txt").read_text().split("\n")
    order = "\n".join(line.split(" ")[0] for line in symbols if line)
    for name, content in (("order.txt", order), ("vocab.bpe", vocab_bpe.read_text("utf-8"))):
        (out / f"{name}.xz").write_bytes(lzma.compress(content.encode(), preset=9))


def _take_rows(case: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((case / "case.json").read_text())
    symbols = (case / "symbols.txt").read_text().split("\n")
    own = [s for s in symbols[4 + NUM_COMMON :] if s and not s.startswith(("<bin>", "<code>"))]
    (template,) = told["template"]
    num_bins = sum(symbol.startswith("<bin>") for symbol in symbols)
    return {"template": template, "rows": told["raw_rows"], "symbols": own, "bins": num_bins}


def _find_cases(cases: Path) -> list[Path]:
    return sorted(cases.glob("*/case.json"))


def _small(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return ids in 16 bits, and pixels, of which [-1, 1] is made, in bytes."""
    if array.dtype == np.int64:
        return array.astype(np.int16)
    whole = np.rint((array + 1) * 127.5).clip(0, 255).astype(np.uint8)
    is_pixels = np.allclose(whole * np.float32(2 / 255) - 1, array, rtol=0, atol=1e-6)
    return whole if is_pixels else array


if __name__ == "__main__":
    for path in _find_cases(Path(sys.argv[1])):
        take(path.parent, Path(__file__).parent)
    take_rows(Path(sys.argv[1]), Path(sys.argv[2]), Path(__file__).parent / INPUTS)
