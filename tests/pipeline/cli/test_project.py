"""A project file says everything once, in keys that exist, or is refused with all that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from taskloom.graph.errors import Problem, ProjectError
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Schedule, Temperature, UniMax
from taskloom.pipeline.config.project import load_project
from taskloom.pipeline.config.yaml_file import read_yaml
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.task import Source

SMALL = """
store: store
out: run
tasks:
  a:
    instruction: "[TEXT:x] -> [TEXT:y]"
    source: rows.csv
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "p.yaml"
    path.write_text(text, "utf-8")
    return path


def refuse(folder: Path, text: str) -> list[tuple[str, str, str]]:
    """Return code, message and help of everything that is wrong, with the folder left out."""
    with pytest.raises(ProjectError) as caught:
        load_project(write(folder, text))
    return [
        (problem.code, problem.message.replace(f"{folder}/", ""), problem.help)
        for problem in caught.value.problems
    ]


def test_what_is_not_said_has_the_defaults_of_the_python_classes(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, SMALL))
    assert (project.model, project.train) == (ModelConfig(), TrainConfig())
    assert (project.store, project.out) == (tmp_path / "store", tmp_path / "run")
    (task,) = project.mixture.tasks
    assert (task.holdout, task.key, task.where, task.weight) == (0.0, None, [], None)


def test_every_key_arrives_where_it_belongs(tmp_path: Path) -> None:
    text = """
store: ../store
out: /runs/a
sources:
  pairs: {train: [a.csv, b.csv], test: "t*.csv"}
tasks:
  a:
    instruction: "[TEXT:x] -> [TEXT:y]"
    source: pairs
    holdout: 0.1
    valid: 0.2
    key: id
    where: [rating >= 0.5, not is_noisy]
    weight: 2
slots:
  TEXT: {uncased: true, max_length: 12}
text: {bpe_size: 512}
model: {width: 64, dropout: 0.1}
train: {steps: 7, learning_rate: 1e-3, compile: on}
"""
    project = load_project(write(tmp_path, text))
    (task,) = project.mixture.tasks
    rows = {"train": [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]}
    assert task.source == Source("pairs", rows | {"test": str(tmp_path / "t*.csv")})
    assert (task.holdout, task.valid, task.key, task.weight) == (0.1, 0.2, "id", 2)
    assert task.filters == ("rating >= 0.5", "not is_noisy")
    assert project.mixture.slots == {"TEXT": {"uncased": True, "max_length": 12}}
    assert project.mixture.bpe_size == 512
    assert (project.model.width, project.model.dropout) == (64, 0.1)
    assert (project.train.steps, project.train.compile) == (7, "on")
    assert project.train.learning_rate == pytest.approx(0.001)
    assert project.out == Path("/runs/a")


MIXED = """
store: store
out: run
sources: {rows: rows.csv}
tasks:
  a: {instruction: "-> [TEXT:y]", source: rows}
  b: {instruction: "-> [TEXT:y]", source: rows}
  c: {instruction: "-> [TEXT:y]", source: rows}
"""


