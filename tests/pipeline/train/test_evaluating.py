"""Evaluating tells how a run does on rows it never saw, where time allows, and changes nothing it learns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from PIL import Image

from taskloom.graph.errors import TrainingError
from taskloom.pipeline import Mixture, Run, build, evaluate, train
from taskloom.pipeline.answerer.exam import Exam
from taskloom.pipeline.builder.dataset import open_dataset
from taskloom.pipeline.trainer.evaluating import Evaluated
from taskloom.pipeline.trainer.referee import Referee
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.storage.checkpoint import latest_checkpoint, read_checkpoint
from taskloom.storage.store import Store

from .launching import run_ranks
from .stores import CONFIG, MODEL, are_equal, make_tasks

_GO = """
import json, sys
from pathlib import Path
from tests.pipeline.train.test_evaluating import go
go(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))
"""
SLOTS = {"IMAGE": {"size": 16, "patch": 8}}
ALWAYS: dict[str, Any] = {"evaluate_every": 10, "evaluate_share": 1.0, "evaluate_rows": 8}


def make(*, has_rows: bool = True) -> Mixture:
    """Return both tasks, each with rows for validation."""
    digits, spell = make_tasks(has_rows=has_rows)
    return Mixture([digits, replace(spell, valid=0.2)], slots=SLOTS, bpe_size=300)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of both tasks."""
    path = tmp_path_factory.mktemp("validated") / "store"
    build(make(), path, progress=False)
    return path


def go(store: Path, out: Path, **settings: Any) -> Run:
    mixture = make(has_rows=False)
    return train(mixture, store, out=out, model=MODEL, config=CONFIG, progress=False, **settings)


