"""What the compiler makes of our Triton kernels for GPUs that are not here.

What trains and what writes is called as on a GPU, and each kernel that it would launch is compiled ahead of
time instead, for three generations of GPUs. Told are registers per thread, bytes of its stack and those that
are spilled to it from registers, shared memory, and the matrix instructions by kind: `wgmma` on sm_90,
`tcgen05` on sm_100, `mma` where neither is used. The table is kept in `device_kernels.json`, with the version
of Triton and, for each kernel, the digest of what the compiler was asked: the source of the kernel and of all
that it calls, types, constants, what is known of arguments, and options.

    python bench/device_kernels.py [--write] [--only [NAME...]]

Without ``--write`` it compares, prints what moved, and returns 1 if anything did. With ``--only`` it compiles
these kernels alone, and compares the digests of all others.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Collection
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import torch

TABLE: Final = Path(__file__).with_suffix(".json")
CAPABILITIES: Final = (80, 90, 100)
NUM_TOKENS: Final = 256
NUM_HEADS: Final = 12
NUM_IDS: Final = 59_457
"""Of OFA: odd, as most vocabularies are."""


class Elsewhere(NamedTuple):
    """A driver of a GPU that is not here, as far as Triton asks it before a launch."""

    capability: int

    def get_current_device(self) -> int:
        """Return a number of its own for each kind of GPU: kernels are kept by it."""
        return self.capability

    def get_current_stream(self, _: int) -> int:
        """Return the stream that nothing is put into."""
        return 0

    def get_current_target(self) -> Any:
        """Return what to compile for."""
        from triton.backends.compiler import GPUTarget  # noqa: PLC0415

        return GPUTarget("cuda", self.capability, 32)


def attend(qk_size: int, *, is_relative: bool, is_fixed: bool = False) -> None:
    """Launch both passes of attention, with heads of values of size 64.

    Args:
        qk_size: Head size of queries and keys: twice that of values where positions are folded in.
        is_relative: Whether there is a bias.
        is_fixed: Whether the table's gradient depends on no order.
    """
    from taskloom.ops.device.attention import triton_passes  # noqa: PLC0415
    from taskloom.ops.device.attention.call import Call  # noqa: PLC0415

    tile = triton_passes.LARGEST_TILE
    half = partial(torch.zeros, NUM_TOKENS, NUM_HEADS, dtype=torch.bfloat16)
    whole = partial(torch.zeros, dtype=torch.int32)
    table, codes, runs = torch.zeros(NUM_HEADS, 99), whole(3, NUM_TOKENS), whole(NUM_TOKENS // tile)
    bias = (table, codes, runs) if is_relative else (None, None, None)
    spans = [whole(2, NUM_TOKENS // tile) for _ in range(2)]
    heads = half(qk_size), half(qk_size), half(64)
    call = Call(*heads, *bias, whole(2, NUM_TOKENS), spans[0], spans[1], 0.1, tile)
    out, log_sums = triton_passes.TRITON.forward(call)
    torch.use_deterministic_algorithms(is_fixed)
    triton_passes.TRITON.backward(call, half(64), out, log_sums)
    torch.use_deterministic_algorithms(mode=False)


def attend_row(num_rows: int, num_places: int, dtype: torch.dtype, *, is_new: bool) -> None:
    """Launch the attention of rows to their targets, or else to their sources."""
    from taskloom.ops.device.decode.attend_row import attend_source, attend_target  # noqa: PLC0415

    keys, values = torch.zeros(2, num_rows, NUM_HEADS, num_places, 64, dtype=dtype)
    states = torch.zeros(num_rows, 3, NUM_HEADS, 64, dtype=dtype)
    if is_new:
        bias = torch.zeros(1, 1, NUM_HEADS, num_places)
        attend_target(states, keys, values, torch.zeros(1, dtype=torch.int64), bias, 0, 0.1)
    else:
        bias = torch.zeros(num_rows, NUM_HEADS, 1, num_places)
        attend_source(states[:, 0], keys, values, bias, 0.1)


def slope(*, teaches: bool) -> None:
    """Launch the loss of two rows."""
    from taskloom.ops.device.slope import LINE  # noqa: PLC0415
    from taskloom.ops.device.slope_kernel import slope_rows  # noqa: PLC0415

    scores = torch.zeros(2, NUM_IDS + -NUM_IDS % LINE, dtype=torch.bfloat16)
    place = torch.zeros(2, dtype=torch.int64)
    slope_rows(scores[:, :NUM_IDS], place, 0.1 / NUM_IDS, teaches=teaches)


LAUNCHES: Final[dict[str, Callable[[], None]]] = {
    "128x64 relative": partial(attend, 128, is_relative=True),
    "64x64": partial(attend, 64, is_relative=False),
    "128x64 relative deterministic": partial(attend, 128, is_relative=True, is_fixed=True),
    # One block of one row, small or large, and many blocks: of one row, and of many.
    **{
        f"{'target' if is_new else 'source'} {num_rows}x{num_places} {kind}": partial(
            attend_row, num_rows, num_places, getattr(torch, kind), is_new=is_new
        )
        for num_rows, num_places, kind in (
            (1, 16, "bfloat16"),
            (1, 128, "bfloat16"),
            (1, 512, "bfloat16"),
            (64, 512, "bfloat16"),
            (1, 512, "float32"),
            (64, 512, "float32"),
        )
        for is_new in (True, False)
    },
    "teaching": partial(slope, teaches=True),
    "telling": partial(slope, teaches=False),
}
"""By name, what launches kernels; one that is asked for again goes by the first name alone."""


def look_at(name: str, capability: int, only: Collection[str] | None) -> dict[str, dict[str, Any]]:
    """Return by kernel what one of `LAUNCHES` asks of the compiler, and what it makes of that if wanted."""
    from triton import knobs  # noqa: PLC0415  # its interpreter must not have been chosen before
    from triton.runtime import driver  # noqa: PLC0415
    from triton.runtime.jit import JITFunction  # noqa: PLC0415

    from taskloom.ops.device.attention import triton_passes  # noqa: PLC0415

    asked: list[int] = []
    found: dict[str, dict[str, Any]] = {}

    def name_of(kernel: Any) -> str:
        return f"{kernel.fn.__name__} {name} sm_{capability}"

    def is_passed_over(*, fn: Any, compile: dict[str, Any], **_: object) -> bool:  # noqa: A002
        asked.append(digest(fn.jit_function.cache_key, compile["specialization_data"]))
        return only is not None and name_of(fn.jit_function) not in only

    def instead_of_launch(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*arguments: object, **more: object) -> None:
            said, before = io.StringIO(), len(asked)
            with redirect_stdout(said):
                made = kernel.run(*arguments, grid=grid, warmup=True, **more)
            if len(asked) > before:  # Triton has not met it before.
                figures = {} if made is None else count(made, said.getvalue())
                found[name_of(kernel)] = {"asked": asked[-1], **figures}

        return run

    driver.set_active(Elsewhere(capability))  # pyright: ignore[reportArgumentType]
    with ExitStack() as stack:
        for owner, attribute, value in (
            (JITFunction, "__getitem__", instead_of_launch),
            (triton_passes, "_capability", lambda _: capability),
            (knobs.runtime, "jit_cache_hook", is_passed_over),
            (knobs.compilation, "always_compile", True),
            (knobs.nvidia, "dump_ptxas_log", True),
        ):
            stack.enter_context(patch.object(owner, attribute, value))
        LAUNCHES[name]()
    return found


def digest(source: str, specialization: str) -> int:
    """Return a digest of what decides what a kernel is compiled to, but for the version of Triton."""
    given = json.loads(specialization)
    del given["options"]["extern_libs"]  # the folder of Triton
    return int(hashlib.sha256((source + json.dumps(given)).encode()).hexdigest()[:16], 16)


def count(made: Any, said: str) -> dict[str, int]:
    """Return what matters of a kernel, and of what the assembler ``said`` of it."""
    ptx: str = made.asm["ptx"]
    return {
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "stack bytes": int(re.findall(r"(\d+) bytes stack frame", said)[0]),
        "spilled bytes": int(re.findall(r"(\d+) bytes spill stores", said)[0]),
        "shared bytes": made.metadata.shared,
        "wgmma": ptx.count("wgmma.mma_async"),
        "tcgen05": ptx.count("tcgen05.mma"),
        "mma": len(re.findall(r"\bmma\.sync", ptx)),
    }


def measure(only: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return what is asked for all kernels, and the figures of ``only`` some of them, or of all."""
    kernels: dict[str, dict[str, Any]] = {}
    for capability in CAPABILITIES:
        seen: set[int] = set()
        for name in LAUNCHES:
            for kernel, told in look_at(name, capability, only).items():
                if told["asked"] not in seen:
                    kernels[kernel] = told
                seen.add(told["asked"])
    return kernels


def tell_drift(table: dict[str, Any], only: Collection[str] | None) -> list[str]:
    """Return a line for everything that is not as the table has it."""
    import triton  # noqa: PLC0415

    moved: list[str] = []
    if table["triton"] != triton.__version__:
        moved.append(f"triton: {table['triton']} in the table, {triton.__version__} here")
    kept, found = table["kernels"], measure(only)
    for name in {**kept, **found}:
        before, now = kept.get(name, {}), found.get(name, {})
        for figure in now if name in kept and name in found else {**before, **now}:
            if before.get(figure) != now.get(figure):
                moved.append(
                    f"{name}: {figure} {before.get(figure)} in the table, {now.get(figure)} here"
                )
    return moved


def main() -> None:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description="Compile our Triton kernels ahead of time.")
    parser.add_argument("--write", action="store_true", help="write the table anew")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="kernels to compile, or none")
    arguments = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    if arguments.write:
        import triton  # noqa: PLC0415

        table = {"triton": triton.__version__, "kernels": measure()}
        TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        return
    moved = tell_drift(json.loads(TABLE.read_text("utf-8")), arguments.only)
    print(json.dumps({"moved": moved}, indent=2))
    sys.exit(bool(moved))


if __name__ == "__main__":
    main()
