"""A plan of a run in words: what it takes, what it waits for first, and what nobody can know yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Final

from ...graph.render.quantity import count, write_amount, write_bytes, write_seconds, write_share
from .run_plan import RunPlan

_KEPT: Final = {
    "parameters": "parameters, float32",
    "optimizer": "optimizer",
    "average": "average of the parameters",
    "working": "working copy",
    "gradients": "gradients",
    "exchange": "exchange with other ranks",
}
_PASSING: Final = {
    "passing": "gradients of states",
    "within": "within an op while it computes",
    "pack": "the pack itself",
    "runtime": "libraries, and gaps between blocks",
}
_SPENT: Final = {
    "products": "matrix products",
    "attention": "attention",
    "rest": "memory traffic of all else",
    "launches": "starts of small kernels",
    "update": "the optimizer",
    "network": "exchange between ranks",
    "loader": "waiting for packs",
}
_ADVICE: Final = {
    "products": "it is what a GPU is for, and more of them share it",
    "attention": "a smaller max_document leaves fewer pairs, position: rotary no table of biases",
    "rest": "a wider model with fewer layers moves less for a FLOP",
    "launches": "a larger source_tokens gives each kernel more to do",
    "update": "more packs a step spread it over more tokens",
    "network": "more packs a step spread it over more tokens",
    "loader": "loader_workers share what is drawn in every pass; what is stored instead costs nothing",
}
_WORTH: Final = 1.03
"""Gain from which a change is told."""
_SMALL: Final = 0.01
"""Share of a table below which rows are added up."""


def write_plan(plan: RunPlan) -> str:
    """Return the plan as text for a terminal."""
    parts = [_head(plan), _memory(plan), _flops(plan), _time(plan), _limits(plan), _unknown(plan)]
    texts = ("\n".join(part) for part in parts)
    return "\n\n".join(text for text in texts if text)


def _head(plan: RunPlan) -> Iterator[str]:
    cluster, sampled, config = plan.cluster, plan.sampled, plan.config
    number, name = cluster.num_ranks, cluster.hardware.name
    nodes = f" on {cluster.num_nodes} nodes" if cluster.num_nodes > 1 else ""
    yield f"planned for {number} x {name}{nodes}, in {config.precision}; nothing was run on it"
    scopes = ", ".join(f"{scope} {size:,}" for scope, size in plan.trace.sizes.by_scope.items())
    yield f"{plan.trace.sizes.total:,} parameters: {scopes}"
    each = f", {plan.packs_per_rank:,} for each rank" if number > 1 else ""
    yield f"a step is {count(config.packs_per_step, 'pack')}{each}"
    if plan.asked_packs != config.packs_per_step:
        yield (
            f"  the project says packs_per_step: {plan.asked_packs}, which {number} ranks cannot "
            f"share: write {config.packs_per_step}"
        )
    shares = sampled.fill.items()
    fill = ", ".join(f"{share:.0%} of {sampled.room[name]:,} {name}" for name, share in shares)
    yield f"a pack holds about {sampled.documents:,.0f} documents: {fill}"


def _memory(plan: RunPlan) -> Iterator[str]:
    memory, total = plan.memory, plan.memory.total
    rows = [(words, getattr(memory, name)) for name, words in _KEPT.items()]
    small = 0
    for node, size in memory.saved.items():
        if size < _SMALL * total:
            small += size
        else:
            rows.append((f"kept for the way back: {node or 'between nodes'}", size))
    rows.append(("kept for the way back: all other nodes", small))
    rows += [(words, getattr(memory, name)) for name, words in _PASSING.items()]
    shown = [(words, write_bytes(size), write_share(size / total)) for words, size in rows if size]
    room = plan.cluster.memory
    last = ("in all", write_bytes(total), f"{write_share(total / room)} of {write_bytes(room)}")
    yield from _table(("memory of a rank, when it holds most", "", ""), [*shown, last])
    yield "every pack takes the same, whatever is in it: shapes are static"


def _flops(plan: RunPlan) -> Iterator[str]:
    number = plan.config.packs_per_step
    nodes = plan.flops_by_node()
    total = plan.flops.executed
    rows: list[tuple[str, ...]] = []
    for node, (forward, backward) in nodes.items():
        executed = number * (forward.executed + backward.executed)
        if executed < _SMALL * total:
            continue
        useful = number * (forward.useful + backward.useful)
        shown = (number * forward.executed, number * backward.executed, executed, useful)
        rows.append((node or "between nodes", *map(_write_flops, shown)))
    rows.append(("in all", "", "", _write_flops(total), _write_flops(plan.flops.useful)))
    head = ("FLOP of a step, all ranks", "forward", "backward", "executed", "useful")
    yield from _table(head, rows)
    idle = {
        node: sum(both.executed - both.useful for both in flops) * number
        for node, flops in nodes.items()
    }
    if nodes and (worst := max(idle, key=lambda node: idle[node])):
        spent = write_share(1 - plan.flops.useful / total)
        yield f"{spent} of it is for places that hold nothing, and parts of tiles; most in {worst}"


def _time(plan: RunPlan) -> Iterator[str]:
    timing, config = plan.timing, plan.config
    if timing is None:
        yield f"no time is told: nobody states what {plan.cluster.hardware.name} can do"
        return
    rows = [
        (words, write_seconds(spent), write_share(spent / timing.total))
        for name, words in _SPENT.items()
        if (spent := getattr(timing, name)) > 0
    ]
    rows.append(("in all", write_seconds(timing.total), ""))
    yield from _table(("time of a step", "", ""), rows)
    used = plan.utilisation or 0.0
    per_s = plan.tokens / timing.total
    yield f"{per_s:,.0f} useful tokens/s, {write_share(used)} of the peak (MFU)"
    whole = write_seconds(config.steps * timing.total)
    yield f"the whole run, {count(config.steps, 'step')}: {whole}"
    for task, steps in plan.steps_of_an_epoch().items():
        took = write_seconds(steps * timing.total)
        yield f"  an epoch of {task}: {steps:,.1f} steps, {took}"


def _limits(plan: RunPlan) -> Iterator[str]:
    timing, sampled = plan.timing, plan.sampled
    cluster = plan.cluster
    if timing is not None:
        busy = timing.total - timing.loader
        wanted = plan.packs_per_rank / busy
        rate = write_bytes(wanted * sampled.bytes)
        yield (
            f"a rank wants {wanted:,.1f} packs/s of its loader, {rate}/s; a thread of this machine "
            f"fills {1 / sampled.seconds:,.1f}"
        )
        if cluster.num_ranks > 1:
            link = write_bytes(cluster.link)
            sent = write_bytes(plan.sent_bytes)
            yield f"a rank sends {sent} a step, at {link}/s one way"
        worst = max(
            (field.name for field in fields(timing)), key=lambda name: getattr(timing, name)
        )
        yield f"first bottleneck: {_SPENT[worst]}; {_ADVICE[worst]}"
        gains = [each for each in plan.changes.items() if each[1] >= _WORTH]
        yield from (
            f"  with {words} there are {gain:.2f} times the tokens/s" for words, gain in gains
        )


def _unknown(plan: RunPlan) -> Iterator[str]:
    yield "what this cannot know:"
    yield "  other packs than the first ones, where rows change over time"
    if plan.timing is not None:
        yield "  shares of the peak that are reached: they are those of one model on an H200"
        yield "  how fast the host there fills packs, and its storage gives rows"
    if not plan.layout.on_host:
        yield "  what the compiler keeps of a layer instead: it is counted as it comes,"
        yield "    of which 85% was held on an H200"
    if plan.cluster.num_nodes > 1:
        speed = write_bytes(plan.cluster.network)
        yield f"  the network between nodes: {speed}/s for each device is taken for granted"


def _write_flops(number: float) -> str:
    return write_amount(number, "FLOP")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines whose first column is words, and whose others are figures."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    for indent, row in (("", head), *(("  ", row) for row in rows)):
        words = f"{indent}{row[0]}".ljust(widths[0] + 2)
        figures = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join([words, *figures]).rstrip()
