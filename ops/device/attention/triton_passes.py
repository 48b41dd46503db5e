"""Both passes of attention by our Triton kernels: what they are given, and how they are launched.

Triton runs them on a GPU; without one, its interpreter does where ``TRITON_INTERPRET=1`` was set
before Triton was first imported, thousands of times slower: for tests, and for a look at a value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ....graph.errors import MissingExtraError
from .call import Call, Passes
from .plan import AttentionPlan, plan_spans
from .relative import Relative
from .spec import AttentionSpec

LARGEST_TILE: Final = 64
SMALLEST_TILE: Final = 16

NUM_SUMS: Final = 8
"""Accumulators of the table's gradient: programs that run at once seldom add to the same one."""

FIXED_BITS: Final = 40
"""Steps, as a power of two, from 0 to the most that the gradient of one score can be."""


HOPPER: Final = 90
"""The compute capability of the GPUs that launches were timed on."""


class Launch(NamedTuple):
    """How one kernel is run; each program has 4 warps and one tile, of queries or of keys.

    Attributes:
        num_stages: Blocks that are fetched ahead, and one.
        block: Tokens that the backward passes meet at once, at most a tile.
        block_before_hopper: The same on older GPUs, whose matrix units take more registers.
    """

    num_stages: int
    block: int = LARGEST_TILE
    block_before_hopper: int = LARGEST_TILE

    @property
    def options(self) -> dict[str, int]:
        """What Triton is told; what it takes for granted may change with its version."""
        return {"num_warps": 4, "num_stages": self.num_stages, "enable_fp_fusion": True}

    def block_on(self, capability: int) -> int:
        """Return the block on a GPU of a compute capability, such as 90."""
        return self.block if capability >= HOPPER else self.block_before_hopper


LAUNCHES: Final = {
    ("forward", False): Launch(3),
    ("forward", True): Launch(1),
    ("backward_queries", False): Launch(2, block=32, block_before_hopper=32),
    ("backward_queries", True): Launch(1, block_before_hopper=32),
    ("backward_keys", False): Launch(1),
    ("backward_keys", True): Launch(1),
}
"""By kernel, and whether there is a relative bias; the fastest of those timed on an H200."""


def has_triton() -> bool:
    """Return whether Triton is installed."""
    # Imported, because the compiler can look through an import, and not for a module.
    try:
        import triton  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport]
    except ImportError:
        return False
    return True


def suits_triton(tensor: Tensor) -> bool:
    """Return whether kernels of Triton compute with what is where ``tensor`` is, and of its type."""
    return tensor.is_cuda and tensor.dtype is not torch.float64 and has_triton()


def lacks_triton(
    q_NHD: Tensor,
    k_MHD: Tensor,  # noqa: ARG001  # as of other back ends
    v_MHD: Tensor,  # noqa: ARG001
    relative: Relative | None,  # noqa: ARG001
) -> str:
    """Return why the kernels cannot compute this here, or nothing.

    Raises:
        MissingExtraError: Triton is not installed.
    """
    if q_NHD.dtype is torch.float64:
        return "it computes in half and in single precision alone"
    if q_NHD.is_meta:
        return ""
    if not is_interpreted():
        without = "TRITON_INTERPRET=1 in the environment for a slow trial without"
        return "" if q_NHD.is_cuda else f"it needs a GPU, or {without}"
    if q_NHD.dtype is torch.bfloat16:
        # Its matrix product takes the bits of bfloat16 for integers (triton 3.9).
        return "Triton's interpreter multiplies bfloat16 wrongly; float16 and float32 it can"
    return ""


def is_interpreted() -> bool:
    """Return whether Triton's interpreter runs the kernels.

    Raises:
        MissingExtraError: Triton is not installed.
    """
    try:
        from .kernels import IS_INTERPRETED  # noqa: PLC0415  # Triton is of the extra gpu
    except ImportError as error:
        help_ = 'pip install "taskloom[gpu]"'
        message = "the attention back end triton needs the extra gpu"
        raise MissingExtraError.of("T0901", message, help_) from error
    return bool(IS_INTERPRETED.value)


def plan_triton(lo_N: Tensor, hi_N: Tensor, num_keys: int, spec: AttentionSpec) -> AttentionPlan:
    """Find out which tiles meet, of a size that the kernels have."""
    tile = spec.tile if spec.tile in {SMALLEST_TILE, 32, LARGEST_TILE} else LARGEST_TILE
    spec = replace(spec, tile=tile, window=0, is_diagonal=False)
    return AttentionPlan(spec, lo_N, hi_N, spans=plan_spans(lo_N, hi_N, num_keys, tile))


def _forward(call: Call) -> tuple[Tensor, Tensor]:
    """Return what queries see, and the log of each one's sum of exponentials."""
    call = _laid_out(call)
    assert call.keys_2T is not None, "planned by another back end"
    num_queries, num_heads = call.q_NHD.shape[:2]
    out_NHD = call.q_NHD.new_empty(num_queries, num_heads, call.v_MHD.shape[-1])
    log_sums_HN = out_NHD.new_empty(num_heads, num_queries, dtype=torch.float32)
    _launch("forward", call, out_ptr=out_NHD, log_sums_ptr=log_sums_HN, spans_ptr=call.keys_2T)
    return out_NHD, log_sums_HN


