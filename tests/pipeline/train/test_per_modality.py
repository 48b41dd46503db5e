"""Feed-forward weights told apart by modality are planned, learned, loaded, and begun from shared ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from taskloom.graph.errors import PlanError
from taskloom.graph.node import Value
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Model, train
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.model.importing import take_over
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .stores import CONFIG, MODEL, make_mixture, read_digits, spell_numbers

SHARED = {"rotary": MODEL, "relative": replace(MODEL, position="relative", max_positions=128)}
every_position = pytest.mark.parametrize("position", SHARED)


def open_model(store: Path, model: ModelConfig) -> Stream:
    return open_stream(make_mixture(has_rows=False), Store.open(store), model, CONFIG)


def first_pack(stream: Stream) -> Pack:
    with stream.loader() as loader:
        return next(iter(loader))[0]


def states_of(program: Program, stream: Stream, pack: Pack) -> dict[str, Tensor]:
    with torch.no_grad():
        return program(to_inputs(stream.plan, pack, torch.device("cpu")))


@every_position
def test_each_modality_of_a_mixture_has_weights_named_after_it(
    store_dir: Path, position: str
) -> None:
    stream = open_model(store_dir, replace(SHARED[position], ffn="per_modality"))
    names = set(Program(stream.plan).state_dict())
    for side, modalities in (("encoder", {"text", "image"}), ("decoder", {"text"})):
        begin = f"scopes.{side}.layers.0.ffn.up."
        found = {n.removeprefix(begin).split(".")[0] for n in names if n.startswith(begin)}
        assert found == modalities


@every_position
def test_weights_of_images_reach_images_alone(store_dir: Path, position: str) -> None:
    model = replace(SHARED[position], ffn="per_modality", num_encoder_layers=1)
    stream = open_model(store_dir, model)
    pack = first_pack(stream)
    torch.manual_seed(0)
    program = Program(stream.plan).eval()
    inputs = to_inputs(stream.plan, pack, torch.device("cpu"))
    memory = Value(stream.plan.graph["encoder"].id)
    with torch.no_grad():
        before = program.trace([memory], inputs)[memory]
        program.scope("encoder").layers[0].ffn.down["image"].weight.mul_(2)
        after = program.trace([memory], inputs)[memory]
    moved = set((before != after).any(1).nonzero()[:, 0].tolist())
    (places,) = pack.places.values()
    assert moved == {int(place) for place in places.ravel() if place < len(pack.source_ids)}


@every_position
def test_a_model_learns_answers_and_is_loaded(
    store_dir: Path, tmp_path: Path, position: str
) -> None:
    model = replace(SHARED[position], ffn="per_modality")
    mixture = make_mixture(has_rows=False)
    run = train(
        mixture, store_dir, out=tmp_path, model=model, config=CONFIG, steps=20, progress=False
    )
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert losses[-1] < losses[0]
    loaded = Model.load(tmp_path)
    for task, rows in (("digits", read_digits()[:3]), ("spell", spell_numbers()[:3])):
        expected = run.model.infer(task, rows)
        found = loaded.infer(task, rows)
        assert [each.text for each in found] == [each.text for each in expected]
        quick = Model.load(tmp_path, int8=True).infer(task, rows)
        assert len(quick) == 3


@every_position
def test_a_model_may_begin_with_one_that_shares_its_weights(
    store_dir: Path, tmp_path: Path, position: str
) -> None:
    mixture = make_mixture(has_rows=False)
    dense = SHARED[position]
    train(mixture, store_dir, out=tmp_path, model=dense, config=CONFIG, steps=2, progress=False)
    shared = open_model(store_dir, dense)
    routed = open_model(store_dir, replace(dense, ffn="per_modality"))
    before, after = Program(shared.plan).eval(), Program(routed.plan).eval()
    path = latest_checkpoint(tmp_path)
    assert path is not None
    before.load(read_checkpoint(path).tensors, path)
    taken = take_over(after, routed.plan.vocabulary, tmp_path)
    assert not taken.missing
    assert not taken.unused
    pack = first_pack(shared)
    expected, found = states_of(before, shared, pack), states_of(after, routed, pack)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    # They are copies: what one modality learns, others do not.
    up = after.scope("encoder").layers[0].ffn.up
    assert torch.equal(up["text"].weight, up["image"].weight)
    assert up["text"].weight.data_ptr() != up["image"].weight.data_ptr()


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(PlanError, match='unknown ffn "per_modalty"'):
        replace(MODEL, ffn="per_modalty")
