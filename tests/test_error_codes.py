"""Every code is documented, every documented code can be raised, and every page shows it raised."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from .test_snippets import Snippet, read_snippets

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "errors"
PAGES = sorted(FOLDER.glob("T*.md"))
PARTS = ["What is wrong", "Why it matters", "Example", "What to do"]

TOLD: Final[Mapping[str, str]] = {
    "T0320": "needs a process that is killed",
    "T0321": "needs a process that hangs",
    "T0620": "needs an op that hangs",
    "T0734": "needs a run that went on with other rows",
    "T0781": "needs a device that is full",
    "T0782": "needs a run that diverges",
    "T0785": "needs two processes that train",
    "T0753": "needs a machine without a C++ compiler",
    "T0762": "needs a process that is killed",
    "T0763": "needs a process that hangs",
    "T0323": "needs a cluster whose scheduler is killed",
    "T0505": "needs a full disk",
    "T0506": "needs a disk that cannot be written, even by root",
}
"""Codes whose pages only tell how it comes to them, and why; a test elsewhere raises them."""

CODE = re.compile(r'"(T0[1-9]\d\d)"')
ROW = re.compile(r"^\| \[(T\d{4})\]\((T\d{4})\.md\) \| (.*) \|$", re.MULTILINE)

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def read_index() -> dict[str, str]:
    """Return what each code means, as the table of all codes has it."""
    rows = ROW.findall((FOLDER / "README.md").read_text("utf-8"))
    assert all(code == link for code, link, _ in rows)
    codes = [code for code, _, _ in rows]
    assert codes == sorted(set(codes))
    return {code: meaning for code, _, meaning in rows}


def read_example(path: Path) -> Iterator[Snippet]:
    """Yield the blocks of a page that stand under its heading "Example"."""
    lines = path.read_text("utf-8").splitlines()
    begin, end = lines.index("## Example"), lines.index("## What to do")
    for snippet in read_snippets(path):
        if begin < snippet.line < end:
            yield snippet


def shown_by(snippet: Snippet) -> str:
    """Return the lines of a block that are what it prints."""
    prompts = (">>> ", "... ", "$ ")
    return "\n".join(line for line in snippet.code.splitlines() if not line.startswith(prompts))


def test_the_index_lists_exactly_the_codes_of_the_code() -> None:
    packages = [ROOT / name for name in ("graph", "ops", "storage", "pipeline")]
    sources = [path for package in packages for path in package.rglob("*.py")]
    used = {code for path in sources for code in CODE.findall(path.read_text("utf-8"))}
    assert set(read_index()) == used


def test_every_code_has_a_page_and_no_page_is_left_over() -> None:
    assert [path.stem for path in PAGES] == list(read_index())


@every_page
def test_a_page_has_the_title_of_its_row_and_the_four_parts(path: Path) -> None:
    title, *rest = path.read_text("utf-8").splitlines()
    assert title == f"# {path.stem}: {read_index()[path.stem]}"
    assert [line.removeprefix("## ") for line in rest if line.startswith("##")] == PARTS
    assert not re.search(r"^## .*\n+(## |\Z)", path.read_text("utf-8"), re.MULTILINE)


@every_page
def test_a_page_is_read_at_a_glance(path: Path) -> None:
    # Comments hold what only the tests need.
    text = re.sub(r"<!--.*?-->\n", "", path.read_text("utf-8"), flags=re.DOTALL)
    assert len(text.splitlines()) <= 40


@every_page
def test_the_example_of_a_page_is_run_and_prints_its_code(path: Path) -> None:
    is_told = path.stem in TOLD
    printed = [
        shown_by(snippet)
        for snippet in read_example(path)
        if snippet.language in ({"text"} if is_told else {"console", "pycon"})
        and snippet.word != "not run"
    ]
    assert any(re.search(rf"(error|warning)\[{path.stem}\]: ", text) for text in printed)


def test_codes_that_are_only_told_are_few_and_raised_by_tests() -> None:
    assert len(TOLD) <= 20
    tests = [p for p in (ROOT / "tests").rglob("test_*.py") if p != Path(__file__)]
    raised = {code for p in tests for code in re.findall(r"T0\d{3}", p.read_text("utf-8"))}
    assert set(TOLD) <= raised
