"""What a run will take on other devices than there are: memory, time, what it waits for first.

A mixture must be built: how long documents are is known from its store alone. A few packs are filled, a program
is traced without numbers, and the rest is arithmetic on a table of hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from ..loader.stream import Stream
from ..model.work import Flops, add_up_flops
from ..settings import TrainConfig
from .cluster import Cluster
from .memory import Layout, Memory, add_up_memory
from .pack_trace import PackTrace, trace_pack
from .sampled import Sampled
from .timing import Timing, exchanged_bytes, time_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run that may be planned.

    Attributes:
        stream: What it learns from, and its settings.
        sampled: What packs are like.
        cluster: The devices.
    """

    stream: Stream
    sampled: Sampled
    cluster: Cluster

    def set(self, **settings: Any) -> Case:
        """Return the case with other settings of the run, which leave packs as they are."""
        config = replace(self.stream.config, **settings)
        return replace(self, stream=replace(self.stream, config=config))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run will take.

    Attributes:
        cluster: The devices.
        config: Settings of the run, as it is planned.
        asked_packs: Packs of a step that the project asked for.
        layout: How the program lies on ranks.
        sampled: What packs are like.
        trace: What a pack takes.
        memory: Bytes of a rank.
        timing: Seconds of a step; None where nobody knows what the device can do.
        changes: Tokens a second with a setting changed, as a multiple of those without, by the setting.
    """

    cluster: Cluster
    config: TrainConfig
    asked_packs: int
    layout: Layout
    sampled: Sampled
    trace: PackTrace
    memory: Memory
    timing: Timing | None
    changes: Mapping[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def of(cls, case: Case, trace: PackTrace | None = None) -> Self:
        """Plan a run; ``trace`` is what a pack takes, where that was found before."""
        stream, sampled, cluster = case.stream, case.sampled, case.cluster
        asked = stream.config.packs_per_step
        # Every rank has as many packs of a step.
        num_packs = -(-asked // cluster.num_ranks)
        config = replace(stream.config, packs_per_step=num_packs * cluster.num_ranks)
        on_host = cluster.kind == "cpu"
        trace = trace or trace_pack(
            stream.plan,
            sampled.packs,
            config,
            is_followed=num_packs > 1,
            on_host=on_host,
        )
        layout = Layout(
            num_ranks=cluster.num_ranks,
            is_sharded=config.sharding == "full" and cluster.num_ranks > 1,
            itemsize=2 if config.precision == "bfloat16" else 4,
            optimizer=config.optimizer,
            has_average=bool(config.ema),
            on_host=on_host,
        )
        hardware = cluster.hardware
        timing = None
        if config.precision in hardware.peaks:
            timing = time_step(
                trace,
                [(work, sampled.counts[work.unit]) for work in trace.work.parts],
                hardware,
                layout,
                precision=config.precision,
                num_packs=num_packs,
                link=cluster.link,
                pack_s=sampled.seconds,
            )
        return cls(
            cluster=cluster,
            config=config,
            asked_packs=asked,
            layout=layout,
            sampled=sampled,
            trace=trace,
            memory=add_up_memory(trace, layout),
            timing=timing,
        )

    @property
    def packs_per_rank(self) -> int:
        """Packs that each rank computes in a step."""
        return self.config.packs_per_step // self.cluster.num_ranks

    @property
    def fits(self) -> bool:
        """Whether a rank has memory enough."""
        return self.memory.total <= self.cluster.memory

    @property
    def flops(self) -> Flops:
        """FLOP of a step of all ranks."""
        flops = self._sum()
        number = self.config.packs_per_step
        return Flops(useful=number * flops.useful, executed=number * flops.executed)

    def flops_by_node(self) -> dict[str, tuple[Flops, Flops]]:
        """Return the FLOP of a pack forward and backward, by address of the node, the most first."""
        nodes = {work.node for work in self.trace.work.parts}
        found = {
            node: (self._sum(node, is_backward=False), self._sum(node, is_backward=True))
            for node in nodes
        }
        return dict(sorted(found.items(), key=lambda item: -sum(f.executed for f in item[1])))

    def _sum(self, node: str | None = None, *, is_backward: bool | None = None) -> Flops:
        counts = self.sampled.counts
        return add_up_flops(
            (work, counts[work.unit])
            for work in self.trace.work.parts
            if (node is None or work.node == node)
            and (is_backward is None or work.is_backward == is_backward)
        )

    @property
    def tokens(self) -> float:
        """Tokens of a step, of both streams."""
        return self.config.packs_per_step * self.sampled.tokens

    @property
    def speed(self) -> float:
        """Tokens a second; 0 where nobody knows."""
        return 0.0 if self.timing is None else self.tokens / self.timing.total

    @property
    def utilisation(self) -> float | None:
        """Share of the peaks of all devices that useful work takes (MFU)."""
        if self.timing is None:
            return None
        peak = self.cluster.hardware.peaks[self.config.precision] * self.cluster.num_ranks
        return self.flops.useful / (self.timing.total * peak)

    @property
    def sent_bytes(self) -> float:
        """Bytes that a rank sends to others in a step."""
        return exchanged_bytes(self.trace, self.layout, num_packs=self.packs_per_rank)

    def steps_of_an_epoch(self) -> dict[str, float]:
        """Return after how many steps all rows of each task have been seen once."""
        scale = self.config.packs_per_step / self.asked_packs
        steps = self.config.steps
        return {
            task: rows * steps / (scale * self.sampled.seen[task])
            for task, rows in self.sampled.rows.items()
            if self.sampled.seen[task]
        }

    def to_json(self) -> dict[str, Any]:
        """Return all figures, in bytes, seconds and FLOP."""
        timing = self.timing
        return {
            "kind": self.cluster.kind,
            "ranks": self.cluster.num_ranks,
            "nodes": self.cluster.num_nodes,
            "packs_per_step": self.config.packs_per_step,
            "precision": self.config.precision,
            "sharded": self.layout.is_sharded,
            "parameters": self.trace.sizes.by_scope,
            "memory": asdict(self.memory)
            | {"total": self.memory.total, "device": self.cluster.memory},
            "flops": asdict(self.flops),
            "flops_by_node": {
                node: {"forward": asdict(forward), "backward": asdict(backward)}
                for node, (forward, backward) in self.flops_by_node().items()
            },
            "step": None if timing is None else asdict(timing) | {"total": timing.total},
            "utilisation": self.utilisation,
            "changes": dict(self.changes),
            "tokens_per_step": self.tokens,
            "sent_bytes_per_step": self.sent_bytes,
            "loader": {"pack_bytes": self.sampled.bytes, "pack_s": self.sampled.seconds},
            "fill": dict(self.sampled.fill),
            "steps_per_epoch": self.steps_of_an_epoch(),
        }
