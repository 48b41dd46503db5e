"""Real texts of one length each: pieces of the files of Python's own library, and how they go on.

A source of 512 tokens is written down as the 64 tokens behind it; both are cut out of longer texts, so that
nearly all have these lengths.
"""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from code_mixture import SKIPPED

from taskloom.pipeline import Mixture, Source, Task, build
from taskloom.storage.store import Store

SOURCE_TOKENS: Final = 512
TARGET_TOKENS: Final = 64
NUM_PIECES: Final = 1200
_CHARACTERS: Final = (4000, 800)
"""Of source and target, before they are cut: more than their tokens have."""


def find_pieces() -> Iterator[dict[str, str]]:
    """Yield pieces of the library's files, each with what follows it."""
    root = Path(sysconfig.get_path("stdlib"))
    read, told = _CHARACTERS
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if SKIPPED & {*place.parts}:
            continue
        text = path.read_text("utf-8", errors="replace")
        for start in range(0, len(text) - read - told, read + told):
            middle = start + read
            yield {
                "id": f"{place}:{start}",
                "text": text[start:middle],
                "next": text[middle : middle + told],
            }


def make_mixture() -> Mixture:
    """Return the task, with a vocabulary of 8,192 parts of words."""
    source = Source(
        "pieces", lambda: [*islice(find_pieces(), NUM_PIECES)], version=platform.python_version()
    )
    # A source has an id before it and one behind it, a target one in all.
    lengths = SOURCE_TOKENS - 2, TARGET_TOKENS - 1
    text = "[TEXT:text,max_length={}] -> [TEXT:next,max_length={}]".format(*lengths)
    return Mixture([Task("continue", text, source=source)], bpe_size=8192)


def open_store(folder: Path) -> Store:
    """Return the store in ``folder``, where it is built if it is not there."""
    store = Store.create(folder)
    build(make_mixture(), store)
    return store
