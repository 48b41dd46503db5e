"""Samples learned per CPU-second: packs beside padded batches of mixed tasks, and of one task and like lengths.

The demo's model and its three tasks as they are mixed in training; the same documents for all: (1) *mixed*:
batches of 32 documents of any tasks, drawn at random, padded to the longest; (2) *bucketed*: batches of one
task, sorted by length over all documents, with as many positions as a pack has, padding among them. What is
padded goes through the layers of the same program, each document in a row (``rows.py``). Ours is not compiled,
as on a CPU by default; compiled it is told as well.

Then the same with positions of OFA, where what is padded goes through the eager model of ``eager_ofasys.py``,
which computes the same from the same parameters; but rows that are laid out alike share one bias there. And
functions of Python's library, whose lengths differ more. About these nothing is claimed. Everything padded is
computed in two manners, and the faster counts.

One thread, CPU-seconds, in turn, forward and backward; no optimizer takes a step, and making batches and packs
is not counted. Ratios are medians of those of each round.

Claims: at least 1.5 times as many samples as mixed, at least 0.95 times as many as bucketed.

    python bench/bench_useful.py --store demo/store [--out FILE] [--rounds N] [--packs N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Final

import rows
import torch
from eager_ofasys import EagerOfasys, Manner
from padded import (
    Document,
    batch_by_length,
    batch_mixed,
    collate,
    copy_state,
    count_padded,
    load_demo,
    open_demo,
    open_functions,
    take_apart,
    take_packs,
)
from report import describe, tell
from steps import SMOOTHING, Ours, Step, Theirs, check, time_in_turn

from taskloom.pipeline.loader.stream import Stream

ROWS: Final = 32
GOALS: Final = {"mixed": 1.5, "bucketed": 0.95}
MANNERS: Final = {
    "plain": Manner(shares_bias=True),
    "fused": Manner(shares_bias=True, is_fused=True),
}

Batches = Sequence[Sequence[Document]]


def pad_rotary(
    stream: Stream, ours: Ours, first: Batches
) -> dict[str, Callable[[Batches], list[Step]]]:
    """Return what makes steps of padded batches, by manner, having compared the first pack's gradients."""

    def steps(manner: str, batches: Batches) -> list[Step]:
        return [
            step for batch in batches for step in rows.in_rows(stream, ours, batch, manner).steps
        ]

    for manner in rows.MANNERS:
        rows.check(ours, rows.in_rows(stream, ours, first[0], manner))
    return {manner: partial(steps, manner) for manner in rows.MANNERS}


def pad_relative(
    stream: Stream, ours: Ours, first: Batches
) -> dict[str, Callable[[Batches], list[Step]]]:
    """Return what makes steps of padded batches, by manner, having compared the first pack's gradients."""

    def steps(model: EagerOfasys, batches: Batches) -> list[Step]:
        return Theirs(model=model, batches=[*map(collate, batches)]).steps

    models = {
        name: EagerOfasys(
            state=copy_state(ours.program), num_heads=stream.model.num_heads, manner=manner
        )
        for name, manner in MANNERS.items()
    }
    for model in models.values():
        check(ours, model, [*map(collate, first)])
    return {name: partial(steps, model) for name, model in models.items()}


PADDED: Final = {"rotary": pad_rotary, "relative": pad_relative}


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
    first = [[*take_apart(packs[0], stream)]]
    for manner, pad in PADDED[stream.model.position](stream, eager, first).items():
        ways |= {f"{name}, {manner}": pad(each) for name, each in batches.items()}
    for steps in ways.values():
        for step in steps:
            step()  # compiles what is compiled
    seconds = time_in_turn(ways, num_rounds)
    tokens = sum(each.source_length for each in documents)
    positions = {
        "packs": len(packs) * size,
        **{name: sum(map(count_padded, each)) for name, each in batches.items()},
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
    ratios: dict[str, float] = {}
    for ours, name in product(("packs", "packs, compiled"), GOALS):
        others = [each for way, each in seconds.items() if way.startswith(name)]
        ratios[f"{ours} to {name}"] = round(min(_ratio(each, seconds[ours]) for each in others), 3)
    return {
        "times as many": ratios,
        "holds": {name: ratios[f"packs to {name}"] >= goal for name, goal in GOALS.items()},
    }


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return median(each / own for each, own in zip(theirs, ours, strict=True))


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Count samples learned per CPU-second.")
    parser.add_argument("--store", type=Path, help="the store that examples/demo.py builds")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packs", type=int, default=24, help="a quarter as many of functions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = replace(load_demo().MODEL, label_smoothing=SMOOTHING)
    rotary, relative = (replace(model, position=position) for position in PADDED)
    with tempfile.TemporaryDirectory() as scratch:
        opened: dict[str, tuple[Callable[[], Stream], int]] = {}
        if options.store:
            opened["demo mixture"] = partial(open_demo, options.store, rotary), options.packs
            other = partial(open_demo, options.store, relative)
            opened["demo mixture, positions of OFA"] = other, options.packs
        functions = partial(open_functions, Path(scratch, "store"), relative)
        opened["functions of Python, positions of OFA"] = functions, max(1, options.packs // 4)
        result = {
            **describe("torch"),
            "rounds": options.rounds,
            "cases": {
                name: measure(open_case(), num_packs, options.rounds)
                for name, (open_case, num_packs) in opened.items()
            },
        }
    tell(result, options.out)


if __name__ == "__main__":
    main()
