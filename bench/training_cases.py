"""Cases of training on a GPU: documents of one length, and functions beside OFASys' eager step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, Final, NamedTuple

import torch
from device_time import Stopwatch, free, held, peak_of, reserve, tell_kernels
from eager_learner import EagerLearner
from eager_ofasys import Batch, EagerOfasys, Manner
from padded import (
    Document,
    batch_by_length,
    batch_by_task,
    collate,
    copy_state,
    count_positions,
    count_useful,
    take_apart,
    take_packs,
)
from steps import Ours, check
from torch import Tensor
from training_setting import Setting

from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.demand import Demand
from taskloom.pipeline.model.hardware import peak_flops
from taskloom.pipeline.model.pack_units import count_used
from taskloom.storage.pack import Pack

GOALS: Final = {"base": 0.30, "large": 0.35}
"""Share of the peak, by preset."""
TIMES: Final = 4.0
MEMORY: Final = 0.35
ROWS: Final = (32, 64, 128)
PLAIN: Final = "plain loop"
"""Of somebody who writes the same model down in torch: SDPA, `torch.compile`, batches of like lengths."""
WARM_UP: Final = 5
NUM_UNRECORDED: Final = 2
"""Steps until steps are recorded: one tells whether they can be, one records."""


class Texts:
    """A preset that learns from documents of one length: all that is measured of it."""

    def __init__(self, setting: Setting, preset: str) -> None:
        self.setting, self.preset = setting, preset
        self.stream = setting.open_texts(preset)
        packs = take_packs(self.stream, setting.num_packs)
        self.documents = [[*take_apart(pack, self.stream)] for pack in packs]
        self.learner = setting.learner(self.stream)
        self.learner.record()
        self.pack = packs[0]
        self._packs = cycle(packs)

    def step(self) -> None:
        """Take a step on the next pack."""
        self.learner.take([next(self._packs)])

    def share_of_peak(self) -> dict[str, Any]:
        """Return how long steps take, and what that is of the peak."""
        warm_ms, _ = self._time(WARM_UP)
        took_ms, host_ms = self._time(self.setting.num_steps)
        seconds = median(took_ms) / 1e3
        documents = self.documents[0]
        demand, used = Demand.of(self.stream), count_used(self.pack)
        flops = demand.of_packs([self.pack])
        peak = peak_flops(self.setting.device_name)
        share = None if peak is None else round(flops / seconds / peak, 4)
        goal = GOALS.get(self.preset)
        return {
            "parameters": sum(p.numel() for p in self.learner.program.parameters()),
            "ids": self.stream.plan.vocabulary.size,
            "dropout": self.stream.model.dropout,
            "documents of each pack": [len(each) for each in self.documents],
            "tokens of a pack": count_tokens(documents),
            "GFLOP of a document": round(flops / len(documents) / 1e9, 2),
            "GFLOP by unit": {
                unit: round(price * used[unit] / 1e9, 1) for unit, price in demand.prices.items()
            },
            "first steps, ms": [round(ms, 1) for ms in warm_ms],
            "ms": [round(ms, 2) for ms in took_ms],
            "median ms": round(median(took_ms), 3),
            "median ms until the call returned": round(median(host_ms), 3),
            "tokens a second": round(count_tokens(documents) / seconds),
            "TFLOP a second": round(flops / seconds / 1e12, 2),
            "peak, TFLOP a second": None if peak is None else peak / 1e12,
            "share of peak": share,
            "recording": self.learner.recording,
            "loss": round(float(self.learner.measure(self.stream.losses, waited_s=0)["loss"]), 3),
            "holds": None if goal is None or share is None else share >= goal,
        }

    def kernels(self) -> dict[str, Any]:
        """Return which kernels steps are spent in, as they come: nobody sees the nodes of a recording."""
        told = tell_kernels(self.step, self.setting.device)
        took_ms, _ = self._time(self.setting.num_steps)
        return {
            **told,
            "median ms of a step": round(median(took_ms), 3),
            "busy in a step": round(told["ms of a call"] / median(took_ms), 3),
        }

    def _time(self, num_steps: int) -> tuple[list[float], list[float]]:
        """Return milliseconds of steps, on the device and until each returned."""
        watch = Stopwatch(self.setting.device)
        for _ in range(num_steps):
            watch.time(self.step)
        return watch.read()

    def memory(self) -> dict[str, Any]:
        """Return the most that a step takes, and one of OFASys on the same documents.

        The step is that in which a recording is made, which keeps what it took.
        """
        device = self.setting.device
        self.learner.recorder = None
        self.step()
        self.learner.record()
        self.step()
        self.learner.optimizer.zero_grad(set_to_none=True)
        free(device)
        ours_held, reserved = held(device), reserve(device)
        ours = peak_of(self.step, device)
        free(device)
        kept = reserve(device) - reserved
        state = copy_state(self.learner.program)
        batch = collate(self.documents[0]).to(device)
        theirs, theirs_held = _measure_eager(state, self.stream.model.num_heads, batch, device)
        return {
            "documents": len(self.documents[0]),
            "ours, MB": round(ours / 1e6, 1),
            "OFASys, MB": round(theirs / 1e6, 1),
            "kept by a recording, pieces that are free among it, MB": round(kept / 1e6, 1),
            "parameters and optimizer, ours, MB": round(ours_held / 1e6, 1),
            "parameters and optimizer, OFASys, MB": round(theirs_held / 1e6, 1),
            "share": round(ours / theirs, 3),
            "share with parameters and optimizer": round(
                (ours + ours_held) / (theirs + theirs_held), 3
            ),
            "holds without padding": ours / theirs <= MEMORY,
        }


def _measure_eager(
    state: dict[str, Tensor], num_heads: int, batch: Batch, device: torch.device
) -> tuple[int, int]:
    """Return the most bytes that a step of OFASys takes, and what its parameters and optimizer do."""
    masters = sum(each.nbytes for each in state.values())
    before = held(device)
    eager = EagerLearner(state, num_heads)
    eager.take(batch)
    eager.clear()
    kept = held(device) - before + masters
    return peak_of(partial(eager.take, batch), device), kept


def beside_eager(setting: Setting, preset: str, num_rounds: int = 3) -> dict[str, Any]:
    """Return useful tokens a second, ours, OFASys' and those of a plain loop."""
    device, stream = setting.device, setting.open_functions(preset)
    packs = take_packs(stream, setting.num_packs)
    documents_by_pack = [[*take_apart(pack, stream)] for pack in packs]
    documents = [each for own in documents_by_pack for each in own]
    compared = compare_losses(setting, stream, packs[0])
    learner = setting.learner(stream)
    state, num_heads = copy_state(learner.program), stream.model.num_heads
    eager = EagerLearner(state, num_heads)
    manner = Manner(shares_bias=True, is_fused=True)
    # On a CPU, where the bench is tried, compiling would take longer than all else.
    plain = EagerLearner(state, num_heads, manner, is_compiled=device.type == "cuda")
    batches = {f"OFASys, {rows}": _batches(documents, rows, device) for rows in ROWS}
    batches[PLAIN] = [
        collate(own).to(device) for own in batch_by_length(documents, stream.capacity.source)
    ]
    ways: dict[str, list[Callable[[], object]]] = {
        "ours": [partial(learner.take, [pack]) for pack in packs],
        **{
            way: [partial((plain if way == PLAIN else eager).take, each) for each in own]
            for way, own in batches.items()
        },
    }

    def clear() -> None:
        learner.optimizer.zero_grad(set_to_none=True)
        for each in (eager, plain):
            each.clear()

    peaks, failed = _find_peaks(ways, clear, device)
    work = {way: [Work.of(each) for each in own] for way, own in batches.items()}
    work["ours"] = [Work(len(own), count_tokens(own)) for own in documents_by_pack]
    # What a recording keeps is what a step takes that comes as it is.
    learner.record()
    for call in ways["ours"][:NUM_UNRECORDED]:
        call()
    took_ms: dict[str, list[float]] = {way: [] for way in ways if way not in failed}
    watch = Stopwatch(device)
    for _ in range(num_rounds):
        for way, each_round in took_ms.items():
            for call in ways[way]:
                watch.time(call)
            each_round.append(sum(watch.read()[0]))
    medians = {way: median(each) for way, each in took_ms.items()}
    best = min((way for way in medians if way.startswith("OFASys")), key=lambda way: medians[way])
    times = medians[best] / medians["ours"]
    tokens, source_tokens = count_tokens(documents), sum(d.source_length for d in documents)
    positions = {way: sum(map(count_positions, own)) for way, own in batches.items()}
    positions["ours"] = len(packs) * stream.capacity.source
    return {
        "compared": compared,
        "documents": len(documents),
        "tokens": tokens,
        "longest source": max(each.source_length for each in documents),
        "capacity": asdict(stream.capacity),
        "source tokens of all positions": {
            way: round(source_tokens / number, 3) for way, number in positions.items()
        },
        "steps": {way: len(calls) for way, calls in ways.items()},
        "ms of all steps": {way: [round(ms, 1) for ms in each] for way, each in took_ms.items()},
        "tokens a second": {way: round(tokens / ms * 1e3) for way, ms in medians.items()},
        "memory": _tell_memory(peaks, work),
        "recording": learner.recording,
        "failed ways": failed,
        "best of OFASys": best,
        "times as many": round(times, 2),
        "times as many as a plain loop": (
            round(medians[PLAIN] / medians["ours"], 2) if PLAIN in medians else None
        ),
        "holds": times >= TIMES,
    }


