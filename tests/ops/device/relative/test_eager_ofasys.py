"""The model that benches compare ours with computes what OFASys computes, however it pads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from eager_ofasys import PAD, Batch, EagerOfasys, Manner, Part
from torch import Tensor

from .golden import Case

NAMES = ["text2text_tiny", "text2text_tiny_full4"]
MANNERS = [
    Manner(),
    Manner(shares_bias=True),
    Manner(is_fused=True),
    Manner(shares_bias=True, is_fused=True),
]


def make_batch(case: Case) -> Batch:
    labels = torch.from_numpy(case.arrays["target"].astype(np.int64))
    return Batch(
        parts=[Part(ids=torch.from_numpy(case.input("TEXT").astype(np.int64)))],
        target_ids=torch.from_numpy(case.input("TEXT", "tgt").astype(np.int64)),
        labels=labels,
        weights=(labels != PAD).float(),
    )


def make_model(state: Mapping[str, Tensor], manner: Manner) -> EagerOfasys:
    return EagerOfasys(state=state, num_heads=4, manner=manner)


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("name", NAMES)
def test_it_scores_as_ofasys_does(name: str, manner: Manner) -> None:
    case = Case(name)
    batch = make_batch(case)
    expected = torch.from_numpy(case.arrays["logits"])
    found = make_model(case.state, manner).score(batch)
    found = found[..., :: -(-found.shape[-1] // expected.shape[-1])]
    is_there = batch.labels != PAD
    np.testing.assert_allclose(found[is_there], expected[is_there], rtol=0, atol=1e-4)


@pytest.mark.parametrize("manner", MANNERS)
def test_it_learns_as_ours_does(manner: Manner) -> None:
    case = Case("text2text_tiny")
    ours = case.compute()
    state = {name: tensor.clone().requires_grad_() for name, tensor in case.state.items()}
    loss = make_model(state, manner).charge(make_batch(case), label_smoothing=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(ours.loss, rel=1e-5)
    for name, expected in ours.grads.items():
        found = state[name].grad
        assert found is not None, name
        # Where there should be none at all, as for the offsets of keys, rounding is left.
        assert (found - expected).norm() <= 1e-3 * expected.norm() + 1e-4, name


@pytest.mark.parametrize("is_fused", [False, True])
def test_rows_laid_out_otherwise_are_scored_in_one_batch_as_they_are_apart(
    *, is_fused: bool
) -> None:
    case = Case("text2text_tiny")
    batch = make_batch(case)
    model = make_model(case.state, Manner(shares_bias=True, is_fused=is_fused))
    (part,) = batch.parts
    longer = torch.nn.functional.pad(part.ids[1:], (0, 5), value=PAD)
    mixed = Batch(
        parts=[Part(ids=part.ids[:1]), Part(ids=longer)],
        target_ids=batch.target_ids,
        labels=batch.labels,
        weights=batch.weights,
    )
    is_there = batch.labels != PAD
    expected = model.score(batch)[is_there]
    torch.testing.assert_close(model.score(mixed)[is_there], expected, rtol=0, atol=1e-4)
