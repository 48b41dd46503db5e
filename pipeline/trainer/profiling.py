"""Profiling: a trace of a few steps, for Perfetto or ``chrome://tracing``.

A program says which node it is at, so in a trace every kernel lies within the range ``taskloom::ADDRESS`` of
its node.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity

NAME: Final = "trace.json"


@dataclass(slots=True)
class Tracer:
    """Traces steps of a run.

    Attributes:
        steps: Those that are traced; may be none.
        path: Where the trace is written.
        device: Where steps are computed.
    """

    steps: range | None
    path: Path
    device: torch.device
    _profile: Any = field(default=None, repr=False)

    @property
    def is_on(self) -> bool:
        """Whether a step is being traced."""
        return self._profile is not None

    @contextmanager
    def until_the_end(self) -> Generator[None]:
        """Write what was traced so far, should the run end within the steps."""
        try:
            yield
        finally:
            self._write()

    def begin(self, step: int) -> bool:
        """Say that ``step``, counted from 1, begins; return whether it is traced."""
        if self.steps is not None and step in self.steps and self._profile is None:
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = torch.profiler.profile(activities=activities)
            self._profile.start()
        return self.is_on

    def end(self, step: int) -> bool:
        """Say that ``step`` has been taken; return whether a trace was written."""
        is_last = self.steps is not None and step == self.steps.stop - 1 and self.is_on
        if is_last:
            self._write()
        return is_last

    def _write(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(self.path))
            self._profile = None
