"""A T5 of the sizes of bench/bench_generate.py with random weights, and what libraries take to write with it.

python generate.py make FOLDER
python generate.py PEER FOLDER BATCH SOURCE LENGTH ROUNDS     prints tokens and CPU-seconds of each round

PEER is transformers, ctranslate2 or ctranslate2-int8.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

NUM_IDS, WIDTH, FFN, HEADS, LAYERS = 32_128, 512, 2_048, 8, 6


def make(folder: Path) -> None:
    """Write the model as both libraries read it."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=NUM_IDS,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=FFN,
        num_layers=LAYERS,
        num_heads=HEADS,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
    ids = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{n}": n for n in range(3, NUM_IDS)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(ids, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(folder / "t5")
    TransformersConverter(str(folder / "t5")).convert(str(folder / "ct2"))


def run_transformers(folder: Path, sources: list[list[int]], length: int) -> Callable[[], int]:
    """Return what writes with `generate`, greedily."""
    import torch
    from transformers import T5ForConditionalGeneration

    torch.set_num_threads(1)
    model = T5ForConditionalGeneration.from_pretrained(folder / "t5").eval()
    ids = torch.tensor(sources)
    settings: dict[str, Any] = {"do_sample": False, "num_beams": 1}

    def write() -> int:
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=length,
                max_new_tokens=length,
                **settings,
            )
        return (out.shape[1] - 1) * len(out)

    return write


def run_ctranslate2(
    folder: Path, sources: list[list[int]], length: int, compute_type: str
) -> Callable[[], int]:
    """Return what writes with CTranslate2, greedily."""
    import ctranslate2

    translator = ctranslate2.Translator(
        str(folder / "ct2"), compute_type=compute_type, inter_threads=1, intra_threads=1
    )
    words = [[f"w{id_}" for id_ in ids] for ids in sources]

    def write() -> int:
        found = translator.translate_batch(
            words, beam_size=1, min_decoding_length=length, max_decoding_length=length
        )
        return sum(len(each.hypotheses[0]) for each in found)

    return write


def main() -> None:
    """Do what the command line says."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        make(folder)
        return
    batch, source, length, rounds = map(int, sys.argv[3:])
    sources = [
        [3 + (17 * row + 31 * at) % (NUM_IDS - 3) for at in range(source)] for row in range(batch)
    ]
    if what == "transformers":
        write = run_transformers(folder, sources, length)
    else:
        write = run_ctranslate2(folder, sources, length, "int8" if "int8" in what else "float32")
    write()
    told: list[tuple[int, float]] = []
    for _ in range(rounds):
        began = time.process_time()
        told.append((write(), time.process_time() - began))
    print(json.dumps({"rounds": told, "version": version(what.removesuffix("-int8"))}))


if __name__ == "__main__":
    main()
