"""What a second process on a second core adds to training: at least 0.9 of what the first one does.

One process pinned to a core learns some packs a step; then two, each pinned to a core of its own, learn as many
each, and add up their gradients once a step. All is as in training: the loader fills packs meanwhile, in the
same core, and every rank says what it does. *Efficiency* is the packs per second and core of two processes over
those of one. Rounds of one and of two alternate, and the figure is the median over rounds.

    python bench/bench_ranks.py [--out FILE] [--rounds N] [--steps N] [--packs N] [--width N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import text_mixture
import torch
from report import describe, tell

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline.loader.stream import open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.learner import Learner, own_torch
from taskloom.pipeline.trainer.ranks import join_ranks
from taskloom.storage.store import Store

CLAIM = 0.9
"""The efficiency that two processes must have."""

WARM_UP = 3
CPU = torch.device("cpu")


def take_steps(store: Path, num_steps: int, num_packs: int, width: int) -> None:
    """Take steps on the core of this rank; the first one prints the seconds of each."""
    number = int(os.environ.get("WORLD_SIZE", "1"))
    os.sched_setaffinity(0, {int(os.environ.get("LOCAL_RANK", "0"))})
    config = TrainConfig(
        packs_per_step=num_packs * number, source_tokens=1024, max_document=1024, threads=1
    )
    model = ModelConfig(
        width=width, num_heads=4, num_encoder_layers=4, num_decoder_layers=4, ffn_width=4 * width
    )
    with join_ranks(config, CPU) as ranks, own_torch(config, CPU):
        stream = open_stream(text_mixture.make_mixture(), Store.open(store), model, config)
        learner = Learner.make(stream.plan, config, CPU, ranks)
        seconds: list[float] = []
        with stream.loader(rank=ranks.rank, num_ranks=ranks.number) as loader:
            for packs, _ in zip(loader, range(WARM_UP + num_steps), strict=False):
                began = time.perf_counter()
                learner.take(packs)
                seconds.append(time.perf_counter() - began)
        if ranks.is_first:
            sizes = sum(learner.program.num_parameters.values())
            print(json.dumps({"seconds": seconds[WARM_UP:], "parameters": sizes}))


def run(number: int, arguments: list[str]) -> dict[str, Any]:
    """Run ``number`` processes, and return what the first one prints."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    own = [str(Path(__file__).resolve()), "--child", *arguments]
    command = [sys.executable, *(launch if number > 1 else []), *own]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(store: Path, rounds: int, arguments: list[str]) -> dict[str, Any]:
    """Return what a step takes with one process and with two, and the efficiency."""
    told: list[dict[str, float]] = []
    parameters = 0
    for _ in range(rounds):
        one, two = (run(number, [str(store), *arguments]) for number in (1, 2))
        alone_s, together_s = median(one["seconds"]), median(two["seconds"])
        parameters = one["parameters"]
        told.append({"one_s": alone_s, "two_s": together_s, "efficiency": alone_s / together_s})
    efficiency = median(each["efficiency"] for each in told)
    return {
        "parameters": parameters,
        "rounds": [{name: round(value, 4) for name, value in each.items()} for each in told],
        "efficiency": round(efficiency, 3),
        "holds": efficiency >= CLAIM,
    }


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description="Time two ranks against one.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--packs", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        take_steps(asked.child, asked.steps, asked.packs, asked.width)
        return
    sizes = ["--steps", str(asked.steps), "--packs", str(asked.packs), "--width", str(asked.width)]
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        text_mixture.open_store(store)
        result = measure(store, asked.rounds, sizes)
    tell({**describe("torch"), "packs a rank": asked.packs, **result}, asked.out)


if __name__ == "__main__":
    main()
