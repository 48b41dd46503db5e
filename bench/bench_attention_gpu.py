"""Attention with positions of OFA on a GPU: our kernels, a dense bias, and a kernel that torch writes.

Documents of one length lie end to end, in bfloat16, with 12 heads of 64 whose positions are folded in. Queries,
keys, values, the parts of the absolute bias and the table of the relative one all have gradients. Contestants:

- ours: Triton kernels that look the relative bias up, compiled with what surrounds them, as layers are;
- dense: both biases written out for every head and pair of tokens, as the mask of torch's fused attention;
- flex: `flex_attention`, compiled alike, which looks the bias up in the same table.

All compute the same, which is checked first. A step is forward and backward. Timed are replays of CUDA graphs,
so that nothing but the GPU counts, in turn, by events; and, beside them, steps that Python starts one by one.
Memory is what a step takes at most beside its inputs.

Claims, of documents of 1,024 tokens: at least 1.5 times as fast as dense in 0.2 of its memory, and 1.2 times as
fast as flex.

    python bench/bench_attention_gpu.py [--out FILE] [--rounds N] [--cases NAME...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from bench_attention import Stream, attend_dense, attend_folded
from report import describe, describe_gpu, tell
from torch import Tensor

LENGTHS: Final = {"2 of 1,024 tokens": (2, 1024), "32 of 512 tokens": (32, 512)}
REPLAYS: Final = 10
FLOORS: Final = {"dense": 1.5, "flex": 1.2}
MOST_MEMORY: Final = 0.2

Way = Callable[[Stream], Tensor]


def make_ways() -> Mapping[str, Way]:
    """Return the contestants."""
    return {
        "ours": torch.compile(partial(attend_folded, backend="triton"), dynamic=False),
        "dense": partial(attend_dense, is_fused=True),
        "flex": torch.compile(partial(attend_folded, backend="flex"), dynamic=False),
    }


def step(way: Way, stream: Stream) -> list[Tensor]:
    """Go forward and backward, and return the output and all gradients."""
    out = way(stream)
    return [out.detach(), *torch.autograd.grad(out, stream.inputs, weigh(out))]


def weigh(out: Tensor) -> Tensor:
    """Return the gradient of what a step computes, the same for all."""
    index = torch.arange(out.numel(), device=out.device)
    return (index * 37 % 101 - 50).view(out.shape).to(out.dtype) / 64


def in_double(stream: Stream) -> Stream:
    """Return the same stream in double precision."""
    exact = copy(stream)
    for name, value in vars(stream).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            setattr(exact, name, value.detach().double().requires_grad_())
    return exact


def check(ways: Mapping[str, Way], stream: Stream) -> dict[str, float]:
    """Return the largest error of each way: of a norm, against the dense way in double precision."""
    exact = step(ways["dense"], in_double(stream))
    errors: dict[str, float] = {}
    for name, way in ways.items():
        found = step(way, stream)
        pairs = zip(found, exact, strict=True)
        errors[name] = max(float((x - y).norm() / y.norm()) for x, y in pairs)
        assert errors[name] < 2e-2, f"{name}: {errors[name]}"
    return {name: round(error, 5) for name, error in errors.items()}


def capture(way: Way, stream: Stream) -> torch.cuda.CUDAGraph:
    """Return a step as a graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step(way, stream)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(way, stream)
    return graph


def time_calls(call: Callable[[], object]) -> float:
    """Return the milliseconds of one of `REPLAYS` calls."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began.record()
    for _ in range(REPLAYS):
        call()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / REPLAYS


def count_memory(way: Way, stream: Stream) -> float:
    """Return the MB that a step takes at most beside what there was."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(way, stream)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def measure(num_documents: int, length: int, num_rounds: int) -> dict[str, Any]:
    """Return the figures of documents of ``length``."""
    torch._dynamo.reset()  # noqa: SLF001 - another length is another program
    ways = make_ways()
    stream = Stream(length, "cuda", torch.bfloat16, num_documents=num_documents)
    errors = check(ways, stream)
    megabytes = {name: count_memory(way, stream) for name, way in ways.items()}
    replays = {name: capture(way, stream).replay for name, way in ways.items()}
    calls = {name: partial(step, way, stream) for name, way in ways.items()}
    taken: dict[str, dict[str, list[float]]] = {}
    for _ in range(num_rounds):
        for kind, each in (("replayed", replays), ("one by one", calls)):
            for name, call in each.items():
                taken.setdefault(kind, {}).setdefault(name, []).append(time_calls(call))
    medians = {
        kind: {name: round(median(each), 4) for name, each in named.items()}
        for kind, named in taken.items()
    }
    replayed = medians["replayed"]
    return {
        "largest error": errors,
        "milliseconds": medians,
        "MB": {name: round(each, 1) for name, each in megabytes.items()},
        "times as fast": {name: round(replayed[name] / replayed["ours"], 2) for name in FLOORS},
        "share of dense memory": round(megabytes["ours"] / megabytes["dense"], 3),
    }


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time attention on a GPU.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="*", choices=LENGTHS, default=[*LENGTHS])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not run: no GPU")
        return
    cases = {name: measure(*LENGTHS[name], options.rounds) for name in options.cases}
    first = cases[options.cases[0]]
    holds = all(first["times as fast"][name] >= floor for name, floor in FLOORS.items())
    result = {
        **describe("torch", "triton"),
        **describe_gpu(),
        "rounds": options.rounds,
        "cases": cases,
        "holds": holds and first["share of dense memory"] <= MOST_MEMORY,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
