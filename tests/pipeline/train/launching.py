"""Ranks that are really started: by torch's own launcher, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LAUNCH_S = 150
"""Seconds that a launch may take: a machine that tests many things at once is slow."""


def start_ranks(
    code: str, number: int, *arguments: str, max_restarts: int = 0
) -> subprocess.Popen[str]:
    """Start ``code`` in so many ranks, which may import the modules of this folder."""
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parents[2])])
    command = [sys.executable, "-c", code, *arguments]
    return launch(command, number, max_restarts=max_restarts, env={"PYTHONPATH": path})


def launch(
    command: Sequence[str],
    number: int,
    *,
    max_restarts: int = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """Start ``command`` in so many ranks, in the folder ``cwd`` and with ``env`` beside the environment."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    launcher += [f"--max-restarts={max_restarts}", "--monitor-interval=0.1", "--no-python"]
    return subprocess.Popen(
        [sys.executable, *launcher, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        cwd=cwd,
    )


def run_ranks(code: str, number: int, *arguments: str, max_restarts: int = 0) -> str:
    """Do the same, wait until all is done, and return what was said on standard error."""
    process = start_ranks(code, number, *arguments, max_restarts=max_restarts)
    _, errors = process.communicate(timeout=LAUNCH_S)
    assert process.returncode == 0, errors
    return errors
