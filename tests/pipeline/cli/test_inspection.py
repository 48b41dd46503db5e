"""A view says of every column whether the store holds it and, where it is stale, what changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from taskloom.graph.view import State, Status
from taskloom.ops.host.image import ResizeImages
from taskloom.pipeline.config.project import load_project
from taskloom.pipeline.viewer.inspection import column_states, open_plan, view_plan
from taskloom.storage.store import Store

from .conftest import Built, Project


def look(project: Project) -> dict[str, State]:
    """Return the states of the project's columns, by address."""
    loaded = load_project(project.file)
    store = Store.open(loaded.store)
    planned = open_plan(loaded.mixture, store, model=loaded.model)
    states = column_states(planned, store)
    return {planned.graph.nodes[node].address: state for node, state in states.items()}


def test_everything_is_cached_after_a_build(built: Built) -> None:
    states = look(built.project)
    assert len(states) == 5
    assert set(states.values()) == {State(Status.CACHED, "1 of 1 partitions")}


@pytest.mark.parametrize(
    ("old", "new", "address", "why"),
    [
        pytest.param(
            "size: 16",
            "size: 24",
            "digits.image/resize",
            "digits.image/resize: height was 16, is 24, width was 16, is 24",
            id="attribute of a modality",
        ),
        pytest.param(
            "label,closed_set",
            "label,closed_set,uncased",
            "digits.label/encode",
            "digits.label/normalize: is_lowercase was False, is True",
            id="attribute of a slot, upstream of the column",
        ),
        pytest.param(
            "where: id >= 0",
            "where: id >= 7",
            "parity/where.id/compare",
            "parity/where.id/compare: value was 0, is 7",
            id="filter",
        ),
        pytest.param(
            "holdout: 0.2",
            "holdout: 0.3",
            "digits/split",
            "digits/split: test was 0.2, is 0.3",
            id="share held out",
        ),
        pytest.param(
            "    holdout: 0.2\n    key: id",
            "",
            "digits/split/read",
            "digits/split/read: assign_splits was left out",
            id="nothing held out any more",
        ),
    ],
)
def test_a_stale_column_tells_what_changed_from_what_to_what(
    copy_built: Callable[[], Project], old: str, new: str, address: str, why: str
) -> None:
    project = copy_built()
    project.change(old, new)
    states = look(project)
    assert states.pop(address) == State(Status.STALE, why)
    assert Status.STALE not in {state.status for state in states.values()}


def test_a_prompt_is_in_no_column(copy_built: Callable[[], Project]) -> None:
    project = copy_built()
    project.change("what does the image describe?", "which digit is it?")
    assert {state.status for state in look(project).values()} == {Status.CACHED}


def test_a_new_version_of_an_op_is_told(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResizeImages, "traits", replace(ResizeImages.traits, version=9))
    state = look(built.project)["digits.image/resize"]
    assert state.status is Status.STALE
    assert state.why == "digits.image/resize: version of resize_images was 1, is 9"


def test_columns_made_with_an_older_artifact_are_stale(copy_built: Callable[[], Project]) -> None:
    project = copy_built()
    store = Store.open(project.folder / "store")
    store.pin("closed-set-digits.label", "closed_set", b'["0","1"]')
    states = look(project)
    assert states["digits.label/encode"].why == "closed-set-digits.label was fitted again"
    assert states["parity.parity/encode"].status is Status.CACHED


def test_an_artifact_that_is_to_be_fitted_is_missing_and_what_follows_stale(
    copy_built: Callable[[], Project],
) -> None:
    project = copy_built()
    (project.folder / "store" / "artifacts" / "closed-set-digits.label.json").unlink()
    states = look(project)
    assert states["closed-set-digits.label"].status is Status.MISSING
    assert states["digits.label/encode"] == State(
        Status.STALE, "closed-set-digits.label is to be fitted again"
    )


def test_what_was_never_built_is_missing(copy_built: Callable[[], Project]) -> None:
    project = copy_built()
    project.change("is [IMAGE:image] even", "is [IMAGE:image] [TEXT:id] even")
    assert look(project)["parity.id/encode"] == State(Status.MISSING, "never built")
    project.change("sources:\n  digits:", "sources:\n  scans:")
    project.change("source: digits", "source: scans")
    whys = {state.why for state in look(project).values()}
    assert 'source "scans" was never built' in whys


def test_a_lost_partition_is_missing(copy_built: Callable[[], Project]) -> None:
    project = copy_built()
    for receipt in (project.folder / "store" / "columns").glob("*/*/*.receipt"):
        receipt.unlink()
    assert set(look(project).values()) == {State(Status.MISSING, "1 of 1 partitions to build")}


def test_nothing_is_stored_for_inference(built: Built) -> None:
    loaded = load_project(built.project.file)
    store = Store.open(loaded.store)
    view = view_plan(open_plan(loaded.mixture, store, "infer"), title="infer", store=store)
    assert all(node["state"] is None for node in view["nodes"])
    assert all(output["stored"] is None for node in view["nodes"] for output in node["outputs"])
