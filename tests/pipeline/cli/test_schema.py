"""The schema of project files accepts what taskloom reads and refuses the rest, and is published as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from taskloom.graph.attribute import Attribute
from taskloom.graph.errors import ProjectError
from taskloom.graph.modality import MODALITIES, extend
from taskloom.pipeline.config.schema import describe_keys, project_schema
from taskloom.pipeline.config.sections import read_sections
from taskloom.pipeline.config.yaml_file import YamlFile, read_yaml

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "docs/project.schema.json"
SCHEMA = project_schema()
VALIDATOR: Any = Draft202012Validator(SCHEMA)
SMALL = {"store": "s", "out": "o", "tasks": {"a": {"instruction": "-> [TEXT:a]"}}}

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="ascii"), max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text("abc"), children),
    max_leaves=6,
)
WORDS = st.just("a") | st.lists(st.just("a"), max_size=2)
ROWS = WORDS | st.dictionaries(st.sampled_from(["train", "valid", "test", "dev"]), WORDS)


def read_table(document: str, head: str) -> dict[str, str]:
    """Return the rows of the table in ``docs/DOCUMENT`` whose first column is called ``head``."""
    text = (ROOT / "docs" / document).read_text("utf-8")
    _, _, table = text.partition(f"| {head} | ")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table.partition("\n\n")[0], re.MULTILINE)
    return dict(rows)


def is_read(content: Any) -> bool:
    file = YamlFile(path=Path("p.yaml"), content=content, lines={}, repeated=())
    try:
        read_sections(file)
    except ProjectError:
        return False
    return True


def test_the_published_schema_is_that_of_the_code() -> None:
    """To renew it: ``taskloom schema project > docs/project.schema.json``."""
    assert json.loads(PUBLISHED.read_text("utf-8")) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("recipe", sorted((ROOT / "examples").glob("*.yaml")), ids=str)
def test_recipes_fit_the_schema(recipe: Path) -> None:
    VALIDATOR.validate(read_yaml(recipe).content)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param("storr: s", "", id="unknown key"),
        pytest.param("tasks: {}", "tasks", id="no tasks"),
        pytest.param("tasks: {a: {source: x.csv}}", "tasks.a", id="no instruction"),
        pytest.param("tasks: {a: {instruction: []}}", "tasks.a.instruction", id="no template"),
        pytest.param(
            'tasks: {a: {instruction: "-> [TEXT:a]", source: {dev: x.csv}}}',
            "tasks.a.source",
            id="unknown split",
        ),
        pytest.param("slots: {SMELL: {size: 3}}", "slots", id="unknown modality"),
        pytest.param("slots: {IMAGE: {sise: 3}}", "slots.IMAGE", id="unknown attribute"),
        pytest.param("slots: {IMAGE: {size: 0}}", "slots.IMAGE.size", id="out of range"),
        pytest.param("slots: {IMAGE: {size: big}}", "slots.IMAGE.size", id="wrong type"),
        pytest.param(
            "slots: {TEXT: {loss_weight: 0}}", "slots.TEXT.loss_weight", id="at an open end"
        ),
        pytest.param(
            "slots: {TEXT: {preprocess: txt}}", "slots.TEXT.preprocess", id="unknown choice"
        ),
        pytest.param("text: {bpe_size: 3}", "text.bpe_size", id="small vocabulary"),
        pytest.param("model: {width: wide}", "model.width", id="size in words"),
        pytest.param("train: {compile: maybe}", "train.compile", id="setting"),
    ],
)
def test_what_is_wrong_is_refused_at_its_place(text: str, place: str) -> None:
    errors = list(VALIDATOR.iter_errors(SMALL | yaml.safe_load(text)))
    assert [".".join(map(str, error.absolute_path)) for error in errors] == [place]


@given(
    st.sampled_from(["store", "tasks", "sources", "text", "train", "decode", "more"]),
    PLAIN,
)
def test_a_key_is_accepted_where_it_is_read(key: str, value: Any) -> None:
    content = SMALL | {key: value}
    assert VALIDATOR.is_valid(content) == is_read(content)


@given(
    st.sampled_from(["instruction", "source", "holdout", "key", "where", "weight", "more"]),
    PLAIN | ROWS,
)
def test_a_key_of_a_task_is_accepted_where_it_is_read(key: str, value: Any) -> None:
    content = SMALL | {"tasks": {"a": {"instruction": "-> [TEXT:a]"} | {key: value}}}
    assert VALIDATOR.is_valid(content) == is_read(content)


def test_recipes_of_others_add_their_attributes() -> None:
    bins = Attribute("bins", int, low=2, doc="Classes of depth.")
    schema = project_schema(extend(MODALITIES, {"DEPTH": [bins]}))
    depth = schema["properties"]["slots"]["properties"]["DEPTH"]
    assert depth["properties"]["bins"] == {
        "type": "integer",
        "description": "Classes of depth.",
        "minimum": 2,
    }


@pytest.mark.parametrize(
    ("head", "section"),
    [
        ("key", ""),
        ("key of a task", "TaskSection"),
        ("key of `mixture`", "MixtureSection"),
        ("key of a group", "GroupSection"),
        ("key of `text`", "TextSection"),
        ("key of `model`", "ModelSection"),
        ("key of `train`", "TrainSection"),
        ("key of one of `scopes`", "ScopeSection"),
        ("key of `decode`", "DecodeSection"),
    ],
)
def test_the_page_of_project_files_says_of_each_key_what_the_schema_says(
    head: str, section: str
) -> None:
    assert read_table("project-file.md", head) == describe_keys(SCHEMA, section)
