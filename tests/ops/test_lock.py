"""A lock holds code to its version, and lets it go only for outputs that stay the same."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom.graph.errors import PlanError
from taskloom.ops.example import Example
from taskloom.ops.lock import (
    Locked,
    check_lock,
    compute_golden,
    is_same,
    read_lock,
    update_lock,
    write_lock,
)
from taskloom.ops.package import find_package, find_packages

from .packages import HOST_OP, write_package

EXAMPLES = """
import pyarrow as pa
from taskloom.ops.example import Example
from .host import NegateNumbers

EXAMPLES = (Example(op=NegateNumbers(), rows={"numbers": pa.array([1.5, 7.0])}),)
"""


class Package:
    """A package with one op, whose code changes."""

    name = "locked"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_package(folder, self.name, examples=EXAMPLES)
        self.path = folder / self.name / "ops.lock"

    def examples(self) -> tuple[Example, ...]:
        return importlib.import_module(f"{self.name}.examples").EXAMPLES

    def rewrite(self, old: str, new: str) -> None:
        """Change the code of the op, in its file and in this process."""
        file = self.folder / self.name / "host.py"
        text = file.read_text("utf-8")
        assert old in text
        file.write_text(text.replace(old, new), "utf-8")
        self.forget()

    def forget(self) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == self.name]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def lock(self, *same_output: str) -> None:
        lock = read_lock(self.path)
        write_lock(self.path, update_lock(lock, self.examples(), same_output=same_output))

    def check(self) -> list[str]:
        problems = check_lock(read_lock(self.path), self.examples())
        return [f"{problem.code} {problem.message}" for problem in problems]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """A package whose op is in its lock."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Package(tmp_path)
    made.lock()
    yield made
    made.forget()


MOVED = 'T0274 op "negate_numbers" has other code than its version had'
CHANGES = ("pc.negate(numbers)", "pc.subtract(1, numbers)")
KEEPS = ("pc.negate(numbers)", "pc.multiply(numbers, -1)")
RAISES = ("version=1", "version=2")


def test_the_lock_of_taskloom_is_up_to_date() -> None:
    (ours, *_) = find_packages()
    assert ours.name == "taskloom.ops"
    assert ours.check() == []


def test_what_the_lock_of_taskloom_remembers_is_what_its_ops_give() -> None:
    (ours, *_) = find_packages()
    lock, examples = read_lock(ours.lock_path), ours.examples()
    goldens = {
        name: compute_golden([example for example in examples if example.name == name])
        for name in lock
    }
    assert [name for name in lock if not is_same(goldens[name], lock[name].golden)] == []


def test_code_of_its_version_passes(package: Package) -> None:
    assert package.check() == []
    package.rewrite("return pc", "# negated\n        return pc")
    assert package.check() == []


def test_code_that_moved_is_named_and_cannot_be_noted(package: Package) -> None:
    package.rewrite(*CHANGES)
    assert package.check() == [MOVED]
    with pytest.raises(PlanError, match=r"(?s)raise its version.*--same-output negate_numbers"):
        package.lock()
    assert package.check() == [MOVED]


def test_a_new_version_is_noted(package: Package) -> None:
    before = read_lock(package.path)["negate_numbers"]
    package.rewrite(*CHANGES)
    package.rewrite(*RAISES)
    assert package.check() == ['T0274 op "negate_numbers" has version 2, the lock 1']
    package.lock()
    assert package.check() == []
    after = read_lock(package.path)["negate_numbers"]
    assert (after.version, after.golden != before.golden) == (2, True)


def test_the_same_output_is_accepted_once_it_was_tried(package: Package) -> None:
    package.rewrite(*KEEPS)
    assert package.check() == [MOVED]
    package.lock("negate_numbers")
    assert package.check() == []


def test_another_output_is_refused_whatever_is_claimed(package: Package) -> None:
    package.rewrite(*CHANGES)
    with pytest.raises(PlanError, match=r"T0275.*gives other outputs than before"):
        package.lock("negate_numbers")
    assert package.check() == [MOVED]


def test_versions_never_fall(package: Package) -> None:
    package.rewrite("version=1", "version=3")
    package.lock()
    package.rewrite("version=3", "version=2")
    assert package.check() == ['T0274 op "negate_numbers" went back from version 3 to 2']
    with pytest.raises(PlanError, match="versions only rise"):
        package.lock("negate_numbers")


def test_ops_that_come_and_go_are_named(package: Package) -> None:
    package.rewrite("negate_numbers", "turn_numbers")
    assert sorted(package.check()) == [
        'T0274 op "negate_numbers" is in the lock, and is gone',
        'T0274 op "turn_numbers" is not in the lock',
    ]
    package.lock()
    assert package.check() == []


def test_an_op_that_is_not_there_cannot_be_accepted(package: Package) -> None:
    with pytest.raises(PlanError, match=r"(?s)T0278.*did you mean negate_numbers"):
        package.lock("negate_number")


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"format": 1}',
        '{"format": 2, "ops": {}}',
        '{"format": 1, "ops": {"a": 1}}',
    ],
)
def test_a_file_that_is_no_lock_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ops.lock").write_text(text, "utf-8")
    with pytest.raises(PlanError, match="T0276"):
        read_lock(tmp_path / "ops.lock")


def test_locks_survive_the_trip_to_a_file(tmp_path: Path) -> None:
    lock = {
        "b": Locked(version=2, code="5c1f", golden="0a"),
        "a": Locked(version=1, code="77b3", golden=(0.25, -1.5)),
    }
    write_lock(tmp_path / "ops.lock", lock)
    assert read_lock(tmp_path / "ops.lock") == lock
    lines = (tmp_path / "ops.lock").read_text("utf-8").splitlines()
    assert [line.split('"')[1] for line in lines if "golden" in line] == ["a", "b"]
    assert json.loads("\n".join(lines))["format"] == 1


def test_numbers_of_tensors_agree_within_a_tolerance() -> None:
    assert is_same((1.0, 1e6, 0.0), (1.00005, 1e6 + 10, 1e-5))
    assert not is_same((1.0,), (1.001,))
    assert not is_same((1.0,), (1.0, 2.0))
    assert not is_same("0a", (1.0,))


def test_a_package_that_is_not_there_is_refused() -> None:
    with pytest.raises(PlanError, match=r"T0277.*nowhere"):
        find_package("nowhere")
    assert find_package("taskloom") == find_package("taskloom.ops")


def test_an_op_that_moved_is_found_in_the_class_that_runs(package: Package) -> None:
    (example,) = package.examples()
    package.rewrite(*CHANGES)
    (again,) = package.examples()
    assert compute_golden([example]) != compute_golden([again])
    assert HOST_OP.count("pc.negate") == 1
