"""Ranks that are really started, each in a process of its own: by torch's launcher, or without one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from .stores import start_python

MakeOnce: TypeAlias = Callable[[str, Callable[[Path], object]], Path]
"""Makes a folder by its name and what fills it, as the fixture ``make_once``."""

LAUNCH_S = 150
"""Seconds that a launch may take: a machine that tests many things at once is slow."""


def start_ranks(
    code: str, number: int, *arguments: str, max_restarts: int = 0
) -> subprocess.Popen[str]:
    """Start ``code`` in so many ranks, which may import the modules of this folder."""
    command = [sys.executable, "-c", code, *arguments]
    return launch(command, number, max_restarts=max_restarts, env={"PYTHONPATH": _PATH})


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


def start_apart(code: str, number: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start ``code`` in so many ranks without a launcher, which takes seconds itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told |= {"TORCHELASTIC_RESTART_COUNT": 0, "PYTHONPATH": _PATH}
    ranks = ({**told, "RANK": rank, "LOCAL_RANK": rank} for rank in range(number))
    return [
        start_python(code, *arguments, env={name: str(value) for name, value in rank.items()})
        for rank in ranks
    ]


def run_apart(code: str, number: int, *arguments: str) -> None:
    """Do the same, and wait until all is done."""
    for process in start_apart(code, number, *arguments):
        _, errors = process.communicate(timeout=LAUNCH_S)
        assert process.returncode == 0, errors


_PATH = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])])
"""Where ranks find the modules of this folder, and those of all tests."""
