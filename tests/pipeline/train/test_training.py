"""A run learns, says what it learns from, and leaves a log and checkpoints that anyone can read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.graph.errors import LoaderError, StoreError, TrainingError
from taskloom.pipeline import Mixture, Run, Source, Task, build, train
from taskloom.pipeline.trainer.run_log import HEADER, NAME, RunLog, read_log
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint

from .stores import CONFIG, MODEL, continue_run, make_tasks, spell_numbers


def test_the_loss_of_every_task_falls(run: Run) -> None:
    lines = read_log(run.path)
    first, last = (lines[at]["tasks"] for at in (0, -1))
    assert first.keys() == last.keys() == {"digits", "spell"}
    assert all(last[task]["loss"] < first[task]["loss"] - 0.5 for task in first)


def test_a_line_of_the_log_says_what_happened_since_the_one_before(run: Run) -> None:
    lines = read_log(run.path)
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    for line in lines:
        tasks = line["tasks"].values()
        labels = sum(task["labels"] for task in tasks)
        mean = sum(task["loss"] * task["labels"] for task in tasks) / labels
        assert line["loss"] == pytest.approx(mean)
        assert line["tokens"] > labels
        assert line["gradient_norm"] > 0
        assert line["seconds"] >= line["waited_s"] >= 0


def test_the_rate_rises_then_falls_to_its_last_share(store_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 20, "log_every": 1, "warmup": 0.25, "final_rate": 0.1}
    continue_run(store_dir, tmp_path, **settings)
    rates = [line["rate"] / CONFIG.learning_rate for line in read_log(tmp_path)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(later < earlier for earlier, later in pairwise(rates[5:]))
    assert 0.1 < rates[-1] < 0.12


def test_two_packs_a_step_learn_from_twice_the_tokens(store_dir: Path, tmp_path: Path) -> None:
    for packs in (1, 2):
        continue_run(store_dir, tmp_path / str(packs), steps=10, packs_per_step=packs)
    one, two = (read_log(tmp_path / str(packs))[-1]["tokens"] for packs in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.1)


def test_the_header_says_what_is_learned_from_and_with(run: Run) -> None:
    text = "\n".join(run.header)
    for task in ("digits", "spell"):
        said = re.search(
            rf"^{task}: (\d+)% of samples, \d+% of tokens, .* epochs in 60 steps", text, re.M
        )
        assert said
        assert int(said[1]) > 20
    assert re.search(r"^packs are filled: source [\d.]+% of 256, .* weighted by FLOPs", text, re.M)
    sizes = read_checkpoint(run.path / "step-00000060").tensors
    number = sum(tensor.numel() for tensor in sizes.values())
    assert f"{number:,} parameters: vocabulary" in text
    assert 'on cpu, not compiled (compile="on" compiles)' in text


def test_only_the_last_checkpoints_are_kept(run: Run) -> None:
    assert sorted(path.name for path in run.path.iterdir()) == [
        HEADER,
        NAME,
        "measures.json",
        "step-00000040",
        "step-00000060",
    ]


def test_a_checkpoint_says_what_its_numbers_mean(run: Run) -> None:
    record = read_checkpoint(run.path / "step-00000060").record
    assert record["taskloom"][0].isdecimal()
    assert record["tasks"] == {task.name: task.instruction for task in make_tasks(has_rows=False)}
    assert record["vocabulary"] == [["special", 4], ["text", 300]]
    assert record["ops"]["encode_texts"] == 1
    assert record["pinned"].keys() == {"bpe-main", "closed-set-digits.label"}
    assert record["graph"]


def test_training_leaves_the_callers_random_numbers_and_threads_alone(
    store_dir: Path, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    expected, num_threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(7)
    continue_run(store_dir, tmp_path, steps=2, threads=num_threads + 1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == num_threads


def test_one_seed_gives_one_run_and_another_another(store_dir: Path, tmp_path: Path) -> None:
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        continue_run(store_dir, tmp_path / name, steps=3, log_every=1, seed=seed)
    a, b, c = ([line["loss"] for line in read_log(tmp_path / name)] for name in "abc")
    assert a == b
    assert a != c


def test_weights_decide_the_shares_of_tasks(store_dir: Path, tmp_path: Path) -> None:
    digits, spell = make_tasks(has_rows=False)
    weighted = Mixture(
        [replace(digits, weight=3.0), replace(spell, weight=1.0)],
        slots={"IMAGE": {"size": 16, "patch": 8}},
        bpe_size=300,
    )
    done = train(
        weighted, store_dir, out=tmp_path, model=MODEL, config=CONFIG, steps=1, progress=False
    )
    assert "digits: 75% of samples" in "\n".join(done.header)


def test_the_run_is_shown_on_standard_error_in_whole_lines(
    store_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixture = Mixture(
        make_tasks(has_rows=False), slots={"IMAGE": {"size": 16, "patch": 8}}, bpe_size=300
    )
    done = train(mixture, store_dir, out=tmp_path, model=MODEL, config=CONFIG, steps=1)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == list(done.header)


def begin_log(run: Path, step: int) -> RunLog:
    log = RunLog()
    log.began(run, [], {"step": step})
    return log


def test_lines_of_steps_that_were_lost_are_dropped_when_a_log_is_opened(tmp_path: Path) -> None:
    whole = [json.dumps({"step": step}) + "\n" for step in (10, 20, 30, 40)]
    (tmp_path / NAME).write_text("".join(whole) + '{"step": 5', "utf-8")
    log = begin_log(tmp_path, 30)
    log.logged({"step": 31})
    log.ended("done")
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 30, 31]


def test_a_line_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"step": 10}\n{"step": 2', "utf-8")
    assert read_log(tmp_path) == [{"step": 10}]


def test_a_run_whose_place_is_a_file_is_refused_before_training(
    store_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine", "utf-8")
    with pytest.raises(StoreError, match=r"T0512.*out: File exists"):
        continue_run(store_dir, tmp_path / "out")
    assert (tmp_path / "out").read_text("utf-8") == "mine"


def test_a_number_that_is_none_never_enters_the_log(tmp_path: Path) -> None:
    log = begin_log(tmp_path, 0)
    with pytest.raises(ValueError, match="JSON"):
        log.logged({"step": 1, "loss": float("nan")})
    log.ended("stopped")
    assert read_log(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        pytest.param({"step": 3}, ['no setting "step"', "did you mean steps?"], id="unknown"),
        pytest.param({"steps": 0}, ["steps must be at least 1, got 0"], id="out of range"),
        pytest.param({"steps": "9"}, ["steps must be a whole number, got '9'"], id="text"),
        pytest.param({"compile": "yes"}, ["compile is one of auto, on, off"], id="no choice"),
        pytest.param({"source_tokens": 200}, ["must be a multiple of 128"], id="no multiple"),
        pytest.param(
            {"clip": -1.0, "final_rate": 2.0, "learning_rate": float("nan")},
            [
                "clip must be at least 0",
                "final_rate is a share",
                "learning_rate must be at least 0",
            ],
            id="several at once",
        ),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    settings: dict[str, Any], messages: list[str], store_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as caught:
        continue_run(store_dir, tmp_path / "out", **settings)
    for message in messages:
        assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_ends_the_run_and_is_never_saved(
    store_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as caught:
        continue_run(store_dir, tmp_path, learning_rate=1e38, clip=0.0, checkpoint_every=1)
    text = str(caught.value)
    assert re.search(r"of .*(digits|spell).* is no longer a finite number at step \d", text)
    last = latest_checkpoint(tmp_path)
    assert last is not None
    assert f"{last} is still good" in text
    for path in tmp_path.glob("step-*"):
        tensors = read_checkpoint(path).tensors.values()
        assert all(bool(tensor.isfinite().all()) for tensor in tensors)


def test_training_on_an_unbuilt_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        continue_run(tmp_path / "none", tmp_path / "out")


def test_a_task_that_was_never_built_is_named(store_dir: Path, tmp_path: Path) -> None:
    tasks = make_tasks(has_rows=False)
    added = Task("more", "[TEXT:words] -> [TEXT:number]", source=tasks[1].source)
    with pytest.raises(
        StoreError, match=r'task "more" is not built: more\S+ lacks 1 of 1 partitions'
    ):
        train(
            Mixture([*tasks, added], slots={"IMAGE": {"size": 16, "patch": 8}}, bpe_size=300),
            store_dir,
            out=tmp_path,
        )


def test_tasks_without_training_rows_are_named_with_the_reason(tmp_path: Path) -> None:
    rows = [row | {"picture": b"none"} for row in spell_numbers()]
    tasks = [
        Task("all-held-out", "[TEXT:number] -> [TEXT:words]", source=Source("a", {"test": rows})),
        Task(
            "filtered",
            "[TEXT:number] -> [TEXT:words]",
            source=Source("b", rows),
            where="number == '?'",
        ),
        Task("bad", "[IMAGE:picture] -> [TEXT:words]", source=Source("c", rows)),
        Task("good", "[TEXT:number] -> [TEXT:words]", source=Source("d", rows)),
    ]
    build(tasks, tmp_path / "store", progress=False)
    with pytest.raises(LoaderError) as caught:
        train(tasks, tmp_path / "store", out=tmp_path / "out", progress=False)
    text = str(caught.value)
    assert 'task "all-held-out" has no training rows' in text
    assert 'task "filtered" has no training rows' in text
    assert 'task "bad" has no training rows: none of 100 could be computed' in text
    assert '"good"' not in text


def test_documents_longer_than_a_pack_are_refused_by_task(store_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match='of the 173 documents of task "digits" fits') as caught:
        continue_run(store_dir, tmp_path, max_document=8)
    assert "a document may take 8 and" in str(caught.value)
