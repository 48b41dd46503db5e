"""What parts of a run's recipe cost a step: averages, balancers and Muon, against AdamW alone.

Learners with the sizes of `ModelConfig` take the same packs in turn, one step each and then the next, so that a
busy machine troubles all of them alike. A step's cost is the CPU time of its one thread; a part's is the median
over rounds of its step over the plain one, less 1. A second plain learner tells what difference is noise.

    python bench/bench_recipe.py [--out FILE] [--rounds N] [--rows N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from report import describe, tell

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Task, build
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.learner import Learner
from taskloom.storage.store import Store

CLAIMS: Final = {"ema": 0.05, "initial": 0.02, "uncertainty": 0.02, "famo": 0.4}
"""The share of a plain step that each part may add. What Muon adds is told: it hangs on the CPU."""

PARTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "plain again": {},
    "ema": {"ema": 0.999},
    "muon": {"optimizer": "muon"},
    "initial": {"balance": "initial"},
    "uncertainty": {"balance": "uncertainty"},
    "famo": {"balance": "famo"},
}
WARM_UP: Final = 2
"""Rounds that are not counted."""


def open_texts(folder: Path, num_rows: int) -> Stream:
    """Return a stream of two tasks on short sentences."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice([*"abcdefghij"], 5)) for _ in range(400)])
    drawn = words[rng.integers(0, len(words), (num_rows, 12))]
    rows = [{"question": " ".join(each[:8]), "answer": " ".join(each[8:])} for each in drawn]
    tasks = [
        Task("answer", "[TEXT:question] -> [TEXT:answer]", source=rows),
        Task("ask", "what asks for [TEXT:answer] -> [TEXT:question]", source=rows),
    ]
    mixture = Mixture(tasks, bpe_size=1024)
    build(mixture, folder / "store", progress=False)
    config = TrainConfig(source_tokens=1024, threads=1)
    return open_stream(mixture, Store.open(folder / "store"), ModelConfig(), config)


def time_steps(stream: Stream, num_rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of the steps of each part, round by round."""
    learners = {
        name: Learner.make(stream.plan, replace(stream.config, **more), torch.device("cpu"))
        for name, more in PARTS.items()
    }
    took: dict[str, list[float]] = {name: [] for name in PARTS}
    with stream.loader() as loader:
        for number, packs in enumerate(islice(loader, num_rounds + WARM_UP)):
            for name, learner in learners.items():
                began = time.thread_time()
                learner.take(packs)
                if number >= WARM_UP:
                    took[name].append(time.thread_time() - began)
    return took


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rows", type=int, default=6000)
    given = parser.parse_args()
    # One thread, whose CPU time is that of the step.
    torch.set_num_threads(1)
    torch.autograd.set_multithreading_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        stream = open_texts(Path(folder), given.rows)
        took = time_steps(stream, given.rounds)
    added = {
        name: median(its / plain for its, plain in zip(each, took["plain"], strict=True)) - 1
        for name, each in took.items()
    }
    result = {
        **describe("torch"),
        "rounds": given.rounds,
        "plain step, CPU s": round(median(took["plain"]), 4),
        "added to a step": {name: round(share, 4) for name, share in added.items()},
        "claims": CLAIMS,
        "holds": all(added[name] < most for name, most in CLAIMS.items()),
    }
    tell(result, given.out)


if __name__ == "__main__":
    main()
