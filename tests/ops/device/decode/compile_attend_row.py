"""Compiles the kernel for a GPU that need not be there, and prints how often memory stands in for registers."""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from taskloom.ops.device.decode.attend_row_kernel import attend_row

POINTERS = {"q_ptr", "k_ptr", "v_ptr", "keys_ptr", "values_ptr", "out_ptr"}


def compile_kernel(dtype: str, *, block: int, is_new: bool, is_few: bool) -> int:
    values: dict[str, Any] = {
        "size": 64,
        "padded": 64,
        "block": block,
        "is_new": is_new,
        "has_bias": True,
        "is_few": is_few,
        "is_single": is_few,
    }
    types = dict.fromkeys(attend_row.arg_names, "i32") | dict.fromkeys(values, "constexpr")
    types |= dict.fromkeys(POINTERS, f"*{dtype}")
    types |= {"bias_ptr": "*fp32", "index_ptr": "*i64" if is_new else f"*{dtype}", "scale": "fp32"}
    source: Any = ASTSource(attend_row, types, values)
    options = {"num_warps": 8 if is_few and block == 128 else 4}
    kernel: Any = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return kernel.asm["ptx"].count(".local")


if __name__ == "__main__":
    counts = [
        compile_kernel(dtype, block=block, is_new=is_new, is_few=is_few)
        for dtype in ("bf16", "fp32")
        for block, is_few in ((16, True), (128, True), (64, False), (128, False))
        for is_new in (False, True)
        if is_few or is_new == (block == 64)
    ]
    sys.stdout.write(f"{sum(counts)}\n")
