"""Every rule of mixing comes to the shares that it names, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.errors import PlanError
from taskloom.pipeline import Mixture, Schedule, Task, Temperature, Tokens, UniMax
from taskloom.pipeline.mixing import Size, Weights, blend_tasks, share_out

SIZES = {"a": Size(100, 50), "b": Size(400, 10), "c": Size(900, 30)}
amounts = st.lists(st.floats(1, 1e6), min_size=1, max_size=6)


def task(name: str, **settings: Any) -> Task:
    return Task(name, "-> [TEXT:y]", **settings)


def shares(weights: Weights, names: Sequence[str] = "abc", step: int = 0) -> dict[str, float]:
    mixture = Mixture([task(name) for name in names], weights=weights)
    return blend_tasks(mixture, SIZES, 1e5).at(step)


def test_by_default_a_task_counts_its_rows_or_its_weight() -> None:
    assert shares(None) == pytest.approx({"a": 1 / 14, "b": 4 / 14, "c": 9 / 14})
    mixture = Mixture([task("a", weight=400.0), task("b")])
    assert blend_tasks(mixture, SIZES, 1e5).at(0) == {"a": 0.5, "b": 0.5}


def test_temperature_takes_the_root_of_rows() -> None:
    assert shares(Temperature(1)) == pytest.approx(shares(None))
    assert shares(Temperature(2)) == pytest.approx({"a": 1 / 6, "b": 2 / 6, "c": 3 / 6})


def test_tokens_are_shares_of_tokens() -> None:
    found = shares(Tokens({"a": 1, "b": 1, "c": 2}))
    tokens = {name: share * SIZES[name].tokens_per_row for name, share in found.items()}
    assert tokens["a"] == pytest.approx(tokens["b"]) == pytest.approx(tokens["c"] / 2)


def test_unimax_gives_alike_and_caps_the_small() -> None:
    # Of 45,000 tokens each would get 15,000; "a" has 5,000 and "b" 4,000, at most twice.
    found = shares(UniMax(epochs=2, budget=45_000))
    total = sum(found[name] * SIZES[name].tokens_per_row for name in found)
    tokens = {name: share * SIZES[name].tokens_per_row / total for name, share in found.items()}
    assert tokens == pytest.approx({"a": 10 / 45, "b": 8 / 45, "c": 27 / 45})


@given(tokens=amounts, budget=st.floats(1, 1e8), epochs=st.floats(0.1, 20))
def test_nothing_is_shared_out_twice_and_no_cap_is_passed(
    tokens: list[float], budget: float, epochs: float
) -> None:
    shared = share_out(tokens, budget, epochs)
    assert sum(shared) <= budget * (1 + 1e-9)
    assert all(got <= has * epochs * (1 + 1e-9) for got, has in zip(shared, tokens, strict=True))
    capped = [got >= has * epochs * (1 - 1e-9) for got, has in zip(shared, tokens, strict=True)]
    assert all(capped) or sum(shared) == pytest.approx(budget)
    uncapped = [got for got, is_capped in zip(shared, capped, strict=True) if not is_capped]
    assert uncapped == pytest.approx([max(shared)] * len(uncapped))


def test_shares_of_mixtures_inside_mixtures_multiply() -> None:
    inner = Mixture([task("a"), task("b")], name="g", weights={"a": 1, "b": 3}, weight=2.0)
    outer = Mixture([inner, task("c", weight=6.0)])
    assert [each.name for each in outer.tasks] == ["a", "b", "c"]
    assert blend_tasks(outer, SIZES, 1e5).at(0) == {"a": 1 / 16, "b": 3 / 16, "c": 3 / 4}
    by_rows = Mixture([Mixture(inner.parts, name="g"), task("c")], weights=Temperature(2))
    root = 500**0.5
    found = blend_tasks(by_rows, SIZES, 1e5).at(0)
    assert found["a"] + found["b"] == pytest.approx(root / (root + 30))


def test_rules_follow_one_another() -> None:
    rules: dict[int, Any] = {0: {"a": 1, "b": 0}, 10: Temperature(2)}
    jump, line = (Schedule(rules, is_linear=manner) for manner in (False, True))
    assert shares(jump, "ab", 9)["b"] == 0
    assert shares(jump, "ab", 10)["b"] == pytest.approx(2 / 3)
    assert shares(line, "ab", 5)["b"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param({"a": 1}, '"b" has no weight', id="missing"),
        pytest.param({"a": 1, "b": 1, "B": 2}, 'for "B", which is no part of it', id="unknown"),
        pytest.param({"a": 1, "b": 0}, 'weight of "b" must be positive, got 0', id="zero"),
        pytest.param(Tokens({"a": 1, "b": -1}), "positive, got -1", id="negative"),
        pytest.param(Schedule({0: {"a": 0, "b": 0}}), "every weight is 0", id="nothing"),
        pytest.param(
            Schedule({0: cast("Any", Schedule({0: Temperature(1)}))}), "is no rule", id="schedules"
        ),
    ],
)
def test_weights_of_other_parts_are_refused(weights: Weights, message: str) -> None:
    with pytest.raises(PlanError, match=f"T0219.*{message}"):
        Mixture([task("a"), task("b")], weights=weights)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Temperature(0),
        lambda: UniMax(-1),
        lambda: UniMax(1, 0),
        lambda: Schedule({}),
        lambda: Schedule({-1: Temperature(1)}),
        lambda: Schedule({cast("int", 0.5): Temperature(1)}),
        lambda: Schedule({cast("int", "0"): Temperature(1)}),
        lambda: Mixture([task("a", weight=1.0)], weights=Temperature(1)),
        lambda: Mixture([Mixture([task("a")])]),
        lambda: Mixture([Mixture([task("a")], name="a")]),
        lambda: Mixture([Mixture([task("a")], name="g"), task("a")]),
        lambda: Mixture([Mixture([task("a")], name="g", weight=0.0)]),
        lambda: Mixture([Mixture([task("a")], name="g", bpe_size=300)]),
    ],
    ids=map(str, range(13)),
)
def test_mixtures_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(PlanError, match="T0219"):
        make()
