"""One state times a matrix is its product, as a sum and as one of several, in the same precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from taskloom.ops.device.product import Linear, multiply, multiply_one, multiply_tall


@pytest.mark.parametrize("of_one", [multiply_one, multiply_tall])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_product_of_one_is_the_product(
    of_one: Callable[..., Tensor], dtype: torch.dtype, *, has_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((1, 300), (70, 300), (70,))
    )
    given = bias if has_bias else None
    found = of_one(x, weight, given)
    assert found.shape == (1, 70)
    assert found.dtype is dtype
    # Rounded once, whatever the type.
    exact = F.linear(x.double(), weight.double(), None if given is None else given.double())
    torch.testing.assert_close(found, exact.to(dtype), atol=1e-4, rtol=1e-2)
    assert torch.equal(multiply(x, weight, given), F.linear(x, weight, given))


def test_a_layer_is_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer = Linear(5, 3)
    x = torch.randn(4, 5)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
