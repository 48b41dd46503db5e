"""The chunked loss equals the plain formula in value and gradients, and never holds all scores."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from taskloom.graph.errors import PlanError
from taskloom.ops.device.automaton import build_automaton
from taskloom.ops.device.cross_entropy import ChargeSpec, IdSets, charge_labels
from taskloom.ops.device.language import OneOf, draw_languages


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows, a table, and the choice of each row as sets or as a range."""

    hidden_NC: Tensor
    weight_VC: Tensor
    labels_N: Tensor
    weights_N: Tensor
    spec: ChargeSpec
    sets: IdSets | None = None

    def charge(self) -> tuple[Tensor, Tensor]:
        return charge_labels(
            self.hidden_NC, self.weight_VC, self.labels_N, self.weights_N, self.spec, self.sets
        )

    def is_allowed(self) -> Tensor:
        """Return the choice of each row, shape ``(N, V)``."""
        is_allowed_NV = torch.zeros(len(self.labels_N), len(self.weight_VC), dtype=torch.bool)
        is_allowed_NV[:, self.spec.first : self.spec.stop] = True
        if self.sets is not None:
            sets_N, offsets_S, ids_E = self.sets
            for row, number in enumerate(sets_N.tolist()):
                if number >= 0:
                    is_allowed_NV[row] = False
                    is_allowed_NV[row, ids_E[offsets_S[number] : offsets_S[number + 1]]] = True
        return is_allowed_NV

    def charge_plainly(self) -> tuple[Tensor, Tensor]:
        """Return the same of the formula as it is written down, over all scores at once."""
        is_allowed_NV = self.is_allowed()
        scores_NV = self.hidden_NC @ self.weight_VC.T
        logs_NV = scores_NV.masked_fill(~is_allowed_NV, -torch.inf).log_softmax(-1)
        num_allowed_N = is_allowed_NV.sum(1)
        smoothing_N = (num_allowed_N > 1).double() * self.spec.label_smoothing
        each_N = smoothing_N / (num_allowed_N - 1).clamp(min=1)
        label_N = -logs_NV.gather(1, self.labels_N.long()[:, None])[:, 0]
        spread_N = -logs_NV.masked_fill(~is_allowed_NV, 0).sum(1)
        costs_N = (1 - smoothing_N - each_N) * label_N + each_N * spread_N
        charged_N = (costs_N * self.weights_N).where(self.weights_N != 0, 0)
        return charged_N.sum(), charged_N.detach()

    def parameters(self) -> list[Tensor]:
        return [self.hidden_NC, self.weight_VC]


