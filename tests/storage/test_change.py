"""A mixture may change at any step, and ranks, threads and micro-batches too: no row is lost or repeated."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from taskloom.graph.errors import LoaderError
from taskloom.storage.blend import Blend
from taskloom.storage.loader import split_step
from taskloom.storage.mask_code import read_masks, write_masks
from taskloom.storage.order import TaskOrder
from taskloom.storage.resume import LoaderState

from .documents import Mixture, Step, digest, make_mixture, mixtures, take
from .passes import in_every_pass

Seen = dict[str, Counter[int]]
WEIGHTS = st.lists(st.floats(0.05, 20), min_size=4, max_size=4)


def see(mixture: Mixture, steps: list[Step], seen: Seen) -> None:
    """Count the rows of ``steps`` in ``seen``, by task."""
    for step in steps:
        for pack in step:
            for template, row in pack.rows.tolist():
                seen.setdefault(mixture.templates[template].task, Counter())[row] += 1


def expect(mixture: Mixture, state: dict[str, Any]) -> Seen:
    """Return what was seen if every turn before ``state`` was, but for those that it says are left."""
    known = LoaderState.from_json(state)
    seen: Seen = {}
    for task in (each.pass_over() for each in (*known.tasks, *known.away)):
        rows = mixture.rows[task.name]
        turns = np.setdiff1d(np.arange(task.count), task.left)
        which, _ = TaskOrder(known.seed, task.name, len(rows)).find(turns)
        if len(which):
            seen[task.name] = Counter(rows[which].tolist())
    return seen


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    changes=st.lists(
        st.tuples(st.integers(0, 6), st.lists(st.integers(0, 3), max_size=3, unique=True), WEIGHTS),
        min_size=2,
        max_size=4,
    ),
    packs_per_step=st.integers(1, 3),
    window_size=st.integers(20, 120),
)
def test_whatever_changes_no_task_loses_or_repeats_a_row(
    seed: int,
    changes: list[tuple[int, list[int], list[float]]],
    packs_per_step: int,
    window_size: int,
) -> None:
    whole = make_mixture([37, 61, 18, 90], seed=seed, has_images=False, tile=8)
    kept: dict[str, Any] = {"packs_per_step": packs_per_step, "window_size": window_size}
    state: dict[str, Any] | None = None
    seen, step = Seen(), 0
    for num_steps, missing, weights in changes:
        mixture = whole.without(*missing)
        theirs = {each.task: weights[int(each.task[-1])] for each in mixture.templates}
        loader = mixture.loader(state, weights=theirs, **kept)
        see(mixture, take(loader, num_steps), seen)
        step += num_steps
        after = json.loads(json.dumps(loader.state()))
        assert after["step"] == step
        assert seen == expect(whole, after)
        state = after


def test_what_was_left_comes_before_anything_new() -> None:
    mixture = make_mixture([120, 120], has_images=False)
    kept: dict[str, Any] = {"window_size": 80}
    seen: Seen = {}
    loader = mixture.loader(**kept)
    see(mixture, take(loader, 5), seen)
    changed = mixture.loader(loader.state(), weights={"task0": 1, "task1": 4}, **kept)
    had_left = bool(changed.state()["left"])
    while changed.state()["left"]:
        see(mixture, take(changed, 1), seen)
    assert had_left
    first = TaskOrder(0, "task0", 120).find(
        np.arange(LoaderState.from_json(loader.state()).tasks[0].count)
    )
    assert max(seen["task0"].values()) == 1
    assert set(mixture.rows["task0"][first[0]].tolist()) <= set(seen["task0"])


def test_a_new_mixture_holds_from_the_step_on_at_which_it_was_given() -> None:
    mixture = make_mixture([500, 500], has_images=False)
    loader = mixture.loader(weights={"task0": 1, "task1": 1}, window_size=100)
    take(loader, 7)
    assert loader.state()["pack"] == 7, "not in the middle of a window"
    changed = mixture.loader(loader.state(), weights={"task0": 1, "task1": 9}, window_size=100)
    seen: Seen = {}
    see(mixture, take(changed, 60), seen)
    assert seen["task0"].total() / (seen["task0"] + seen["task1"]).total() == pytest.approx(
        0.1, abs=0.03
    )
    assert [step for step, _ in changed.state()["segments"]] == [0, 7]
    assert changed.header(100)[0] == "the mixture was changed at step 7"


def test_a_task_that_was_taken_out_goes_on_where_it_was() -> None:
    mixture = make_mixture([300, 300], has_images=False)
    kept: dict[str, Any] = {"window_size": 100}
    loader = mixture.loader(**kept)
    seen: Seen = {}
    see(mixture, take(loader, 6), seen)
    alone = mixture.without(0).loader(loader.state(), **kept)
    assert alone.header(100)[0] == "the mixture was changed at step 6; no longer in it: task0"
    see(mixture.without(0), take(alone, 6), seen)
    back = mixture.loader(alone.state(), **kept)
    see(mixture, take(back, 30), seen)
    assert max(seen["task0"].values()) == 1
    assert seen == expect(mixture, back.state())


def test_the_same_mixture_begins_no_segment() -> None:
    mixture = make_mixture([50, 50])
    loader = mixture.loader()
    take(loader, 5)
    assert mixture.loader(loader.state()).state() == loader.state()


def test_what_cannot_go_on_is_told_with_every_difference() -> None:
    state = make_mixture([20, 30]).loader().state()
    other = make_mixture([20, 30, 10], seed=1)
    other = replace(other, capacity=replace(other.capacity, source=other.capacity.source * 2))
    with pytest.raises(LoaderError) as caught:
        other.loader(state, seed=1, packs_per_step=2)
    assert {problem.code for problem in caught.value.problems} == {"T0603"}
    assert [problem.message for problem in caught.value.problems] == [
        "cannot resume: seed was 0 in the state, is 1 now",
        "cannot resume: packs per step was 1 in the state, is 2 now",
        "cannot resume: capacity source was 64 in the state, is 128 now",
        'cannot resume: rows, lengths or template of task "task0" are not those of the state',
        'cannot resume: rows, lengths or template of task "task1" are not those of the state',
    ]


def test_another_plan_of_the_same_tasks_is_refused() -> None:
    state = make_mixture([20]).loader().state() | {"plan": "older"}
    with pytest.raises(LoaderError, match="plan digest was older in the state, is plan now"):
        make_mixture([20]).loader(state)


def test_a_task_that_comes_back_with_other_rows_is_refused() -> None:
    mixture = make_mixture([20, 30])
    state = mixture.without(0).loader(mixture.loader().state()).state()
    other = replace(mixture, rows=mixture.rows | {"task0": mixture.rows["task0"][:-1]})
    with pytest.raises(LoaderError, match=r'T0603.*task "task0" are not those of the state'):
        other.loader(state)


def test_shares_that_jump_do_so_at_their_step_and_shares_in_between_are_kept() -> None:
    mixture = make_mixture([900, 900], has_images=False)
    jumping = Blend(("task0", "task1"), (0, 15, 40), ((1, 0), (1, 3), (0, 1)))
    steps = take(mixture.loader(weights=jumping, packs_per_step=2), 60)
    counts = np.array([np.bincount(_templates(step), minlength=2) for step in steps])
    assert counts[:15, 1].sum() == 0 < counts[15, 1]
    assert counts[40:, 0].sum() == 0
    between = counts[15:40].sum(axis=0)
    assert abs(between[0] - between.sum() / 4) <= 1.5


def test_shares_that_run_in_a_line_do_so() -> None:
    mixture = make_mixture([900, 900], has_images=False)
    line = Blend(("task0", "task1"), (0, 100), ((1, 0), (0, 1)), is_linear=True)
    steps = take(mixture.loader(weights=line, window_size=24), 100)
    counts = np.array([np.bincount(_templates(step), minlength=2) for step in steps])
    for first in range(0, 100, 20):
        part = counts[first : first + 20].sum(axis=0)
        assert part[1] / part.sum() == pytest.approx((first + 10) / 100, abs=0.08)


@pytest.mark.parametrize("interrupted", [20, 60, 110])
def test_a_run_that_is_interrupted_plans_shares_that_come_back_as_before(interrupted: int) -> None:
    mixture = make_mixture([900, 900], has_images=False)
    weights = Blend(("task0", "task1"), (0, 50, 100), ((1, 7), (7, 1), (1, 7)))
    whole = take(mixture.loader(weights=weights), 900)
    loader = mixture.loader(weights=weights)
    before = take(loader, interrupted)
    after = take(mixture.loader(loader.state(), weights=weights), 900 - interrupted)
    assert [*map(digest, before + after)] == [*map(digest, whole)]


def test_the_header_tells_what_a_schedule_will_have_shown() -> None:
    mixture = make_mixture([900, 900], has_images=False)
    line = Blend(("task0", "task1"), (0, 100), ((1, 0), (1, 3)), is_linear=True)
    loader = mixture.loader(weights=line)
    told = loader.header(100)
    seen: Seen = {}
    see(mixture, take(loader, 100), seen)
    share = seen["task1"].total() / (seen["task0"] + seen["task1"]).total()
    assert float(told[1].split()[1].rstrip("%")) / 100 == pytest.approx(share, abs=0.02)
    assert loader.header(100)[1].split()[1] == f"{share:.0%}", "what was seen is no forecast"


def _templates(step: Step) -> list[int]:
    return [template for pack in step for template in pack.rows[:, 0].tolist()]


@settings(max_examples=10)
@given(
    mixture=st.one_of(mixtures(), mixtures().map(in_every_pass)),
    weights=WEIGHTS,
    window_size=st.integers(5, 80),
    legs=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from([1, 2, 3, 6]),
            st.sampled_from([1, 2, 3, 6]),
            st.sampled_from([0, 1, 3]),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_ranks_micro_batches_threads_and_random_columns_change_no_bit_of_the_stream(
    mixture: Mixture,
    weights: list[float],
    window_size: int,
    legs: list[tuple[int, int, int, int]],
) -> None:
    names = [each.task for each in mixture.templates]
    kept: dict[str, Any] = {
        "packs_per_step": 6,
        "window_size": window_size,
        "weights": dict(zip(names, weights, strict=False)),
    }
    whole = take(mixture.loader(**kept), sum(leg[0] for leg in legs))
    state: dict[str, Any] | None = None
    joined: list[Step] = []
    for num_steps, world_size, num_parts, prefetch in legs:
        parts = max(1, num_parts // world_size) if 6 // world_size % num_parts else num_parts
        loaders = [
            mixture.loader(state, rank=rank, world_size=world_size, prefetch=prefetch, **kept)
            for rank in range(world_size)
        ]
        by_rank = [take(loader, num_steps) for loader in loaders]
        for shares in zip(*by_rank, strict=True):
            batches = [split_step(share, _divisor(len(share), parts)) for share in shares]
            joined.append(tuple(pack for rank in batches for batch in rank for pack in batch))
        states = [loader.state() for loader in loaders]
        assert all(each == states[0] for each in states)
        state = json.loads(json.dumps(states[-1]))
    assert [*map(digest, joined)] == [*map(digest, whole)]


def _divisor(number: int, wanted: int) -> int:
    return max(part for part in range(1, wanted + 1) if number % part == 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"world_size": 4}, "6 packs cannot be divided into 4", id="no divisor"),
        pytest.param({"world_size": 0}, "6 packs cannot be divided into 0", id="none"),
        pytest.param({"rank": 3, "world_size": 3}, "there is no rank 3 among 3", id="rank"),
        pytest.param({"rank": -1}, "there is no rank -1 among 1", id="negative"),
    ],
)
def test_a_step_is_divided_into_equal_shares_or_not_at_all(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(LoaderError, match=rf"T0606.*{message}"):
        make_mixture([20]).loader(packs_per_step=6, **settings)


def test_micro_batches_that_are_not_equal_are_refused() -> None:
    with pytest.raises(LoaderError, match="can be divided into 1, 2, 4"):
        split_step("abcd", 3)


@given(
    st.lists(st.lists(st.booleans(), max_size=40).map(lambda m: np.array(m, np.bool_)), max_size=5)
)
def test_masks_are_read_as_they_were_written(masks: list[Any]) -> None:
    read = read_masks(json.loads(json.dumps(write_masks(masks))), len(masks))
    assert [mask.tolist() for mask in read] == [mask.tolist() for mask in masks]


@pytest.mark.parametrize("num_tasks", [1, 40])
def test_a_state_takes_a_kilobyte_and_32_bytes_a_task(num_tasks: int) -> None:
    mixture = make_mixture([200] * num_tasks)
    loader = mixture.loader(packs_per_step=2, prefetch=2)
    take(loader, 200 // num_tasks)
    other = mixture.loader(
        loader.state(), packs_per_step=2, weights=dict.fromkeys(mixture.rows, 1.0)
    )
    take(other, 5)
    names = sum(len(task) for task in mixture.rows)
    for each in (loader, other):
        written = json.dumps(each.state(), separators=(",", ":"))
        assert len(written) <= 1000 + 32 * num_tasks + names


def test_a_state_in_the_middle_of_the_longest_window_is_small() -> None:
    mixture = make_mixture([3000, 3000], has_images=False, tile=16)
    loader = mixture.loader(window_size=4096)
    assert len(next(iter(loader))) == 1
    window = loader.state()["window"]
    list(islice(loader, 120))
    assert loader.state()["window"] == window
    names = sum(len(task) for task in mixture.rows)
    written = json.dumps(loader.state(), separators=(",", ":"))
    assert len(written) <= 1000 + 32 * 2 + names
