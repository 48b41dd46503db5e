"""Every class of error that taskloom has, and an error of each that says all it can say."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from taskloom.graph.errors import Problem, Site, Span, TaskloomError
from taskloom.ops.errors import RowErrors

ROOMS = ("graph", "ops", "pipeline", "storage")

TEXT = "[IMAGE:img] größer? 描述 -> [TEXT:cap]"
FULL = Problem(
    "T0301",
    'cannot identify "img"\x1b',
    "mend it\nor leave it out",
    (Site("caption:1", TEXT, Span(0, 11)), Site("vqa:2", TEXT, Span(25, 35))),
    "caption.img/decode",
    "5c1f0a:1499",
    "img (11 bytes, starts b'notajpeg')",
)
BARE = Problem("T0303", "odd")


def error_classes() -> list[type[TaskloomError]]:
    """Return `TaskloomError` and all that derive from it in any module of taskloom, parents first."""
    for room in ROOMS:
        package = importlib.import_module(f"taskloom.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    return list(dict.fromkeys(_descend(TaskloomError)))


def make_error(kind: type[TaskloomError]) -> TaskloomError:
    """Return an error of ``kind`` with two problems, one of which has every attribute."""
    if issubclass(kind, RowErrors):
        return kind({7: FULL, 2: BARE})
    return kind(FULL, BARE)


def assert_same(returned: BaseException, error: TaskloomError) -> None:
    """Assert that ``returned`` is an error of its own that says what ``error`` says."""
    assert returned is not error
    assert type(returned) is type(error)
    assert str(returned) == str(error)
    assert returned.args == error.args
    assert vars(returned) == vars(error)


def _descend(kind: type[TaskloomError]) -> Iterator[type[TaskloomError]]:
    if kind.__module__.startswith("taskloom."):
        yield kind
    for child in kind.__subclasses__():
        yield from _descend(child)
