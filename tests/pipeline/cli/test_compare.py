"""Diff takes projects, instructions, saved views and saved graphs, and says what a build would compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.graph import Graph
from taskloom.graph.render.schema import view_schema
from taskloom.pipeline.planning import plan
from taskloom.pipeline.task import Mixture, Task

from .conftest import Built, Project

CAPTION = "[IMAGE:img] what does the image describe? -> [TEXT:cap]"
SMALLER = "[IMAGE:img,size=64] what does the image describe? -> [TEXT:cap]"


def text_of(instruction: str) -> str:
    return str(plan(Mixture([Task("task", instruction)])).graph)


def test_instructions_are_compared(project: Project) -> None:
    done = project.taskloom("diff", CAPTION, SMALLER)
    assert done.code == 0, done.err
    assert "~ task.img/resize" in done.out
    assert "height 224 \u2192 64" in done.out
    assert "- " not in done.out.replace(" -> ", "")


def test_a_saved_view_and_a_saved_graph_are_the_instruction_they_came_from(
    project: Project,
) -> None:
    assert project.taskloom("graph", CAPTION, "-o", "graph.json").code == 0
    (project.folder / "graph.txt").write_text(text_of(CAPTION), "utf-8")
    for old in ("graph.json", "graph.txt"):
        done = project.taskloom("diff", old, CAPTION)
        assert "a build computes nothing anew" in done.out, done.err
        assert " changed" not in done.out
        assert " added" not in done.out


@pytest.mark.parametrize("ending", ["html", "json", "svg", "dot", "mmd", "txt"])
def test_a_diff_is_written_as_any_view(project: Project, ending: str) -> None:
    (project.folder / "old.txt").write_text(text_of(CAPTION), "utf-8")
    (project.folder / "new.txt").write_text(text_of(SMALLER), "utf-8")
    done = project.taskloom("diff", "old.txt", "new.txt", "-o", f"diff.{ending}")
    assert (done.code, done.out) == (0, f"wrote diff.{ending}\n"), done.err
    text = (project.folder / f"diff.{ending}").read_text("utf-8")
    assert "64" in text
    if ending == "json":
        assert json.loads(text)["diff"]["old_title"] == "old.txt"


@pytest.mark.parametrize(
    ("sides", "code"),
    [
        pytest.param(("nowhere.json", CAPTION), "T0806", id="no file"),
        pytest.param(("rows.jsonl", CAPTION), "T0280", id="no view"),
        pytest.param(("odd.txt", CAPTION), "T0205", id="unknown op"),
        pytest.param((CAPTION, CAPTION, "-o", "diff.png"), "T0806", id="unknown ending"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    project: Project, sides: tuple[str, ...], code: str
) -> None:
    odd = "taskloom graph 1\n%{key} = unheard_of@1 {{}} () -> out: any<any[] scalar>@host\n"
    from taskloom.graph.node import plan_key  # noqa: PLC0415

    (project.folder / "odd.txt").write_text(
        odd.format(key=plan_key("unheard_of", 1, {}, {})), "utf-8"
    )
    done = project.taskloom("diff", *sides)
    assert done.code == 1
    assert f"error[{code}]" in done.err


def test_schema_prints_what_is_published(project: Project) -> None:
    assert project.taskloom("schema", "view").json == view_schema()
    assert "T0806" in project.taskloom("schema", "picture").err


def test_the_text_of_a_graph_draws_what_the_plan_draws() -> None:
    planned = plan(Mixture([Task("task", CAPTION)]))
    assert Graph.parse(str(planned.graph)) == planned.graph


@pytest.mark.slow
def test_a_changed_project_tells_rows_and_bytes_to_compute(
    built: Built, copy_built: Callable[[], Project], tmp_path: Path
) -> None:
    del tmp_path
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
