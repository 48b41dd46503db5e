"""Rewriting: the passes that every plan goes through, each of whose results can be written down.

With ``TASKLOOM_DUMP=DIR`` in the environment every plan writes its graph into a folder ``DIR/1``, ``DIR/2``, …
after each pass, as text, and before it is verified: of a graph that a pass broke, the text is the last there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ...graph.errors import PlanError
from ...graph.graph import Graph
from ...graph.op import Catalogue
from ...graph.passes.cut import Cut, cut
from ...graph.passes.fold import Evaluate, fold
from ...graph.passes.history import write_cut, write_segments
from ...graph.passes.prune import prune
from ...graph.passes.segment import Segment, segment
from ...graph.passes.sequence import Pass, Step, run_passes

DUMP = "TASKLOOM_DUMP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What the passes have made of a graph.

    Attributes:
        steps: The graph as it was planned, and after each pass.
        cut: The stage of each node and the values that are stored.
        segments: What one Dask task runs.
    """

    steps: tuple[Step, ...]
    cut: Cut
    segments: tuple[Segment, ...]

    @property
    def graph(self) -> Graph:
        """The graph after all passes."""
        return self.steps[-1].graph


def rewrite(
    graph: Graph, catalogue: Catalogue, evaluate: Evaluate | None, persist: Sequence[str] = ()
) -> Rewritten:
    """Run all passes on ``graph``.

    Args:
        graph: The graph as a draft gives it.
        catalogue: The ops.
        evaluate: Computes constants, where what they are made of may be known.
        persist: Addresses of values to store beside those that must be.

    Raises:
        PlanError: A pass breaks the graph or cannot be done without, or ``persist`` cannot be followed.
    """
    folder = os.environ.get(DUMP)
    dump = _Dump(Path(folder)) if folder else None
    passes = [Pass(name="prune", apply=prune, is_optimisation=True)]
    if evaluate is not None:
        known = evaluate
        passes.insert(0, Pass(name="fold", apply=lambda graph: fold(graph, catalogue, known)))
    see = None if dump is None else dump.write_step
    steps = run_passes(graph, passes, catalogue, see=see)
    last = steps[-1].graph
    stages = cut(last, catalogue, persist)
    segments = segment(last, stages, catalogue)
    if dump is not None:
        dump.write("cut", write_cut(last, stages))
        dump.write("segment", write_segments(last, segments))
    return Rewritten(steps=steps, cut=stages, segments=segments)


class _Dump:
    """Writes texts into the next free folder of a folder, in the order in which they come."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._folder: Path | None = None
        self._count = 0

    def write_step(self, step: Step) -> None:
        """Write the text of a graph under the name of its pass."""
        self.write(step.name, str(step.graph))

    def write(self, name: str, text: str) -> None:
        """Write ``text`` under ``name``."""
        try:
            self._folder = self._folder or _claim_folder(self._parent)
            (self._folder / f"{self._count}-{name}.txt").write_text(text, "utf-8")
        except OSError as error:
            message = f"{DUMP}: cannot write into {self._parent}: {error.strerror}"
            help_ = "name a folder that can be written, or unset the variable"
            raise PlanError.of("T0243", message, help_) from None
        self._count += 1


def _claim_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        try:
            (parent / str(number)).mkdir()
        except FileExistsError:
            continue
        return parent / str(number)
    raise AssertionError("there is always a next number")
