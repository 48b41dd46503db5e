"""The repository keeps the shape that its documents promise."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ROOMS = ("graph", "ops", "pipeline", "storage")
FOLDERS = {*ROOMS, "tests", "bench", "docs", "examples", ".ci", ".github"}


def read_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def list_ignored_names() -> list[str]:
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return [line.strip("/") for line in lines if line and not line.startswith("#")]


def test_the_top_level_holds_the_folders_it_should_and_no_others() -> None:
    ignored = list_ignored_names()
    found = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not any(fnmatch.fnmatch(path.name, name) for name in ignored)
    }
    # Folders of editors and tools start with a dot and are nobody's business.
    assert {name for name in found if not name.startswith(".") or name in FOLDERS} == FOLDERS


def test_every_package_is_listed_in_pyproject() -> None:
    listed = read_pyproject()["tool"]["setuptools"]["packages"]
    found = [
        ".".join(("taskloom", *path.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(found)


def test_every_module_lies_in_a_package() -> None:
    modules = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert not [path for path in modules if not (path.parent / "__init__.py").exists()]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_mapped_and_typed(room: str) -> None:
    assert read_pyproject()["tool"]["setuptools"]["package-dir"][f"taskloom.{room}"] == room
    assert (ROOT / room / "py.typed").exists()


def test_every_requirement_is_pinned_to_a_version_it_admits() -> None:
    content = read_pyproject()
    written = [
        *content["project"]["dependencies"],
        *(each for extra in content["project"]["optional-dependencies"].values() for each in extra),
        *(each for group in content["dependency-groups"].values() for each in group),
        *content["build-system"]["requires"],
    ]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in map(Requirement, written):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


@pytest.mark.slow
def test_the_wheel_carries_the_files_that_are_no_code(tmp_path: Path) -> None:
    listed = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / "tree" / name, follow_symlinks=False)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    build += ["-w", str(tmp_path), str(tmp_path / "tree")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        found = {name.removeprefix("taskloom/") for name in wheel.namelist()}
    pages = [path.name for path in (ROOT / "docs" / "errors").glob("T*.md")]
    assert found >= {f"pipeline/cli/error-pages/{name}" for name in pages}
    assert found >= {f"{room}/py.typed" for room in ROOMS}
    assert found >= {str(path.relative_to(ROOT)) for path in (ROOT / "graph").rglob("*.html")}


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_names_the_commands_that_exist(command: str) -> None:
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    target = command.removeprefix("make ")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_ci_runs_the_commands_that_contributors_are_told() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    told = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    commands = re.findall(r"^make .*$", script, re.MULTILINE)
    assert commands == ["make test", "make kernels", "make lint"]
    assert all(f"`{command}`" in told for command in commands)
    assert "bash .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
