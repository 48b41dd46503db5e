"""What the compiler makes of our attention kernels for GPUs that are not here.

Every kernel is compiled ahead of time, as it would be launched, for three generations of GPUs. Told are
registers per thread, bytes spilled from them, shared memory, and the matrix instructions by kind: `wgmma` on
sm_90, `tcgen05` on sm_100, `mma` where neither is used. The table is kept in `attention_kernels.json` with the
version of Triton and the digest of the source that it was made from; a test fails where it is no longer what
the compiler makes.

    python bench/attention_kernels.py [--write] [--only NAME...]

Without ``--write`` it compares, prints what moved, and returns 1 if anything did.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

TABLE: Final = Path(__file__).with_suffix(".json")
CAPABILITIES: Final = (80, 90, 100)
NUM_HEADS: Final = 12


class Variant(NamedTuple):
    """One way to launch a kernel.

    Attributes:
        kernel: Its name.
        qk_size: Head size of queries and keys: twice that of values where positions are folded in.
        is_relative: Whether there is a bias.
        is_fixed: Whether the table's gradient depends on no order.
    """

    kernel: str
    qk_size: int
    is_relative: bool
    is_fixed: bool = False

    def __str__(self) -> str:
        words = [self.kernel, f"{self.qk_size}x64"]
        words += ["relative"] * self.is_relative + ["deterministic"] * self.is_fixed
        return " ".join(words)


KERNELS: Final = ("forward", "backward_queries", "backward_keys")
VARIANTS: Final = (
    *(Variant(kernel, 128, is_relative=True) for kernel in KERNELS),
    *(Variant(kernel, 64, is_relative=False) for kernel in KERNELS),
    Variant("backward_queries", 128, is_relative=True, is_fixed=True),
)


def compile_for(capability: int, variant: Variant) -> dict[str, int]:
    """Compile one variant and count what matters."""
    import triton  # noqa: PLC0415  # its interpreter must not have been chosen before
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    from taskloom.ops.device.attention import kernels, triton_passes  # noqa: PLC0415

    kernel: Any = kernels.KERNELS[variant.kernel]
    launch = triton_passes.LAUNCHES[variant.kernel, variant.is_relative]
    tile = triton_passes.LARGEST_TILE
    constants = {
        "qk_size": variant.qk_size,
        "v_size": 64,
        "qk_padded": variant.qk_size,
        "v_padded": 64,
        "tile": tile,
        "block": launch.block_on(capability),
        "is_relative": variant.is_relative,
        "is_fixed": variant.is_fixed,
        "num_sums": triton_passes.NUM_SUMS,
    }
    names: list[str] = kernel.arg_names
    types = {name: type_of(name, variant) for name in names}
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(key),): value for key, value in constants.items() if key in names},
        attrs={
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(names)
            if name.endswith(("_ptr", "_stride"))
        },
    )
    target = GPUTarget("cuda", capability, 32)
    compiled: Any = triton.compile(source, target=target, options=launch.options)
    ptx: str = compiled.asm["ptx"]
    said = assemble(ptx, capability)
    return {
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "spilled bytes": int(re.findall(r"(\d+) bytes spill stores", said)[0]),
        "shared bytes": compiled.metadata.shared,
        "wgmma": ptx.count("wgmma.mma_async"),
        "tcgen05": ptx.count("tcgen05.mma"),
        "mma": len(re.findall(r"\bmma\.sync", ptx)),
    }


def type_of(name: str, variant: Variant) -> str:
    """Return Triton's name of an argument's type, as a launch in bfloat16 would have it."""
    if name in {"log_sums_ptr", "dots_ptr", "table_ptr", "per_step_ptr"}:
        return "*fp32"
    if name in {"ranges_ptr", "spans_ptr", "codes_ptr", "runs_ptr"}:
        return "*i32"
    if name == "sums_ptr":
        return "*i64" if variant.is_fixed else "*fp32"
    if name == "scale":
        return "fp32"
    return "*bf16" if name.endswith("_ptr") else "i32"


def assemble(ptx: str, capability: int) -> str:
    """Return what the assembler says of ``ptx``."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx, encoding="utf-8")
        arch = sm_arch_from_capability(capability)
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={arch}", str(path)]
        command += ["-o", str(Path(folder, "kernel.cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def made_from() -> dict[str, str]:
    """Return what the figures depend on."""
    import triton  # noqa: PLC0415

    from taskloom.ops.device.attention import kernels, triton_passes  # noqa: PLC0415

    source = Path(kernels.__file__).read_bytes()
    return {
        "triton": triton.__version__,
        "source": hashlib.sha256(source).hexdigest()[:16],
        "launches": str({name: tuple(one) for name, one in triton_passes.LAUNCHES.items()}),
    }


def measure(only: list[str]) -> dict[str, dict[str, int]]:
    """Return the figures of all variants whose name begins with any of ``only``."""
    return {
        f"{variant} sm_{capability}": compile_for(capability, variant)
        for variant in VARIANTS
        for capability in CAPABILITIES
        if not only or f"{variant} sm_{capability}".startswith(tuple(only))
    }


def tell_drift(table: dict[str, Any], only: list[str]) -> list[str]:
    """Return a line for everything that is not as the table has it."""
    moved = [
        f"{key}: {table['made from'].get(key)} in the table, {value} here"
        for key, value in made_from().items()
        if table["made from"].get(key) != value
    ]
    kept = table["kernels"]
    found = measure(only)
    names = found if only else {**kept, **found}
    for name in names:
        before, now = kept.get(name), found.get(name)
        if before != now:
            moved.append(f"{name}: {before} in the table, {now} here")
    return moved


def main() -> None:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description="Compile our attention kernels ahead of time.")
    parser.add_argument("--write", action="store_true", help="write the table anew")
    parser.add_argument("--only", nargs="*", default=[], help="names, or how they begin")
    arguments = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    if arguments.write:
        table = {"made from": made_from(), "kernels": measure([])}
        TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        return
    moved = tell_drift(json.loads(TABLE.read_text("utf-8")), arguments.only)
    print(json.dumps({"moved": moved}, indent=2))
    sys.exit(bool(moved))


if __name__ == "__main__":
    main()
