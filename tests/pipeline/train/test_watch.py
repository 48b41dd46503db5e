"""A watch blames who hangs, and never who waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from torch._C._distributed_c10d import HashStore

from taskloom.pipeline.trainer.watch import PATIENCE_S, Sign, Watch

from ...waiting import wait_until

LIMIT_S = 10.0

Judge = Callable[[list[Sign], float], Any]


def sign(rank: int, **changes: Any) -> Sign:
    return replace(Sign(rank=rank, host="h", pid=100 + rank, step=3, limit_s=LIMIT_S), **changes)


def watch_of(num_ranks: int) -> Watch:
    return Watch(0, num_ranks, None, LIMIT_S)


def judge(*signs: Sign, since: float = 0.0) -> tuple[str, list[int]] | None:
    """Return what a watch says of ranks that it saw for the first time so many seconds ago."""
    watch = watch_of(len(signs))
    watch.judge(signs, 0.0)
    told = watch.judge([replace(each, number=each.number) for each in signs], since)
    return None if told is None else (told[0], [each.rank for each in told[1]])


fine = st.builds(
    sign,
    st.just(0),
    since_s=st.floats(0, LIMIT_S),
    is_waiting=st.booleans(),
    is_over=st.booleans(),
)


@given(st.lists(fine, min_size=1, max_size=5), st.floats(0, LIMIT_S))
def test_ranks_that_get_on_are_left_alone(signs: list[Sign], since: float) -> None:
    assert (
        judge(*(replace(each, rank=rank) for rank, each in enumerate(signs)), since=since) is None
    )


def test_a_rank_without_a_sign_is_named_whatever_it_was_doing() -> None:
    watch = watch_of(3)
    watch.judge([sign(0), sign(1, limit_s=PATIENCE_S), sign(2)], 0.0)
    later = [sign(0, number=9), sign(1, limit_s=PATIENCE_S), sign(2, number=9)]
    told = watch.judge(later, LIMIT_S + 1)
    assert told is not None
    assert (told[0], [each.rank for each in told[1]]) == ("gave no sign", [1])


def test_a_rank_that_does_not_get_on_is_named_and_those_that_wait_for_it_are_not() -> None:
    waiting = [sign(rank, since_s=40.0, is_waiting=True) for rank in (0, 2)]
    stuck = sign(1, since_s=40.0)
    assert judge(waiting[0], stuck, waiting[1]) == ("does not get on", [1])


def test_ranks_may_wait_for_one_that_is_slow_but_gets_on() -> None:
    assert judge(sign(0, since_s=1e6, is_waiting=True), sign(1, since_s=LIMIT_S / 2)) is None


def test_ranks_that_all_wait_for_each_other_are_named() -> None:
    signs = [sign(rank, since_s=11.0, is_waiting=True) for rank in range(2)]
    assert judge(*signs) == ("waits for others, as all do", [0, 1])


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=2, max_size=5),
    st.floats(LIMIT_S + 1, 99.0),
)
def test_of_ranks_that_all_seem_to_wait_those_that_have_come_least_far_are_named(
    progress: list[tuple[int, int]], since_s: float
) -> None:
    signs = [
        sign(rank, step=step, place=place, since_s=since_s, is_waiting=True)
        for rank, (step, place) in enumerate(progress)
    ]
    least = [rank for rank, each in enumerate(progress) if each == min(progress)]
    told = judge(*signs)
    assert told is not None
    assert told[1] == least
    assert ("as all do" in told[0]) == (len(least) == len(signs))


def test_a_rank_is_behind_also_those_that_have_more_time_than_it() -> None:
    ahead = sign(0, place=7, since_s=LIMIT_S + 1, limit_s=PATIENCE_S, is_waiting=True)
    behind = sign(1, place=6, since_s=LIMIT_S + 1, is_waiting=True)
    assert judge(ahead, behind) == ("does not get on", [1])


def test_a_rank_that_was_waited_for_and_has_come_lets_others_follow() -> None:
    """They may be seen where they waited, while it is further already."""
    come = sign(0, place=7, since_s=0.5)
    assert judge(come, sign(1, place=6, since_s=1e3, is_waiting=True)) is None


def test_places_are_counted_within_a_step() -> None:
    watch, places = watch_of(1), list[tuple[int, int]]()
    for call in (
        lambda: watch.enter("learning", step=4),
        watch.talk,
        lambda: watch.wait("waiting"),
        lambda: watch.enter("stepping", step=4),
        lambda: watch.enter("waiting for packs", step=5),
    ):
        call()
        places.append(watch.sign(0).progress)
    assert places == [(4, 1), (4, 2), (4, 3), (4, 4), (5, 1)]


def test_a_rank_that_has_ended_is_not_missed() -> None:
    assert judge(sign(0, is_over=True), sign(1, is_over=True), since=1e6) is None


def test_work_that_may_take_long_is_given_its_time() -> None:
    assert judge(sign(0, since_s=60.0, limit_s=PATIENCE_S), sign(1)) is None


def test_work_that_may_take_long_is_ended_where_its_process_does_nothing() -> None:
    idle = sign(0, since_s=60.0, limit_s=PATIENCE_S, rest_s=LIMIT_S, rested_s=LIMIT_S + 1)
    waiting = sign(1, is_waiting=True)
    assert judge(idle, waiting) == ("does not get on", [0])
    assert judge(replace(idle, rested_s=LIMIT_S / 2), waiting) is None
    # It rested before, and has only begun with this.
    assert judge(replace(idle, since_s=LIMIT_S / 2), waiting) is None
    # It waits for another machine, or for another rank.
    assert judge(replace(idle, rest_s=PATIENCE_S), waiting) is None
    assert judge(replace(idle, is_waiting=True), waiting) is None


def test_who_does_nothing_may_wait_for_what_another_rank_is_at() -> None:
    """Of ranks that compile the same, one does, and the others read what it made."""
    idle = sign(0, since_s=60.0, limit_s=PATIENCE_S, rest_s=LIMIT_S, rested_s=LIMIT_S + 1)
    compiling = sign(1, since_s=60.0, limit_s=PATIENCE_S)
    assert judge(idle, compiling) is None
    # Where ranks share parameters all say that they wait, whatever they do.
    shared = [replace(each, is_waiting=True) for each in (idle, replace(compiling, place=2))]
    assert judge(*shared) is None
    at_rest = [shared[0], replace(shared[1], rested_s=LIMIT_S + 1, rest_s=LIMIT_S)]
    assert judge(*at_rest) == ("does not get on", [0])


def test_what_may_rest_is_given_all_its_time_to_do_so() -> None:
    watch = watch_of(1)
    for may_rest, expected in ((False, LIMIT_S), (True, 77.0)):
        watch.enter("working", limit_s=77.0, may_rest=may_rest)
        assert watch.sign(0).rest_s == expected
        watch.wait("waiting")
        assert watch.sign(0).rest_s == expected


def test_work_may_take_a_few_times_as_long_as_it_took_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that who has large packs need not know of a limit."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    watch = watch_of(1)
    limits: list[float] = []
    for seconds in (300.0, 1.0, 60.0, 20.0, 0.0):
        watch.enter("learning", limit_s=PATIENCE_S if not now else 0.0, is_usual=now > 0)
        limits.append(watch.sign(0).limit_s)
        now += seconds
    assert limits == [PATIENCE_S, LIMIT_S, LIMIT_S, 240.0, 240.0]


def test_a_rank_that_has_done_its_work_waits_in_the_time_it_was_given() -> None:
    watch = watch_of(1)
    watch.enter("learning", limit_s=77.0)
    before = watch.sign(0)
    watch.wait("waiting")
    after = watch.sign(0)
    assert (after.doing, after.is_waiting, after.limit_s) == ("waiting", True, 77.0)
    assert after.since_s >= before.since_s


@pytest.fixture
def watches() -> Iterator[list[Watch]]:
    """Two ranks that give signs."""
    store = HashStore()
    # A limit that no busy machine comes to: a watch that runs ends the process.
    made = [Watch(rank, 2, store, 600.0, every_s=0.1) for rank in range(2)]
    for each in made:
        each.start()
    yield made
    for each in made:
        each.close()


def test_ranks_see_what_others_say_of_themselves(watches: list[Watch]) -> None:
    watches[1].enter("learning pack 1 of 2", step=41)
    wait_until(lambda: not silent_of(watches[0]), "ranks that give signs are silent")
    told = str(watches[0].read()[1])
    assert told.startswith("rank 1 (process ")
    assert told.endswith(" was learning pack 1 of 2 at step 41")


def test_a_rank_that_falls_silent_is_found(watches: list[Watch]) -> None:
    watches[1].close()
    wait_until(lambda: silent_of(watches[0]) == [1], "only the rank that was closed is silent")


def silent_of(watch: Watch) -> list[int]:
    """Return the ranks that give no sign for a while; on a busy machine others may be among them."""
    return [each.rank for each in watch.find_silent(0.3)]


def test_a_rank_alone_watches_nobody() -> None:
    watch = Watch()
    watch.enter("learning", step=1)
    assert watch.find_silent(0.0) == []
    watch.close()