class Work(NamedTuple):
    """What a step learns from.

    Attributes:
        documents: How many.
        tokens: Theirs, on both sides, without padding.
    """

    documents: int
    tokens: int

    @classmethod
    def of(cls, batch: Batch) -> Work:
        """Return that of a batch."""
        return cls(len(batch.target_ids), count_useful(batch))


def _find_peaks(
    ways: Mapping[str, Sequence[Callable[[], object]]],
    clear: Callable[[], None],
    device: torch.device,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the most megabytes that each step of each way takes, or why there are not enough."""
    peaks: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    for way, calls in ways.items():
        own: list[float] = []
        try:
            calls[0]()  # compiles what is compiled
            for call in calls:
                clear()
                own.append(peak_of(call, device) / 1e6)
            peaks[way] = own
        except torch.OutOfMemoryError as error:
            failed[way] = str(error).splitlines()[0]
        free(device)
    return peaks, failed


def _tell_memory(
    peaks: Mapping[str, Sequence[float]], work: Mapping[str, Sequence[Work]]
) -> dict[str, Any]:
    """Return what the step of each way takes that takes the most, for its documents and its tokens.

    Batches and packs hold different numbers of documents: what compares is memory for equal work. Shares are of
    the way of OFASys that takes the least.
    """
    told: dict[str, dict[str, float]] = {}
    for way, own in peaks.items():
        most, (documents, tokens) = max(zip(own, work[way], strict=True))
        told[way] = {
            "MB": round(most, 1),
            "documents": documents,
            "tokens": tokens,
            "MB a document": round(most / documents, 3),
            "MB a token": round(most / tokens, 5),
        }
    shares = {
        unit: round(told["ours"][unit] / least, 3)
        for unit in ("MB a document", "MB a token")
        if (least := min(each[unit] for way, each in told.items() if way.startswith("OFASys")))
    }
    return {
        "largest step beside parameters and optimizer": told,
        "shares": shares,
        "holds": max(shares.values(), default=1.0) <= MEMORY,
    }


def compare_losses(setting: Setting, stream: Stream, pack: Pack) -> dict[str, Any]:
    """Compare loss and gradients of a pack in float32; Triton rounds products to TensorFloat32 on the way."""
    device = setting.device
    ours = Ours.of(stream, [pack], is_compiled=False, device=device.type)
    theirs = EagerOfasys(state=copy_state(ours.program), num_heads=stream.model.num_heads)
    errors = {"loss_error": 1e-3, "grad_error": 3e-2} if device.type == "cuda" else {}
    check(ours, theirs, _batches([*take_apart(pack, stream)], ROWS[0], device), **errors)
    return {"loss": round(float(ours.teach(ours.inputs[0])), 5), "agrees": True, **errors}


def _batches(documents: Sequence[Document], rows: int, device: torch.device) -> list[Batch]:
    return [collate(batch).to(device) for batch in batch_by_task(documents, rows)]


def count_tokens(documents: Sequence[Document]) -> int:
    """Return the tokens of both sides."""
    return sum(each.source_length + len(each.target_ids) for each in documents)
