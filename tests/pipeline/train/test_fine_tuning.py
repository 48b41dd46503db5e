"""A run that begins with another's weights keeps what both have bit for bit, and learns what is new."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taskloom.pipeline import Mixture, Model, Run, Source, Task, build, train
from taskloom.pipeline.config.project import load_project
from taskloom.pipeline.model.consolidating import consolidate
from taskloom.pipeline.settings import ScopeRule
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.storage.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint

from .stores import CONFIG, MODEL, are_equal, continue_run, read_digits, spell_numbers

STILL: dict[str, Any] = {"learning_rate": 0.0, "steps": 1}
"""A step that changes nothing."""

TABLE = "scopes.vocabulary.weight_VC"
SLOTS = {"IMAGE": {"size": 16, "patch": 8}}
SPELL = Task("spell", "write [TEXT:number] -> [TEXT:words]", source=Source("n", spell_numbers()))
DIGITS = Task(
    "digits", "[IMAGE:image] which digit? -> [TEXT:label]", source=Source("d", read_digits()[:40])
)
BOXES = Task(
    "boxes",
    "where is [TEXT:number] -> [BOX:box]",
    source=Source("b", [{"number": f"{n}", "box": f"{n},0,{n + 9},20,64,64"} for n in range(40)]),
)


def last_of(out: Path) -> Checkpoint:
    return read_checkpoint(latest_checkpoint(out) or out, with_training=True)


def learn(tasks: list[Task], folder: Path, out: str, *, bpe_size: int = 280, **more: Any) -> Run:
    mixture = Mixture(tasks, slots=SLOTS, bpe_size=bpe_size)
    build(mixture, folder / f"store-{out}", progress=False)
    settings: dict[str, Any] = {"model": MODEL, "config": CONFIG, "progress": False, "steps": 4}
    return train(mixture, folder / f"store-{out}", out=folder / out, **(settings | more))


def tokens_of(run: Path) -> list[str]:
    """Return what each id of texts stands for in the model of a run."""
    content = json.loads(last_of(run).artifacts["bpe-main"])
    numbers: dict[str, int] = content["model"]["vocab"]
    return sorted(numbers, key=numbers.__getitem__)


def table_of(run: Path) -> Tensor:
    return last_of(run).tensors[TABLE]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one task, with an average."""
    folder = tmp_path_factory.mktemp("base")
    learn([SPELL], folder, "base", ema=0.5)
    return folder


def test_blocks_that_both_have_keep_their_rows_and_new_ones_are_new(base: Path) -> None:
    learn([BOXES, SPELL], base, "boxes", weights=str(base / "base"), **STILL)
    record = last_of(base / "boxes").record
    assert [name for name, _ in record["vocabulary"]] == ["special", "text", "bin"]
    tokens = {token: row for row, token in enumerate(tokens_of(base / "base"), 4)}
    ours, theirs = table_of(base / "boxes"), table_of(base / "base")
    known = 0
    for row, token in enumerate(tokens_of(base / "boxes"), 4):
        if token in tokens:
            known += 1
            assert torch.equal(ours[row], theirs[tokens[token]]), token
        else:
            assert not (ours[row] == theirs).all(1).any(), token
    assert known >= 256
    assert torch.equal(ours[:4], theirs[:4])
    assert len(ours) == len(theirs) + 1000
    assert not (ours[-1000:, None] == theirs).all(2).any()


def test_texts_of_another_vocabulary_find_their_rows_by_their_bytes(base: Path) -> None:
    other = replace(
        SPELL, source=Source("n", [{"number": f"{n}", "words": "six sixty"} for n in range(50)])
    )
    learn([other], base, "other", bpe_size=270, weights=str(base / "base"), **STILL)
    before, after = tokens_of(base / "base"), tokens_of(base / "other")
    assert before[:256] == after[:256]
    both = [token for token in after[256:] if token in before]
    moved = [token for token in both if before.index(token) != after.index(token)]
    assert moved, "or the test shows nothing"
    ours, theirs = table_of(base / "other")[4:], table_of(base / "base")[4:]
    for token in both:
        assert torch.equal(ours[after.index(token)], theirs[before.index(token)]), token
    fresh = [token for token in after if token not in before]
    assert fresh
    for token in fresh:
        assert not (ours[after.index(token)] == theirs).all(1).any(), token