@pytest.fixture(scope="module")
def done(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 60 steps that is evaluated every 10; tests leave it as it is."""
    return go(store, tmp_path_factory.mktemp("evaluated"), **ALWAYS)


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_log(run) if "evaluation" in line]


def test_a_run_learns_the_same_whether_it_is_evaluated_or_not(
    done: Run, store: Path, tmp_path: Path
) -> None:
    assert MODEL.dropout > 0
    go(store, tmp_path, evaluate_every=0)
    ours, theirs = (latest_checkpoint(path) for path in (done.path, tmp_path))
    assert ours is not None
    assert theirs is not None
    one, other = (read_checkpoint(path, with_training=True) for path in (ours, theirs))
    assert are_equal(one.tensors, other.tensors)
    assert are_equal(one.training, other.training)
    assert one.record == other.record
    assert not evaluations(tmp_path)


def test_an_evaluation_scores_as_evaluate_does(store: Path, tmp_path: Path) -> None:
    run = go(store, tmp_path, **ALWAYS | {"evaluate_rows": 1000})
    (*_, last) = evaluations(tmp_path)
    scores = evaluate(run.model, make(has_rows=False), store, split="valid").to_json()
    for task, told in scores.items():
        found = last["evaluation"]["tasks"][task]
        assert {name: found[name] for name in told if name != "task"} == {
            name: number for name, number in told.items() if name != "task"
        }


def test_losses_of_an_evaluation_fall_with_those_of_training(done: Run) -> None:
    told = [line["evaluation"] for line in evaluations(done.path)]
    assert [line["step"] for line in evaluations(done.path)] == [10, 20, 30, 40, 50, 60]
    for task in ("digits", "spell"):
        losses = [each["tasks"][task]["loss"] for each in told]
        assert losses[-1] < losses[0] - 0.5
    for each in told:
        by_task = [numbers["loss"] for numbers in each["tasks"].values()]
        assert each["mean"]["loss"] == pytest.approx(sum(by_task) / 2)
        assert each["value"] == each["mean"]["corrected"]


def test_samples_show_what_was_asked_what_is_right_and_what_was_answered(done: Run) -> None:
    path = done.path / "samples" / "step-00000060.jsonl"
    samples = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    by_task = {task: [s for s in samples if s["task"] == task] for task in ("digits", "spell")}
    assert [len(each) for each in by_task.values()] == [4, 4]
    for sample in by_task["digits"]:
        assert sample["prompt"] == "[IMAGE] what does the image describe?"
        assert sample["reference"] in "0123456789"
        assert sample["answer"] in "0123456789"
        (name,) = sample["pictures"]
        with Image.open(path.parent / name) as picture:
            assert picture.size == (16, 16)
    for sample in by_task["spell"]:
        assert sample["prompt"].startswith("write ")
        assert sample["prompt"].endswith(" in words")
        assert sample["row"].partition(":")[2].isdecimal()
    earlier = (done.path / "samples" / "step-00000010.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["row"] for line in earlier] == [sample["row"] for sample in samples]


def test_the_rows_of_an_exam_are_drawn_once_and_for_all(store: Path, done: Run) -> None:
    dataset = open_dataset(make(has_rows=False), Store.open(store))
    bpe = done.model.writer("digits").bpe
    one, other = (Exam.of(dataset, "digits", "valid", bpe, num_rows=5) for _ in range(2))
    assert one.expected.tolist() == other.expected.tolist()
    assert len(one.expected) == len(one.references["label"]) == 5
    every = Exam.of(dataset, "digits", "valid", bpe)
    assert set(one.expected.tolist()) < set(every.expected.tolist())


def test_a_run_stops_where_nothing_gets_better_and_is_then_finished(
    store: Path, tmp_path: Path
) -> None:
    settings = ALWAYS | {"metric": "spell.loss", "stop_after": 2, "learning_rate": 1e-9}
    settings |= {"seed": 1, "evaluate_every": 2}
    stopped = go(store, tmp_path, **settings | {"learning_rate": 0.0})
    assert stopped.step == 6, "the second and the third evaluation are as the first"
    lines = evaluations(tmp_path)
    assert [line["evaluation"]["is_best"] for line in lines] == [True, False, False]
    assert [line["evaluation"]["stops"] for line in lines] == [False, False, True]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000006"
    before = (tmp_path / "log.jsonl").read_bytes()
    assert go(store, tmp_path, **settings | {"learning_rate": 0.0}).step == 6
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_run_that_was_stopped_says_so_again_when_it_is_gone_on_with(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = ALWAYS | {"stop_after": 1, "metric": "loss", "learning_rate": 0.0}
    assert go(store, tmp_path, **asked).step == 20
    train(make(has_rows=False), store, out=tmp_path, model=MODEL, config=CONFIG, **asked)
    assert "stopped at step 20: loss was best at step 10" in capfd.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_goes_on_counting_evaluations_without_a_better_one(
    store: Path, tmp_path: Path
) -> None:
    settings = ALWAYS | {"stop_after": 2, "learning_rate": 0.0, "evaluate_every": 2}
    go(store, tmp_path, stop_at=4, **settings)
    assert go(store, tmp_path, **settings).step == 6


@pytest.mark.slow
def test_evaluating_waits_while_it_would_take_more_than_its_share(
    store: Path, tmp_path: Path
) -> None:
    go(store, tmp_path, **ALWAYS | {"evaluate_every": 1, "evaluate_share": 0.2})
    lines = read_log(tmp_path)
    spent = [line["seconds"] for line in lines if "evaluation" in line]
    total = sum(line["seconds"] for line in lines if "evaluation" not in line)
    assert 0 < len(spent) < 60
    # The first is planned for, and no later one was asked for that the time did not allow.
    assert sum(spent[:-1]) <= 0.2 * total


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"metric": "bleu"}, 'metric is "bleu", which evaluations do not tell', id="name"
        ),
        pytest.param({"metric": "spel.loss"}, 'no task "spel" has rows to evaluate on', id="task"),
        pytest.param(
            {"stop_after": 2, "evaluate_every": 0}, "stop_after is 2, and nothing is", id="never"
        ),
        pytest.param(
            {"keep_best": "los"}, 'keep_best is "los", which evaluations do not tell', id="best"
        ),
        pytest.param(
            {"keep_best": "spel.loss"},
            'keep_best is "spel.loss", and no task "spel" has rows',
            id="best of no task",
        ),
        pytest.param(
            {"metric": "spell.word.loss"},
            'metric is "spell.word.loss", and no task "spell.word" has rows',
            id="metric of no slot",
        ),
        pytest.param(
            {"keep_best": "loss", "evaluate_every": 0},
            "keep_best is loss, and nothing is evaluated",
            id="best of nothing",
        ),
    ],
)
def test_a_metric_that_no_evaluation_tells_is_refused_before_training(
    settings: dict[str, Any], message: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="T0780") as caught:
        go(store, tmp_path / "out", **settings)
    assert message in str(caught.value)
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_settings_that_name_metrics_are_refused_together(store: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        go(store, tmp_path / "out", metric="bleu", keep_best="rouge")
    assert [p.message.split()[0] for p in caught.value.problems] == ["metric", "keep_best"]


def test_the_header_says_which_tasks_are_evaluated_and_how_often(
    done: Run, run: Run, store: Path, tmp_path: Path
) -> None:
    assert done.header[-1] == "evaluated every 10 steps on up to 8 rows of digits, spell"
    too_short = "not evaluated while training: evaluate_every is 250, and the run has 60 steps"
    assert run.header[-1] == too_short
    default = Referee.over(replace(CONFIG, steps=250), {"digits": ["digits"]}, ())
    told = "evaluated every 250 steps on up to 64 rows of digits, in at most 5% of the time"
    assert default.remark == told
    never = go(store, tmp_path, steps=1, evaluate_every=0)
    assert never.header[-1] == "not evaluated while training: evaluate_every is 0"


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="copies"),
        pytest.param({"sharding": "full", "ema": 0.5}, id="shares and their average"),
    ],
)
def test_ranks_are_evaluated_and_told_of_as_one_is(
    more: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    settings = ALWAYS | {"steps": 20, "packs_per_step": 2} | more
    go(store, tmp_path / "one", **settings)
    run_ranks(_GO, 2, str(store), str(tmp_path / "two"), json.dumps(settings))
    one, two = (read_log(tmp_path / name) for name in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [10, 10, 20, 20]
    for ours, theirs in zip(one, two, strict=True):
        assert ours.get("mixture") == theirs.get("mixture")
        assert ours.get("packs") == theirs.get("packs")
        tasks = ours.get("tasks") or ours["evaluation"]["tasks"]
        for task, numbers in tasks.items():
            found = theirs.get("tasks") or theirs["evaluation"]["tasks"]
            assert found[task]["loss"] == pytest.approx(numbers["loss"], rel=1e-3)
            if "gradient_share" in numbers:
                shares = (found[task]["gradient_share"], numbers["gradient_share"])
                assert shares[0] == pytest.approx(shares[1], rel=1e-2)
    samples = [sorted(p.name for p in (tmp_path / n / "samples").iterdir()) for n in ("one", "two")]
    assert samples[0] == samples[1]


def judged(values: list[float], stop_after: int, metric: str) -> Iterator[tuple[bool, bool]]:
    config = replace(CONFIG, stop_after=stop_after, metric=metric, evaluate_every=1)
    referee = Referee.over(config, {"t": ["t"]}, ())
    for step, value in enumerate(values, 1):
        found = Evaluated({}, {metric: value}, [], 0.0)
        line = referee.judge(step, found, 0.0)
        yield line["evaluation"]["is_best"], referee.is_over


def test_an_evaluation_without_the_metric_says_what_could_be_one() -> None:
    found = Evaluated({"pairs": {"loss": 1.5}}, {"loss": 1.5}, [], 0.0)
    assert found.describe(200, "loss", None) == "validation after step 200: loss pairs 1.500"
    told = found.describe(200, "corrected", None)
    assert told.endswith("corrected told of no task, so nothing is the best; loss could be metric")


@given(
    st.lists(st.floats(-5, 5), min_size=1), st.integers(1, 5), st.sampled_from(["loss", "score"])
)
def test_a_referee_stops_at_the_first_row_of_evaluations_without_a_better_one(
    values: list[float], stop_after: int, metric: str
) -> None:
    sign = -1 if metric == "loss" else 1
    best, since = float("-inf"), 0
    for value, (is_best, is_over) in zip(values, judged(values, stop_after, metric), strict=True):
        since = 0 if sign * value > best else since + 1
        best = max(best, sign * value)
        assert is_best == (since == 0)
        assert is_over == (since >= stop_after)
        if is_over:
            break