def make_case(
    seed: int, shape: tuple[int, int, int], *, sets: IdSets | None = None, **spec: Any
) -> Case:
    """Return a case of ``shape`` N, C, V whose labels are allowed where they have weight."""
    num_rows, width, num_ids = shape
    generator = torch.Generator().manual_seed(seed)
    doubles: dict[str, Any] = {"generator": generator, "dtype": torch.double}
    case = Case(
        hidden_NC=torch.randn(num_rows, width, **doubles).requires_grad_(),
        weight_VC=torch.randn(num_ids, width, **doubles).requires_grad_(),
        labels_N=torch.randint(num_ids, (num_rows,), generator=generator, dtype=torch.int32),
        weights_N=torch.randint(3, (num_rows,), generator=generator).float() / 2,
        spec=ChargeSpec(**spec),
        sets=sets,
    )
    drawn_NV = torch.rand(num_rows, num_ids, generator=generator) * case.is_allowed()
    labels_N = drawn_NV.argmax(1).int().where(case.weights_N > 0, case.labels_N)
    return replace(case, labels_N=labels_N)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case of any shape, without rows or with, in chunks that divide them or not."""
    num_rows, num_ids = draw(st.integers(0, 9)), draw(st.integers(1, 12))
    first = draw(st.integers(0, num_ids - 1))
    choice: dict[str, Any] = {
        "first": first,
        "stop": draw(st.none() | st.integers(first + 1, num_ids)),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 0.5])),
        "chunk": draw(st.integers(0, 4)),
    }
    if draw(st.booleans()):
        ids = st.sets(st.integers(0, num_ids - 1), min_size=1).map(sorted)
        sets = draw(st.lists(ids, max_size=4))
        numbers = st.lists(st.integers(-1, len(sets) - 1), min_size=num_rows, max_size=num_rows)
        choice["sets"] = compress(draw(numbers), sets)
    shape = num_rows, draw(st.integers(1, 4)), num_ids
    return make_case(draw(st.integers(0, 2**16)), shape, **choice)


def compress(numbers: list[int], sets: list[list[int]]) -> IdSets:
    """Return ``sets`` in compressed rows."""
    offsets = torch.tensor([0, *[len(ids) for ids in sets]]).cumsum(0)
    ids = torch.tensor([id_ for ids in sets for id_ in ids], dtype=torch.int32)
    return IdSets(torch.tensor(numbers, dtype=torch.int64), offsets, ids)


@settings(deadline=None)
@given(cases())
def test_value_and_gradients_are_those_of_the_plain_formula(case: Case) -> None:
    out, charged_N = case.charge()
    expected, expected_N = case.charge_plainly()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(charged_N, expected_N)
    gradients, expected_gradients = (
        torch.autograd.grad(each * 3, case.parameters()) for each in (out, expected)
    )
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_those_of_finite_differences(smoothing: float) -> None:
    sets = compress([0, 1, -1, 1, -1, 0, 1], [[2, 5, 6], [0, 1, 3, 4]])
    case = make_case(0, (7, 3, 8), label_smoothing=smoothing, sets=sets, first=1, stop=7, chunk=2)

    def charge(hidden_NC: Tensor, weight_VC: Tensor) -> Tensor:
        return replace(case, hidden_NC=hidden_NC, weight_VC=weight_VC).charge()[0]

    assert torch.autograd.gradcheck(charge, case.parameters())


def test_smoothing_spreads_over_the_other_ids() -> None:
    # All scores are equal, so every id costs log V however the probability is spread.
    case = make_case(1, (4, 2, 5), label_smoothing=0.5)
    flat = replace(case, weight_VC=torch.zeros(5, 2).double().requires_grad_())
    out, _ = flat.charge()
    torch.testing.assert_close(out, case.weights_N.sum().double() * torch.log(torch.tensor(5.0)))
    # The gradient of the label's score is p - (1 - eps), that of every other p - eps / (V - 1).
    one = replace(
        flat,
        hidden_NC=torch.ones(1, 2).double(),
        labels_N=torch.tensor([3]),
        weights_N=torch.ones(1),
    )
    (grad_VC,) = torch.autograd.grad(one.charge()[0], one.weight_VC)
    expected = torch.full((5,), 0.2 - 0.125).double()
    expected[3] = 0.2 - 0.5
    torch.testing.assert_close(grad_VC, expected[:, None].expand(5, 2))


def test_states_of_an_automaton_are_sets_and_its_log_probabilities_the_loss() -> None:
    answers = OneOf(sequences=((4, 5), (4, 6, 7), (8,)))
    automaton = build_automaton(draw_languages([(answers,)], num_ids=9))
    states_N = torch.full((3,), automaton.roots[0])
    states_N[1:] = automaton.advance(states_N[1:], torch.tensor([4, 4]))
    hidden_NC, weight_VC = torch.randn(3, 4).double(), torch.randn(9, 4).double()
    scores_NV = (hidden_NC @ weight_VC.T).masked_fill(
        ~automaton.is_allowed(states_N, 9), -torch.inf
    )
    log_probs_N, labels_N = scores_NV.log_softmax(1).max(1)
    sets = IdSets(states_N, automaton.offsets_S, automaton.edge_ids_E)
    _, charged_N = charge_labels(
        hidden_NC, weight_VC, labels_N, torch.ones(3).double(), ChargeSpec(), sets
    )
    torch.testing.assert_close(charged_N, -log_probs_N, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param({"stop": 3}, id="range"),
        pytest.param({"sets": compress([0], [[0, 2]])}, id="set"),
        pytest.param({"sets": compress([0], [[]])}, id="empty set"),
    ],
)
def test_a_label_outside_its_choice_costs_infinity(choice: dict[str, Any]) -> None:
    case = replace(
        make_case(0, (1, 2, 5), **choice), labels_N=torch.tensor([4]), weights_N=torch.ones(1)
    )
    out, charged_N = case.charge()
    assert out == charged_N[0] == torch.inf
    for gradient in torch.autograd.grad(out, case.parameters()):
        assert gradient.isfinite().all()


def test_a_state_that_is_no_number_goes_unseen_nowhere() -> None:
    case = make_case(0, (3, 2, 5))
    hidden_NC = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [1.0, 1.0]]).double().requires_grad_()
    lost = replace(case, hidden_NC=hidden_NC, weights_N=torch.tensor([1.0, 0.0, 1.0]))
    out, charged_N = lost.charge()
    assert charged_N.isnan().tolist() == [False, True, False]
    assert out.isnan()


def test_what_is_frozen_is_taught_nothing_and_the_other_the_same() -> None:
    case = make_case(0, (6, 3, 8), label_smoothing=0.1, chunk=4)
    expected = torch.autograd.grad(case.charge()[0], case.parameters())
    for place, name in enumerate(("hidden_NC", "weight_VC")):
        frozen = replace(case, **{name: getattr(case, name).detach()})
        (gradient,) = torch.autograd.grad(frozen.charge()[0], [frozen.parameters()[1 - place]])
        torch.testing.assert_close(gradient, expected[1 - place])
    with torch.no_grad():
        assert not case.charge()[0].requires_grad


def test_a_second_backward_pass_gives_the_same_and_a_second_derivative_is_refused() -> None:
    case = make_case(0, (6, 3, 8))
    out, _ = case.charge()
    once, again = (torch.autograd.grad(out * 2, case.hidden_NC, retain_graph=True) for _ in "12")
    assert torch.equal(once[0], again[0])
    with pytest.raises(RuntimeError, match="has no gradient"):
        torch.autograd.grad(out, case.hidden_NC, create_graph=True)


def test_the_gradient_of_a_table_in_half_precision_is_summed_in_single() -> None:
    """Added up in bfloat16, 600 chunks would lose a tenth of it."""
    exact = replace(make_case(0, (600, 8, 4), chunk=1), weights_N=torch.ones(600))
    coarse = replace(
        exact,
        hidden_NC=exact.hidden_NC.detach().bfloat16().requires_grad_(),
        weight_VC=exact.weight_VC.detach().bfloat16().requires_grad_(),
    )
    (expected,) = torch.autograd.grad(exact.charge()[0], exact.weight_VC)
    (gradient,) = torch.autograd.grad(coarse.charge()[0], coarse.weight_VC)
    assert gradient.dtype is torch.bfloat16
    assert (gradient - expected).norm() < 0.01 * expected.norm()


def allocations(charge: Any, case: Case) -> list[int]:
    """Return the bytes that both passes take and, negative, give back, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        out, _ = charge()
        torch.autograd.grad(out, case.parameters())
    kineto: Any = told.profiler
    events = [each for each in kineto.kineto_results.events() if each.name() == "[memory]"]
    return [each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())]


