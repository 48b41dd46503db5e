"""Training on a GPU: share of its peak, useful tokens and memory beside OFASys' eager step, and its kernels.

Cases, each of which may fail and leaves the others be:

* ``mfu``: steps of presets without trunk on packs of documents of 512 source and 64 target tokens; what has to
  be computed (`pipeline/model/demand.py`) by the peak of the GPU, dense in bfloat16, as its maker tells it.
* ``profile``: which kernels those steps are spent in, of the first preset.
* ``memory``: the most that a step takes on a pack of these documents, and OFASys' on a batch of the same, which
  has no padding.
* ``eager``: useful tokens a second on functions of Python's library, of the first preset: ours in packs, and
  OFASys' in batches of one task, drawn at random and padded, of as many rows as suits it best. Losses and
  gradients are compared first, in float32. There is no dropout, which OFASys lacks here. Memory is that of the
  step that takes the most, for each document of it. Beside them a plain loop in torch with the same parameters:
  batches of one task and of like lengths, with padding as long as a pack, through SDPA and `torch.compile`.

A step is forward, backward and AdamW on float32 masters, for both, in bfloat16. Ours is that of a run, recorded
and from arrays of the host on; OFASys' batches are on the GPU before. Tables of ids are as long as OFASys' own.

Claim: ``base`` has 0.30 of the peak and ``large`` 0.35; 4 times as many useful tokens a second as OFASys, in at
most 0.35 of its memory for each document, and for each token that is no padding.

    python bench/bench_training.py [--cases mfu,profile,memory,eager] [--presets base,large] [--out FILE]
        [--store FOLDER] [--device cpu --width 64 --layers 1 --ids 0 --source-tokens 1024 --steps 2 --packs 2]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from device_time import free
from report import describe, describe_gpu, tell
from training_cases import Texts, beside_eager
from training_setting import Setting

CASES: Final = ("mfu", "profile", "memory", "eager")


def guarded(case: str, preset: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``call`` returns, or how it failed, and print the main figures at once."""
    began = time.perf_counter()
    try:
        told = call()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cases go on
        traceback.print_exc()
        told = tell_failure(error)
    told["seconds in all"] = round(time.perf_counter() - began, 1)
    print(tabulate({case: {preset: told}}), file=sys.stderr, flush=True)
    return told


def tell_failure(error: Exception) -> dict[str, Any]:
    """Return how something failed."""
    return {"failed": f"{type(error).__name__}: {error}", "where": traceback.format_exc()}


def measure(setting: Setting, cases: Sequence[str], presets: Sequence[str]) -> dict[str, Any]:
    """Return what all wanted cases measure, by case and preset."""
    told: dict[str, Any] = {case: {} for case in CASES if case in cases}
    for number, preset in enumerate(presets):
        wanted = [case for case in told if case in {"mfu", "memory"} or number == 0]
        if own := [case for case in wanted if case != "eager"]:
            for case, each in measure_texts(setting, own, preset).items():
                told[case][preset] = each
            renew(setting)
        if "eager" in wanted:
            told["eager"][preset] = guarded("eager", preset, partial(beside_eager, setting, preset))
            renew(setting)
    return told


def measure_texts(setting: Setting, cases: Sequence[str], preset: str) -> dict[str, Any]:
    """Return what ``cases`` measure of one learner."""
    try:
        texts = Texts(setting, preset)
    except Exception as error:  # noqa: BLE001 - other presets go on
        traceback.print_exc()
        return dict.fromkeys(cases, tell_failure(error))
    calls = {"mfu": texts.share_of_peak, "profile": texts.kernels, "memory": texts.memory}
    return {case: guarded(case, preset, calls[case]) for case in cases}


def renew(setting: Setting) -> None:
    """Forget what was compiled, and give memory back."""
    torch.compiler.reset()
    free(setting.device)


