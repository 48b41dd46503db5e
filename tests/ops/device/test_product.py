"""One state times a matrix is a sum of products, in the precision of a product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from taskloom.ops.device.product import Linear, multiply, multiply_one


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_sum_of_products_is_the_product(dtype: torch.dtype, *, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((1, 300), (70, 300), (70,))
    )
    given = bias if has_bias else None
    found = multiply_one(x, weight, given)
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
