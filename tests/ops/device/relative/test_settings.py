"""Settings are written as OFASys has them, and read again say the same."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from taskloom.ops.device.config import ABSOLUTES, ModelConfig
from taskloom.ops.device.relative.settings import Settings, describe

models = st.builds(
    ModelConfig,
    width=st.just(64),
    num_heads=st.sampled_from([1, 2, 4, 8]),
    position=st.just("relative"),
    attn_scale_factor=st.floats(0.1, 8),
    absolute_position=st.sampled_from(ABSOLUTES),
    relative_bias=st.booleans(),
)


@given(models, st.lists(st.sampled_from(["text", "video"]), min_size=1, unique=True))
def test_settings_of_a_model_are_read_as_they_are_described(
    model: ModelConfig, adaptors: list[str]
) -> None:
    found = Settings.read(describe(model, adaptors))
    assert found.attn_scale_factor == model.attn_scale_factor
    assert found.num_heads == model.num_heads
    assert found.has_biases == model.relative_bias
    assert found.is_entangled == (model.absolute_position != "bias")
    if found.is_entangled:
        assert found.no_bias == model.absolute_position
