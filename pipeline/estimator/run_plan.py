"""What a run will take on other devices than there are: memory, time, what it waits for first.

A mixture must be built: how long documents are is known from its store alone. A few packs are filled, a program
is traced without numbers, and the rest is arithmetic on a table of hardware.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, TypeAlias

from ...graph.errors import Problem, StoreError, TrainingError
from ...graph.render.quantity import write_bytes
from ...ops.device.config import ModelConfig
from ...storage.store import Store
from ..loader.stream import Stream, open_stream
from ..model.flops import Flops, add_up_flops
from ..model.hardware import NETWORK, Hardware, hardware_of
from ..settings import TrainConfig
from ..task import Mixture
from .memory import Layout, Memory, add_up_memory
from .pack_trace import PackTrace, trace_pack
from .sampled import Sampled, sample_packs
from .timing import Timing, exchanged_bytes, time_step

Precision: TypeAlias = Literal["float32", "bfloat16"]
Shard: TypeAlias = Literal["none", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Devices that a run is planned for.

    Attributes:
        kind: Their kind, as `HARDWARE` has it.
        per_node: Devices of each node.
        num_nodes: Nodes.
        network: Bytes a second from a device to one of another node.
    """

    kind: str
    per_node: int = 1
    num_nodes: int = 1
    network: float = NETWORK

    @property
    def hardware(self) -> Hardware:
        """What each device can do.

        Raises:
            TrainingError: There is no such kind.
        """
        return hardware_of(self.kind)

    @property
    def num_ranks(self) -> int:
        """Devices in all."""
        return self.per_node * self.num_nodes

    @property
    def link(self) -> float:
        """Bytes a second on the slowest way from a device to the next."""
        return min(self.hardware.link, self.network) if self.num_nodes > 1 else self.hardware.link

    @property
    def memory(self) -> int:
        """Bytes of a device; those of this machine for ranks on the host."""
        if self.hardware.memory:
            return self.hardware.memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // self.per_node


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
    """

    cluster: Cluster
    config: TrainConfig
    asked_packs: int
    layout: Layout
    sampled: Sampled
    trace: PackTrace
    memory: Memory
    timing: Timing | None

    @classmethod
    def of(
        cls,
        stream: Stream,
        sampled: Sampled,
        cluster: Cluster,
        *,
        shard: Shard = "none",
        recomputes: bool = False,
    ) -> Self:
        """Plan a run on ``stream``."""
        asked = stream.config.packs_per_step
        # Every rank has as many packs of a step.
        num_packs = -(-asked // cluster.num_ranks)
        config = replace(stream.config, packs_per_step=num_packs * cluster.num_ranks)
        known = asdict(config)
        on_host = cluster.kind == "cpu"
        trace = trace_pack(
            stream.plan,
            sampled.pack,
            precision=config.precision,
            recomputes=recomputes,
            is_followed=num_packs > 1,
            on_host=on_host,
        )
        layout = Layout(
            num_ranks=cluster.num_ranks,
            is_sharded=shard == "full" and cluster.num_ranks > 1,
            itemsize=2 if config.precision == "bfloat16" else 4,
            optimizer=known.get("optimizer", "adamw"),
            has_average=bool(known.get("ema", 0)),
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

    def refuse_misfit(self, stream: Stream, shard: Shard) -> None:
        """Raise if a rank has not memory enough, with what would make it fit.

        Raises:
            TrainingError: It has not (T0831).
        """
        if self.fits:
            return
        memory, room = self.memory.total, self.cluster.memory
        name = self.cluster.hardware.name
        message = (
            f"a rank needs {write_bytes(memory)}, {write_bytes(memory - room)} more than the "
            f"{write_bytes(room)} of {name}"
        )
        raise TrainingError(Problem("T0831", message, "\n".join(self._ways(stream, shard))))

    def _ways(self, stream: Stream, shard: Shard) -> list[str]:
        """Return what would take less memory, and how much."""
        told: list[str] = []

        def try_(words: str, plan: RunPlan) -> None:
            verdict = "fits" if plan.fits else "does not fit either"
            told.append(f"with {words} it needs {write_bytes(plan.memory.total)}, and {verdict}")

        config = stream.config
        if config.precision == "float32" and self.cluster.kind != "cpu":
            half = replace(stream, config=replace(config, precision="bfloat16"))
            try_("precision: bfloat16", RunPlan.of(half, self.sampled, self.cluster, shard=shard))
        if shard == "none" and self.cluster.num_ranks > 1:
            try_("--shard full", RunPlan.of(stream, self.sampled, self.cluster, shard="full"))
        less = RunPlan.of(stream, self.sampled, self.cluster, shard=shard, recomputes=True)
        try_("recompute: layers", less)
        of_pack = sum(self.memory.saved.values()) + self.memory.passing + self.memory.within
        if (short := config.source_tokens // 2 // 128 * 128) >= 128:
            about = write_bytes(self.memory.total - of_pack / 2)
            told.append(f"with source_tokens: {short} it needs about {about}")
        return told

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
            "tokens_per_step": self.tokens,
            "sent_bytes_per_step": self.sent_bytes,
            "loader": {"pack_bytes": self.sampled.bytes, "pack_s": self.sampled.seconds},
            "fill": dict(self.sampled.fill),
            "steps_per_epoch": self.steps_of_an_epoch(),
        }


def plan_run(
    mixture: Mixture,
    store: Store | None,
    cluster: Cluster,
    *,
    model: ModelConfig,
    config: TrainConfig,
    precision: Precision | None = None,
    shard: Shard | None = None,
) -> RunPlan:
    """Plan a run of ``mixture`` as ``store`` holds it.

    Args:
        mixture: The tasks.
        store: Where they are built; None if there is none yet.
        cluster: What it will be trained on.
        model: Sizes of the model.
        config: Settings of the run.
        precision: What is computed in, instead of what the settings say.
        shard: ``"full"`` if ranks share what is learned, instead of what the settings say.

    Raises:
        StoreError: The tasks are not built (T0511).
        TrainingError: No such hardware is known (T0830), or a rank has not memory enough (T0831).
    """
    hardware_of(cluster.kind)
    if store is None:
        message = "how long documents are is not known before the tasks are built"
        help_ = "taskloom build PROJECT first; a part of a large source says nearly as much"
        raise StoreError.of("T0511", message, help_)
    config = replace(config, precision=precision or config.precision)
    stream = open_stream(mixture, store, model, config)
    known = asdict(config)
    sharing: Shard = shard or known.get("shard", "none")
    recomputes = known.get("recompute", "none") != "none"
    planned = RunPlan.of(
        stream, sample_packs(stream), cluster, shard=sharing, recomputes=recomputes
    )
    planned.refuse_misfit(stream, sharing)
    return planned
