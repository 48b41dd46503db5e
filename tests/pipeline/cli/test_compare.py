"""Diff takes projects, instructions, saved views and saved graphs, and says what a build would compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from taskloom.graph.errors import ProjectError, TaskloomError
from taskloom.graph.node import plan_key
from taskloom.graph.render.schema import view_schema
from taskloom.pipeline.cli import app
from taskloom.pipeline.planner.planning import plan
from taskloom.pipeline.task import Mixture, Task

from .conftest import Built, Project

CAPTION = "[IMAGE:img] what does the image describe? -> [TEXT:cap]"
SMALLER = "[IMAGE:img,size=32] what does the image describe? -> [TEXT:cap]"
ODD = f"%{plan_key('odd', 1, {}, {})} = odd@1 {{}} () -> out: any<any[] scalar>@host"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two saved graphs."""
    folder = tmp_path_factory.mktemp("saved")
    for name, instruction in {"old": CAPTION, "new": SMALLER}.items():
        graph = plan(Mixture([Task("task", instruction)])).graph
        (folder / f"{name}.txt").write_text(str(graph), "utf-8")
    return folder


def taskloom(*arguments: str) -> str:
    """Run the command line in this process, which has loaded what it needs, and return what it prints."""
    done = CliRunner().invoke(app, arguments)
    if done.exception:
        raise done.exception
    return done.output


def test_instructions_are_compared() -> None:
    out = taskloom("diff", CAPTION, SMALLER)
    assert "~ task.img/resize" in out
    assert "height 64 \u2192 32" in out
    assert "- task" not in out


def test_a_saved_view_and_a_saved_graph_are_the_instruction_they_came_from(folder: Path) -> None:
    view = str(folder / "graph.json")
    taskloom("graph", CAPTION, "-o", view)
    for old in (view, str(folder / "old.txt")):
        out = taskloom("diff", old, CAPTION)
        assert "a build computes nothing anew" in out
        assert " changed" not in out
        assert " added" not in out


@pytest.mark.parametrize("ending", ["html", "json", "svg", "dot", "mmd", "txt"])
def test_a_diff_is_written_as_any_view(folder: Path, ending: str) -> None:
    old, new, out = (str(folder / name) for name in ("old.txt", "new.txt", f"diff.{ending}"))
    assert taskloom("diff", old, new, "-o", out) == f"wrote {out}\n"
    text = (folder / f"diff.{ending}").read_text("utf-8")
    assert "height 64 \u2192 32" in text or json.loads(text)["diff"]["old_title"] == "old.txt"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(None, "T0806", id="no file"),
        pytest.param(b"\xff", "T0806", id="no text"),
        pytest.param(b'{"img": "a.png"}', "T0280", id="no view"),
        pytest.param(f"taskloom graph 1\n{ODD}".encode(), "T0205", id="unknown op"),
        pytest.param(b"taskloom graph 1\nnonsense", "T0207", id="no graph"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, content: bytes | None, code: str
) -> None:
    if content is not None:
        (tmp_path / "odd").write_bytes(content)
    with pytest.raises(TaskloomError) as caught:
        taskloom("diff", str(tmp_path / "odd"), CAPTION)
    assert caught.value.problems[0].code == code


def test_another_ending_is_refused_before_anything_is_planned(tmp_path: Path) -> None:
    for verb in (("diff", "nowhere", "nowhere"), ("graph", "nowhere")):
        with pytest.raises(ProjectError, match=r'T0806.*cannot write "g.png"'):
            taskloom(*verb, "-o", str(tmp_path / "g.png"))


def test_schema_prints_what_is_published() -> None:
    assert json.loads(taskloom("schema", "view")) == view_schema()
    with pytest.raises(ProjectError, match="T0806"):
        taskloom("schema", "picture")


@pytest.mark.slow
def test_a_changed_project_tells_rows_and_bytes_to_compute(
    built: Built, copy_built: Callable[[], Project]
) -> None:
    project = copy_built()
    (project.folder / "old.yaml").write_text(project.file.read_text("utf-8"), "utf-8")
    project.change("size: 16", "size: 24")
    assert project.taskloom("diff", "old.yaml", "project.yaml", "-o", "diff.json").code == 0
    view: Any = json.loads((project.folder / "diff.json").read_text("utf-8"))
    rebuilt = [node for node in view["nodes"] if node["change"]["rebuilds"]]
    assert [node["op"] for node in rebuilt] == ["resize_images"]
    assert rebuilt[0]["change"]["rows"] == 160
    assert rebuilt[0]["change"]["bytes"] == 160 * 24 * 24 * 3
    assert (
        built.project.taskloom("diff", "project.yaml", "project.yaml").out.count("nothing anew")
        == 1
    )
