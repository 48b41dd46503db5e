"""What the first step costs where layers are compiled: from nothing, and from an archive of compiled code.

Each process compiles the layers of one encoder-decoder, forward and backward, as training does. Told are
CPU-seconds of its first step, the compilers that it starts included, and those of a second step, which
compiles nothing. Before the second process, the folder of the first is packed and moved away, and the archive
loaded into an empty one. A third one has an empty folder too, and what torch itself saves of the first, with
`torch.compiler.save_cache_artifacts`; nothing is claimed of it.

    python bench/bench_compile.py [--out FILE] [--width N]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from report import describe, tell

from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.decoder import DecodeStreams
from taskloom.ops.device.encoder import EncodeStreams

TILE, DOCUMENTS = 64, 4
GOAL = 0.15
TASKLOOM = str(Path(sys.executable).with_name("taskloom"))


def count_seconds() -> float:
    """Return the CPU-seconds of this process and of those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def take_steps(width: int, artifacts: Path, *, has_artifacts: bool) -> dict[str, Any]:
    """Compile and take two steps; return what each cost, and how lookups of compiled code went.

    Args:
        width: Channels.
        artifacts: What torch saves of its caches: what is read before, or written after.
        has_artifacts: Which of the two.
    """
    from torch._dynamo.utils import counters  # noqa: PLC0415 - whoever starts processes needs none

    if has_artifacts:
        torch.compiler.load_cache_artifacts(artifacts.read_bytes())
    config = ModelConfig(
        width=width, num_heads=4, num_encoder_layers=4, num_decoder_layers=4, ffn_width=4 * width
    )
    encode = replace(EncodeStreams.of(config), tile=TILE, longest=TILE)
    decode = replace(DecodeStreams.of(config), tile=TILE, longest=TILE)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder, decoder = encode.module(), decode.module()
    for layer in [*encoder.layers, *decoder.layers]:
        layer.compile(fullgraph=True, dynamic=False)
    num_tokens = TILE * DOCUMENTS
    position = torch.arange(num_tokens, dtype=torch.int32)
    start = position // TILE * TILE
    keys, causal = torch.stack([start, start + TILE]), torch.stack([start, position + 1])
    hidden = torch.randn(num_tokens, width)
    seconds: list[float] = []
    for _ in range(2):
        began = count_seconds()
        memory = encode(encoder, hidden=hidden, positions=position - start, keys=keys)
        states = decode(
            decoder,
            hidden=hidden,
            positions=position - start,
            keys=causal,
            memory=memory,
            cross_keys=keys,
        )
        states.square().mean().backward()
        seconds.append(round(count_seconds() - began, 3))
    if not has_artifacts and (saved := torch.compiler.save_cache_artifacts()) is not None:
        artifacts.write_bytes(saved[0])
    told = {name: dict(counters[name]) for name in ("aot_autograd", "inductor")}
    lookups = {
        key: count for each in told.values() for key, count in each.items() if "cache" in key
    }
    return {"first step": seconds[0], "second step": seconds[1], "lookups": lookups}


def run(folder: Path, *arguments: str) -> str:
    """Run this bench or the command line in a process whose compiled code is in ``folder``."""
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(folder),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # processes of its own would not be counted
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def measure(width: int) -> dict[str, Any]:
    """Return what both processes cost, and what the archive holds."""
    own = [str(Path(__file__).resolve()), "--child", "--width", str(width)]
    with tempfile.TemporaryDirectory() as scratch:
        made, empty, third, archive = (
            Path(scratch, name) for name in ("made", "empty", "third", "compiled")
        )
        own += ["--artifacts", str(Path(scratch, "artifacts"))]
        cold = json.loads(run(made, *own))
        began = time.perf_counter()
        packed = run(made, TASKLOOM, "cache", "pack", str(archive))
        made.rename(Path(scratch, "away"))
        loaded = run(empty, TASKLOOM, "cache", "load", str(archive))
        travelled_s = round(time.perf_counter() - began, 2)
        warm = json.loads(run(empty, *own))
        num_bytes = archive.stat().st_size
        by_torch = json.loads(run(third, *own, "--has-artifacts"))
    share = round(warm["first step"] / cold["first step"], 4)
    return {
        "cold": cold,
        "warm": warm,
        "warm by torch's archive": by_torch,
        "archive, bytes": num_bytes,
        "packing and loading, s": travelled_s,
        "said": [packed.split(": ", 1)[1].strip(), loaded.split(": ", 1)[0]],
        "warm to cold": share,
        "holds": share <= GOAL,
    }


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time a first step, cold and warm.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--artifacts", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--has-artifacts", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        taken = take_steps(options.width, options.artifacts, has_artifacts=options.has_artifacts)
        print(json.dumps(taken))
        return
    result = {
        **describe("torch"),
        "width": options.width,
        **measure(options.width),
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
