"""Every code is documented, every documented code can be raised, and every page keeps one shape."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "errors"
PAGES = sorted(FOLDER.glob("T*.md"))
PARTS = ["What is wrong", "Why it matters", "Example", "What to do"]

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
    parts = [line.removeprefix("## ") for line in rest if line.startswith("#")]
    assert parts == (PARTS if rest else [])


@every_page
def test_the_example_of_a_page_shows_its_code(path: Path) -> None:
    _, _, example = path.read_text("utf-8").partition("## Example\n")
    if example:
        shown = example.partition("\n## ")[0]
        assert f"error[{path.stem}]: " in shown or f"warning[{path.stem}]: " in shown
