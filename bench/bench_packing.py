"""How full packs are, on orders of rows that the planner has not seen, beside the best that can be.

No packer can need fewer packs than the capacity that is used most would fill: that volume is the bound. The
shape of packs is chosen from the first rows in the order of one seed; fill is measured over whole windows
in the orders of others. Texts are drawn; the demo mixture needs the store that examples/demo.py builds.

    python bench/bench_packing.py [--store demo/store] [--out FILE] [--seeds N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from report import describe, tell

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline.loader.packing import choose_capacity
from taskloom.pipeline.settings import TrainConfig
from taskloom.storage.capacity import Capacity
from taskloom.storage.length import measure_documents, select_fitting
from taskloom.storage.position import Position
from taskloom.storage.report import StreamReport
from taskloom.storage.store import Store
from taskloom.storage.template import ConstPiece, Documents, Template
from taskloom.storage.window import PackPlan
from taskloom.storage.window_planner import WindowPlanner

ROOT = Path(__file__).parents[1]
NUM_WINDOWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Documents, and the pack that was chosen for them.

    Attributes:
        documents: Those of each template.
        weights: Share of samples of each task.
        capacity: What a pack holds.
        model: Whose FLOPs weigh the fill.
    """

    documents: Sequence[Documents]
    weights: Mapping[str, float]
    capacity: Capacity
    model: ModelConfig


def draw_text(lengths: npt.NDArray[np.int64], model: ModelConfig, size: int) -> Case:
    """Return texts of ``lengths`` that are answered with one id, in packs of ``size`` positions."""
    target = (ConstPiece(ids=(1,)),)
    documents = Documents(
        template=Template(task="text", source_name="text", source=(), target=target),
        rows=np.arange(len(lengths)),
        source_lengths=lengths.astype(np.int32),
        target_lengths=np.ones(len(lengths), np.int32),
        tensors={},
    )
    weights = {"text": 1.0}
    config = TrainConfig(source_tokens=size, max_document=size)
    capacity = choose_capacity([documents], weights, model, config)
    return Case(documents=[documents], weights=weights, capacity=capacity, model=model)


def open_demo(store: Path) -> dict[str, Case]:
    """Return the demo mixture, and its text task alone, as they are trained on."""
    sys.path.insert(0, str(ROOT / "examples"))
    import demo  # noqa: PLC0415 - it needs the data of the extra "demo"

    from taskloom.pipeline.loader.stream import open_stream  # noqa: PLC0415 - with it

    stream = open_stream(demo.make_mixture(), Store.open(store), demo.MODEL, demo.TRAIN)
    measured = [
        measure_documents(each, stream.dataset.columns, stream.rows[each.task])
        for each in stream.templates
    ]
    documents = select_fitting(measured, stream.capacity)
    text = [each for each in documents if each.template.task == "sentiment"]
    alone = {"sentiment": 1.0}
    return {
        "demo mixture": Case(
            documents=documents,
            weights=stream.blend.at(0),
            capacity=stream.capacity,
            model=stream.model,
        ),
        "demo, sentiment alone": Case(
            documents=text,
            weights=alone,
            capacity=choose_capacity(text, alone, stream.model, stream.config),
            model=stream.model,
        ),
    }


def measure(case: Case, num_seeds: int) -> dict[str, Any]:
    """Return the fill of a case over all seeds, and what planning costs."""
    packs: list[PackPlan] = []
    num_documents, seconds = 0, 0.0
    for seed in range(1, num_seeds + 1):
        planner = WindowPlanner(case.documents, case.capacity, case.weights, seed, 4096)
        position = Position.start(len(case.weights))
        began = time.process_time()
        for number in range(NUM_WINDOWS + 1):
            window = planner.plan(number, position, case.weights)
            position = window.after
            num_documents += len(window.tasks)
            if number:  # from the first, the planner found out how full packs can be
                packs += window.packs
        seconds += time.process_time() - began
    report = StreamReport.of(packs, case.documents, [0] * len(case.documents), case.capacity)
    width, feed_forward = case.model.width, 2 * case.model.width * case.model.ffn_width
    weighted = report.weigh_fill(
        case.model.num_encoder_layers * (4 * width**2 + feed_forward),
        case.model.num_decoder_layers * (6 * width**2 + feed_forward),
    )
    fullest = max(report.fill.values())
    return {
        "pack": {
            "source": case.capacity.source,
            "target": case.capacity.target,
            **case.capacity.tensors,
            "tile": case.capacity.tile,
        },
        "fill": {name: round(share, 4) for name, share in report.fill.items()},
        "weighted by FLOPs": round(weighted, 4),
        "packs": len(packs),
        "least packs of any packer": round(len(packs) * fullest, 1),
        "planning, us of CPU per document": round(1e6 * seconds / num_documents, 2),
    }


def make_cases(store: Path | None) -> dict[str, Case]:
    """Return what is packed."""
    rng = np.random.default_rng(0)
    model = ModelConfig(width=768, num_heads=12, ffn_width=3072)
    cases = {} if store is None else open_demo(store)
    short = rng.integers(16, 114, 40_000)
    captions = np.exp(rng.normal(4.3, 0.8, 40_000)).clip(16, 400).astype(np.int64)
    return {
        **cases,
        "texts of 16 to 113 ids": draw_text(short, model, 2048),
        "texts of 25 to 260 ids": draw_text(rng.integers(25, 261, 40_000), model, 2048),
        "texts of 16 to 400 ids, most short": draw_text(captions, model, 4096),
    }


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Say how full packs are.")
    parser.add_argument("--store", type=Path, help="the store that examples/demo.py builds")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    result = {
        **describe("numpy"),
        "seeds": options.seeds,
        "cases": {
            name: measure(case, options.seeds) for name, case in make_cases(options.store).items()
        },
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