def test_the_scores_of_all_rows_are_never_held() -> None:
    num_rows, num_ids, chunk = 64, 500, 8
    case = make_case(0, (num_rows, 4, num_ids), label_smoothing=0.1, chunk=chunk)
    scores = 8 * num_rows * num_ids
    assert max(allocations(case.charge_plainly, case)) == scores
    taken = allocations(case.charge, case)
    assert max(taken) == scores * chunk // num_rows
    assert max(itertools.accumulate(taken)) < scores / 2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        pytest.param({"first": 3, "stop": 3}, "ids 3 to 3 are no range", id="empty range"),
        pytest.param({"stop": 6}, "ids 0 to 6 are no range of a vocabulary of 5", id="past"),
        pytest.param({"first": -1}, "ids -1 to the last are no range", id="before"),
        pytest.param({"label_smoothing": 1.0}, r"in \[0, 1\), got 1.0", id="all smoothed"),
        pytest.param({"chunk": -1}, "chunk must be at least 0, got -1", id="chunk"),
    ],
)
def test_what_cannot_be_charged_is_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=f"T0248.*{message}"):
        replace(make_case(0, (2, 2, 5)), spec=ChargeSpec(**choice)).charge()


@pytest.mark.slow
def test_the_op_keeps_the_promises_that_compilers_rely_on() -> None:
    case = make_case(0, (6, 3, 8), label_smoothing=0.1)
    rows = case.hidden_NC, case.weight_VC, case.labels_N, case.weights_N
    op: Any = torch.ops.taskloom_ops.charge_labels.default
    for sets in ((None, None, None), compress([0, -1, 0, -1, -1, 0], [[1, 4]])):
        torch.library.opcheck(op, (*rows, *sets, 0, 8, 0.1, 4, True, True))
