"""Tasks, sources and mixtures refuse what makes no sense, as soon as they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskloom.graph.errors import InstructionError, OpError, PlanError, TaskloomWarning
from taskloom.graph.modality import MODALITIES
from taskloom.pipeline import Mixture, Source, Task, plan
from taskloom.pipeline.task import as_mixture

from .rows import DIGITS, write_jsonl

ROWS = [{"id": 0, "image": b"", "label": "a"}]


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", ".x", "ä", "a/b"])
def test_names_that_cannot_be_files_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match="T0219"):
        Task(name, DIGITS)
    with pytest.raises(PlanError, match="T0219"):
        Source(name, ROWS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"holdout": 1.0, "key": "id"},
            "holdout must be at least 0 and below 1, got 1.0",
            id="all",
        ),
        pytest.param({"holdout": -0.1}, "got -0.1", id="negative share"),
        pytest.param({"valid": math.nan}, "got nan", id="nan share"),
        pytest.param({"holdout": 0.1}, "names no key", id="no key"),
        pytest.param({"valid": 0.1}, "names no key", id="no key to validate by"),
        pytest.param({"weight": 0.0}, "weight must be positive, got 0.0", id="no weight"),
        pytest.param({"weight": math.nan}, "weight must be positive, got nan", id="nan weight"),
    ],
)
def test_settings_out_of_range_name_the_task(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        Task("digits", DIGITS, source=ROWS, **settings)
    assert 'task "digits"' in str(caught.value)
    assert message in str(caught.value)


def test_a_malformed_instruction_is_shown_with_the_name_of_its_task() -> None:
    with pytest.raises(InstructionError) as caught:
        Task("caption", "[IMGE:img] what is it? -> [TEXT:cap]").parse()
    assert "--> caption:1\n   | [IMGE:img] what is it? -> [TEXT:cap]" in str(caught.value)
    assert "did you mean IMAGE?" in str(caught.value)


def test_a_task_has_one_template_or_several() -> None:
    task = Task("caption", ["[IMAGE:img] what is it? -> [TEXT:cap]", "[IMAGE:img] -> [TEXT:cap]"])
    assert [template.label for template in task.parse()] == ["caption:1", "caption:2"]
    assert Task("caption", task.instruction) == task
    assert [template.label for template in Task("a", DIGITS).parse()] == ["a:1"]


def test_legacy_spellings_are_warned_of_when_a_task_is_parsed() -> None:
    legacy = Task("vqa", "[VIDEO:v] [TEXT:q] -> [TEXT:a,is_label] ||| [VIDEO:v] -> [TEXT:a]")
    with pytest.warns(TaskloomWarning) as told:
        first, _ = legacy.parse()
    assert [str(warning.message) for warning in told] == list(map(str, first.warnings))
    assert [str(warning.message)[:14] for warning in told] == ["warning[T0128]", "warning[T0125]"]
    assert "= write closed_set" in str(told[1].message)


def test_planning_warns_of_legacy_spellings() -> None:
    with pytest.warns(TaskloomWarning, match="T0125"):
        plan(Task("a", "[IMAGE:image] -> [TEXT:label,is_label]"))


def test_recipes_carry_out_attributes_of_the_language_and_none_of_their_own() -> None:
    mixture = Mixture([Task("a", DIGITS)])
    assert mixture.modalities() is MODALITIES
    for name, recipe in mixture.recipes().items():
        for spec in recipe.attributes:
            known = MODALITIES[name].attributes[spec.name]
            assert replace(spec, choices=known.choices) == known


def test_a_filter_alone_is_a_list_of_one() -> None:
    assert Task("a", DIGITS, where="id > 3").filters == ("id > 3",)
    assert Task("a", DIGITS, where=["id > 3", "is_clean"]).filters == ("id > 3", "is_clean")
    assert Task("a", DIGITS).filters == ()


def test_tasks_over_one_file_share_its_name_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "my rows.jsonl", [{"a": 1}])
    monkeypatch.chdir(tmp_path)
    absolute = Task("a", DIGITS, source=tmp_path / "my rows.jsonl").named_source()
    relative = Task("b", DIGITS, source="my rows.jsonl").named_source()
    assert absolute.name == relative.name
    assert relative.name.startswith("my_rows-")


def test_files_of_one_name_in_two_folders_are_two_sources(tmp_path: Path) -> None:
    names = {Task("a", DIGITS, source=tmp_path / f / "x.csv").named_source().name for f in "ab"}
    assert len(names) == 2


def test_lists_of_files_and_rows_are_named_after_their_task() -> None:
    assert Task("a", DIGITS, source=["x.csv", "y.csv"]).named_source().name == "a"
    assert Task("a", DIGITS, source=ROWS).named_source().name == "a"


def test_a_task_without_a_source_says_so_when_rows_are_needed() -> None:
    with pytest.raises(PlanError, match='task "a" has no source'):
        Task("a", DIGITS).named_source()


def test_a_mixture_has_tasks_of_different_names() -> None:
    with pytest.raises(PlanError, match="at least one task"):
        Mixture([])
    with pytest.raises(PlanError, match='two tasks are named "a"'):
        Mixture([Task("a", DIGITS), Task("a", DIGITS)])


def test_a_task_is_found_by_name_and_the_nearest_is_suggested() -> None:
    mixture = Mixture([Task("digits", DIGITS)])
    assert mixture["digits"].name == "digits"
    with pytest.raises(PlanError, match="did you mean digits"):
        mixture["digit"]


def test_slots_of_an_unknown_modality_are_refused() -> None:
    with pytest.raises(PlanError, match="did you mean IMAGE"):
        Mixture([Task("a", DIGITS)], slots={"IMGE": {"size": 32}})


def test_two_sources_of_one_name_are_refused_without_comparing_rows() -> None:
    pixels: list[Mapping[str, Any]] = [{"image": np.zeros((2, 2), np.uint8)}]
    tasks = [Task(n, DIGITS, source=Source("same", list(pixels))) for n in "ab"]
    with pytest.raises(PlanError, match='two different sources are named "same"'):
        Mixture(tasks).sources()


@pytest.mark.parametrize("data", [ROWS, "x.csv", {"train": "x.csv", "test": ["y.csv", "z.csv"]}])
def test_one_source_given_twice_is_one(data: Any) -> None:
    tasks = [Task(name, DIGITS, source=Source("same", data)) for name in "ab"]
    mixture = Mixture(tasks)
    assert list(mixture.sources()) == ["same"]
    assert mixture.tasks_of("same") == ["a", "b"]


def test_a_task_or_a_list_of_tasks_is_a_mixture() -> None:
    task = Task("a", DIGITS)
    assert as_mixture(task).tasks == (task,)
    assert as_mixture([task]).tasks == (task,)
    mixture = Mixture([task], bpe_size=300)
    assert as_mixture(mixture) is mixture


def test_vocabulary_files_that_are_missing_are_refused_at_once(tmp_path: Path) -> None:
    files = (str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    with pytest.raises(OpError, match="No such file"):
        Mixture([Task("a", DIGITS)], bpe_files=files)