def test_tasks_are_mixed_by_rules_and_in_groups(tmp_path: Path) -> None:
    text = f"""{MIXED}
mixture:
  schedule: {{0: {{weights: {{a: 1, g: 2}}}}, 500: {{temperature: 2}}}}
  linear: true
  groups:
    g: {{tasks: [b, c], unimax: {{epochs: 2}}}}
"""
    mixture = load_project(write(tmp_path, text)).mixture
    a, group = mixture.parts
    assert (a.name, group.name) == ("a", "g")
    assert [task.name for task in mixture.tasks] == ["a", "b", "c"]
    rules: dict[int, Any] = {0: {"a": 1, "g": 2}, 500: Temperature(2)}
    assert mixture.weights == Schedule(rules, is_linear=True)
    assert isinstance(group, Mixture)
    assert group.weights == UniMax(2)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("{temperature: 2, tokens: {a: 1}}", "mixture: a mixture has one rule"),
        ("{weights: {a: 1}}", 'mixture: tasks cannot be mixed so: "b" has no weight'),
        ("{groups: {g: {tasks: [a, x]}}}", 'group "g" names task "x", which is not here'),
        ("{groups: {g: {tasks: [a]}, h: {tasks: [a]}}}", 'task "a" is in two groups'),
        ("{schedule: {0: {}}}", "one rule for each step"),
        ("{sampling: {}}", 'mixture.sampling: unknown key "sampling"'),
        ("{groups: {g: {task: [a]}}}", 'mixture.groups.g.task: unknown key "task"'),
        ("{temperature: 0}", "the temperature must be positive, got 0"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused_with_its_line(
    tmp_path: Path, mixture: str, message: str
) -> None:
    ((_, told, _),) = refuse(tmp_path, f"{MIXED}mixture: {mixture}\n")
    assert told.startswith("p.yaml:9: ")
    assert message in told


def test_vocabulary_files_lie_beside_the_project(tmp_path: Path) -> None:
    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    (tmp_path / "vocab.json").write_text(json.dumps(letters), "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    text = SMALL + "text: {bpe_files: [vocab.json, merges.txt]}\n"
    mixture = load_project(write(tmp_path, text)).mixture
    assert mixture.bpe_files == (str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert mixture.bpe_size == 256
    ((code, message, _),) = refuse(tmp_path, text.replace("merges.txt", "none.txt"))
    assert (code, message[:26]) == ("T0309", "p.yaml:8: text.bpe_files: ")


def test_a_task_has_several_templates_as_a_list(tmp_path: Path) -> None:
    text = SMALL.replace('"[TEXT:x] -> [TEXT:y]"', '["[TEXT:x] -> [TEXT:y]", "-> [TEXT:y]"]')
    (task,) = load_project(write(tmp_path, text)).mixture.tasks
    assert [str(template) for template in task.parse()] == ["[TEXT:x] -> [TEXT:y]", "-> [TEXT:y]"]


def test_tasks_that_name_one_source_share_it(tmp_path: Path) -> None:
    more = '  b: {instruction: "-> [TEXT:y]", source: rows}\n  c: {instruction: "-> [TEXT:y]", '
    text = SMALL.replace("rows.csv", "rows") + more + "source: rows.csv}\nsources: {rows: rows.csv}"
    a, b, c = load_project(write(tmp_path, text)).mixture.tasks
    assert a.named_source() == b.named_source() == Source("rows", str(tmp_path / "rows.csv"))
    assert c.named_source().name != "rows"


def test_the_name_of_the_folder_is_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    text = SMALL.replace("rows.csv", '"*.csv"')
    (task,) = load_project(write(folder, text)).mixture.tasks
    assert task.source == f"{tmp_path}/run[[]1]/*.csv"


def test_all_problems_of_form_are_shown_together_with_line_and_key(tmp_path: Path) -> None:
    text = """\
store: s
out: 3
tasks:
  a: {instruction: "-> [TEXT:a]", source: [1], holdout: "0.1", wheer: x}
  b: {where: 5}
  c: {instruction: ["-> [TEXT:a]", 3]}
  2024: {instruction: "-> [TEXT:a]"}
taskz: {}
slots: {TEXT: {uncased: [1]}}
text: {bpe_size: 3}
model: {width: wide}
train: {steps: 1.5, compile: maybe, seed: true, threads:}
"""
    source = (
        "must be a path, a list of paths, a query (sql and connection), or one of these for each of "
        "train, valid and test"
    )
    assert refuse(tmp_path, text) == [
        ("T0805", "p.yaml:2: out must be text, got 3", ""),
        ("T0805", f"p.yaml:4: tasks.a.source {source}, got [1]", ""),
        ("T0805", 'p.yaml:4: tasks.a.holdout must be a number, got "0.1"', ""),
        ("T0803", 'p.yaml:4: tasks.a.wheer: unknown key "wheer"', "did you mean where?"),
        ("T0804", "p.yaml:5: tasks.b.instruction is missing", ""),
        (
            "T0805",
            "p.yaml:5: tasks.b.where must be a condition, or a list of conditions, got 5",
            "",
        ),
        (
            "T0805",
            "p.yaml:6: tasks.c.instruction must be an instruction, or a list of instructions, "
            'got ["-> [TEXT:a]", 3]',
            "",
        ),
        ("T0805", "p.yaml:7: tasks.2024 must be text, got 2024", "put the name in quotes"),
        (
            "T0805",
            "p.yaml:9: slots.TEXT.uncased must be a number, text, true or false, got [1]",
            "",
        ),
        ("T0805", "p.yaml:10: text.bpe_size must be at least 256, got 3", ""),
        ("T0805", 'p.yaml:11: model.width must be a whole number, got "wide"', ""),
        ("T0805", "p.yaml:12: train.steps must be a whole number, got 1.5", ""),
        ("T0805", "p.yaml:12: train.seed must be a whole number, got true", ""),
        ("T0805", "p.yaml:12: train.compile must be 'auto', 'on' or 'off', got \"maybe\"", ""),
        ("T0805", "p.yaml:12: train.threads must be a whole number, got nothing", ""),
        ("T0803", 'p.yaml:8: taskz: unknown key "taskz"', "did you mean tasks?"),
    ]


def test_all_problems_of_sense_are_shown_together_with_line_and_key(tmp_path: Path) -> None:
    text = """\
store: s3://me:word@bucket/store
out: o
sources: {"a/b": rows.csv}
tasks:
  a: {instruction: "-> [TEXT:a]", source: r.csv, holdout: 1.5, key: id}
  b: {instruction: "-> [TEXT:a]", source: r.csv, holdout: 0.1}
  good: {instruction: "-> [TEXT:a]"}
slots: {IMAGES: {size: 3}, TEXT: {uncasd: true, max_length: 0}, IMAGE: {preprocess: imagenet}}
model: {width: 31}
train: {steps: 0, warmup: .nan}
"""
    told = refuse(tmp_path, text)
    assert [(code, message.partition(":")[2].partition(":")[0]) for code, message, _ in told] == [
        ("T0501", "1"),
        ("T0220", "9"),
        ("T0730", "10"),
        ("T0730", "10"),
        ("T0219", "3"),
        ("T0217", "5"),
        ("T0217", "6"),
        ("T0803", "8"),
        ("T0803", "8"),
        ("T0122", "8"),
        ("T0124", "8"),
    ]
    assert told[-4][1:] == (
        "p.yaml:8: slots.IMAGES: there is no such recipe",
        "did you mean IMAGE?",
    )
    assert told[-3][2] == "did you mean uncased?"
    assert told[-2][1].startswith("p.yaml:8: slots.TEXT.max_length: max_length must be")
    assert told[-1][1].startswith("p.yaml:8: slots.IMAGE.preprocess: preprocess=imagenet is")


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        pytest.param("", "T0802", "p.yaml holds no keys", id="empty"),
        pytest.param("- a\n- b\n", "T0802", "p.yaml holds no keys", id="a list"),
        pytest.param("a: [1\nb: 2\n", "T0802", "p.yaml:2:2: expected ',' or ']'", id="syntax"),
        pytest.param("a:\n\tb: 1\n", "T0802", "p.yaml:2:1: found character '\\t'", id="tab"),
        pytest.param("a: !!python/tuple [1]", "T0802", "p.yaml:1:4: could not", id="python object"),
        pytest.param("a: \x01\n", "T0802", "p.yaml is not YAML: unacceptable", id="control"),
        pytest.param("[" * 5000, "T0802", "p.yaml is nested too deeply", id="deep"),
        pytest.param(
            SMALL + "  a: {}\n", "T0808", "p.yaml:8: tasks.a is given twice", id="two of one name"
        ),
        pytest.param(
            SMALL.replace("rows.csv", "{dev: rows.csv}"),
            "T0805",
            "p.yaml:7: tasks.a.source must be",
            id="unknown split",
        ),
        pytest.param(
            "store: s\nout: o\ntasks: {}",
            "T0805",
            "p.yaml:3: tasks must have 1 or more entries, got {}",
            id="no tasks",
        ),
    ],
)
def test_files_that_make_no_project_are_refused(
    tmp_path: Path, text: str, code: str, message: str
) -> None:
    told = refuse(tmp_path, text)
    assert told[0][0] == code
    assert told[0][1].startswith(message)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    for name, words in (
        ("none.yaml", "there is no"),
        ("latin.yaml", "UTF-8"),
        (".", "cannot read"),
    ):
        with pytest.raises(ProjectError, match=words):
            load_project(tmp_path / name)


@pytest.mark.parametrize(
    ("spelled", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("1e-3", 0.001),
        ("010", 10),
        ("-7", -7),
        (".5", 0.5),
        ("2024-01-01", "2024-01-01"),
        ("12:30:00", "12:30:00"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("", None),
        ("~", None),
        ("'1'", "1"),
    ],
)
def test_words_and_numbers_are_those_of_yaml_1_2(
    tmp_path: Path, spelled: str, value: object
) -> None:
    content = read_yaml(write(tmp_path, f"a: {spelled}\n")).content
    assert content == {"a": value}
    assert type(content["a"]) is type(value)


def test_merged_keys_are_not_given_twice(tmp_path: Path) -> None:
    file = read_yaml(write(tmp_path, "base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}\n"))
    assert file.content["more"] == {"x": 1, "y": 3}
    assert file.repeated == ()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="ascii"), max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text("abc"), children),
    max_leaves=6,
)


@given(key=st.sampled_from(["store", "tasks", "slots", "text", "train"]), value=PLAIN)
def test_whatever_a_key_holds_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    content = {"store": "s", "out": "o", "tasks": {"a": {"instruction": "-> [TEXT:a]"}}}
    folder = tmp_path_factory.mktemp("any")
    path = write(folder, yaml.safe_dump(content | {key: value}))
    problems: tuple[Problem, ...] = ()
    try:
        load_project(path)
    except ProjectError as error:
        problems = error.problems
    assert all(problem.message.startswith(str(path)) for problem in problems)
