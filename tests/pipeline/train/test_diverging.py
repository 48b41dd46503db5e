"""A run that diverges tells once of the last good step, the rows learned since, and one setting to change."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.errors import TaskloomWarning
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.trainer.documents import MAX_TOLD, find_rows, name_documents
from taskloom.pipeline.trainer.loss_watch import IN_A_ROW, LossWatch
from taskloom.pipeline.trainer.run_log import DIVERGES, read_log

from .launching import run_ranks
from .stores import continue_run

SETTINGS: dict[str, Any] = {"log_every": 1, "warmup": 0.99, "checkpoint_every": 5, "steps": 40}


TRAIN = """
import json, sys
from stores import continue_run
store, out, settings = sys.argv[1:]
continue_run(store, out, **json.loads(settings))
"""


def diverge(store: Path, out: Path, **settings: Any) -> str:
    """Train until the loss has left where it was, and return what was told of that."""
    with pytest.warns(TaskloomWarning, match="T0782") as caught:
        continue_run(store, out, learning_rate=6.0, **SETTINGS | settings)
    (warning,) = caught
    return str(warning.message)


def lines_of(out: Path) -> tuple[int, int]:
    """Return the step since which the loss is high, and that of the line that told so."""
    ((since, last),) = (
        (line["diverges_since"], line["step"]) for line in read_log(out) if "diverges_since" in line
    )
    return since, last


losses = st.lists(st.floats(0.01, 8.0), min_size=1, max_size=40)


@given(losses)
def test_a_loss_within_the_bounds_never_diverges(values: list[float]) -> None:
    watch = LossWatch()
    assert all(watch.look(step, 1.0 + value / 10) is None for step, value in enumerate(values))
    assert (watch.good_step, watch.is_alert) == (len(values) - 1, False)


@given(losses, st.floats(13.0, 1e6))
def test_a_loss_that_stays_far_above_diverges_once_from_its_first_line(
    values: list[float], high: float
) -> None:
    watch = LossWatch()
    calm = [watch.look(step, 1 + value / 10) for step, value in enumerate(values)]
    assert calm == [None] * len(values)
    told = [watch.look(100 + n, high) for n in range(IN_A_ROW - 1)]
    assert watch.is_alert, "it looks for what has begun"
    told += [watch.look(100 + n, high) for n in range(IN_A_ROW - 1, IN_A_ROW + 5)]
    assert [each for each in told if each is not None] == [100]
    assert told[IN_A_ROW - 1] == 100
    assert (watch.good_step, watch.is_alert) == (len(values) - 1, False)


def test_a_watch_that_read_the_log_goes_on_where_it_was() -> None:
    lines = [{"step": n, "loss": 1.0} for n in range(8)] + [{"step": 8, "loss": 9.0}]
    watch = LossWatch.over(lines)
    assert [watch.look(n, 9.0) for n in (9, 10)] == [None, 8]


@pytest.mark.parametrize(
    ("ranks", "packs_per_step"), [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)]
)
def test_the_rows_that_are_named_are_those_of_the_steps_since_the_last_good_one(
    store_dir: Path, stream: Stream, tmp_path: Path, ranks: int, packs_per_step: int
) -> None:
    if ranks == 1:
        told = diverge(store_dir, tmp_path, packs_per_step=packs_per_step)
    else:
        settings = SETTINGS | {"learning_rate": 6.0, "packs_per_step": packs_per_step}
        told = run_ranks(TRAIN, ranks, str(store_dir), str(tmp_path), json.dumps(settings))
        assert told.count("T0782") == 1, "the first rank speaks for all"
    since, last = lines_of(tmp_path)
    assert since == last - IN_A_ROW + 1
    with stream.loader() as loader:
        packs = islice(loader, (since - 1) * packs_per_step, last * packs_per_step)
        rows = find_rows(pack.rows for (pack,) in packs)
    expected = name_documents(stream, rows)
    kept = json.loads((tmp_path / DIVERGES).read_text("utf-8"))
    assert (kept["since"], kept["good_step"], kept["step"]) == (since, since - 1, last)
    assert [(each["task"], each["source"], each["row"]) for each in kept["documents"]] == expected
    head = f"the {len(expected):,} documents of steps {since} to {last}:"
    named = [f"  {task} {row}" for task, _, row in expected[:MAX_TOLD]]
    more = f"  and {len(expected) - MAX_TOLD} more, in {tmp_path / DIVERGES}"
    advice = "lower learning_rate, which is 6, and train into another directory\n"
    assert "\n   = ".join([head, *named, more, advice]) in f"{told}\n"


def test_the_last_good_step_its_checkpoint_and_the_setting_that_was_off_are_named(
    store_dir: Path, tmp_path: Path
) -> None:
    settings = {"log_every": 2, "checkpoint_every": 1, "keep_checkpoints": 40}
    told = diverge(store_dir, tmp_path, clip=0.0, **settings)
    since, _ = lines_of(tmp_path)
    assert f"since step {since}: " in told
    # Between two lines nobody knows which step was good.
    good = tmp_path / f"step-{since - 2:08d}"
    last_good = f"step {since - 2} was the last good one; the last checkpoint until then is {good}"
    assert f"{last_good}\n" in told
    assert told.endswith("= set clip to 1, and train into another directory"), "nothing limited it"


@pytest.mark.slow
def test_a_run_that_went_on_names_the_rows_since_then(store_dir: Path, tmp_path: Path) -> None:
    diverge(store_dir, tmp_path / "whole")
    since, last = lines_of(tmp_path / "whole")
    continue_run(store_dir, tmp_path / "parts", learning_rate=6.0, stop_at=since, **SETTINGS)
    told = diverge(store_dir, tmp_path / "parts")
    assert lines_of(tmp_path / "parts") == (since, last)
    assert f"step {since - 1} was the last good one; " in told
    assert f"documents of steps {since + 1} to {last}:" in told
