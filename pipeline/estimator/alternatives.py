"""Runs with one setting changed: which of them would fit, and which would be faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ...graph.errors import Problem, TrainingError
from ...graph.render.quantity import write_bytes
from ..settings import LONGEST_TILE
from .run_plan import Case, RunPlan


def try_changes(planned: RunPlan, case: Case) -> dict[str, float]:
    """Return the gain in tokens a second of single changes, by what is changed; the largest first."""
    config = planned.config
    if planned.timing is None:
        return {}
    number = 2 * config.packs_per_step
    tried = {
        f"packs_per_step: {number}": RunPlan.of(case.set(packs_per_step=number), planned.trace)
    }
    if config.precision == "float32":
        tried["precision: bfloat16"] = RunPlan.of(case.set(precision="bfloat16"))
    if planned.layout.is_sharded:
        tried["sharding: none"] = RunPlan.of(case.set(sharding="none"), planned.trace)
    gains = {words: other.speed / planned.speed for words, other in tried.items() if other.fits}
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


def refuse_misfit(planned: RunPlan, case: Case) -> None:
    """Raise if a rank has not memory enough, with what would take less.

    Raises:
        TrainingError: It has not (T0831).
    """
    if planned.fits:
        return
    memory, room = planned.memory.total, planned.cluster.memory
    message = (
        f"a rank needs {write_bytes(memory)}, {write_bytes(memory - room)} more than the "
        f"{write_bytes(room)} of {planned.cluster.hardware.name}"
    )
    raise TrainingError(Problem("T0831", message, "\n".join(_tell_ways(planned, case))))


def _tell_ways(planned: RunPlan, case: Case) -> list[str]:
    """Return what would take less memory, and how much."""
    config, cluster = case.stream.config, planned.cluster
    tried: dict[str, RunPlan] = {}
    if config.precision == "float32" and not planned.layout.on_host:
        tried["precision: bfloat16"] = RunPlan.of(case.set(precision="bfloat16"))
    if not planned.layout.is_sharded and cluster.num_ranks > 1:
        tried["sharding: full"] = RunPlan.of(case.set(sharding="full"), planned.trace)
    if config.activations == "keep":
        tried["activations: recompute"] = RunPlan.of(case.set(activations="recompute"))
    told = [
        f"with {words} it needs {write_bytes(other.memory.total)}, and "
        f"{'fits' if other.fits else 'does not fit either'}"
        for words, other in tried.items()
        if other.memory.total < _WORTH * planned.memory.total
    ]
    short = config.source_tokens // 2 // LONGEST_TILE * LONGEST_TILE
    # What a pack leaves behind grows with its streams.
    about = planned.memory.total - planned.memory.of_pack / 2
    if short and about < _WORTH * planned.memory.total:
        told.append(f"with source_tokens: {short} it needs about {write_bytes(about)}")
    if not any(other.fits for other in tried.values()) and (many := _spread(planned, case)):
        size = write_bytes(many.memory.total)
        told.append(
            f"on {many.cluster.num_ranks} of them, with sharding: full, it needs {size}, and fits"
        )
    return told


def _spread(planned: RunPlan, case: Case) -> RunPlan | None:
    """Return the plan with the fewest ranks, a power of two, that fits when they share; None if none does."""
    node = planned.cluster.hardware.node
    for exponent in range(1, _MOST_RANKS.bit_length()):
        number = 2**exponent
        if number <= planned.cluster.num_ranks:
            continue
        per_node = min(node, number)
        cluster = replace(planned.cluster, per_node=per_node, num_nodes=number // per_node)
        spread = replace(case.set(packs_per_step=number, sharding="full"), cluster=cluster)
        if (other := RunPlan.of(spread, planned.trace)).fits:
            return other
    return None


_WORTH: Final = 0.97
"""Share of the memory below which a change is told."""
_MOST_RANKS: Final = 1024
"""Ranks among which a model is thought to be shared."""
