"""What steps take on a device: milliseconds, bytes, and which kernels they are spent in."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from peak import count_peak
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS: Final = {
    "attention": r"^(forward|backward_queries|backward_keys|backward\w*)$|fmha|flash|attention",
    "matrix product": r"gemm|nvjet|cutlass|cublas|splitK|gemv",
    "fused by the compiler": r"^triton_",
    "optimizer": r"adam|Adam|multi_tensor",
    "copy": r"Memcpy|Memset|copy|CatArray",
}
"""What a kernel does, by what its name contains; the first that fits. All else is eager elementwise work."""


class Stopwatch:
    """Times calls on a device without waiting for it between them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[Any, Any, float]] = []

    def time(self, call: Callable[[], object]) -> None:
        """Call, and remember what it takes on the device, and until it returns."""
        began = time.perf_counter()
        start, end = self._mark(), None
        call()
        end = self._mark()
        self._marks.append((start, end, time.perf_counter() - began))

    def read(self) -> tuple[list[float], list[float]]:
        """Return milliseconds of all calls, on the device and until each returned; begin anew."""
        wait(self._device)
        marks, self._marks = self._marks, []
        if self._device.type == "cuda":
            took = [start.elapsed_time(end) for start, end, _ in marks]
        else:
            took = [1e3 * (end - start) for start, end, _ in marks]
        return took, [1e3 * host for _, _, host in marks]

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def wait(device: torch.device) -> None:
    """Wait until all is done that ``device`` was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def held(device: torch.device) -> int:
    """Return the bytes that tensors on a GPU take; 0 elsewhere."""
    wait(device)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def reserve(device: torch.device) -> int:
    """Return the bytes of a GPU that torch has taken, used or not; 0 elsewhere."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def peak_of(call: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that ``call`` takes at once, beside what there was before it."""
    if device.type != "cuda":
        return count_peak(call)
    before = held(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def tell_kernels(
    call: Callable[[], object], device: torch.device, calls: int = 3
) -> dict[str, Any]:
    """Return which kernels ``call`` spends its time in, from a few calls; ops of the host without a GPU."""
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_cuda
    call()
    wait(device)
    with profile(activities=activities) as told:
        for _ in range(calls):
            call()
        wait(device)
    wanted = DeviceType.CUDA if is_cuda else DeviceType.CPU
    events: Any = told.events()
    # Ranges of the profiler's own lie over kernels on the device's track: they are none.
    kernels = [
        each
        for each in events
        if each.device_type == wanted and not getattr(each, "is_user_annotation", False)
    ]
    if not is_cuda:
        kernels = [each for each in kernels if each.cpu_parent is None]
    spans = [(each.time_range.start, each.time_range.end) for each in kernels]
    total_us = sum(end - start for start, end in spans) or 1.0
    by_name = _sum_by((_shorten(each.name), each.time_range.elapsed_us()) for each in kernels)
    by_kind = _sum_by((_kind(each.name), each.time_range.elapsed_us()) for each in kernels)
    return {
        "ms of a call": round(total_us / calls / 1e3, 3),
        "busy": round(_covered(spans) / (max(e for _, e in spans) - min(s for s, _ in spans)), 3),
        "launches of a call": len(kernels) // calls,
        "ms by kind": {kind: round(us / calls / 1e3, 3) for kind, (us, _) in by_kind},
        "kernels": [
            {
                "name": name,
                "ms": round(us / calls / 1e3, 3),
                "share": round(us / total_us, 4),
                "launches": number // calls,
            }
            for name, (us, number) in by_name[:25]
        ],
        "forward ms by node": _tell_nodes(told, calls),
    }


def _tell_nodes(told: Any, calls: int) -> dict[str, float]:
    """Return what the kernels take that each node of the program launches forward."""
    nodes: dict[str, float] = {}
    for each in told.key_averages():
        if each.key.startswith("taskloom::") and each.device_type == DeviceType.CPU:
            microseconds = each.device_time_total or each.cpu_time_total
            nodes[each.key.removeprefix("taskloom::")] = round(microseconds / calls / 1e3, 3)
    return dict(sorted(nodes.items(), key=lambda item: -item[1])[:15])


def _sum_by(pairs: Iterable[tuple[str, float]]) -> list[tuple[str, tuple[float, int]]]:
    """Return sums and counts by name, the largest first."""
    sums: dict[str, tuple[float, int]] = {}
    for name, microseconds in pairs:
        so_far, number = sums.get(name, (0.0, 0))
        sums[name] = so_far + microseconds, number + 1
    return sorted(sums.items(), key=lambda item: -item[1][0])


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the time in which some kernel runs."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def _kind(name: str) -> str:
    return next((kind for kind, part in KINDS.items() if re.search(part, name)), "elementwise")


def _shorten(name: str) -> str:
    """Return a name without the types that a kernel of torch is made for."""
    return name if len(name) < 110 else f"{name[:80]} … {name[-25:]}"
