"""Ops are listed, shown, checked and locked from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from taskloom.graph.errors import PlanError
from taskloom.ops.catalogue import whole_catalogue
from taskloom.ops.package import find_package
from taskloom.pipeline.cli import app
from taskloom.pipeline.planner.op_help import describe_ops, explain_op

from ...ops.packages import write_package
from ...ops.test_lock import EXAMPLES

RUNNER = typer.testing.CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folder from which distributions are imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_list_names_every_op() -> None:
    told = RUNNER.invoke(app, ["ops", "list"])
    assert told.exit_code == 0
    lines = told.output.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *whole_catalogue()]
    (line,) = [line for line in lines if line.startswith("decode_images")]
    assert line.split() == ["decode_images", "1", "host", "same", "isolated", "taskloom"]


def test_the_list_names_the_distribution_and_what_is_broken(folder: Path) -> None:
    write_package(folder, "listed")
    sys.path.insert(0, str(folder))
    write_package(folder, "unlisted", init="1 / 0")
    told = RUNNER.invoke(app, ["ops", "list"])
    (line,) = [one for one in told.output.splitlines() if one.startswith("negate_numbers")]
    assert line.endswith("listed 1.0")
    assert isinstance(told.exception, PlanError)
    assert [problem.code for problem in told.exception.problems] == ["T0270"]


def test_a_device_op_that_cannot_be_imported_is_still_listed(folder: Path) -> None:
    write_package(folder, "halflisted", device="1 / 0")
    sys.path.insert(0, str(folder))
    (row,) = [row for row in describe_ops() if row["name"] == "double_numbers"]
    assert (row["version"], row["traits"]) == ("-", "cannot be imported")


@pytest.mark.parametrize("name", whole_catalogue())
def test_every_op_is_shown_with_ports_parameters_and_a_call(name: str) -> None:
    op = whole_catalogue()[name]
    lines = explain_op(name).splitlines()
    assert lines[0] == f"{name} {op.traits.version}   {op.traits.place}, of taskloom"
    assert {"parameters", "in", "out", "by hand"} <= set(lines)
    assert lines[-1] == "lock: the code is that of its version"


def test_a_call_that_is_shown_can_be_made() -> None:
    shown = explain_op("normalize_texts").splitlines()
    code = [line.partition(">>> ")[2] for line in shown if ">>> " in line]
    names: dict[str, Any] = {"texts": ["A CAT!"]}
    exec("\n".join(code[:-1]), names)
    assert eval(code[-1], names).to_pylist() == ["a cat"]


def test_an_op_that_is_not_there_is_not_shown() -> None:
    with pytest.raises(PlanError, match="did you mean encode_texts"):
        explain_op("encode_text")


def test_the_check_passes_and_fails_with_the_code(folder: Path) -> None:
    write_package(folder, "checked", examples=EXAMPLES, init=_with_examples("checked"))
    sys.path.insert(0, str(folder))
    told = RUNNER.invoke(app, ["ops", "check", "--package", "checked"])
    assert isinstance(told.exception, PlanError), "nothing is noted yet"
    told = RUNNER.invoke(app, ["ops", "lock", "--package", "checked"])
    assert told.exit_code == 0
    assert (folder / "checked" / "ops.lock").exists()
    told = RUNNER.invoke(app, ["ops", "check", "--package", "checked"])
    assert told.output == "checked 1.0: the code of every op is that of its version\n"
    host = folder / "checked" / "host.py"
    host.write_text(host.read_text("utf-8").replace("pc.negate(", "pc.abs("), "utf-8")
    told = RUNNER.invoke(app, ["ops", "check"])
    assert isinstance(told.exception, PlanError)
    (problem,) = told.exception.problems
    assert problem.message == 'op "negate_numbers" has other code than its version had'


def test_a_package_of_a_plug_in_is_found_by_its_distribution(folder: Path) -> None:
    write_package(folder, "sought", examples=EXAMPLES, init=_with_examples("sought"))
    sys.path.insert(0, str(folder))
    found = find_package("sought")
    assert (found.origin, found.lock_path) == ("sought 1.0", folder / "sought" / "ops.lock")


def _with_examples(package: str) -> str:
    from ...ops.packages import RECIPE  # noqa: PLC0415

    init = RECIPE.replace(
        "PLUGIN = Plugin(", f'PLUGIN = Plugin(examples="{package}.examples:EXAMPLES",'
    )
    return init.replace('device_ops={"double_numbers": "%(package)s.device:DoubleNumbers"},', "")
