"""The command line in the process of the tests: another process would import for seconds."""

from __future__ import annotations

import functools
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest
import typer.main

from taskloom.pipeline.cli import main

TERMINAL = {"COLUMNS": "100", "TERM": "dumb"}
"""Environment of a terminal that obeys nothing."""

# Typer makes all commands anew at every call; it takes as long as what most of them do.
_get_command = functools.cache(typer.main.get_command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed for a program."""
        return json.loads(self.out)


def run_here(*arguments: str, stdin: str = "") -> Done:
    """Run the command line in this folder and in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["taskloom", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        patch.setattr(typer.main, "get_command", _get_command)
        for name, value in TERMINAL.items():
            patch.setenv(name, value)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
    return Done(code=int(stop.value.code or 0), out=out.getvalue(), err=err.getvalue())
