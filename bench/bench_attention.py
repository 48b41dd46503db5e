"""Attention with positions of OFA, by tiles, against the same with its bias in memory.

Two documents of 1,024 tokens, 12 heads of 64: queries, keys, values, the parts of the absolute bias and the
table of the relative one all have gradients. The dense path is that of OFASys: both biases are written out for
every head and pair of tokens and added to the scores; of its two ways to go on, fused or in plain arithmetic,
the better one counts. By tiles, the absolute bias is part of a longer head and the relative one is looked up.
Both compute the same, which is checked first.

Claim: forward and backward together, by tiles takes at most 1 / 1.3 of the time and 0.3 of the memory. CPU time
of one thread, rounds interleaved, medians; memory is what a fresh process grows by at most.

    python bench/bench_attention.py [--out FILE] [--rounds N] [--length N]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Final

import torch
import torch.nn.functional as F
from report import describe, tell
from torch import Tensor

from taskloom.ops.device.attention import AttentionSpec, Relative, attention

NUM_DOCUMENTS, NUM_HEADS, HEAD_SIZE = 2, 12, 64
SCALE: Final = (2 * HEAD_SIZE) ** -0.5


class Stream:
    """Documents end to end, and all that has a gradient."""

    def __init__(
        self,
        length: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        num_documents: int = NUM_DOCUMENTS,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        num_tokens = num_documents * length

        def draw(*shape: int) -> Tensor:
            drawn = torch.randn(*shape, generator=generator).to(device, dtype)
            return drawn.requires_grad_()

        self.length, self.num_documents = length, num_documents
        heads = (num_tokens, NUM_HEADS, HEAD_SIZE)
        self.q, self.k, self.v, self.pos_q, self.pos_k = (draw(*heads) for _ in range(5))
        self.table_HR = draw(NUM_HEADS, 2 * length - 1)
        index_N = torch.arange(num_tokens, dtype=torch.int32, device=device)
        self.code_N = index_N
        self.lo_N = index_N // length * length
        self.hi_N = self.lo_N + length

    @property
    def inputs(self) -> list[Tensor]:
        """What has a gradient."""
        return [self.q, self.k, self.v, self.pos_q, self.pos_k, self.table_HR]


def attend_dense(stream: Stream, *, is_fused: bool) -> Tensor:
    """Attend with every bias in memory."""
    length = stream.length
    q, k, v, pos_q, pos_k = (
        x.unflatten(0, (stream.num_documents, length)).transpose(1, 2) for x in stream.inputs[:5]
    )
    index_T = torch.arange(length, device=q.device)
    rows_TT = index_T - index_T[:, None] + length - 1
    bias = F.embedding(rows_TT, stream.table_HR.t()).permute(2, 0, 1)
    bias = bias + pos_q @ pos_k.mT * SCALE
    if is_fused:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=SCALE)
    else:
        out = (q @ k.mT * SCALE + bias).softmax(-1) @ v
    return out.transpose(1, 2).flatten(0, 1)


def attend_folded(stream: Stream, backend: str) -> Tensor:
    """Attend with the absolute bias in the heads and the relative one in a table."""
    q_NHD, k_NHD = (torch.cat(x, -1) for x in ((stream.q, stream.pos_q), (stream.k, stream.pos_k)))
    base_N, slot_N = stream.code_N * 0 + stream.length - 1, stream.code_N * 0
    relative = Relative(stream.table_HR, stream.code_N, base_N, slot_N)
    spec = AttentionSpec(backend=backend, is_relative=True)
    return attention(q_NHD, k_NHD, stream.v, stream.lo_N, stream.hi_N, spec, relative)


WAYS: Final[Mapping[str, Callable[[Stream], Tensor]]] = {
    "dense, fused": lambda stream: attend_dense(stream, is_fused=True),
    "dense, plain": lambda stream: attend_dense(stream, is_fused=False),
    "by tiles": lambda stream: attend_folded(stream, "blockwise"),
}


def step(stream: Stream, way: str) -> list[Tensor]:
    """Go forward and backward, and return the output and all gradients."""
    out = WAYS[way](stream)
    return [out, *torch.autograd.grad(out.square().mean(), stream.inputs)]


def check() -> None:
    """Compare all ways with the first."""
    stream = Stream(96)
    expected = step(stream, "dense, plain")
    for way in WAYS:
        for value, wanted in zip(step(stream, way), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)


def time_ways(stream: Stream, num_rounds: int) -> dict[str, float]:
    """Return the median of CPU seconds of one step each."""
    rounds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(num_rounds + 1):
        for way, seconds in rounds.items():
            began = time.process_time()
            step(stream, way)
            if number:  # the first is warming up
                seconds.append(time.process_time() - began)
    return {way: median(seconds) for way, seconds in rounds.items()}


def measure_growth(way: str, length: int) -> int:
    """Return the MB that this process, which has done nothing yet, grows by at most in one step."""
    stream = Stream(length)
    step(Stream(16), way)
    Path("/proc/self/clear_refs").write_text("5")  # forgets how large the process has been
    before = read_status("VmRSS")
    step(stream, way)
    return (read_status("VmHWM") - before) // 1024


def read_status(key: str) -> int:
    """Return a number of kB that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def grow(way: str, length: int) -> int:
    """Return what a fresh process grows by, where what is freed goes back to the system at once."""
    command = [sys.executable, __file__, "--grow", way, "--length", str(length)]
    # Otherwise malloc keeps blocks, of one way or another by chance.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    """Measure all ways and print the figures as JSON, or be the process that grows."""
    parser = argparse.ArgumentParser(description="Time attention by tiles against a dense bias.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a document")
    parser.add_argument("--grow", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.grow:
        print(measure_growth(options.grow, options.length))
        return
    check()
    seconds = time_ways(Stream(options.length), options.rounds)
    grown = {way: grow(way, options.length) for way in WAYS}
    dense = [way for way in WAYS if way.startswith("dense")]
    speedup = min(seconds[way] for way in dense) / seconds["by tiles"]
    share = grown["by tiles"] / min(grown[way] for way in dense)
    result = {
        **describe("torch"),
        "rounds": options.rounds,
        "documents": f"{NUM_DOCUMENTS} of {options.length} tokens",
        "CPU seconds": {way: round(value, 3) for way, value in seconds.items()},
        "MB": grown,
        "times as fast as the faster dense way": round(speedup, 2),
        "share of the memory of the smaller dense way": round(share, 2),
        "holds": speedup >= 1.3 and share <= 0.3,
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
