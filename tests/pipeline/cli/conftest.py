"""A small project of real digits, built and trained once with the command line itself."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ...command_line import TERMINAL, Done, run_here

NUM_ROWS = 160
MAIN = "from taskloom.pipeline.cli import main; main()"

PROJECT = """
store: store
out: run
sources:
  digits: rows.jsonl
tasks:
  digits:
    instruction: "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"
    source: digits
    holdout: 0.2
    key: id
  parity:
    instruction: "is [IMAGE:image] even or odd? -> [TEXT:parity,closed_set]"
    source: digits
    holdout: 0.2
    key: id
    where: id >= 0
slots:
  IMAGE: {size: 16, patch: 8}
text: {bpe_size: 300}
model: {width: 32, num_heads: 2, num_encoder_layers: 1, num_decoder_layers: 1, ffn_width: 64}
train: {steps: 8, source_tokens: 512, log_every: 4, learning_rate: 1e-2, compile: off}
"""


@dataclass(frozen=True, slots=True)
class Project:
    """A project in a folder of its own."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "project.yaml"

    def taskloom(self, *arguments: str, stdin: str = "") -> Done:
        """Run the command line in the project's folder, in this process."""
        with contextlib.chdir(self.folder):
            return run_here(*arguments, stdin=stdin)

    def taskloom_apart(self, *arguments: str, stdin: str = "") -> Done:
        """Do the same in a process of its own."""
        return self.python(MAIN, *arguments, stdin=stdin)

    def python(self, code: str, *arguments: str, stdin: str = "") -> Done:
        """Run ``code`` in the project's folder, as if called ``taskloom``."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | TERMINAL,
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line and leave it running."""
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def change(self, old: str, new: str) -> None:
        """Replace ``old``, which is there, in the project file."""
        text = self.file.read_text("utf-8")
        assert old in text, f"{self.file} does not hold {old!r}"
        self.file.write_text(text.replace(old, new), "utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A project that was built and trained, and what the commands that did it printed."""

    project: Project
    build: Done
    train: Done


def write_project(folder: Path) -> Project:
    """Write the project file and its rows."""
    rows = [json.dumps(row) for row in make_rows()]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    (folder / "project.yaml").write_text(PROJECT, "utf-8")
    return Project(folder)


def make_rows() -> list[Mapping[str, object]]:
    """Return scanned digits: pictures as base64 of PNG files, digits as numbers."""
    counts, labels = load_digits(return_X_y=True)
    images = np.rint(counts[:NUM_ROWS] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return [
        {
            "id": number,
            "image": base64.b64encode(encode_png(image)).decode(),
            "label": int(label),
            "parity": "odd" if label % 2 else "even",
        }
        for number, (image, label) in enumerate(zip(images, labels, strict=False))
    ]


def encode_png(image: Any) -> bytes:
    """Return grey pixels as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project that was never built."""
    return write_project(tmp_path)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build and train a project in processes of their own; tests that change it take a copy."""
    project = write_project(tmp_path_factory.mktemp("built"))
    build = project.taskloom_apart("build", "project.yaml", "--json")
    assert build.code == 0, build.err
    train = project.taskloom_apart("train", "project.yaml", "--profile", "2:3", "--json")
    assert train.code == 0, train.err
    return Built(project=project, build=build, train=train)


@pytest.fixture
def copy_built(built: Built, tmp_path: Path) -> Callable[[], Project]:
    """Return a function that copies the built project, at most once a test."""

    def copy() -> Project:
        folder = tmp_path / "copy"
        shutil.copytree(built.project.folder, folder)
        return Project(folder)

    return copy
