"""What telling costs the demo's training: waiting for data, evaluating at the default, and telling itself.

The demo is trained for some hundred steps as it stands, evaluated as often as it is by default, and its own log
is read: where the time of its steps went. What a step costs beside that, counting its documents and timing it,
is measured by itself, on the packs of the run.

    python bench/bench_telling.py [--steps 1000] [--work FOLDER] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

# Before torch is loaded: its threads sleep while they wait, and leave the cores to the loader's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import report
import torch

from taskloom.pipeline import build, train
from taskloom.pipeline.loader.stream import open_stream
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.pipeline.trainer.step_clock import Amount, StepClock
from taskloom.pipeline.trainer.step_part import EVALUATING, LEARNING, SAVING, TELLING, WAITING
from taskloom.pipeline.trainer.tally import Tally
from taskloom.storage.store import Store

MOST: Final = {"waiting": 0.01, "evaluating": 0.05, "telling": 0.01}
"""Share of a run's time that each may take."""

_NUM_PACKS: Final = 200


def main() -> None:
    """Train, read the log, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=None, help="where the demo is built")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import demo  # noqa: PLC0415 - found there

    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        (work / "demo").mkdir(parents=True, exist_ok=True)
        before = Path.cwd()
        os.chdir(work)
        mixture = demo.make_mixture()
        store = Store.create(work / "store")
        build(mixture, store)
        out = Path(tempfile.mkdtemp(dir=work)) / "run"
        config = replace(demo.TRAIN, steps=options.steps)
        train(mixture, store, out=out, model=demo.MODEL, config=config)
        shares = read_shares(out)
        step_s = shares.pop("median step, s")
        counting_s = count_by_itself(open_stream(mixture, store, demo.MODEL, config))
        os.chdir(before)
    shares["telling"] += counting_s / step_s
    result = {
        **report.describe("torch", "numpy"),
        "steps": options.steps,
        "median step, ms": round(1e3 * step_s, 2),
        "counting a step, ms": round(1e3 * counting_s, 4),
        "evaluations": shares.pop("evaluations"),
        "share of the time": {name: round(share, 5) for name, share in shares.items()},
        "holds": {name: shares[name] < most for name, most in MOST.items()},
    }
    report.tell(result, options.out)


def read_shares(run: Path) -> dict[str, Any]:
    """Return which share of its time a run spent on what, its first line left out: it warms up there."""
    log = read_log(run)
    lines = [line for line in log if "evaluation" not in line][1:]
    total_s = sum(sum(line["step_s"]) for line in lines)
    parts = {
        name: sum(line["time"].get(name, 0.0) for line in lines) / total_s
        for name in (WAITING, LEARNING, EVALUATING, SAVING, TELLING)
    }
    return {
        "waiting": parts[WAITING],
        "computing": parts[LEARNING],
        "evaluating": parts[EVALUATING],
        "saving": parts[SAVING],
        "telling": parts[TELLING],
        "evaluations": sum("evaluation" in line for line in log),
        "median step, s": median(step for line in lines for step in line["step_s"]),
    }


def count_by_itself(stream: Any) -> float:
    """Return the seconds that counting and timing take a step, beside what is learned."""
    tasks = [template.task for template in stream.templates]
    with stream.loader() as loader:
        packs = [pack for step, _ in zip(loader, range(_NUM_PACKS), strict=False) for pack in step]
    tally, clock = Tally(), StepClock(torch.device("cpu"))
    began = time.perf_counter()
    for number, pack in enumerate(packs):
        with clock.part(LEARNING):
            tally.count(pack, tasks)
        clock.add(WAITING, 0.0)
        clock.end_step(number, Amount(1, 1, 1.0))
    clock.read()
    return (time.perf_counter() - began) / len(packs)


if __name__ == "__main__":
    main()
