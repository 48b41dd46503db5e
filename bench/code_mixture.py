"""Real texts of mixed lengths that need no download: the functions of Python's own library, as three tasks.

A function's code is written down as a summary, and so is its signature alone; and a signature is written for a
summary. Codes have a long tail, the rest is short. What is found depends on the version of Python and on
nothing else.
"""

from __future__ import annotations

import ast
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.storage.store import Store

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
SKIPPED = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo"}


def find_functions() -> Iterator[dict[str, str]]:
    """Yield every function of the library that has a docstring, the first line of which is its summary."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if SKIPPED & {*place.parts}:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are going to be errors
            tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, Function) and (text := ast.get_docstring(node)):
                node.body = node.body[1:] or [ast.Pass()]
                code = ast.unparse(node)
                yield {
                    "id": f"{place}:{node.lineno}",
                    "code": code,
                    "signature": next(line for line in code.splitlines() if "def " in line),
                    "summary": text.splitlines()[0],
                }


def make_mixture() -> Mixture:
    """Return the three tasks, with a vocabulary of 8,192 parts of words."""
    source = Source("functions", lambda: [*find_functions()], version=platform.python_version())
    return Mixture(
        [
            Task("code", "what does [TEXT:code] do? -> [TEXT:summary]", source=source),
            Task("signature", "what does [TEXT:signature] do? -> [TEXT:summary]", source=source),
            Task(
                "name",
                'what is called that does " [TEXT:summary] "? -> [TEXT:signature]',
                source=source,
            ),
        ],
        bpe_size=8192,
    )


def open_store(folder: Path) -> Store:
    """Return the store in ``folder``, where it is built if it is not there."""
    store = Store.create(folder)
    build(make_mixture(), store)
    return store
