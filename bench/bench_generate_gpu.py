"""Targets written greedily on a GPU in bfloat16, ours recorded and compiled beside transformers' `generate`.

Claims, at the sizes of OFA base (6 + 6 layers of 768 channels and 12 heads, 3,072 inside, 59,457 ids), sources
of 128 tokens and targets of exactly 64: recorded and compiled, ours writes at least 3,500 tokens a second alone
and 120,000 in a batch of 64.

Ours has the layers of OFA with relative and absolute positions. Theirs is a T5: its matrices have the same
sizes, and it has no positions to fold in and fewer norms. Weights are random. All run in one process after one
another, round by round, and medians are told, of seconds until the device has finished; reading the source is
counted, recorded where writing is, and told apart for ours. Ids that are recorded must be those that are not.

    python bench/bench_generate_gpu.py [--out FILE] [--rounds N] [--parts NAMES] [--cases NAMES] [--trace]
"""

from __future__ import annotations

import argparse
import functools
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from report import describe, describe_gpu, tell
from torch import Tensor, nn

from taskloom.ops.device.automaton import build_automaton
from taskloom.ops.device.decode.fold_gains import fold_gains
from taskloom.ops.device.decode.pad_table import pad_table
from taskloom.ops.device.decode.record import Recorder
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.step import Sources
from taskloom.ops.device.decode.task import Compile, Task, as_is
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.language import Free, draw_languages
from taskloom.ops.device.relative.places import to_items
from taskloom.ops.device.relative.slot_ops import AdaptTokens, EmbedIds
from taskloom.ops.device.relative.stack_ops import DecodeRelative, EncodeRelative

SOURCE = 128
PARTS = ("eager", "recorded", "compiled", "hf", "hf-static")
THEIRS = ("hf", "hf-static")
FLOORS = {"1 row, 64 ids": 3_500.0, "64 rows, 64 ids": 120_000.0}


class Sizes(NamedTuple):
    """Sizes of a model."""

    width: int = 768
    ffn_width: int = 3072
    num_heads: int = 12
    num_layers: int = 6
    num_ids: int = 59_457


class Case(NamedTuple):
    """What is written."""

    batch: int
    length: int
    beams: int = 1


CASES = {
    "1 row, 64 ids": Case(1, 64),
    "64 rows, 64 ids": Case(64, 64),
    "32 rows, 64 ids, 5 beams": Case(32, 64, 5),
    "1 row, 128 ids": Case(1, 128),
    "64 rows, 128 ids": Case(64, 128),
}


