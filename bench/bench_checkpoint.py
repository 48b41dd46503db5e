"""What a checkpoint costs a run: under 1% of a step's time at every 100 steps; and a run goes on within 10 s.

*Stall* is what steps lose to a checkpoint: the seconds for which a step waits until all is copied, and those by
which steps are slower that are taken while it is written. Its share is that over the time of a hundred steps.
*Going on* is the time from the start of a process to the end of its first step, less the step itself: Python,
torch, the store, the plan, the checkpoint and the first packs. Nothing is compiled.

    python bench/bench_checkpoint.py [--out FILE] [--rounds N] [--width N]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import text_mixture
import torch
from report import describe, tell

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import train
from taskloom.pipeline.loader.stream import open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.learner import Learner, own_torch
from taskloom.pipeline.trainer.saving import Saver
from taskloom.storage.store import Store

SHARE = 0.01
"""The share of the time of 100 steps that a checkpoint may take."""

RESUME_S = 10.0
EVERY, WARM_UP, AFTER = 100, 5, 10
CPU = torch.device("cpu")
CONFIG = TrainConfig(
    packs_per_step=2, source_tokens=1024, max_document=1024, threads=1, device="cpu"
)


def make_model(width: int) -> ModelConfig:
    """Return the sizes of the model."""
    return ModelConfig(
        width=width, num_heads=4, num_encoder_layers=4, num_decoder_layers=4, ffn_width=4 * width
    )


def measure_stalls(store: Path, out: Path, rounds: int, width: int) -> dict[str, Any]:
    """Save again and again, with some steps after each, and return what that costs."""
    copied: list[float] = []
    slowed: list[float] = []
    with own_torch(CONFIG, CPU):
        mixture = text_mixture.make_mixture()
        stream = open_stream(mixture, Store.open(store), make_model(width), CONFIG)
        learner = Learner.make(stream.plan, CONFIG, CPU)
        saver = Saver(out, learner, CONFIG)
        with stream.loader() as loader:
            steps = iter(loader)
            steady = [take(learner, next(steps)) for _ in range(WARM_UP + AFTER)][WARM_UP:]
            for _ in range(rounds):
                began = time.perf_counter()
                saver.save({"step": learner.step}, {})
                copied.append(time.perf_counter() - began)
                behind = [take(learner, next(steps)) for _ in range(AFTER)]
                saver.finish()
                between = [take(learner, next(steps)) for _ in range(AFTER)]
                slowed.append(sum(behind) - sum(between))
                steady += between
    step_s = median(steady)
    # The first copy makes the memory that later ones go to.
    stall_s = median(copied[1:]) + max(0.0, median(slowed[1:]))
    folder = next(out.glob("step-*"))
    return {
        "parameters": sum(learner.program.num_parameters.values()),
        "bytes of a checkpoint": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
        "step, s": round(step_s, 4),
        "copying, s": round(median(copied[1:]), 4),
        "first copying, s": round(copied[0], 4),
        "slower steps meanwhile, s": round(median(slowed[1:]), 4),
        "stall share": round(stall_s / (EVERY * step_s), 5),
        "stall holds": stall_s / (EVERY * step_s) <= SHARE,
    }


def take(learner: Learner, packs: Any) -> float:
    """Take a step, and return the seconds it took."""
    began = time.perf_counter()
    learner.take(packs)
    return time.perf_counter() - began


def measure_going_on(store: Path, out: Path, rounds: int, width: int) -> dict[str, Any]:
    """Begin a run, go on with it in fresh processes, and return how long that takes."""
    run_until(store, out, 2, width)
    told: list[float] = []
    for number in range(rounds):
        own = [sys.executable, str(Path(__file__).resolve()), "--width", str(width)]
        began = time.time()
        command = [*own, "--child", str(store), str(out), str(3 + number), str(began)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        told.append(float(done.stdout.splitlines()[-1]))
    return {
        "going on, s": round(median(told), 2),
        "going on, most, s": round(max(told), 2),
        "going on holds": median(told) <= RESUME_S,
    }


def run_until(store: Path, out: Path, stop_at: int, width: int) -> None:
    """Train until a step, or go on until it."""
    mixture, model = text_mixture.make_mixture(), make_model(width)
    train(mixture, store, out=out, model=model, config=CONFIG, stop_at=stop_at, progress=False)


def go_on(store: Path, out: Path, stop_at: int, began: float, width: int) -> None:
    """Go on for a step, and print the seconds since ``began`` that went by before it."""
    plain = Learner.take

    def timed(self: Learner, packs: Any, **options: Any) -> bool:
        print(time.time() - began)
        return plain(self, packs, **options)

    with patch.object(Learner, "take", timed):
        run_until(store, out, stop_at, width)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description="Time what a checkpoint costs.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        store, out, stop_at, began = asked.child
        go_on(Path(store), Path(out), int(stop_at), float(began), asked.width)
        return
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        text_mixture.open_store(store)
        stalls = measure_stalls(store, Path(scratch) / "stalls", asked.rounds, asked.width)
        goes_on = measure_going_on(store, Path(scratch) / "run", asked.rounds, asked.width)
    tell({**describe("torch"), **stalls, **goes_on}, asked.out)


if __name__ == "__main__":
    main()
