"""To the compiler, attention in blocks is one op, whatever the ranges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from taskloom.ops.device.attention import AttentionSpec, Relative, attention
from taskloom.ops.device.attention.plan import plan_spans

from .attention_cases import tensors

# torch's compiler warns about its own code.
pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

LENGTH = 12
SPEC = AttentionSpec(backend="blockwise", tile=4)


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    table_HR = torch.randn(2, 2 * LENGTH, generator=generator, dtype=torch.double)
    return [x.requires_grad_() for x in (*tensors(0, LENGTH, LENGTH), table_HR)]


def ranges(start: int) -> tuple[Tensor, Tensor]:
    """Return the ranges of two causal documents, of which the second begins at ``start``."""
    index_N = torch.arange(LENGTH, dtype=torch.int32)
    return (index_N >= start).int() * start, index_N + 1


def codes() -> tuple[Tensor, Tensor, Tensor]:
    index_N = torch.arange(LENGTH, dtype=torch.int32)
    return index_N, torch.full_like(index_N, LENGTH), index_N // 10


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("backend", "dtype", "tile"),
    [("blockwise", torch.double, 4), ("triton", torch.float, 16)],
    ids=["blockwise", "triton"],
)
def test_the_op_keeps_what_torch_asks_of_ops(
    backend: str, dtype: torch.dtype, tile: int, *, has_bias: bool
) -> None:
    device = "cpu"
    if backend == "triton":
        pytest.importorskip("triton")
        device = "cuda" if torch.cuda.is_available() else "cpu"
    drawn = [x.detach().to(device, dtype).requires_grad_() for x in inputs()]
    code_N, base_N, slot_N = (x.to(device) for x in codes())
    runs_T = torch.zeros(-(-LENGTH // tile), dtype=torch.int32, device=device)
    codes_3N = torch.stack((base_N - code_N, code_N, slot_N))
    bias = (drawn[3], codes_3N, runs_T) if has_bias else (None, None, None)
    meta = (torch.stack(ranges(5)), *plan_spans(*ranges(5), LENGTH, tile))
    given = (backend, *drawn[:3], *bias, *(x.to(device) for x in meta), 0.5, tile)
    torch.library.opcheck(torch.ops.taskloom_ops.attention, given)


def test_one_graph_serves_all_ranges() -> None:
    def attend(given: list[Tensor], ranges: tuple[Tensor, Tensor]) -> Tensor:
        q_NHD, k_MHD, v_MHD, table_HR = given
        lo_N, hi_N = ranges
        relative = Relative(table_HR, *codes())
        return attention(q_NHD, k_MHD, v_MHD, lo_N, hi_N, SPEC, relative).sin()

    given = inputs()
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=False)
    compiled(given, ranges(5))
    with torch.compiler.set_stance("fail_on_recompile"):
        for start in range(LENGTH):
            out, wanted = (call(given, ranges(start)) for call in (compiled, attend))
            torch.testing.assert_close(out, wanted)
            grads, wanted_grads = (torch.autograd.grad(x.sum(), given) for x in (out, wanted))
            torch.testing.assert_close(grads, wanted_grads)
