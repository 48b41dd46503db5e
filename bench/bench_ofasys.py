"""A training step of ours beside one of OFASys, eager: the same documents, forward and backward.

Both have the parameters of the preset ``tiny`` without its trunk, and no dropout. OFASys' documents come in
batches of 32 of one task, drawn at random, padded to the longest; ours are packs, of which each holds about as
many. Losses and all gradients of one pack are compared first. All documents are gone through in turn, on one
thread, in CPU-seconds; ratios are medians of those of each round. Memory is that of the batch, or pack, that
takes the most, beside parameters. No optimizer takes a step, and making batches and packs is not counted.

Documents are functions of Python's library as three tasks; and, if its store is given, the demo's mixture.

Claim: ours takes half of the time, or less.

    python bench/bench_ofasys.py [--store demo/store] [--out FILE] [--rounds N] [--packs N] [--width N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from eager_ofasys import EagerOfasys
from padded import (
    batch_by_task,
    collate,
    copy_state,
    count_padded,
    open_demo,
    open_functions,
    take_apart,
    take_packs,
)
from peak import count_peak
from report import describe, tell
from steps import SMOOTHING, Ours, Theirs, check, time_in_turn

from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.relative.presets import PRESETS
from taskloom.pipeline.loader.stream import Stream

ROWS: Final = 32
GOAL: Final = 2.0


def measure(stream: Stream, num_packs: int, num_rounds: int) -> dict[str, Any]:
    """Return what all ways take."""
    packs = take_packs(stream, num_packs)
    documents = [each for pack in packs for each in take_apart(pack, stream)]
    batches = batch_by_task(documents, ROWS)
    ours = {
        f"ours, {how}": Ours.of(stream, packs, is_compiled=how == "compiled")
        for how in ("eager", "compiled")
    }
    first = [collate(each) for each in batch_by_task([*take_apart(packs[0], stream)], ROWS)]
    heads = stream.model.num_heads
    for each in ours.values():
        check(each, EagerOfasys(state=copy_state(each.program), num_heads=heads), first)
    state = copy_state(ours["ours, eager"].program)
    theirs = EagerOfasys(state=state, num_heads=heads)
    ways = {
        "OFASys": Theirs(model=theirs, batches=[collate(each) for each in batches]).steps,
        **{way: each.steps for way, each in ours.items()},
    }
    seconds = time_in_turn(ways, num_rounds)
    megabytes = {way: round(max(map(count_peak, steps)) / 1e6, 1) for way, steps in ways.items()}
    medians = {way: median(each) for way, each in seconds.items()}
    times = {
        way: round(median(t / o for t, o in zip(seconds["OFASys"], seconds[way], strict=True)), 2)
        for way in ours
    }
    tokens = sum(each.source_length for each in documents)
    return {
        "documents": len(documents),
        "ids": len(state["encoder.adaptor.embed_tokens.weight"]),
        "source tokens": tokens,
        "of all positions, OFASys": round(tokens / sum(map(count_padded, batches)), 3),
        "of all positions, ours": round(tokens / (len(packs) * stream.capacity.source), 3),
        "steps": {way: len(steps) for way, steps in ways.items()},
        "CPU-seconds": {way: [round(s, 3) for s in each] for way, each in seconds.items()},
        "median CPU-seconds": {way: round(each, 3) for way, each in medians.items()},
        "peak, MB": megabytes,
        "times as fast as OFASys": times,
        "share of its memory": {
            way: round(megabytes[way] / megabytes["OFASys"], 2) for way in ours
        },
        "holds": max(times.values()) >= GOAL,
    }


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time a training step beside one of OFASys.")
    parser.add_argument("--store", type=Path, help="the store that examples/demo.py builds")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packs", type=int, default=6)
    parser.add_argument("--width", type=int, default=0, help="another width, to try the bench")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = replace(PRESETS["tiny"], trunk="", dropout=0.0, label_smoothing=SMOOTHING)
    if options.width:
        model = replace(model, width=options.width, ffn_width=4 * options.width)
    with tempfile.TemporaryDirectory() as scratch:
        opened: dict[str, Callable[[ModelConfig], Stream]] = {
            "functions of Python": partial(open_functions, Path(scratch, "store")),
        }
        if options.store:
            opened["demo mixture"] = partial(open_demo, options.store)
        result = {
            **describe("torch"),
            "rounds": options.rounds,
            "width": model.width,
            "cases": {
                name: measure(open_case(model), options.packs, options.rounds)
                for name, open_case in opened.items()
            },
        }
    tell(result, options.out)


if __name__ == "__main__":
    main()
