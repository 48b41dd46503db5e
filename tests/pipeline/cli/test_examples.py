"""What the first screen and the examples promise holds, as it is written there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from taskloom.pipeline.config.project import load_project

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "examples").glob("*.yaml"))

PRELUDE = """
import sys
sys.path.insert(0, {examples!r})
from real_data import digits
rows = digits()
image = rows[7]["image"]
"""


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def taskloom(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from taskloom.pipeline.cli import main; main()", *arguments]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_recipes_are_projects(recipe: Path) -> None:
    project = load_project(recipe)
    assert all(one.targets for task in project.mixture.tasks for one in task.parse())


def test_the_recipe_is_the_one_that_its_page_tells_of() -> None:
    page = (ROOT / "docs" / "project-file.md").read_text("utf-8")
    (block,) = re.findall(r"<!-- file: project.yaml -->\n```yaml\n(.*?)```", page, re.DOTALL)
    told, kept = yaml.safe_load(block), yaml.safe_load(RECIPES[0].read_text("utf-8"))
    places = {"store", "out"}
    assert {k: v for k, v in told.items() if k not in places} == {
        k: v for k, v in kept.items() if k not in places
    }


@pytest.mark.slow
def test_the_recipe_reads_what_its_script_writes(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(RECIPES[0].read_text("utf-8"), "utf-8")
    run([sys.executable, str(ROOT / "examples" / "write_digits.py"), "digits.parquet"], tmp_path)
    report = json.loads(run(taskloom("build", "digits.yaml", "--json"), tmp_path))
    assert (report["rows"], report["rejects"]) == (1797, 0)


@pytest.mark.slow
def test_the_ten_lines_work_as_a_script_without_a_main_guard(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"<!-- fmt: off -->\n```python\n(.*?)```", readme, re.DOTALL)
    prelude = PRELUDE.format(examples=str(ROOT / "examples"))
    (tmp_path / "ten.py").write_text(prelude + blocks[0], "utf-8")
    *_, scores, answer = run([sys.executable, "ten.py"], tmp_path).splitlines()
    assert float(scores.split()[4]) >= 0.85
    assert answer == "7"
