"""The model that benches compare ours with computes what OFASys computes, however it pads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from eager_ofasys import PAD, Batch, EagerOfasys, Kept, Manner, Part, Side
from torch import Tensor

from .golden import Case

NAMES = [
    "text2text_tiny",
    "text2text_tiny_full4",
    "caption_resnet_tiny",
    "caption_patch_tiny_noentangle_adaptor",
]
MANNERS = [
    Manner(),
    Manner(shares_bias=True),
    Manner(is_fused=True),
    Manner(shares_bias=True, is_fused=True),
]


PATCH, CELLS = "encoder.adaptor.image_patch_embed", "encoder.adaptor.image_resnet"


class SeesCells(EagerOfasys):
    """Tokens of images are cells of a trunk, where OFASys has biases for them; the trunk is ours."""

    image_slots: Any

    def _read_images(self, images: Tensor) -> Side:
        cells = self.image_slots.trunk(images.permute(0, 3, 1, 2) * (2 / 255) - 1)
        tokens = self.image_slots.projection(cells.flatten(2).transpose(1, 2))
        rows, columns = cells.shape[-2:]
        ids = torch.arange(rows)[:, None] * 42 + torch.arange(columns) + 1
        places = self.state[f"{CELLS}.embed_image_positions.weight"][ids.flatten()]
        is_padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        return self._enter(CELLS, tokens, places, is_padding)


class SeesWhole(EagerOfasys):
    """A token for the whole stands before the patches, as always in OFASys."""

    def _read_images(self, images: Tensor) -> Side:
        patches = super()._read_images(images)
        start = self.state[f"{PATCH}.cls_token"].expand(len(images), 1, -1)
        is_padding = torch.zeros(len(images), 1, dtype=torch.bool)
        whole = self._enter(PATCH, start, patches.positions[0, :1], is_padding)
        hidden = torch.cat((whole.hidden, patches.hidden), 1)
        return Side(hidden, patches.positions, torch.cat((is_padding, patches.is_padding), 1))


def make_batch(case: Case) -> Batch:
    labels = torch.from_numpy(case.arrays["target"].astype(np.int64))
    images = None
    if "IMAGE" in case.modalities:
        images = torch.from_numpy(case.input("IMAGE")).permute(0, 2, 3, 1)
    return Batch(
        parts=[Part(ids=torch.from_numpy(case.input("TEXT").astype(np.int64)), images=images)],
        target_ids=torch.from_numpy(case.input("TEXT", "tgt").astype(np.int64)),
        labels=labels,
        weights=(labels != PAD).float(),
    )


def make_model(state: Mapping[str, Tensor], manner: Manner) -> EagerOfasys:
    return EagerOfasys(state=state, num_heads=4, manner=manner)


def make_model_of(case: Case, manner: Manner) -> EagerOfasys:
    """Return the model that computes the case, with what benches leave out of pictures."""
    if case.is_trap:
        return SeesWhole(state=without_biases(case), num_heads=4, manner=manner)
    if "IMAGE" not in case.modalities:
        return make_model(case.state, manner)
    state = case.state | {f"{PATCH}.proj.weight": torch.empty(0, 3, case.cell, case.cell)}
    model = SeesCells(state=state, num_heads=4, manner=manner)
    built: Any = case.build().requires_grad_(requires_grad=False)
    object.__setattr__(model, "image_slots", built["image"])
    return model


def without_biases(case: Case) -> dict[str, Tensor]:
    """Return weights whose biases are 0: OFASys knows of none for patches, and leaves out all others."""
    state = case.scaled_state()
    tables = {name: torch.zeros_like(state[name]) for name in state if "rel_pos_table" in name}
    for number in range(case.shape("encoder").num_layers):
        name = f"{CELLS}.image_rel_pos_table_list.{number}.weight"
        tables[name] = torch.zeros(83**2 + 3, 4)
    width = case.shape("encoder").width
    for name in ("encoder.adaptor.pos", "decoder.adaptor.pos", "decoder.cross_pos"):
        for letter in "qk":
            tables[f"{name}_{letter}_linear.weight"] = torch.zeros(width, width)
            tables[f"{name}_{letter}_linear.bias"] = torch.zeros(width)
    return state | tables


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("name", NAMES)
def test_it_scores_as_ofasys_does(name: str, manner: Manner) -> None:
    case = Case(name)
    batch = make_batch(case)
    expected = torch.from_numpy(case.arrays["logits"])
    found = make_model_of(case, manner).score(batch)
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


@pytest.mark.parametrize("is_fused", [False, True])
def test_id_by_id_with_keys_kept_it_scores_as_all_at_once(*, is_fused: bool) -> None:
    case = Case("text2text_tiny")
    batch = make_batch(case)
    model = make_model(case.state, Manner(is_fused=is_fused))
    source, memory = model.read(batch.parts)
    kept: Kept = {}
    steps = range(1, batch.target_ids.shape[1] + 1)
    states = [model.step(batch.target_ids[:, :stop], source, memory, kept) for stop in steps]
    is_there = batch.labels != PAD
    found = model.score_states(torch.stack(states, 1))[is_there]
    torch.testing.assert_close(found, model.score(batch)[is_there], rtol=0, atol=1e-4)
    assert kept["decoder.layers.1.self_attn"][0].shape[2] == len(steps)
