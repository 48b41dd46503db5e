"""The verb that explains: the page of an error code, at hand without a network."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Annotated, Final

import typer

from ...graph.errors import ProjectError, suggest
from ..terminal import say

_COMMENT: Final = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)


def error(
    code: Annotated[str, typer.Argument(help="Such as T0103.", metavar="CODE")],
) -> None:
    """Say what an error code means, why it matters and what to do."""
    # A link to docs/errors; installed, the pages lie here themselves.
    pages = files("taskloom.pipeline.cli") / "error-pages"
    known = {page.name.removesuffix(".md"): page for page in pages.iterdir()}
    del known["README"]
    if code.upper() not in known:
        near = suggest(code, known)
        help_ = near if near.startswith("did") else "a code is a T and four digits, such as T0103"
        raise ProjectError.of("T0806", f'there is no error code "{code}"', help_)
    # Comments hold what the tests of the pages need and a reader does not.
    page = _COMMENT.sub("", known[code.upper()].read_text("utf-8")).rstrip()
    say(re.sub(r"\n{3,}", "\n\n", page))