def tabulate(told: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the main figures by case and preset, a line each."""
    lines: list[str] = []
    for case, by_preset in told.items():
        for preset, each in by_preset.items():
            tell_case = _TOLD[case] if "failed" not in each else _tell_failed
            first, *more = tell_case(each)
            lines += [f"{case:8} {preset:6} {first}", *(f"{'':16}{line}" for line in more)]
    return "\n".join(lines)


def _tell_failed(each: Mapping[str, Any]) -> list[str]:
    return [f"FAILED: {each['failed'][:200]}"]


def _tell_share(each: Mapping[str, Any]) -> list[str]:
    share = each["share of peak"]
    number, host_ms = each["documents of each pack"][0], each["median ms until the call returned"]
    return [
        f"{share} of peak, {each['TFLOP a second']} TFLOP/s",
        f"{each['median ms']} ms a step of {number} documents, {host_ms} of them on the host",
        f"{each['tokens a second']:,} tokens/s, loss {each['loss']}",
        each["recording"] or "steps come as they are",
    ]


def _tell_memory(each: Mapping[str, Any]) -> list[str]:
    bytes_ = f"{each['ours, MB']} to {each['OFASys, MB']} MB"
    return [
        f"{each['share']} of OFASys', {bytes_} for {each['documents']} documents without padding",
        f"{each['share with parameters and optimizer']} with parameters and optimizer",
    ]


def _tell_eager(each: Mapping[str, Any]) -> list[str]:
    memory = each["memory"]
    peaks = memory["largest step beside parameters and optimizer"]
    return [
        f"{each['times as many']} times {each['best of OFASys']}, "
        f"{each['times as many as a plain loop']} times a plain loop",
        f"memory of OFASys' best: {memory['shares']}, holds: {memory['holds']}",
        each["recording"] or "steps come as they are",
        *(
            f"{way}: {rate:,} tokens/s, {peaks[way]}"
            for way, rate in each["tokens a second"].items()
        ),
        *(f"{way}: {why}" for way, why in each["failed ways"].items()),
    ]


def _tell_kernels(each: Mapping[str, Any]) -> list[str]:
    return [
        f"{each['ms of a call']} ms in {each['launches of a call']} launches as they come, busy {each['busy']}",
        f"{each['busy in a step']} of a step of {each['median ms of a step']} ms",
        *(f"{ms:9.3f} ms  {kind}" for kind, ms in each["ms by kind"].items()),
        *(
            f"{k['ms']:9.3f} ms {100 * k['share']:5.1f}% x{k['launches']:<4} {k['name'][:90]}"
            for k in each["kernels"]
        ),
        *(f"{ms:9.3f} ms forward {node}" for node, ms in each["forward ms by node"].items()),
    ]


_TOLD: Final = {
    "mfu": _tell_share,
    "profile": _tell_kernels,
    "memory": _tell_memory,
    "eager": _tell_eager,
}


def main() -> None:
    """Measure what is wanted and print the figures as JSON, the main ones after it."""
    parser = argparse.ArgumentParser(description="Measure training on a GPU.")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--presets", default="base,large")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--store", type=Path, help="a folder for stores, to use them again")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--source-tokens", type=int, default=16_384)
    parser.add_argument("--packs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ids", type=int, default=59_457, help="length of tables of ids at least")
    parser.add_argument("--width", type=int, default=0, help="another width, to try the bench")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--compile", choices=("on", "off"), help="on for a GPU")
    options = parser.parse_args()
    result: dict[str, Any] = describe("torch")
    is_there = options.device != "cuda" or torch.cuda.is_available()
    if not is_there:
        tell({**result, "cases": dict.fromkeys(CASES, "not run: no GPU")}, options.out)
        return
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(
            device=device,
            folder=options.store or Path(scratch),
            source_tokens=options.source_tokens,
            num_packs=options.packs,
            num_steps=options.steps,
            num_ids=options.ids,
            width=options.width,
            layers=options.layers,
            compile=options.compile or ("on" if device.type == "cuda" else "off"),
        )
        told = measure(setting, options.cases.split(","), options.presets.split(","))
    shared = {k: str(v) if k in {"device", "folder"} else v for k, v in asdict(setting).items()}
    about = {**describe_gpu(), "device": setting.device_name, "setting": shared}
    tell({**result, **about, "cases": told}, options.out)
    short = {case: each for case, each in told.items() if case != "profile"}
    print(tabulate(short), file=sys.stderr)


if __name__ == "__main__":
    main()
