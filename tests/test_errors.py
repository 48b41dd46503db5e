"""Every class of error stands in the tree, and arrives whole wherever it is copied or sent."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from taskloom.graph import errors
from taskloom.graph.errors import TaskloomError
from taskloom.pipeline.host.pool import WorkerPool
from taskloom.pipeline.host.worker import resolve

from .error_classes import assert_same, error_classes, make_error

FUNCTIONS = Path(__file__).parent / "pipeline"

every_class = pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)


def ignore(progress: object) -> None:
    """Take no notice."""


def test_the_tree_that_is_drawn_is_the_tree_of_the_code() -> None:
    path = ["TaskloomError"]
    drawn: dict[str, str] = {}
    rows = re.findall(r"^((?:[│ ]   )*)[├└]── (\w+) +\S", errors.__doc__ or "", re.MULTILINE)
    for indent, name in rows:
        path[len(indent) // 4 + 1 :] = [name]
        drawn[name] = path[-2]
    _, *derived = error_classes()
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in derived}


@every_class
def test_errors_are_copied_whole(kind: type[TaskloomError]) -> None:
    error = make_error(kind)
    # What pickle does in a process where nobody has taught it better, as distributed does where it is imported.
    rebuild, arguments, *_ = cast("tuple[Any, ...]", error.__reduce__())
    assert_same(rebuild(*arguments), error)
    error.add_note("a note")
    assert_same(copy.copy(error), error)
    assert_same(copy.deepcopy(error), error)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error)


@every_class
def test_a_place_that_is_filled_in_keeps_the_class(kind: type[TaskloomError]) -> None:
    placed = kind.of("T0303", "odd", "mend it").at(address="a.b", row="p:3", column="c")
    assert type(placed) is kind
    (problem,) = placed.problems
    assert (problem.address, problem.row, problem.column) == ("a.b", "p:3", "c")
    assert_same(pickle.loads(pickle.dumps(placed)), placed)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """One worker process, which finds the functions of the tests of the pipeline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FUNCTIONS))
        with WorkerPool(1, timeout_s=60) as pool:
            pool.call("worker_functions:double", 1, ignore)
            yield pool


@every_class
def test_an_error_that_a_worker_process_raises_arrives_whole(
    kind: type[TaskloomError], pool: WorkerPool
) -> None:
    error = make_error(kind)
    with pytest.raises(kind) as caught:
        pool.call("worker_functions:raise_given", error, ignore)
    assert_same(caught.value, error)


def test_an_error_of_ours_that_cannot_be_sent_is_told_in_words(pool: WorkerPool) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)UnportableError: error\[T0303\]: odd"):
        pool.call("worker_functions:fail", "unportable", ignore)
    assert pool.call("worker_functions:double", 4, ignore) == 8


def test_an_error_that_a_dask_worker_raises_arrives_whole(client: Any) -> None:
    raise_given = resolve("worker_functions:raise_given")
    sent = [make_error(kind) for kind in error_classes()]
    futures = [client.submit(raise_given, error, None, pure=False) for error in sent]
    for error, future in zip(sent, futures, strict=True):
        with pytest.raises(type(error)) as caught:
            future.result()
        assert_same(caught.value, error)
