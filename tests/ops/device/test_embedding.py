"""Patches are cut in reading order, tokens go where they belong, and unused ones go nowhere."""

from __future__ import annotations

import pytest
import torch

from taskloom.graph.errors import PlanError
from taskloom.ops.device.embedding import EmbedPatches, EmbedTokens, PlaceTokens
from taskloom.ops.device.loss import ScoreTokens

CUT = EmbedPatches(height=4, width=6, patch=2, model_width=5)


def test_a_token_is_the_projection_of_its_patch() -> None:
    module = CUT.module()
    images = torch.randint(256, (3, 4, 6, 3), dtype=torch.uint8)
    tokens_IPC = CUT(module, images=images)
    assert tokens_IPC.shape == (3, CUT.num_patches, 5)
    for place, (top, left) in enumerate([(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4)]):
        pixels_IX = images[:, top : top + 2, left : left + 2].flatten(1).float() / 127.5 - 1
        expected_IC = module.projection(pixels_IX) + module.positions_PC[place]
        torch.testing.assert_close(tokens_IPC[:, place], expected_IC)


def test_patches_must_divide_the_image() -> None:
    with pytest.raises(PlanError, match="images of 4 x 6 do not divide into patches of 4"):
        EmbedPatches(height=4, width=6, patch=4, model_width=5)


def test_tokens_replace_their_places_and_unused_ones_get_no_gradient() -> None:
    place = PlaceTokens(model_width=2)
    stream = torch.randn(5, 2, requires_grad=True)
    tokens = torch.randn(3, 2, 2, requires_grad=True)
    places = torch.tensor([[3, 1], [5, 5], [5, 5]], dtype=torch.int32)
    placed = place(None, hidden=stream, tokens=tokens, places=places)
    assert torch.equal(placed[[3, 1]], tokens[0])
    assert torch.equal(placed[[0, 2, 4]], stream[[0, 2, 4]])
    placed.sum().backward()
    assert stream.grad is not None
    assert tokens.grad is not None
    assert stream.grad[:, 0].tolist() == [1, 0, 1, 0, 1]
    assert tokens.grad[:, 0, 0].tolist() == [1, 0, 0]


def test_reading_and_scoring_build_the_same_parameters() -> None:
    reads = EmbedTokens(num_ids=7, model_width=4).module()
    scores = ScoreTokens(num_ids=7, model_width=4, num_losses=2).module()
    assert type(reads) is type(scores)
    assert {k: v.shape for k, v in reads.state_dict().items()} == {
        k: v.shape for k, v in scores.state_dict().items()
    }


def test_embeddings_have_unit_variance_and_so_have_scores_of_normalised_states() -> None:
    torch.manual_seed(0)
    table = EmbedTokens(num_ids=500, model_width=64).module()
    embedded = table.embed(torch.arange(500, dtype=torch.int32))
    scores = table.score(torch.nn.functional.layer_norm(torch.randn(100, 64), (64,)))
    assert 0.95 < embedded.var().item() < 1.05
    assert 0.9 < scores.var().item() < 1.1
