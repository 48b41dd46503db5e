"""A run keeps the checkpoints it is asked to keep, tells what could not be written, and becomes a model."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.graph.errors import CheckpointError, MissingExtraError, StoreError
from taskloom.pipeline import Model, Run, train
from taskloom.pipeline.cli import main
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.consolidating import consolidate
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.pipeline.trainer.saving import Saver, open_mirror
from taskloom.storage.checkpoint import list_checkpoints, read_checkpoint, step_of
from taskloom.storage.mirror import list_copies
from taskloom.storage.remote import RemoteFolder

from ...s3 import SECRET, make_bucket, objects, reading_only, use
from ..rows import tree
from .stores import CONFIG, MODEL, are_equal, continue_run, make_mixture

MakeSaver = Callable[..., Saver]


@pytest.fixture(scope="module")
def learner(stream: Stream) -> Learner:
    return Learner.make(stream.plan, CONFIG, torch.device("cpu"))


@pytest.fixture
def make_saver(learner: Learner, tmp_path: Path) -> MakeSaver:
    """Makes a saver of one run, as it is made again when the run is gone on with."""

    def make(run: Path = tmp_path / "run", **settings: object) -> Saver:
        return Saver(run, learner, replace(CONFIG, **settings))

    return make


def save_steps(saver: Saver, steps: Sequence[int]) -> list[int]:
    """Save at ``steps``, and return those whose checkpoints are left."""
    for step in steps:
        saver.learner.step = step
        saver.save({"step": step}, {})
    saver.finish()
    return [step_of(path) for path in list_checkpoints(saver.run)]


def told_by(run: Path) -> dict[str, bytes]:
    """Return the files of a run that are in no checkpoint, by name."""
    files = (path for path in run.rglob("*") if path.is_file())
    named = {str(path.relative_to(run)): path for path in files}
    return {name: p.read_bytes() for name, p in named.items() if not name.startswith("step-")}


def told_by_mirror(mirror: RemoteFolder) -> dict[str, bytes]:
    """Return the same of what is behind a URL."""
    names = [*mirror.files(""), *(f"samples/{name}" for name in mirror.files("samples"))]
    return mirror.read_many(names)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        pytest.param({"keep_checkpoints": 2}, [50, 60], id="last"),
        pytest.param({"keep_checkpoints": 1, "keep_every": 20}, [20, 40, 60], id="every"),
        pytest.param({"keep_checkpoints": 9}, [10, 20, 30, 40, 50, 60], id="all"),
    ],
)
def test_the_last_checkpoints_and_every_so_many_steps_are_kept(
    make_saver: MakeSaver, settings: dict[str, int], left: list[int]
) -> None:
    assert save_steps(make_saver(**settings), range(10, 70, 10)) == left


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        pytest.param("loss", 20, id="lowest loss"),
        pytest.param("spell.exact", 10, id="highest of others"),
        pytest.param("error_of_loss.score", 10, id="whatever the task is called"),
    ],
)
def test_the_best_checkpoint_is_kept_also_when_the_run_was_gone_on_with(
    make_saver: MakeSaver, metric: str, best: int
) -> None:
    values = {10: 0.9, 20: 0.5, 30: 0.7, 40: float("nan"), 50: 0.6}
    for steps in ([10, 20], [30, 40, 50]):
        saver = make_saver(keep_checkpoints=1, keep_best=metric)
        for step in steps:
            save_steps(saver, [step])
            saver.note(step, {metric: values[step], "others": 1.0})
    assert save_steps(saver, [60]) == [best, 60]


def test_a_run_keeps_the_checkpoint_that_its_log_calls_the_best_beside_the_last(
    store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the ninth step on the rate is so high that what was learned is lost."""

    def leap(_: object, step: int) -> float:
        return 0.02 if step < 8 else 30.0

    monkeypatch.setattr("taskloom.pipeline.trainer.learner.rate_at", leap)
    out = tmp_path / "run"
    told: dict[str, Any] = {"evaluate_every": 2, "evaluate_rows": 8, "evaluate_share": 1.0}
    keep: dict[str, Any] = {"metric": "loss", "keep_best": "loss", "keep_checkpoints": 1}
    continue_run(store_dir, out, steps=16, stop_at=12, checkpoint_every=5, **told, **keep)
    lines = [line for line in read_log(out) if "evaluation" in line]
    assert [line["step"] for line in lines] == [*range(2, 13, 2)]
    best = [line["step"] for line in lines if line["evaluation"]["is_best"]][-1]
    assert best == 8
    kept = list_checkpoints(out)
    assert [step_of(path) for path in kept] == [8, 12]
    assert read_checkpoint(kept[0]).record["step"] == 8


