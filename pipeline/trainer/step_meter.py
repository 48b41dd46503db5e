"""A step meter: what the nodes of loader and program cost in a few steps of training.

Steps are measured once a run, when it is warm: earlier ones compile, and fill caches. The loader works ahead in
a thread of its own; of what it has spent on packs so far, the measured packs get their share.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from ...graph.measure import Measure
from ...graph.node import NodeId
from ...ops.device.config import ModelConfig
from ...storage.loader import Loader, to_torch
from ...storage.pack import Pack
from ...storage.store import Store
from ...storage.template import Template
from ..loader.stream import Stream, open_stream
from ..model.probe import Probe
from ..model.program import choose_device
from ..settings import TrainConfig
from ..task import Mixture
from .clock import now
from .learner import Learner, own_torch
from .run_measures import StepMeasures

NUM_STEPS: Final = 3
"""Steps that are measured."""

WARM_UP: Final = 10
"""Steps before them, where a run has that many."""


@dataclass(slots=True)
class StepMeter:
    """Measures the steps of a learner, from one on.

    Attributes:
        stream: What it learns from.
        learner: The learner.
        loader: Where its packs come from.
        first: The first step to measure, counted from 0.
        taken_s: Seconds that the measured steps took.
        waited_s: Seconds that they waited for their packs.
    """

    stream: Stream
    learner: Learner
    loader: Loader
    first: int
    taken_s: float = 0.0
    waited_s: float = 0.0
    _packs: list[Pack] = field(default_factory=list[Pack])
    _measures: dict[NodeId, Measure] = field(default_factory=dict[NodeId, Measure])

    @classmethod
    def within(cls, stream: Stream, learner: Learner, loader: Loader, last: int) -> StepMeter:
        """Return a meter of steps before ``last``: as late as warm-up wants, as early as there are steps."""
        latest = last - NUM_STEPS - learner.step
        return cls(stream, learner, loader, learner.step + max(0, min(WARM_UP, latest)))

    @property
    def is_full(self) -> bool:
        """Whether the steps have been taken."""
        return self.learner.step == self.first + NUM_STEPS

    @contextmanager
    def around(self, packs: Sequence[Pack], waited_s: float) -> Generator[None]:
        """Measure a step on ``packs`` that is taken within, if it is one of those to measure."""
        if not self.first <= self.learner.step < self.first + NUM_STEPS:
            yield
            return
        program, device = self.learner.working, self.learner.device
        probe = program.probe = Probe(device)
        began = now(device)
        try:
            yield
        finally:
            program.probe = None
            measures = probe.finish()
        self.taken_s += now(device) - began
        self.waited_s += waited_s
        self._packs += packs
        for node, measure in measures.items():
            self._measures[node] = self._measures.get(node, Measure()) + measure

    def result(self) -> StepMeasures:
        """Return what the steps cost."""
        graph = self.stream.plan.graph
        measures = {**self._measures, **self._loader_measures()}
        return StepMeasures(
            measures={graph.nodes[node].address: measure for node, measure in measures.items()},
            model=asdict(self.stream.model),
            steps=NUM_STEPS,
            first=self.first + 1,
            step_s=self.taken_s / NUM_STEPS,
            waited_s=self.waited_s / NUM_STEPS,
            how=self.learner.remark,
        )

    def _loader_measures(self) -> dict[NodeId, Measure]:
        """Return what composing the documents of each template cost, and packing them."""
        plan, effort, num_packs = self.stream.plan, self.loader.effort, len(self._packs)
        pack_s = effort.seconds / effort.packs
        measures: dict[NodeId, Measure] = {}
        for number, template in enumerate(self.stream.templates):
            seconds = effort.gathering[template.name] / effort.packs
            pack_s -= seconds
            # The halves of a pair are gathered together: each has half of it.
            names = (template.name, f"{template.name}/left", f"{template.name}/right")
            nodes = [plan.members[name].document.node for name in names if name in plan.members]
            for node, pack in product(nodes, self._packs):
                of_task = pack.rows[:, 0] == number
                measures[node] = measures.get(node, Measure()) + Measure(
                    calls=1,
                    rows_in=int(of_task.sum()),
                    rows_out=int(of_task.sum()),
                    bytes=_count_bytes(pack, of_task, template) // len(nodes),
                    seconds=seconds / len(nodes),
                )
        num_documents = sum(len(pack.rows) for pack in self._packs)
        measures[plan.graph["pack"].id] = Measure(
            calls=num_packs,
            rows_in=num_documents,
            rows_out=num_documents,
            bytes=sum(tensor.nbytes for pack in self._packs for tensor in to_torch(pack).values()),
            seconds=num_packs * pack_s,
        )
        return measures


def measure_steps(
    mixture: Mixture, store: Store, model: ModelConfig, config: TrainConfig
) -> StepMeasures:
    """Take a few steps with a fresh model, keep nothing of it, and return what they cost.

    Raises:
        StoreError: Some task is not built, or was built otherwise than it stands now.
        LoaderError: Some task has no training rows.
        TrainingError: The device cannot be used.
    """
    device = choose_device(config.device)
    with own_torch(config, device):
        stream = open_stream(mixture, store, model, config)
        learner = Learner.make(stream.plan, config, device)
        with stream.loader() as loader:
            meter = StepMeter(stream, learner, loader, first=_FEW)
            for packs, waited_s in timed(loader):
                with meter.around(packs, waited_s):
                    learner.take(packs)
                if meter.is_full:
                    break
    return meter.result()


def timed(loader: Loader) -> Generator[tuple[Sequence[Pack], float]]:
    """Yield the steps of ``loader``, each with the seconds that it was waited for."""
    steps = iter(loader)
    while True:
        began = time.perf_counter()
        packs = next(steps)
        yield packs, time.perf_counter() - began


_FEW = 2
"""Steps that warm up where nobody waits for a run: the first compiles, the second fills caches."""


def _count_bytes(pack: Pack, of_template: npt.NDArray[np.bool_], template: Template) -> int:
    """Return the bytes of some documents in ``pack``: ids of both sides, and tensors outside groups."""
    lengths = [np.diff(ranges[of_template]) for ranges in (pack.source_ranges, pack.target_ranges)]
    lanes = [piece.lane for piece in template.tensors if len(pack.tensors.get(piece.lane, ()))]
    each = sum(pack.tensors[lane][0].nbytes for lane in lanes)
    return (
        sum(int(n.sum()) for n in lengths) * pack.source_ids.itemsize
        + int(of_template.sum()) * each
    )