def _backward(
    call: Call, grad_NHD: Tensor, out_NHD: Tensor, log_sums_HN: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys, values and table.

    Where `torch.use_deterministic_algorithms` is on, that of the table depends on no order: it is
    summed in steps of a 2 ** `FIXED_BITS`-th of the most that the gradient of a score can be.
    """
    call, grad_NHD = _laid_out(call), grad_NHD.contiguous()
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in call[:3])
    sums_PHR, per_step = _accumulators(call, grad_NHD)
    shared = {
        "grad_out_ptr": grad_NHD,
        "log_sums_ptr": log_sums_HN,
        "dots_ptr": torch.empty_like(log_sums_HN),
    }
    _launch(
        "backward_queries",
        call,
        out_ptr=out_NHD,
        grad_q_ptr=grad_q,
        sums_ptr=sums_PHR,
        per_step_ptr=sums_PHR if per_step is None else per_step,
        runs_ptr=call.ranges_2N if call.runs_T is None else call.runs_T,
        spans_ptr=call.keys_2T,
        is_fixed=per_step is not None,
        num_sums=NUM_SUMS,
        **shared,
    )
    _launch(
        "backward_keys",
        call,
        grad_k_ptr=grad_k,
        grad_v_ptr=grad_v,
        spans_ptr=call.queries_2S,
        **shared,
    )
    if call.table_HR is None:
        return grad_q, grad_k, grad_v, sums_PHR
    grad_table_HR = sums_PHR.sum(0)
    if per_step is not None:
        grad_table_HR = (grad_table_HR.double() / per_step).float()
    return grad_q, grad_k, grad_v, grad_table_HR


def _laid_out(call: Call) -> Call:
    """Return the call with heads and channels side by side."""
    q_NHD, k_NHD, v_NHD = (x if _is_laid_out(x) else x.contiguous() for x in call[:3])
    return call._replace(q_NHD=q_NHD, k_MHD=k_NHD, v_MHD=v_NHD)


def _is_laid_out(x_NHD: Tensor) -> bool:
    return x_NHD.stride()[1:] == (x_NHD.shape[2], 1)


def _launch(name: str, call: Call, **given: Any) -> None:
    from .kernels import KERNELS  # noqa: PLC0415  # Triton is of the extra gpu

    kernel, launch = KERNELS[name], LAUNCHES[name, call.table_HR is not None]
    (num_queries, num_heads, qk_size), (num_keys, _, v_size) = call.q_NHD.shape, call.v_MHD.shape
    num_programs = num_keys if name == "backward_keys" else num_queries
    values = {
        "q_ptr": call.q_NHD,
        "k_ptr": call.k_MHD,
        "v_ptr": call.v_MHD,
        "ranges_ptr": call.ranges_2N,
        # Pointers of nothing are not read.
        "codes_ptr": call.ranges_2N if call.codes_3N is None else call.codes_3N,
        "table_ptr": call.q_NHD if call.table_HR is None else call.table_HR,
        "scale": call.scale,
        "num_queries": num_queries,
        "num_keys": num_keys,
        "num_table_rows": 0 if call.table_HR is None else call.table_HR.shape[1],
        "q_stride": call.q_NHD.stride(0),
        "k_stride": call.k_MHD.stride(0),
        "v_stride": call.v_MHD.stride(0),
        "out_stride": num_heads * v_size,
        "qk_size": qk_size,
        "v_size": v_size,
        "qk_padded": padded(qk_size),
        "v_padded": padded(v_size),
        "tile": call.tile,
        "block": min(launch.block_on(_capability(call.q_NHD)), call.tile),
        "is_relative": call.table_HR is not None,
    }
    values = {key: value for key, value in values.items() if key in kernel.arg_names} | given
    grid = (-(-num_programs // call.tile), num_heads)
    kernel[grid](**values, **launch.options)


def _capability(tensor: Tensor) -> int:
    if not tensor.is_cuda:
        return HOPPER
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def padded(size: int) -> int:
    """Return the channels that a kernel computes with, at least the 16 of a matrix unit."""
    return max(16, 1 << (size - 1).bit_length())


def _accumulators(call: Call, grad_NHD: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return sums to add to, and how many steps of them are 1 if they are taken in steps."""
    if call.table_HR is None:
        return grad_NHD.new_empty(0, dtype=torch.float32), None
    size = (NUM_SUMS, *call.table_HR.shape)
    if not torch.are_deterministic_algorithms_enabled():
        return grad_NHD.new_zeros(size, dtype=torch.float32), None
    most = 2 * _longest(grad_NHD) * _longest(call.v_MHD)
    per_step = (FIXED_BITS - most.clamp(min=1e-30).log2().ceil()).exp2()
    return grad_NHD.new_zeros(size, dtype=torch.int64), per_step


def _longest(x_NHD: Tensor) -> Tensor:
    return x_NHD.float().norm(dim=-1).amax()


TRITON: Final = Passes(_forward, _backward)