class Ours:
    """Our model with random weights."""

    def __init__(self, sizes: Sizes, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.device = device
        line = {"kind": "line", "table": "text", "num_places": 1024, "bucket": 256, "longest": 1024}
        forms = (("text", to_items(line)),)
        stack = to_items(sizes._asdict() | {"num_ids": 0})
        stack = tuple(item for item in stack if item[0] != "num_ids")
        source, target = (
            to_items({"width": sizes.width, "has_type": has_type}) for has_type in (True, False)
        )
        self.embed = EmbedIds(num_ids=sizes.num_ids, model_width=sizes.width)
        self.adapt = AdaptTokens(forms=forms, names=("text",), shape=source)
        self.encode = EncodeRelative(shape=stack, forms=forms, longest=SOURCE)
        self.parts = nn.ModuleDict(
            {
                "table": self.embed.module(),
                "source": self.adapt.module(),
                "target": AdaptTokens(forms=forms, names=("text",), shape=target).module(),
                "encoder": self.encode.module(),
                "decoder": DecodeRelative(shape=stack, forms=forms).module(),
            }
        )
        self.parts.to(device, dtype).eval()
        parts: Any = self.parts
        if device == "cuda":
            pad_table(parts["table"])
            fold_gains(parts["decoder"])
        self.stack = RelativeStack(parts["decoder"], parts["target"], parts["table"])
        diagram = draw_languages([(Free(first=4, stop=sizes.num_ids),)], num_ids=sizes.num_ids)
        self.automaton = build_automaton(diagram).to(device)
        self.num_ids = sizes.num_ids
        self.read_again = functools.cache(self.record)

    @torch.no_grad()
    def read(self, batch: int) -> Sources:
        """Return the sources of a batch, read anew."""
        parts: Any = self.parts
        index = torch.arange(batch * SOURCE, device=self.device)
        place = index % SOURCE
        start = index - place
        hidden = self.embed(parts["table"], 4 + index * 31 % (self.num_ids - 4))
        hidden, positions = self.adapt(parts["source"], hidden, place)
        stream = {"hidden": hidden, "positions": positions, "slots": start // SOURCE}
        keys_2N = torch.stack((start, start + SOURCE))
        memory = self.encode(parts["encoder"], **stream, places=place, keys=keys_2N)
        return Sources(memory, keys_2N[:, ::SOURCE], SOURCE, positions)

    def record(self, batch: int) -> Callable[[], Sources]:
        """Return what reads a batch as a CUDA graph; it overwrites what it read before."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self.read(batch)
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            sources = self.read(batch)

        def replay() -> Sources:
            graph.replay()
            return sources

        return replay

    def task(self, case: Case, sources: Sources, compile_: Compile) -> Task:
        """Return what is to be written."""
        search = Search(min_length=case.length - 1, beams=case.beams, n_best=1)
        roots_B = torch.full((case.batch,), self.automaton.roots[0], device=self.device)
        return Task(
            stack=self.stack,
            automaton=self.automaton,
            sources=sources,
            roots_B=roots_B,
            max_length=case.length,
            search=search,
            compile=compile_,
        )


def write_with(
    ours: Ours, case: Case, compile_: Compile, recorder: Recorder | None
) -> Callable[[], Tensor]:
    """Return what reads and writes a batch; the first calls make ready."""

    def run() -> Tensor:
        sources = ours.read(case.batch) if recorder is None else ours.read_again(case.batch)()
        return write(ours.task(case, sources, compile_), recorder).ids_BNL[:, 0]

    return run


@functools.cache
def compiled(function: Any) -> Any:
    """Return ``function`` compiled."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def build_theirs(sizes: Sizes, device: str, dtype: torch.dtype) -> Any:
    """Return a T5 of the same matrices."""
    transformers = import_module("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=sizes.num_ids,
        d_model=sizes.width,
        d_kv=sizes.width // sizes.num_heads,
        d_ff=sizes.ffn_width,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config).to(device, dtype).eval()


def generate_with(
    model: Any, case: Case, device: str, num_ids: int, mode: str
) -> Callable[[], Tensor]:
    """Return what generates a batch with transformers; ``mode`` is how it compiles, if at all."""
    settings: dict[str, Any] = {"do_sample": False, "num_beams": case.beams}
    if mode:
        settings["cache_implementation"] = "static"
        config = import_module("transformers").CompileConfig
        settings["compile_config"] = config(mode=mode, fullgraph=False, dynamic=False)

    def run() -> Tensor:
        index = torch.arange(case.batch * SOURCE, device=device).view(case.batch, SOURCE)
        ids = 4 + index * 31 % (num_ids - 4)
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=case.length,
                max_new_tokens=case.length,
                **settings,
            )
        return out[:, 1:]

    return run


def time_run(run: Callable[[], Tensor]) -> float:
    """Return the seconds of a run, until the device has finished."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def make_ready(
    part: str, case: Case, models: Mapping[str, Callable[[], Any]]
) -> tuple[Callable[[], Tensor], str]:
    """Return what a part runs, ready, and how it was compiled."""
    if part not in THEIRS:
        compile_ = compiled if part == "compiled" else as_is
        run = write_with(models["ours"](), case, compile_, None if part == "eager" else Recorder())
        for _ in range(3):
            run()
        return run, ""
    for mode in ("reduce-overhead", "default") if part == "hf-static" else ("",):
        run = generate_with(models["theirs"](), case, "cuda", Sizes().num_ids, mode)
        try:
            for _ in range(3 if mode else 1):
                run()
        except Exception:  # noqa: BLE001 - it is told, and the next mode is tried
            traceback.print_exc()
            continue
        return run, mode
    raise RuntimeError("no mode works")


def measure(
    name: str,
    parts: Sequence[str],
    models: Mapping[str, Callable[[], Any]],
    rounds: int,
    ends: float,
) -> dict[str, Any]:
    """Return tokens a second of every part."""
    case = CASES[name]
    runs: dict[str, Callable[[], Tensor]] = {}
    told: dict[str, Any] = {"made ready in seconds": {}, "failed": {}, "mode": {}}
    ids: dict[str, Tensor] = {}
    for part in parts:
        began = time.perf_counter()
        try:
            assert began < ends, "no time was left"
            run, told["mode"][part] = make_ready(part, case, models)
            ids[part] = run()
            assert ids[part].shape == (case.batch, case.length), ids[part].shape
            runs[part] = run
        except Exception as error:  # noqa: BLE001 - one that fails must not stop the others
            traceback.print_exc()
            told["failed"][part] = f"{type(error).__name__}: {str(error)[:500]}"
        told["made ready in seconds"][part] = round(time.perf_counter() - began, 1)
        print(f"{name}: {part} after", told["made ready in seconds"][part], "s", flush=True)
    if any(part not in THEIRS for part in runs):
        # Reading alone, recorded, as one more contestant.
        runs["reading"] = lambda: models["ours"]().read_again(case.batch)().memory_MC
    seconds: dict[str, list[float]] = {part: [] for part in runs}
    for _ in range(rounds):
        for part, run in runs.items():
            seconds[part].append(time_run(run))
    return told | summarise(case, seconds) | compare(ids)


def summarise(case: Case, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return the figures of all parts."""
    medians = {part: median(each) for part, each in seconds.items()}
    read = medians.get("reading", 0.0)
    num_tokens = case.batch * case.length
    return {
        "tokens a second": {
            part: round(num_tokens / each, 1) for part, each in medians.items() if part != "reading"
        },
        "ms": {part: round(1000 * each, 3) for part, each in medians.items()},
        "us a step, without reading": {
            part: round(1e6 * (each - read) / case.length, 1)
            for part, each in medians.items()
            if part not in (*THEIRS, "reading")
        },
        "all ms": {part: [round(1000 * s, 3) for s in each] for part, each in seconds.items()},
    }


def compare(ids: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what share of ids is that of the steps as they come."""
    return {
        "same ids as eager": {
            part: round(float((each == ids["eager"]).float().mean()), 4)
            for part, each in ids.items()
            if "eager" in ids and part not in (*THEIRS, "eager")
        }
    }


def trace(name: str, parts: Sequence[str], models: Mapping[str, Callable[[], Any]]) -> None:
    """Print what kernels a run takes."""
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    for part in parts:
        run, _ = make_ready(part, CASES[name], models)
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        kernels = [event for event in profiler.key_averages() if event.device_time_total > 0]
        steps = CASES[name].length
        count = sum(event.count for event in kernels)
        total = sum(event.device_time_total for event in kernels)
        print(f"\n{name}, {part}: {count / steps:.1f} kernels and {total / steps:.1f} us a step")
        for event in sorted(kernels, key=lambda each: -each.device_time_total)[:40]:
            us, each = event.device_time_total / steps, event.device_time_total / event.count
            print(f"{us:8.2f} us {event.count / steps:6.2f} x {each:7.2f} us  {event.key[:110]}")


def main() -> None:
    """Measure all cases, print the figures as JSON and then as a table."""
    parser = argparse.ArgumentParser(description="Time writing on a GPU.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {PARTS}")
    parser.add_argument("--cases", default=";".join(CASES), help="names, divided by ;")
    parser.add_argument("--seconds", type=float, default=280, help="when nothing new is begun")
    parser.add_argument("--trace", action="store_true", help="print kernels of a run, time nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not run: no GPU")
        return
    ends = time.perf_counter() + options.seconds
    warnings.filterwarnings("ignore")
    raise_recompile_limit()
    build: tuple[Any, ...] = (Sizes(), "cuda", torch.bfloat16)
    models = {
        "ours": functools.cache(lambda: Ours(*build)),
        "theirs": functools.cache(lambda: build_theirs(*build)),
    }
    parts, names = options.parts.split(","), options.cases.split(";")
    if options.trace:
        for name in names:
            trace(name, parts, models)
        return
    cases = {name: measure(name, parts, models, options.rounds, ends) for name in names}
    free, total = torch.cuda.mem_get_info()
    result = {
        **describe("torch"),
        **describe_gpu(),
        "memory in use, GB": round((total - free) / 1e9, 1),
        "rounds": options.rounds,
        "cases": cases,
        "missed": [
            name
            for name, floor in FLOORS.items()
            if name in cases and cases[name]["tokens a second"].get("compiled", 0) < floor
        ],
    }
    if {*THEIRS} & {*parts}:
        result["versions"] |= describe("transformers")["versions"]
    tell(result, options.out)
    print(f"\n{'tokens a second':26}" + "".join(f"{part:>12}" for part in parts))
    for name, told in cases.items():
        rates = [told["tokens a second"].get(part) for part in parts]
        cells = ["-" if rate is None else f"{rate:,.0f}" for rate in rates]
        print(f"{name:26}" + "".join(f"{cell:>12}" for cell in cells))


def raise_recompile_limit() -> None:
    """Let every case have programs of its own: torch counts them by function."""
    import torch._dynamo  # noqa: PLC0415

    torch._dynamo.config.recompile_limit = 64  # noqa: SLF001


if __name__ == "__main__":
    main()
