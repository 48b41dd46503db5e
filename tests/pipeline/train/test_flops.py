"""FLOP are counted document by document, and a run's cost is what its documents cost."""

from __future__ import annotations

import re

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Run
from taskloom.pipeline.model.flops import count_flops
from taskloom.pipeline.trainer.run_log import read_log

Ints = npt.NDArray[np.int64]
SIZES = ModelConfig(width=8, num_heads=2, num_encoder_layers=3, num_decoder_layers=2, ffn_width=20)
models = st.builds(
    ModelConfig,
    width=st.sampled_from([8, 16]),
    num_heads=st.just(2),
    num_encoder_layers=st.integers(1, 3),
    num_decoder_layers=st.integers(1, 3),
    position=st.sampled_from(["rotary", "relative"]),
)
lengths = st.integers(1, 6).flatmap(
    lambda n: st.tuples(*[npst.arrays(np.int64, n, elements=st.integers(1, 200))] * 2)
)


@given(models, lengths, lengths)
def test_documents_cost_the_same_together_and_apart(
    model: ModelConfig, some: tuple[Ints, Ints], others: tuple[Ints, Ints]
) -> None:
    apart = sum(
        count_flops(model, *each, float(each[1].sum()), 300).total for each in (some, others)
    )
    both = [np.concatenate(each) for each in zip(some, others, strict=True)]
    together = count_flops(model, both[0], both[1], float(both[1].sum()), 300)
    assert together.total == pytest.approx(apart)
    assert together.strict <= together.total


def test_the_count_is_that_of_the_products_of_every_layer() -> None:
    source, target, width, ffn, ids = 7, 5, 8, 20, 100
    encoder = 3 * source * (4 * width * width + 2 * width * ffn) + 3 * 2 * width * source * source
    seen = target * (target + 1) / 2 + target * source
    decoder = 2 * (target * (6 * width * width + 2 * width * ffn) + 2 * width * seen)
    across = 2 * source * 2 * width * width
    head = 4 * width * ids
    counted = count_flops(SIZES, np.array([source]), np.array([target]), 4, ids)
    # Two FLOP for a product with a sum; once forward, twice backward.
    assert counted.total == 6 * (encoder + decoder + across + head)
    assert counted.positions == counted.repeated == 0


def test_what_steps_computed_is_about_what_the_header_says(run: Run) -> None:
    (told,) = (line for line in run.header if line.startswith("a step: "))
    found = re.search(r"(\d+) samples, about ([\d.]+) MFLOP", told)
    assert found is not None
    lines = [line for line in read_log(run.path) if line["speed"]["flops_per_s"]]
    speeds = [line["speed"] for line in lines]
    per_sample = sum(s["flops_per_s"] for s in speeds) / sum(s["samples_per_s"] for s in speeds)
    assert per_sample == pytest.approx(float(found[2]) * 1e6 / int(found[1]), rel=0.15)