def test_what_was_not_evaluated_is_not_the_best(make_saver: MakeSaver) -> None:
    saver = make_saver(keep_checkpoints=1, keep_best="loss")
    saver.note(10, {"others": 0.0})
    assert save_steps(saver, [10, 20]) == [20]
    assert not (saver.run / "best.json").exists()


def test_a_write_that_fails_is_raised_when_the_next_is_due_and_leaves_nothing(
    make_saver: MakeSaver, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    saver = make_saver(tmp_path / "file" / "run")
    saver.learner.step = 1
    saver.save({"step": 1}, {})
    with pytest.raises(CheckpointError, match=r"T0704.*cannot write checkpoint .*step-00000001"):
        saver.save({"step": 2}, {})
    saver.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_outlives_its_machine_behind_a_url(run: Run, store_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"mirror": f"memory://{tmp_path.name}/run", "keep_checkpoints": 1}
    continue_run(store_dir, tmp_path / "lost", stop_at=41, **settings)
    mirror = open_mirror(settings["mirror"])
    assert list_copies(mirror) == ["step-00000041"]
    mirror.write("step-00000099/model.safetensors", b"of a copy that was killed")
    # Nothing but the mirror is left.
    (tmp_path / "lost").rename(tmp_path / "gone")
    assert continue_run(store_dir, tmp_path / "lost", **settings).step == 60
    ours, theirs = (
        read_checkpoint(path / "step-00000060") for path in (tmp_path / "lost", run.path)
    )
    assert are_equal(ours.tensors, theirs.tensors)
    assert list_copies(mirror) == ["step-00000060"]


def test_a_run_behind_a_url_has_told_all_that_it_has_told_here(
    run: Run, store_dir: Path, tmp_path: Path
) -> None:
    url = f"memory://{tmp_path.name}/told"
    told: dict[str, Any] = {"evaluate_every": 20, "evaluate_rows": 8, "evaluate_share": 1.0}
    settings: dict[str, Any] = {"mirror": url, "keep_best": "loss", **told}
    lost, here = tmp_path / "lost", tmp_path / "here"
    continue_run(store_dir, lost, stop_at=41, **settings)
    assert told_by(lost) == told_by_mirror(open_mirror(url))
    continue_run(store_dir, here, **settings)
    steps = [line["step"] for line in read_log(run.path)]
    assert [line["step"] for line in read_log(here) if "loss" in line] == steps
    assert [line["step"] for line in read_log(here) if "evaluation" in line] == [20, 40, 60]
    assert told_by(lost).keys() <= told_by(here).keys()
    assert {f"samples/step-000000{step}.jsonl" for step in (20, 40, 60)} <= told_by(here).keys()
    assert told_by(here) == told_by_mirror(open_mirror(url))


def test_copies_that_are_kept_for_good_outlive_the_machine_that_wrote_them(
    store_dir: Path, tmp_path: Path
) -> None:
    keep: dict[str, Any] = {"keep_checkpoints": 1, "keep_every": 2, "checkpoint_every": 1}
    settings = {"mirror": f"memory://{tmp_path.name}/kept", **keep}
    for where, stop in (("lost", 3), ("here", 6)):
        continue_run(store_dir, tmp_path / where, stop_at=stop, **settings)
    assert [step_of(path) for path in list_checkpoints(tmp_path / "here")] == [4, 6]
    copies = list_copies(open_mirror(settings["mirror"]))
    assert copies == ["step-00000002", "step-00000004", "step-00000006"]


def test_what_was_told_of_steps_that_were_lost_is_told_anew(
    store_dir: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"mirror": f"memory://{tmp_path.name}/killed", "log_every": 1}
    continue_run(store_dir, tmp_path / "lost", stop_at=20, **settings)
    mirror = open_mirror(settings["mirror"])
    further = json.dumps({"step": 21, "loss": 0.0})
    mirror.write("log.jsonl", mirror.read("log.jsonl") + f'{further}\n{{"step": 2'.encode())
    continue_run(store_dir, tmp_path / "here", stop_at=22, **settings)
    lines = read_log(tmp_path / "here")
    assert [line["step"] for line in lines] == [*range(1, 23)]
    assert lines[20]["loss"] > 0


def test_a_machine_that_comes_back_goes_on_with_what_others_have_done_since(
    store_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"mirror": f"memory://{tmp_path.name}/run", "checkpoint_every": 1000}
    continue_run(store_dir, tmp_path / "first", stop_at=10, **settings)
    continue_run(store_dir, tmp_path / "second", stop_at=40, **settings)
    mixture = make_mixture(has_rows=False)
    back: dict[str, Any] = {"out": tmp_path / "first", "model": MODEL, "config": CONFIG}
    assert train(mixture, store_dir, stop_at=41, **back, **settings).step == 41
    assert f"fetched step-00000040 of {settings['mirror']}" in capfd.readouterr().err
    saved = [step_of(path) for path in list_checkpoints(tmp_path / "first")]
    assert saved == [40, 41]


@pytest.mark.parametrize(
    "mirror", ["somewhere", "file:///somewhere", "s3://user:secret@bucket/run"]
)
def test_a_mirror_that_is_no_url_or_holds_a_secret_is_refused(
    store_dir: Path, tmp_path: Path, mirror: str
) -> None:
    with pytest.raises(StoreError, match="T0501") as caught:
        continue_run(store_dir, tmp_path / "run", mirror=mirror)
    assert "secret" not in str(caught.value).replace("holds a", "")


def test_a_mirror_without_its_bucket_is_refused_before_anything_is_learned_or_told(
    store_dir: Path, tmp_path: Path, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(s3, monkeypatch)
    with pytest.raises(StoreError) as caught:
        continue_run(store_dir, tmp_path / "run", mirror="s3://nowhere/run")
    assert re.search(
        r"error\[T0520\]: mirror: cannot write s3://nowhere/run.*: there is no such bucket\n"
        r"   = make the bucket first",
        str(caught.value),
    )
    assert not (tmp_path / "run").exists()


def test_a_mirror_that_may_only_be_read_is_refused_before_anything_is_learned_or_told(
    store_dir: Path, tmp_path: Path, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_bucket(s3, "read-only")
    with reading_only(s3) as options:
        use(options, monkeypatch)
        with pytest.raises(StoreError) as caught:
            continue_run(store_dir, tmp_path / "run", mirror=url)
    assert re.search(
        r"error\[T0506\]: mirror: no permission for s3://read-only/.*\n   = set up credentials that may",
        str(caught.value),
    )
    assert objects(url, s3) == {}
    assert not (tmp_path / "run").exists()


def test_a_mirror_that_nothing_answers_for_is_named_before_training(
    store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use({"key": "me", "secret": SECRET, "endpoint_url": "http://127.0.0.1:9"}, monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"T0520.*mirror: cannot reach s3://bucket/run") as caught:
        continue_run(store_dir, tmp_path / "run", mirror="s3://bucket/run")
    assert "storage_options" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="the library of gs:// is here")
def test_a_mirror_whose_library_is_not_installed_is_named_before_training(
    store_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingExtraError, match=r"T0901.*mirror: gs:// needs a library"):
        continue_run(store_dir, tmp_path / "run", mirror="gs://bucket/run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_only_given_back_writes_to_no_mirror(
    run: Run, store_dir: Path, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_bucket(s3, "given-back")
    with reading_only(s3) as options:
        use(options, monkeypatch)
        assert continue_run(store_dir, run.path, mirror=url).step == 60


def test_a_consolidated_run_is_the_model_and_nothing_else(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert consolidate(run.path, out) == run.path / "step-00000060"
    names = {path.name for path in out.iterdir()}
    assert names == {"artifacts", "manifest.json", "model.safetensors", "record.json"}
    ours, theirs = (dict(Model.load(path).program.state_dict()) for path in (out, run.path))
    assert are_equal(ours, theirs)
    assert read_checkpoint(out, with_training=True).training is None
    with pytest.raises(CheckpointError, match=r"T0705.*model exists already"):
        consolidate(run.path, out)


def test_nothing_is_trained_into_a_consolidated_model(
    run: Run, store_dir: Path, tmp_path: Path
) -> None:
    consolidate(run.path, tmp_path / "model")
    before = tree(tmp_path)
    with pytest.raises(CheckpointError, match=r"T0724.*model holds a model, but no optimizer"):
        continue_run(store_dir, tmp_path / "model")
    assert tree(tmp_path) == before


def test_the_command_line_consolidates(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    words = ["taskloom", "consolidate", str(run.path), str(out)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == f"{out} holds the model of {run.path}/step-00000060"
