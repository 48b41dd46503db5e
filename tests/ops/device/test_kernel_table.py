"""The committed table says what the compiler makes of our kernels, and no kernel is out of bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

BENCH = Path(__file__).parents[3] / "bench"
SHARED_BYTES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
MATRIX_INSTRUCTIONS = {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05"}


def compare(*names: str) -> list[str]:
    """Compile the kernels of ``names``, or all, and return what is not as in the table."""
    environ = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    only = ["--only", *names] if names else []
    command = [sys.executable, str(BENCH / "attention_kernels.py"), *only]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["moved"]


def test_the_table_was_made_from_these_sources_by_this_triton() -> None:
    assert compare("forward 128x64 relative sm_90") == []


@pytest.mark.slow
def test_the_compiler_makes_of_every_kernel_what_the_table_says() -> None:
    assert compare() == []


def test_every_kernel_stays_within_its_gpu() -> None:
    table = json.loads((BENCH / "attention_kernels.json").read_text("utf-8"))["kernels"]
    assert len(table) == 21
    for name, figures in table.items():
        gpu = name.split()[-1]
        assert figures["spilled bytes"] <= 256, name
        assert figures["shared bytes"] <= SHARED_BYTES[gpu], name
        assert figures[MATRIX_INSTRUCTIONS[gpu]] > 0, name
