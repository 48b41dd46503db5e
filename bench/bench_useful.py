"""Samples learned per CPU-second: packs beside padded batches of mixed tasks, and of one task and like lengths.

The demo's sizes with the positions of OFA, its three tasks as they are mixed in training; the same documents
for all: (1) *mixed*: batches of 32 documents of any tasks, drawn at random, padded to the longest; (2)
*bucketed*: batches of one task, sorted by length over all documents, with as many positions as a pack has,
padding among them. What is padded goes through the eager model of ``eager_ofasys.py``, which computes the same
from the same parameters; but rows that are laid out alike share one bias there, and attention is plain or
torch's own, whichever is faster. Ours is not compiled, as on a CPU by default; compiled it is told as well.
Functions of Python's library, whose lengths differ more, are a second case, about which nothing is claimed.

One thread, CPU-seconds, in turn, forward and backward; no optimizer takes a step, and making batches and packs
is not counted. Ratios are medians of those of each round.

Claims: at least 1.5 times as many samples as mixed, at least 0.95 times as many as bucketed.

    python bench/bench_useful.py --store demo/store [--out FILE] [--rounds N] [--packs N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from eager_ofasys import EagerOfasys, Manner
from padded import (
    batch_by_length,
    batch_mixed,
    copy_state,
    count_positions,
    load_demo,
    open_demo,
    open_functions,
    take_apart,
    take_packs,
)
from report import describe, tell
from steps import SMOOTHING, Ours, Step, Theirs, check, time_in_turn

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline.stream import Stream

ROWS: Final = 32
GOALS: Final = {"mixed": 1.5, "bucketed": 0.95}
MANNERS: Final = {
    "plain": Manner(shares_bias=True),
    "fused": Manner(shares_bias=True, is_fused=True),
}


def measure(stream: Stream, num_packs: int, num_rounds: int) -> dict[str, Any]:
    """Return how many samples a CPU-second is worth, each way."""
    packs = take_packs(stream, num_packs)
    documents = [each for pack in packs for each in take_apart(pack, stream)]
    size = stream.capacity.source
    batches = {
        "mixed": batch_mixed(documents, ROWS),
        "bucketed": batch_by_length(documents, size),
    }
    eager = Ours.of(stream, packs, is_compiled=False)
    ways: dict[str, list[Step]] = {
        "packs": eager.steps,
        "packs, compiled": Ours.of(stream, packs, is_compiled=True).steps,
    }
    first = batch_mixed([*take_apart(packs[0], stream)], ROWS)
    for manner, how in MANNERS.items():
        state = copy_state(eager.program)
        model = EagerOfasys(state=state, num_heads=stream.model.num_heads, manner=how)
        check(eager, model, first)
        for name, each in batches.items():
            ways[f"{name}, {manner}"] = Theirs(model=model, batches=each).steps
    for steps in ways.values():
        steps[0]()  # compiles what is compiled
    seconds = time_in_turn(ways, num_rounds)
    tokens = sum(each.source_length for each in documents)
    positions = {
        "packs": len(packs) * size,
        **{name: sum(map(count_positions, each)) for name, each in batches.items()},
    }
    return {
        "documents": len(documents),
        "longest": max(each.source_length for each in documents),
        "steps": {way: len(steps) for way, steps in ways.items()},
        "tokens of all positions": {n: round(tokens / p, 3) for n, p in positions.items()},
        "CPU-seconds": {way: [round(s, 3) for s in each] for way, each in seconds.items()},
        "samples a CPU-second": {
            way: round(len(documents) / median(each), 1) for way, each in seconds.items()
        },
        **compare(seconds),
    }


def compare(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return how many times as many samples packs are worth as the better manner of padding."""
    ratios = {
        f"{ours} to {name}": round(min(_ratio(seconds, ours, name, how) for how in MANNERS), 3)
        for name in GOALS
        for ours in ("packs", "packs, compiled")
    }
    return {
        "times as many": ratios,
        "holds": {name: ratios[f"packs to {name}"] >= goal for name, goal in GOALS.items()},
    }


def _ratio(seconds: Mapping[str, list[float]], ours: str, name: str, manner: str) -> float:
    rounds = zip(seconds[f"{name}, {manner}"], seconds[ours], strict=True)
    return median(theirs / own for theirs, own in rounds)


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Count samples learned per CPU-second.")
    parser.add_argument("--store", type=Path, help="the store that examples/demo.py builds")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packs", type=int, default=24, help="half as many of functions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = replace(load_demo().MODEL, position="relative", label_smoothing=SMOOTHING)
    with tempfile.TemporaryDirectory() as scratch:
        opened: dict[str, tuple[Callable[[ModelConfig], Stream], int]] = {}
        if options.store:
            opened["demo mixture"] = partial(open_demo, options.store), options.packs
        functions = partial(open_functions, Path(scratch, "store"))
        opened["functions of Python"] = functions, max(1, options.packs // 2)
        result = {
            **describe("torch"),
            "rounds": options.rounds,
            "cases": {
                name: measure(open_case(model), num_packs, options.rounds)
                for name, (open_case, num_packs) in opened.items()
            },
        }
    tell(result, options.out)


if __name__ == "__main__":
    main()
