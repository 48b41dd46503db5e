"""A model's sizes are checked together, and every wrong one is named."""

from __future__ import annotations

import pytest

from taskloom.graph.errors import PlanError
from taskloom.ops.device.config import ModelConfig


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param({"num_decoder_layers": 0}, "num_decoder_layers must be at least 1", id="none"),
        pytest.param({"width": 100, "num_heads": 3}, "got 100 and 3", id="heads do not divide"),
        pytest.param({"width": 12, "num_heads": 4}, "twice num_heads", id="odd heads"),
        pytest.param({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0", id="all dropped"),
        pytest.param({"label_smoothing": float("nan")}, "label_smoothing", id="nan"),
        pytest.param({"position": "rotery"}, "did you mean rotary", id="unknown position"),
    ],
)
def test_a_wrong_size_is_named(params: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        ModelConfig(**params)  # pyright: ignore[reportArgumentType]


def test_all_wrong_sizes_are_shown_together() -> None:
    with pytest.raises(PlanError) as caught:
        ModelConfig(width=0, num_heads=0, ffn_width=-1, dropout=2.0)
    assert [problem.code for problem in caught.value.problems] == ["T0220"] * 4
