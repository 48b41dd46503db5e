"""The committed table says what the compiler makes of our kernels, and no kernel is out of bounds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]
BENCH = ROOT / "bench"
SHARED_BYTES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
MATRIX_INSTRUCTIONS = {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05"}
SPILLED_BYTES = {"forward": 8, "backward_queries": 300, "backward_keys": 200, "attend_row": 8}
TABLE = json.loads((BENCH / "device_kernels.json").read_text("utf-8"))["kernels"]

ONLY = "attend_row target 1x512 bfloat16 sm_90"

TELL = """
import json, sys
import device_kernels
from taskloom.ops.device import slope_kernel
from taskloom.ops.device.attention import triton_passes
from taskloom.ops.device.decode import attend_row_kernel

def ask():
    return {name: told["asked"] for name, told in device_kernels.measure(()).items()}

drift = device_kernels.tell_drift(json.loads(device_kernels.TABLE.read_text("utf-8")), sys.argv[1:])
device_kernels.CAPABILITIES = (90,)
before, moved = ask(), {}
for owner, name, value in (
    (triton_passes, "NUM_SUMS", 16),
    (triton_passes.Launch, "block_on", lambda launch, capability: 16),
    (attend_row_kernel, "LARGEST_OF_MANY", 32),
    (slope_kernel, "LONGEST_BLOCK", 2048),
):
    kept = getattr(owner, name)
    setattr(owner, name, value)
    moved[name] = sorted({key.split()[0] for key, asked in ask().items() if asked != before[key]})
    setattr(owner, name, kept)
assert ask() == before
print(json.dumps({"drift": drift, "moved": moved}))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a process tells that has the benches to import, and compiles; in this one Triton interprets."""
    environ = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command, environ["PYTHONPATH"] = [sys.executable, "-c", TELL, ONLY], str(BENCH)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_the_compiler_is_asked_for_what_the_table_was_made_from(told: dict[str, Any]) -> None:
    """All of the table is compiled by ``make kernels``: here one kernel is."""
    assert ONLY in TABLE
    assert told["drift"] == []


def test_whatever_decides_what_is_compiled_moves_a_digest(told: dict[str, Any]) -> None:
    assert told["moved"] == {
        "NUM_SUMS": ["backward_queries"],
        "block_on": ["backward_keys", "backward_queries"],
        "LARGEST_OF_MANY": ["attend_row"],
        "LONGEST_BLOCK": ["slope_row"],
    }


def test_every_kernel_is_in_the_table_for_every_gpu() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "ops").rglob("*.py")]
    pattern = re.compile(r"^@triton\.jit.*\ndef ([a-z]\w+)", re.MULTILINE)
    kernels = {name for source in sources for name in pattern.findall(source)}
    assert {(name.split()[0], name.split()[-1]) for name in TABLE} == {
        (kernel, gpu) for kernel in kernels for gpu in SHARED_BYTES
    }


@pytest.mark.parametrize("name", TABLE)
def test_a_kernel_stays_within_its_gpu(name: str) -> None:
    kernel, gpu, figures = name.split(maxsplit=1)[0], name.rsplit(maxsplit=1)[-1], TABLE[name]
    assert figures["spilled bytes"] <= SPILLED_BYTES.get(kernel, 0)
    # A stack is laid out in steps of 8 bytes, and holds nothing but what is spilled.
    assert figures["stack bytes"] <= -(-figures["spilled bytes"] // 8) * 8
    assert figures["shared bytes"] <= SHARED_BYTES[gpu]
    multiplies = kernel not in {"attend_row", "slope_row"}
    assert (figures[MATRIX_INSTRUCTIONS[gpu]] > 0) is multiplies
