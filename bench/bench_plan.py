"""What it costs to plan a mixture, from instructions to segments, and to look at the plan.

The claim is that 1,000 tasks over 20 sources plan in under a second of CPU, and that a task costs about as much
in a large mixture as in a small one. The floor to read it against is the work that cannot be left out: to
parse every instruction once, and to digest every node of the result once. Sizes are interleaved over the
rounds and medians reported, so that a busy machine slows all alike; each mixture is planned in a fresh process,
as the command line does it, so that none pays for what the others left in memory.

    python bench/bench_plan.py [--out FILE] [--rounds N] [--sizes N ...]
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from report import describe, tell

from taskloom.graph.explain import explain
from taskloom.graph.graph import Graph
from taskloom.graph.node import plan_key
from taskloom.ops.catalogue import whole_catalogue
from taskloom.pipeline import Mixture, Plan, Source, Task, plan
from taskloom.pipeline.planner.rewriting import rewrite
from taskloom.pipeline.viewer.inspection import view_plan

NUM_SOURCES = 20
CLAIMED_SIZE = 1_000
MAX_SECONDS = 1.0
MAX_GROWTH = 1.5  # of the cost of a task, from each size to the next


def make_mixture(num_tasks: int) -> Mixture:
    """Return tasks that share sources, pictures and some of their texts, each with a prompt of its own."""
    sources = [Source(f"s{i}", data=[]) for i in range(NUM_SOURCES)]
    return Mixture(
        [
            Task(
                f"t{i}",
                f"[IMAGE:image] question {i}? [TEXT:text{i % 7}] -> [TEXT:label{i % 11}]",
                source=sources[i % NUM_SOURCES],
                holdout=0.1,
                key="id",
            )
            for i in range(num_tasks)
        ]
    )


def spend(work: Callable[[], object]) -> float:
    """Return the CPU-seconds of this process that ``work`` takes; it pays for no garbage but its own."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def digest_all(graph: Graph) -> None:
    """Compute the key of every node once."""
    for node in graph:
        plan_key(node.op, node.version, node.params, node.inputs, node.scope, node.id.rows)


def parse_all(mixture: Mixture) -> None:
    """Parse every instruction once."""
    for task in mixture.tasks:
        task.parse(mixture.modalities())


def measure(num_tasks: int) -> dict[str, float]:
    """Return the CPU-seconds of each part of planning a mixture, and of looking at the plan."""
    plan(make_mixture(1))  # what is imported late is imported now
    mixture = make_mixture(num_tasks)
    planned: list[Plan] = []
    seconds = {
        "parse": spend(lambda: parse_all(mixture)),
        "plan": spend(lambda: planned.append(plan(mixture))),
    }
    (done,) = planned
    drafted = done.steps[0].graph
    seconds["of it passes"] = spend(lambda: rewrite(drafted, whole_catalogue(), None))
    seconds["floor"] = seconds["parse"] + spend(lambda: digest_all(done.graph))
    seconds["verify anew"] = spend(lambda: done.graph.verify(whole_catalogue()))
    view = view_plan(done, title="bench")
    seconds["view"] = spend(lambda: view_plan(done, title="bench"))
    seconds["explain"] = spend(lambda: explain(view))
    return seconds


def main() -> None:
    """Measure all sizes and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time planning against the size of the mixture.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1_000, 5_000])
    options = parser.parse_args()
    sizes = sorted(options.sizes)
    rounds: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    fresh = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as processes:
        for size in sizes * options.rounds:
            rounds[size].append(processes.submit(measure, size).result())
    medians = {
        size: {part: median(one[part] for one in those) for part in those[0]}
        for size, those in rounds.items()
    }
    per_task = {size: seconds["plan"] / size for size, seconds in medians.items()}
    growth = {
        f"{size} to {next_}": per_task[next_] / per_task[size] for size, next_ in pairwise(per_task)
    }
    at_claim = medians.get(CLAIMED_SIZE)
    result: dict[str, Any] = {
        **describe(),
        "rounds": options.rounds,
        "CPU-seconds": {
            size: {part: round(value, 4) for part, value in seconds.items()}
            for size, seconds in medians.items()
        },
        "ms a task": {size: round(1e3 * value, 3) for size, value in per_task.items()},
        "growth of a task's cost": {name: round(value, 2) for name, value in growth.items()},
        "holds": at_claim is not None
        and at_claim["plan"] < MAX_SECONDS
        and all(value < MAX_GROWTH for value in growth.values()),
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
