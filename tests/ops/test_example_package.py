"""The example of a plug-in installs with pip, and works from rows to answers."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "taskloom-series"
CLI = ["-c", "from taskloom.pipeline.cli import main; main()"]
STORY = """
import math, sys
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Task, build, evaluate, plan, train
rows = [
    {"id": i, "sensor": [math.sin(x * (1 + i % 2)) for x in range(20 + i % 7)], "kind": "ab"[i % 2]}
    for i in range(200)
]
rows += [{"id": 200, "sensor": [1.0], "kind": "a"}]
instruction = "[SERIES:sensor,points=32,window=8] what moves? -> [TEXT:kind,closed_set]"
mixture = Mixture([Task("kind", instruction, source=rows, holdout=0.2, key="id")], bpe_size=300)
assert [node.op for node in plan(mixture).graph if "series" in node.op or "windows" in node.op]
report = build(mixture, "store", progress=False)
print("S0003" in str(report))
small = ModelConfig(width=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, ffn_width=64)
run = train(mixture, "store", out="run", model=small, steps=40, source_tokens=512,
            learning_rate=1e-2, progress=False)
print(evaluate(run.model, mixture, "store")["kind"].score > 0.8)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that shares our packages and has the example installed."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    # With their own .pth files: an editable install of taskloom is one.
    shared = "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    (packages / "shared.pth").write_text(shared, "utf-8")
    shutil.copytree(EXAMPLE, folder / "source")
    python = folder / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", folder / "source"]
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, *install], check=True)
    return python


def run(python: Path, folder: Path, *arguments: str) -> str:
    told = subprocess.run(
        [python, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


@pytest.mark.slow
def test_the_list_shows_its_ops(python: Path, tmp_path: Path) -> None:
    lines = run(python, tmp_path, *CLI, "ops", "list").splitlines()
    theirs = [line.split()[0] for line in lines if line.endswith("taskloom-series 0.1.0")]
    assert theirs == ["embed_windows", "resample_series"]
    shown = run(python, tmp_path, *CLI, "ops", "show", "resample_series")
    assert "of taskloom-series 0.1.0" in shown


@pytest.mark.slow
def test_its_code_is_that_of_its_lock(python: Path, tmp_path: Path) -> None:
    told = run(python, tmp_path, *CLI, "ops", "check", "--package", "taskloom-series")
    assert told == "taskloom-series 0.1.0: the code of every op is that of its version\n"


@pytest.mark.slow
def test_its_own_tests_pass(python: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    run(python, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


@pytest.mark.slow
def test_a_new_modality_is_built_and_learned(python: Path, tmp_path: Path) -> None:
    (tmp_path / "story.py").write_text(STORY, "utf-8")
    assert run(python, tmp_path, "story.py").split() == ["True", "True"]


def test_the_lock_is_installed_with_the_package() -> None:
    assert (EXAMPLE / "taskloom_series" / "ops.lock").exists()
