"""The kernel gives the losses of the formula, and its gradients as slopes: on a GPU, or interpreted."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from torch import Tensor

pytest.importorskip("triton")

from taskloom.ops.device import cross_entropy
from taskloom.ops.device.cross_entropy import ChargeSpec, charge_labels
from taskloom.ops.device.slope import charge_by_kernel
from taskloom.ops.device.slope_kernel import slope_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STRIDES = (0, 5)


def charge(scores: Tensor, place: Tensor, right: float, each: float) -> Tensor:
    """Return the losses, as they are written down."""
    logs = scores.log_softmax(-1)
    return -right * logs.gather(1, place[:, None])[:, 0] - each * logs.sum(1)


@settings(max_examples=12, deadline=None)
@given(
    num_rows=st.integers(1, 4),
    num_ids=st.integers(1, 5000),
    more=st.sampled_from(STRIDES),
    smoothing=st.sampled_from((0.0, 0.1)),
    size=st.sampled_from((0.1, 1.0, 30.0)),
    seed=st.integers(0, 99),
)
@example(num_rows=1, num_ids=1, more=5, smoothing=0.0, size=0.1, seed=0)
def test_losses_and_slopes_are_those_of_the_formula(
    num_rows: int, num_ids: int, more: int, smoothing: float, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(num_rows, num_ids + more, generator=generator) * size
    place = torch.randint(num_ids, (num_rows,), generator=generator)
    is_inside = torch.rand(num_rows, generator=generator) < 0.8
    smoothing = smoothing if num_ids > 1 else 0.0
    each = smoothing / max(1, num_ids - 1)
    right = 1 - smoothing - each
    exact = drawn[:, :num_ids].double().requires_grad_()
    wanted = charge(exact, place, right, each)
    # A label outside its choice is charged to nobody, and teaches what the others are spread over.
    spread = charge(exact, place, 0.0, each) + right * exact.logsumexp(1)
    wanted.where(is_inside, spread).sum().backward()
    for teaches in (False, True):
        scores = drawn.clone().to(DEVICE)
        losses = slope_rows(
            scores[:, :num_ids],
            place.where(is_inside, -1).to(DEVICE),
            each,
            teaches=teaches,
        )
        told = losses.double().cpu()
        torch.testing.assert_close(
            told[is_inside], wanted.detach()[is_inside], rtol=1e-5, atol=1e-4
        )
        assert torch.isinf(told[~is_inside]).all()
        after = scores.cpu()
        if teaches:
            assert exact.grad is not None
            slopes = after[:, :num_ids].double()
            assert not after[:, num_ids:].any()
            torch.testing.assert_close(slopes, exact.grad, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(after, drawn)


def test_half_precision_is_rounded_once() -> None:
    scores = torch.randn(3, 700, generator=torch.Generator().manual_seed(0)).half().to(DEVICE)
    place = torch.tensor([1, 5, 699], device=DEVICE)
    exact = scores.double().cpu().requires_grad_()
    each = 0.1 / 699
    wanted = charge(exact, place.cpu(), 1 - each * 700, each)
    wanted.sum().backward()
    losses = slope_rows(scores, place, each, teaches=True)
    assert losses.dtype is torch.float32
    torch.testing.assert_close(losses.double().cpu(), wanted.detach(), rtol=1e-5, atol=1e-4)
    assert exact.grad is not None
    torch.testing.assert_close(scores.double().cpu(), exact.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_score_that_is_no_number_costs_no_number(bad: float) -> None:
    scores = torch.zeros(2, 9, device=DEVICE)
    scores[0, 3] = bad
    place = torch.tensor([1, 1], device=DEVICE)
    losses = slope_rows(scores, place, 0.1 / 8, teaches=True)
    assert not losses[0].isfinite()
    assert losses[1].isfinite()
    assert scores[0].isnan().any()
    assert scores[1].isfinite().all()


def fill_up(weight: Tensor) -> Tensor:
    """Do as is done on a GPU."""
    return F.pad(weight, (0, 0, 0, -len(weight) % 64))


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("chunk", [0, 3])
def test_labels_are_charged_alike_with_the_kernel_and_without(
    monkeypatch: pytest.MonkeyPatch, chunk: int, first: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(size, 12, generator=generator) for size in (7, 70)]
    labels = torch.randint(64, (7,), generator=generator).clamp(min=2)
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 1.0, 1.0])
    stop = 65 if first else 70
    spec = ChargeSpec(label_smoothing=0.1, first=first, stop=stop, chunk=chunk)
    told: list[list[Tensor]] = []
    for device in ("cpu", DEVICE):
        if told:
            monkeypatch.setattr(cross_entropy, "charge_rows", charge_by_kernel)
            monkeypatch.setattr(cross_entropy, "lay_out", fill_up)
        hidden, table = (each.clone().to(device).requires_grad_() for each in drawn)
        loss, charged = charge_labels(hidden, table, labels.to(device), weights.to(device), spec)
        loss.backward()
        assert hidden.grad is not None
        assert table.grad is not None
        told.append([each.detach().cpu() for each in (loss, charged, hidden.grad, table.grad)])
    for one, other in zip(*told, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