def test_a_new_modality_begins_anew_beside_what_was_learned(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn([SPELL, DIGITS], base, "digits", weights=str(base / "base"), progress=True, **STILL)
    ours, theirs = last_of(base / "digits").tensors, last_of(base / "base").tensors
    shared = ours.keys() & theirs.keys() - {TABLE}
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    new = ours.keys() - theirs.keys()
    assert new
    assert all(name.startswith("scopes.adapter__image") for name in new)
    told = capsys.readouterr().err
    assert all(f"begins anew: {name}" in told for name in new)


def test_a_model_that_computes_otherwise_with_the_same_weights_is_told_of(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = MODEL.num_heads // 2
    model = replace(MODEL, num_heads=heads)
    for out, more in (("same", {}), ("heads", {"model": model})):
        learn([SPELL], base, out, weights=str(base / "base"), progress=True, **more, **STILL)
        told = f"than where it was learned: num_heads was {MODEL.num_heads}, is {heads}"
        assert (told in capsys.readouterr().err) == (out == "heads")


def test_layers_that_only_the_checkpoint_has_are_told_of(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn([SPELL], base, "deep", model=replace(MODEL, num_encoder_layers=2), steps=1)
    learn([SPELL], base, "flat", weights=str(base / "deep"), progress=True, **STILL)
    dropped = last_of(base / "deep").tensors.keys() - last_of(base / "flat").tensors.keys()
    told = capsys.readouterr().err
    assert dropped
    assert all(f"is left out: {name}" in told for name in dropped)


@pytest.mark.parametrize("learned", ["nothing new", "all that is new"])
def test_what_begins_anew_and_is_not_learned_is_told_of(
    base: Path, capsys: pytest.CaptureFixture[str], learned: str
) -> None:
    scopes = {"*": ScopeRule(learn="frozen"), "decoder": ScopeRule()}
    if learned == "all that is new":
        scopes |= {"adapter.*": ScopeRule(), "vocabulary": ScopeRule()}
    more: dict[str, Any] = {"weights": str(base / "base"), "progress": True, "scopes": scopes}
    learn([SPELL, DIGITS, BOXES], base, learned, **more, **STILL)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  ")]
    rests = [line for line in told if "as it was drawn" in line or "as they were drawn" in line]
    assert any("adapter__image" in line for line in told)
    assert rests == (told if learned == "nothing new" else [])
    assert (rests[-1:] or [""])[0].startswith("  new ids stay") == (learned == "nothing new")


@pytest.mark.slow
def test_training_goes_on_from_it_and_then_from_its_own_checkpoints(base: Path) -> None:
    settings: dict[str, Any] = {"weights": str(base / "base"), "steps": 30, "log_every": 5}
    learn([BOXES, SPELL], base, "more", stop_at=10, **settings)
    learn([BOXES, SPELL], base, "more", **settings)
    learn([BOXES, SPELL], base, "at-once", **settings)
    parts, whole = (last_of(base / name) for name in ("more", "at-once"))
    assert are_equal(parts.tensors, whole.tensors)
    assert are_equal(parts.training, whole.training)
    lines = read_log(base / "more")
    assert all(
        lines[-1]["tasks"][task]["loss"] < lines[0]["tasks"][task]["loss"]
        for task in ("boxes", "spell")
    )


@pytest.mark.slow
def test_old_parts_rest_while_new_ones_learn(base: Path) -> None:
    scopes = {"*": ScopeRule(learn="frozen"), "adapter.*": ScopeRule(rate=2.0)}
    settings: dict[str, Any] = {"weights": str(base / "base"), "scopes": scopes, "steps": 5}
    learn([SPELL, DIGITS], base, "resting", **settings)
    ours, theirs = last_of(base / "resting").tensors, last_of(base / "base").tensors
    shared = ours.keys() & theirs.keys() - {TABLE}
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)


LORA = {"*": ScopeRule(learn="lora", rank=2), "*norm*": ScopeRule(learn="frozen")}


def is_pair(name: str) -> bool:
    return ".lora_" in name


@pytest.mark.parametrize(
    "more", [{"ema": 0.5}, pytest.param({"precision": "bfloat16"}, marks=pytest.mark.slow)]
)
def test_pairs_learn_beside_weights_that_stay_and_a_model_has_them_folded(
    base: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"weights": str(base / "base"), "scopes": LORA, "steps": 8, **more}
    run = learn([SPELL], tmp_path, "whole", **settings)
    learn([SPELL], tmp_path, "parts", stop_at=3, **settings)
    learn([SPELL], tmp_path, "parts", **settings)
    whole, parts = (last_of(tmp_path / name) for name in ("whole", "parts"))
    assert are_equal(whole.tensors, parts.tensors)
    assert are_equal(whole.training, parts.training)

    theirs = last_of(base / "base").tensors
    assert {name for name in whole.tensors if not is_pair(name)} == theirs.keys()
    assert all(torch.equal(whole.tensors[name], theirs[name]) for name in theirs)
    assert set(whole.training["optimizer"]) <= {name for name in whole.tensors if is_pair(name)}
    assert "learned: " in "\n".join(run.header)
    assert "* by pairs of rank 2 at 1 of the rate" in "\n".join(run.header)

    model = dict(Model.load(tmp_path / "whole").program.state_dict())
    assert model.keys() == theirs.keys()
    assert are_equal(dict(run.model.program.state_dict()), model)
    matrix = "scopes.encoder.layers.0.ffn.up"
    pair = [whole.tensors[f"{matrix}.lora_{part}"] for part in ("up_OR", "down_RC", "scale")]
    expected = theirs[f"{matrix}.weight"] + pair[2] * pair[0] @ pair[1]
    torch.testing.assert_close(model[f"{matrix}.weight"], expected)
    assert not torch.equal(model[f"{matrix}.weight"], theirs[f"{matrix}.weight"])

    consolidate(tmp_path / "whole", tmp_path / "handed on")
    assert not any(map(is_pair, last_of(tmp_path / "handed on").tensors))
    handed_on = Model.load(tmp_path / "handed on")
    assert are_equal(dict(handed_on.program.state_dict()), model)
    rows = [{"number": str(number)} for number in range(12)]
    answers, expected_answers = (each.infer("spell", rows) for each in (handed_on, run.model))
    assert answers == expected_answers

    learn([SPELL], tmp_path, "next", weights=str(tmp_path / "whole"), **STILL)
    assert are_equal(last_of(tmp_path / "next").tensors, model)
    learn([SPELL], tmp_path, "again", weights=str(tmp_path / "whole"), scopes=LORA, **STILL)
    again = dict(Model.load(tmp_path / "again").program.state_dict())
    assert are_equal(again, model), "pairs of one run are weights of the next"


@pytest.mark.slow
def test_any_checkpoint_of_a_run_may_be_begun_with(store_dir: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    continue_run(store_dir, first, steps=8, checkpoint_every=4)
    for step in (4, 8):
        weights = first / f"step-{step:08d}"
        continue_run(store_dir, tmp_path / str(step), weights=str(weights), **STILL)
        begun = read_checkpoint(weights).tensors
        assert are_equal(last_of(tmp_path / str(step)).tensors, begun)
    continue_run(store_dir, tmp_path / "last", weights=str(first), **STILL)
    assert are_equal(last_of(tmp_path / "last").tensors, last_of(tmp_path / "8").tensors)


def test_weights_of_a_project_are_found_from_where_its_file_stands(tmp_path: Path) -> None:
    tasks = '{a: {instruction: "[TEXT:a] -> [TEXT:b]", source: a.csv}}'
    text = f"store: s\nout: o\ntasks: {tasks}\ntrain: {{weights: ../other/run}}\n"
    (tmp_path / "p.yaml").write_text(text)
    assert load_project(tmp_path / "p.yaml").train.weights == str(tmp_path.parent / "other" / "run")
