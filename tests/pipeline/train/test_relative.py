"""A model with relative positions is planned, trained and resumed as any other, on the packs of any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.graph.errors import PlanError
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Run, Task, train
from taskloom.pipeline.importing import export_state, import_checkpoint
from taskloom.pipeline.planning import plan
from taskloom.pipeline.run_log import read_log
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint

from .stores import CONFIG, MODEL, make_mixture

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
    state = export_state(latest(tmp_path / "first"))
    torch.save({"model": state}, tmp_path / "state.pt")
    import_checkpoint(tmp_path / "state.pt", tmp_path / "imported")
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
    # Its dictionary is not in the file, and OFASys has no name for patches of two sizes: these begin anew.
    assert all(name.startswith(("scopes.vocabulary.", "scopes.adapter__")) for name in others)
    assert "scopes.vocabulary.weight_VC" in others
    assert all(torch.allclose(before[name], third[name], atol=1e-9) for name in before)


def test_images_that_a_trunk_does_not_see_are_refused() -> None:
    model = replace(RELATIVE, trunk="resnet50")
    task = Task("caption", "[IMAGE:img,size=64,patch=8] what is it? -> [TEXT:cap]")
    with pytest.raises(PlanError, match="sees cells of 16 pixels, not of 8") as caught:
        plan(task, model=model)
    assert [problem.code for problem in caught.value.problems] == ["T0230"]
    task = Task("caption", "[IMAGE:img,size=688,patch=16] what is it? -> [TEXT:cap]")
    with pytest.raises(PlanError, match="688 x 688 have too many cells"):
        plan(task, model=model)
