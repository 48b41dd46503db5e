"""Every code is documented, and every documented code can be raised."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = re.compile(r'"(T0[1-9]\d\d)"')


def test_docs_list_exactly_the_codes_of_the_code() -> None:
    packages = [ROOT / name for name in ("graph", "ops", "storage", "pipeline")]
    sources = [path for package in packages for path in package.rglob("*.py")]
    used = {code for path in sources for code in CODE.findall(path.read_text("utf-8"))}
    rows = re.findall(r"^\| (T\d{4}) \|", (ROOT / "docs/errors.md").read_text("utf-8"), re.M)
    assert set(rows) == used
    assert rows == sorted(set(rows))
