"""A model with relative positions is planned, trained and resumed as any other, on the packs of any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import Block, Vocabulary
from taskloom.ops.device.config import ModelConfig
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.step import Sources, open_cache, take_step
from taskloom.pipeline import Mixture, Model, Run, Task, train
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import open_stream
from taskloom.pipeline.model.handing_back import export_checkpoint
from taskloom.pipeline.model.importing import SCOPES, import_checkpoint
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.planner.planning import plan
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint
from taskloom.storage.store import Store

from .stores import CONFIG, MODEL, make_mixture, read_digits

RELATIVE = replace(MODEL, position="relative", max_positions=64)


def latest(run: Path) -> Path:
    """Return the last checkpoint of a run."""
    path = latest_checkpoint(run)
    assert path is not None
    return path


def learn(store: Path, out: Path, model: ModelConfig = RELATIVE, **settings: Any) -> Run:
    """Train the mixture."""
    mixture = make_mixture(has_rows=False)
    return train(mixture, store, out=out, model=model, config=CONFIG, progress=False, **settings)


def test_the_loss_of_every_task_falls(store_dir: Path, tmp_path: Path) -> None:
    learn(store_dir, tmp_path)
    first, last = (read_log(tmp_path)[at]["tasks"] for at in (0, -1))
    assert all(last[task]["loss"] < first[task]["loss"] - 0.5 for task in first)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"pre_norm": False}, id="post-norm"),
        pytest.param({"absolute_position": "added", "relative_bias": False}, id="added positions"),
        pytest.param({"share_relative_bias": True, "scale_resids": True}, id="shared, all scales"),
    ],
)
def test_every_form_of_the_family_is_trained(
    store_dir: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    learn(store_dir, tmp_path, replace(RELATIVE, **change), steps=20)
    first, last = (read_log(tmp_path)[at]["loss"] for at in (0, -1))
    assert last < first


def test_a_run_that_is_resumed_ends_with_the_same_parameters(
    store_dir: Path, tmp_path: Path
) -> None:
    learn(store_dir, tmp_path / "whole", steps=20, checkpoint_every=10)
    whole = latest_checkpoint(tmp_path / "whole")
    assert whole is not None
    halfway = whole.with_name("step-00000010")
    (tmp_path / "resumed").mkdir()
    halfway.rename(tmp_path / "resumed" / halfway.name)
    learn(store_dir, tmp_path / "resumed", steps=20, checkpoint_every=10)
    resumed = latest_checkpoint(tmp_path / "resumed")
    assert resumed is not None
    before, after = (read_checkpoint(path).tensors for path in (whole, resumed))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_begins_with_the_weights_of_another(store_dir: Path, tmp_path: Path) -> None:
    learn(store_dir, tmp_path / "first", steps=20)
    written = export_checkpoint(tmp_path / "first", tmp_path / "state.pt")
    import_checkpoint(written.path, tmp_path / "imported")
    for name, weights in (("second", "imported"), ("third", "first")):
        learn(
            store_dir,
            tmp_path / name,
            steps=1,
            learning_rate=1e-12,
            weights=str(tmp_path / weights),
        )
    before, second, third = (
        read_checkpoint(latest(tmp_path / name)).tensors for name in ("first", "second", "third")
    )
    others = [name for name in before if not torch.allclose(before[name], second[name], atol=1e-9)]
    # OFASys has no name for patches of two sizes: these begin anew.
    assert others == [SCOPES + name for name in written.left_out]
    assert others
    assert all(name.startswith("scopes.adapter__") for name in others)
    assert all(torch.allclose(before[name], third[name], atol=1e-9) for name in before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
def test_layers_compile_to_one_graph_a_class_which_serves_every_pack(
    store_dir: Path, mixture: Mixture
) -> None:
    model = replace(RELATIVE, num_encoder_layers=2, num_decoder_layers=2)
    stream = open_stream(mixture, Store.open(store_dir), model, CONFIG)
    with stream.loader() as loader:
        packs = [pack for step in islice(loader, 3) for pack in step]
    inputs = [to_inputs(stream.plan, pack, torch.device("cpu")) for pack in packs]
    program = Program(stream.plan).eval()
    expected = [program(each)["loss"] for each in inputs]
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    program.compile_layers(keep)
    torch.testing.assert_close([program(each)["loss"] for each in inputs], expected)
    assert len(graphs) == 2
    torch.compiler.reset()


def test_images_that_a_trunk_does_not_see_are_refused() -> None:
    model = replace(RELATIVE, trunk="resnet50")
    task = Task("caption", "[IMAGE:img,size=64,patch=8] what is it? -> [TEXT:cap]")
    with pytest.raises(PlanError, match="sees cells of 16 pixels, not of 8") as caught:
        plan(task, model=model)
    assert [problem.code for problem in caught.value.problems] == ["T0239"]
    task = Task("caption", "[IMAGE:img,size=688,patch=16] what is it? -> [TEXT:cap]")
    with pytest.raises(PlanError, match="688 x 688 have too many cells"):
        plan(task, model=model)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="all"),
        pytest.param({"pre_norm": False, "scale_heads": False}, id="post-norm"),
        pytest.param({"absolute_position": "added", "relative_bias": False}, id="added positions"),
        pytest.param({"share_relative_bias": True, "scale_resids": True}, id="shared, all scales"),
    ],
)
def test_token_by_token_the_decoder_does_what_it_does_at_once(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = replace(RELATIVE, dropout=0.0, num_decoder_layers=2, **change)
    vocabulary = Vocabulary.of([Block("text", 30)])
    planned = plan(
        Task("copy", "[TEXT:a] -> [TEXT:b]"), "infer", model=model, vocabulary=vocabulary
    )
    program = Program(planned).double().eval()
    lengths = torch.tensor([5, 3])
    stops = lengths.cumsum(0)
    pack = make_pack(lengths.tolist(), target=4, num_ids=34)
    with torch.no_grad():
        memory, positions, states = program.compute_all(
            ("memory", "memory_positions", "states"), pack
        )
        parts = map(program.scope, ("decoder", "target_tokens", "vocabulary"))
        stack = RelativeStack(*parts)
        sources = Sources(memory, torch.stack((stops - lengths, stops)), 6, positions)
        cache = open_cache(stack, sources, num_rows=1, max_length=4)
        for index in range(4):
            ids = pack["target_ids"].view(2, 4)[:, index].long()
            found = take_step(stack, ids, torch.tensor([index]), cache, 4)
            torch.testing.assert_close(found, states.view(2, 4, -1)[:, index])


def test_a_trained_model_answers(store_dir: Path, tmp_path: Path) -> None:
    run = learn(store_dir, tmp_path, replace(RELATIVE, max_positions=80), steps=20)
    model = Model.load(run.path)
    rows = [{"number": "7"}, {"number": "31"}]
    answers = [p.text for p in model.infer("spell", rows)]
    assert answers == [p.text for row in rows for p in model.infer("spell", [row])]
    digits = [{"image": row["image"]} for row in read_digits()[:3]]
    assert {p.text for p in model.infer("digits", digits)} <= {*"0123456789"}
    with pytest.raises(PlanError, match="the model has 80 positions") as caught:
        replace(model, max_length=80, _writers={}).infer("spell", rows)
    assert [problem.code for problem in caught.value.problems] == ["T0232"]


def make_pack(sources: list[int], *, target: int, num_ids: int) -> dict[str, torch.Tensor]:
    """Return a pack of documents with sources of these lengths, and targets of one."""
    generator = torch.Generator().manual_seed(1)
    total = len(sources) * target
    starts = torch.tensor([0, *sources]).cumsum(0)
    of_source = torch.repeat_interleave(torch.arange(len(sources)), torch.tensor(sources))
    of_target = torch.arange(len(sources)).repeat_interleave(target)
    index = torch.arange(total)
    pack = {
        "source_ids": torch.randint(4, num_ids, (sum(sources),), generator=generator),
        "source_positions": torch.arange(sum(sources)) - starts[of_source],
        "source_keys": torch.stack((starts[of_source], starts[of_source + 1])),
        "target_ids": torch.randint(4, num_ids, (total,), generator=generator),
        "target_positions": index % target,
        "target_keys": torch.stack((index - index % target, index + 1)),
        "cross_keys": torch.stack((starts[of_target], starts[of_target + 1])),
    }
    return {name: tensor.int() for name, tensor in pack.items()}
