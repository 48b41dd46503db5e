"""`--analyze` tells what a plan has really cost, and of which build and which steps the figures are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.errors import ProjectError
from taskloom.graph.passes.cut import Stage
from taskloom.graph.view import View
from taskloom.pipeline.cli import look as cli
from taskloom.pipeline.config.project import load_project
from taskloom.pipeline.viewer.analysis import analyze
from taskloom.pipeline.viewer.inspection import open_plan, view_plan
from taskloom.storage.store import Store

from .conftest import NUM_ROWS, Built, Project


def view_of(project: Project) -> View:
    """Return the analyzed view of a project, made in this process."""
    loaded = load_project(project.file)
    store = Store.open(loaded.store)
    planned = open_plan(loaded.mixture, store, model=loaded.model)
    analysis = analyze(
        planned,
        loaded.mixture,
        store,
        run=loaded.out,
        model=loaded.model,
        config=loaded.train,
    )
    return view_plan(planned, title="project", store=store, analysis=analysis)


def measured(view: Any) -> dict[str, Any]:
    """Return the measures of the nodes that have some, by address."""
    return {node["address"]: node["measure"] for node in view["nodes"] if node["measure"]}


def training_remark(view: Any) -> str:
    (remark,) = (r for r in view["remarks"] if r.startswith("training: "))
    return remark


def test_after_training_the_figures_are_of_the_build_and_the_run(built: Built) -> None:
    done = built.project.taskloom("explain", "project.yaml", "--analyze", "--json")
    assert (done.code, done.err) == (0, "")
    view, figures = done.json, measured(done.json)
    assert training_remark(view).startswith("training: steps 6 to 8 of ")
    assert figures["digits.image/decode"]["rows_out"] == NUM_ROWS
    assert figures["encoder"]["backward_seconds"] > 0
    ran = {n["address"] for n in view["nodes"] if n["rows"] or n["stage"] != Stage.OFFLINE}
    assert ran <= figures.keys()
    for stage in Stage:
        shares = [
            n["measure"]["share"] for n in view["nodes"] if n["stage"] == stage and n["measure"]
        ]
        assert sum(shares) == pytest.approx(1)


def test_after_a_build_alone_a_few_steps_are_taken_at_once_and_nothing_is_kept(
    copy_built: Callable[[], Project],
) -> None:
    project = copy_built()
    shutil.rmtree(project.folder / "run")
    files = sorted(project.folder.rglob("*"))
    done = project.taskloom("graph", "project.yaml", "-o", "graph.json", "--analyze")
    assert done.code == 0, done.err
    view = json.loads((project.folder / "graph.json").read_text())
    assert "3 steps taken just now with a fresh model" in training_remark(view)
    assert measured(view)["decoder"]["calls"] == 3
    (project.folder / "graph.json").unlink()
    assert sorted(project.folder.rglob("*")) == files


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("width: 32", "width: 16", id="another model"),
        pytest.param("  parity:\n", "  evenness:\n", id="another task"),
    ],
)
def test_figures_of_a_run_of_something_else_are_not_shown(
    copy_built: Callable[[], Project], old: str, new: str
) -> None:
    project = copy_built()
    assert "steps 6 to 8 of" in training_remark(view_of(project))
    project.change(old, new)
    assert "steps 6 to 8 of" not in training_remark(view_of(project))


def test_what_is_not_built_yet_is_told_and_the_rest_is_shown(
    copy_built: Callable[[], Project],
) -> None:
    project = copy_built()
    shutil.rmtree(project.folder / "run")
    project.change("is [IMAGE:image] even", "is [IMAGE:image] [TEXT:id] even")
    view = view_of(project)
    assert training_remark(view).startswith('training: not measured; task "parity" is not built')
    assert measured(view)["digits.image/decode"]["rows_out"] == NUM_ROWS
    assert "encoder" not in measured(view)


def test_another_store_may_be_named(
    copy_built: Callable[[], Project], capsys: pytest.CaptureFixture[str]
) -> None:
    project = copy_built()
    other = (project.folder / "store").rename(project.folder / "elsewhere")
    cli.explain(str(project.file), analyze=True, store=str(other), as_json=True)
    view = json.loads(capsys.readouterr().out)
    assert measured(view)["digits.image/decode"]["rows_out"] == NUM_ROWS


def test_without_analyze_nothing_is_measured_or_told(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.explain(str(built.project.file), as_json=True)
    view = json.loads(capsys.readouterr().out)
    assert measured(view) == {}
    assert view["remarks"] == []


@pytest.mark.parametrize(
    ("described", "mode", "message"),
    [
        pytest.param("project.yaml", "train", "there is no store at", id="never built"),
        pytest.param("project.yaml", "infer", "answering is not measured", id="infer"),
        pytest.param("[TEXT:a] -> [TEXT:b]", "train", "an instruction alone", id="instruction"),
    ],
)
def test_what_never_ran_cannot_be_analyzed(
    project: Project, monkeypatch: pytest.MonkeyPatch, described: str, mode: str, message: str
) -> None:
    monkeypatch.chdir(project.folder)
    with pytest.raises(ProjectError, match=f"T0290.*: nothing to analyze: {message}"):
        cli.explain(described, mode=mode, analyze=True)


def test_the_page_and_the_text_say_where_the_figures_are_from(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "graph.html"
    cli.explain(str(built.project.file), analyze=True)
    cli.graph(str(built.project.file), out=page, analyze=True)
    for text in (capsys.readouterr().out, page.read_text("utf-8")):
        assert "columns: as they were built last" in text
        assert "training: steps 6 to 8 of" in text
