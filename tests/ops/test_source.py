"""The digest of an op moves when what it computes may move, and at nothing else."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskloom.ops import source
from taskloom.ops.source import digest_class

OP = '''
"""Words about the module."""

from __future__ import annotations
from dataclasses import dataclass
from . import table
from .helper import scale as resize, unused
from .table import LIMIT
import json

FACTOR, OTHER = 2, 3
UNUSED = 4

def double(value):
    """Twice the value."""
    return value * FACTOR

@dataclass(frozen=True)
class Op:
    """What it does."""

    size: int = 1

    def __call__(self, value: int) -> int:
        """Do it."""
        text = f"{value:>{self.size}} of" f" {LIMIT!r}"
        return resize(double(value), table.STEPS.get(text)) + len(json.dumps(text))
'''
HELPER = """
from .deep import shift

def scale(value, steps=1):
    return shift(value) * steps

def unused(value):
    return value
"""
DEEP = """
OFFSET = 7

def shift(value):
    return value + OFFSET
"""
TABLE = """
if True:
    LIMIT = 10
else:
    LIMIT = 20
STEPS = {"a": 1}
SPARE = 5
"""
FILES = {"op": OP, "helper": HELPER, "deep": DEEP, "table": TABLE, "__init__": ""}

# What it is in every version of Python; it changes with the rules, never with the interpreter.
DIGEST = "19f3ec00e18e67f6094dcf593fbe814b"

Digest = Callable[..., str]


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Digest]:
    """Returns the digest of `OP` in a package, after some of its text was replaced."""
    monkeypatch.syspath_prepend(tmp_path)
    write_package(tmp_path)

    def measure(file: str = "op", old: str = "", new: str = "") -> str:
        text = FILES[file]
        assert old in text
        (tmp_path / "sized" / f"{file}.py").write_text(text.replace(old, new) if old else text)
        importlib.invalidate_caches()
        return digest_class("sized.op", "Op")

    yield measure
    for name in [name for name in sys.modules if name.partition(".")[0] == "sized"]:
        del sys.modules[name]


def write_package(folder: Path) -> None:
    (folder / "sized").mkdir()
    for name, text in FILES.items():
        (folder / "sized" / f"{name}.py").write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param(
            "op", "return value * FACTOR", "# why\n    return value * FACTOR", id="comment"
        ),
        pytest.param("op", '"""Twice the value."""', '"""2x."""', id="docstring of a helper"),
        pytest.param("op", '"""What it does."""', "", id="docstring of the class"),
        pytest.param("op", '"""Do it."""', '"""Do."""', id="docstring of a method"),
        pytest.param("op", '"""Words', '"""More words', id="docstring of the module"),
        pytest.param("op", "value * FACTOR", "(value\n        * FACTOR)", id="formatting"),
        pytest.param("table", '{"a": 1}', "{'a': 1,}", id="quotes"),
        pytest.param("op", "value: int) -> int", "value: object)", id="annotations of a method"),
        pytest.param("op", "size: int", "size: 'unused'", id="annotation of a field"),
        pytest.param("op", "UNUSED = 4", "UNUSED = 5", id="constant that it does not use"),
        pytest.param(
            "table", "SPARE = 5", "SPARE = 6", id="constant elsewhere that it does not use"
        ),
        pytest.param("helper", "    return value\n", "    return -value\n", id="other helper"),
        pytest.param("op", "2, 3", "0x2, 3", id="spelling of a number"),
        pytest.param("op", '} of" f" {', "} of {", id="f-string in one piece"),
    ],
)
def test_what_computes_the_same_keeps_the_digest(
    digest: Digest, file: str, old: str, new: str
) -> None:
    before = digest()
    assert digest(file, old, new) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param("op", "double(value), ", "value, ", id="method"),
        pytest.param("op", "size: int = 1", "size: int = 2", id="default of a field"),
        pytest.param("op", "size: int = 1", "size: int = 1\n    more: int = 1", id="field"),
        pytest.param("op", "size: int = 1", "size: int", id="no default"),
        pytest.param("op", "value * FACTOR", "value * FACTOR + 1", id="helper"),
        pytest.param("op", "FACTOR, OTHER = 2, 3", "FACTOR, OTHER = 5, 3", id="constant"),
        pytest.param("op", "2, 3", "2.0, 3", id="type of a constant"),
        pytest.param("op", "(frozen=True)", "", id="decorator"),
        pytest.param("op", "from .table import LIMIT", "LIMIT = 10.5", id="where a name is from"),
        pytest.param("helper", "steps=1", "steps=2", id="default of a helper elsewhere"),
        pytest.param("helper", "shift(value) *", "shift(value) +", id="helper elsewhere"),
        pytest.param("deep", "value + OFFSET", "value - OFFSET", id="helper of a helper"),
        pytest.param("deep", "OFFSET = 7", "OFFSET = 8", id="constant of a helper of a helper"),
        pytest.param("table", "LIMIT = 20", "LIMIT = 30", id="constant under a condition"),
        pytest.param("table", '"a": 1', '"a": 2', id="attribute of a module"),
        pytest.param("op", "{value:>{self.size}}", "{value:<{self.size}}", id="format"),
        pytest.param("op", "{LIMIT!r}", "{LIMIT!s}", id="conversion"),
        pytest.param("op", " of", " off", id="text"),
    ],
)
def test_what_may_compute_something_else_moves_the_digest(
    digest: Digest, file: str, old: str, new: str
) -> None:
    before = digest()
    assert digest(file, old, new) != before
    assert digest(file) == before


def test_the_digest_never_changes(digest: Digest) -> None:
    assert digest() == DIGEST


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_versions_of_python_agree(tmp_path: Path, version: str) -> None:
    found = shutil.which(f"python{version}")
    script = "import sys; sys.path.insert(0, sys.argv[1]); from source import digest_class"
    script += "; print(digest_class('sized.op', 'Op'))"
    write_package(tmp_path)
    command = [found or "", "-c", script, str(tmp_path)]
    shutil.copy(str(source.__file__), tmp_path / "source.py")
    is_there = (
        found
        and not subprocess.run([*command[:1], "-V"], check=False, capture_output=True).returncode
    )
    if not is_there:
        pytest.skip(f"Python {version} is not installed")
    environment = {**os.environ, "PYTHONPATH": ""}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == DIGEST
