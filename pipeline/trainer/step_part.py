"""The parts of a step, by the names that people read."""

from __future__ import annotations

from typing import Final

WAITING: Final = "waiting for data"
LEARNING: Final = "computing"
WARMING: Final = "first step"
COMPILING: Final = "compile"
MEASURING: Final = "measuring nodes"
PROFILING: Final = "profiling"
TELLING: Final = "log"
EVALUATING: Final = "evaluation"
SAVING: Final = "checkpoint"

UNCOUNTED: Final = {WARMING, COMPILING, MEASURING, PROFILING}
"""What steps are at that no rate is told of."""
