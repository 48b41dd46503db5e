"""Linear map and label-smoothed cross entropy as one op, which holds the scores of a few rows at a time.

A *row* is a state and its label; its *choice* is the ids that it is told apart from: all of the vocabulary, a
range of it, or a set of ids. Scores are computed for a chunk of rows and their choice alone, and turned at
once into losses and gradients, so nothing of rows times ids is ever held, in either pass. The gradient of the
table is added up in single precision at least. A row without weight costs nothing, whatever its label.

A label's cost is ``(1 - eps - e) * nll + e * sum(-log p)``, where ``e = eps / (K - 1)`` for a choice of ``K``
ids: ``eps`` of the label's probability is spread over the other ids, as in OFASys. OFASys divides by
``K - 1 + 1e-6`` where ids are masked; here a choice of one id has no others to spread over and costs 0, which
is the same to a millionth part. Its ranges always keep ids 0 to 3, and its cross entropy without smoothing
ignores sets; here a range is what it says, and sets hold either way.

Why gradients in the forward pass: scores would have to be kept, or computed again, which is a third more work.

Shape letters: N = rows, C = channels, V = ids, S = sets, E = ids of all sets, R = rows of a chunk, K = ids of
a choice.

Source: Liger Kernel (arXiv:2410.10989), for gradients of chunks in the forward pass; OFASys,
``engine/criterion/label_smoothed_cross_entropy.py``, for the smoothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ...graph.errors import PlanError, Problem
from .slope import charge_rows, lay_out


class IdSets(NamedTuple):
    """Sets of ids in compressed rows, and whose choice each is.

    Attributes:
        sets_N: Set that each row chooses from; negative where it is none of them.
        offsets_S: Where the ids of each set begin; ``S + 1`` integers.
        ids_E: The ids, each once in a set and in ascending order there.
    """

    sets_N: Tensor
    offsets_S: Tensor
    ids_E: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeSpec:
    """What is static about one use of the loss.

    Attributes:
        label_smoothing: Share of the label's probability that is spread over the other ids, in [0, 1).
        first: First id of the choice of rows that have no set.
        stop: One past the last; None for the whole vocabulary.
        chunk: Rows at a time; 0 for as many as `SCORES_AT_ONCE` lets be.
    """

    label_smoothing: float = 0.0
    first: int = 0
    stop: int | None = None
    chunk: int = 0

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise PlanError(*problems)


def charge_labels(
    hidden_NC: Tensor,
    weight_VC: Tensor,
    labels_N: Tensor,
    weights_N: Tensor,
    spec: ChargeSpec,
    sets: IdSets | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what all labels cost, shape ``()``, and what each costs, shape ``(N,)``, both times their weights.

    Gradients of the first reach ``hidden_NC`` and ``weight_VC``; the second is for the record and has
    none. A label outside its choice costs infinity, and a state that is no finite number costs NaN, with
    weight or without.

    Args:
        hidden_NC: States.
        weight_VC: Vector of each id; a score is its product with a state.
        labels_N: The id that is right for each row; integers.
        weights_N: Weight of each row.
        spec: What is static.
        sets: The choice of rows that have one. Devices other than the host are waited for to read it.

    Raises:
        PlanError: The range of ``spec`` leaves the vocabulary (T0248).
    """
    num_ids = weight_VC.shape[0]
    stop = num_ids if spec.stop is None else spec.stop
    if not spec.first < stop <= num_ids:
        raise PlanError(_no_range(spec.first, stop, f"a vocabulary of {num_ids}"))
    is_learned = torch.is_grad_enabled()
    out, charged_N, _, _ = _charge_labels(
        hidden_NC,
        weight_VC,
        labels_N,
        weights_N,
        *(sets or (None, None, None)),
        spec.first,
        stop,
        spec.label_smoothing,
        spec.chunk,
        is_learned and hidden_NC.requires_grad,
        is_learned and weight_VC.requires_grad,
    )
    return out, charged_N


SCORES_AT_ONCE: Final = {"cpu": 2**24, "cuda": 2**27}
"""Scores of a chunk, by type of device: few on the host, where larger products are no faster."""


@torch.library.custom_op("taskloom_ops::charge_labels", mutates_args=())
def _charge_labels(  # noqa: PLR0913, PLR0917 - an op of torch takes plain values by place
    hidden_NC: Tensor,
    weight_VC: Tensor,
    labels_N: Tensor,
    weights_N: Tensor,
    sets_N: Tensor | None,
    offsets_S: Tensor | None,
    ids_E: Tensor | None,
    first: int,
    stop: int,
    label_smoothing: float,
    chunk: int,
    teaches_hidden: bool,  # noqa: FBT001
    teaches_weight: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both results of `charge_labels` and the gradients of the first, empty where they teach nothing."""
    sums = _sum_dtype(hidden_NC)
    # Rows that are passed over are 0 throughout, or NaN where the state is: no such state goes unseen.
    grad_NC = hidden_NC * 0
    charged_N = grad_NC.sum(1, dtype=sums)
    grad_VC = None
    sets = (
        None if sets_N is None or offsets_S is None or ids_E is None else (sets_N, offsets_S, ids_E)
    )
    for rows, ids_K in _choices(weights_N, sets):
        own_KC = weight_VC[first:stop] if ids_K is None else weight_VC[ids_K]
        num_ids, weight_KC, grad_KC = len(own_KC), lay_out(own_KC), None
        place_R, is_inside_R = _places(labels_N[rows].long(), ids_K, first, stop)
        size = chunk or max(1, _scores_at_once(hidden_NC) // max(1, num_ids))
        for start in range(0, len(rows), size):
            own = slice(start, start + size)
            row_R = rows[own]
            hidden_RC, weight_R = hidden_NC[row_R], weights_N[row_R]
            losses_R, slopes_RK = _charge_chunk(
                hidden_RC,
                weight_KC,
                num_ids,
                place_R[own],
                is_inside_R[own],
                label_smoothing,
                teaches=teaches_hidden or teaches_weight,
            )
            charged_R = losses_R * weight_R
            charged_N[row_R] = charged_R.to(sums).where(weight_R != 0, charged_N[row_R])
            if slopes_RK is None:
                continue
            weight_R1 = weight_R[:, None].to(hidden_NC.dtype)
            if teaches_hidden:
                grad_NC[row_R] = (slopes_RK @ weight_KC) * weight_R1
            if teaches_weight:
                grad_KC = _add_product(grad_KC, slopes_RK.T, hidden_RC * weight_R1)
        if grad_KC is not None:
            grad_VC = _add_ids(grad_VC, grad_KC[:num_ids], ids_K, first, weight_VC)
    if grad_VC is None:
        grad_VC = torch.zeros_like(weight_VC if teaches_weight else weight_VC[:0])
    grad_NC = grad_NC if teaches_hidden else grad_NC.new_empty(0)
    return charged_N.sum(), charged_N, grad_NC, grad_VC.to(weight_VC.dtype)


def _charge_chunk(
    hidden_RC: Tensor,
    weight_KC: Tensor,
    num_ids: int,
    place_R: Tensor,
    is_inside_R: Tensor,
    label_smoothing: float,
    *,
    teaches: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return losses and slopes, both without weights; no slopes of no ids."""
    if not num_ids:
        return hidden_RC.new_full(hidden_RC.shape[:1], torch.inf, dtype=_sum_dtype(hidden_RC)), None
    smoothing = label_smoothing if num_ids > 1 else 0.0
    each = smoothing / max(1, num_ids - 1)
    return charge_rows(hidden_RC, weight_KC, num_ids, place_R, is_inside_R, each, teaches=teaches)


def _add_product(so_far_KC: Tensor | None, slopes_KR: Tensor, weighted_RC: Tensor) -> Tensor:
    """Return what there is so far and a product: one alone as it is, sums in single precision at least."""
    if so_far_KC is None:
        return slopes_KR @ weighted_RC
    sums = _sum_dtype(so_far_KC)
    if sums == weighted_RC.dtype:
        return so_far_KC.addmm_(slopes_KR, weighted_RC)
    return so_far_KC.to(sums).add_(slopes_KR @ weighted_RC)


def _add_ids(
    so_far_VC: Tensor | None,
    grad_KC: Tensor,
    ids_K: Tensor | None,
    first: int,
    weight_VC: Tensor,
) -> Tensor:
    """Return the gradient of the table so far and that of the ids of a choice; of all ids alone as it is."""
    if so_far_VC is None and ids_K is None and len(grad_KC) == len(weight_VC):
        return grad_KC
    sums = _sum_dtype(weight_VC)
    sum_VC = torch.zeros_like(weight_VC, dtype=sums) if so_far_VC is None else so_far_VC.to(sums)
    if ids_K is not None:
        return sum_VC.index_add_(0, ids_K, grad_KC.to(sums))
    sum_VC[first : first + len(grad_KC)] += grad_KC
    return sum_VC


def _choices(
    weights_N: Tensor, sets: tuple[Tensor, Tensor, Tensor] | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield rows of one choice, and its ids where it is a set.

    Rows without weight are left out on the host; other devices would be waited for to know them.
    """
    on_host = weights_N.device.type == "cpu"
    rows = (
        weights_N.nonzero()[:, 0]
        if on_host
        else torch.arange(len(weights_N), device=weights_N.device)
    )
    if sets is None:
        yield rows, None
        return
    sets_N, offsets_S, ids_E = sets
    offsets, set_R = offsets_S.tolist(), sets_N[rows].clamp(min=-1)
    for number in set_R.unique().tolist():
        ids_K = None if number < 0 else ids_E[offsets[number] : offsets[number + 1]].long()
        yield rows[set_R == number], ids_K


def _places(labels_R: Tensor, ids_K: Tensor | None, first: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return where labels stand in their choice, and whether they do."""
    if ids_K is None:
        is_inside_R = (labels_R >= first) & (labels_R < stop)
        return (labels_R - first).clamp(0, stop - first - 1), is_inside_R
    if not len(ids_K):
        return labels_R * 0, torch.zeros_like(labels_R, dtype=torch.bool)
    place_R = torch.searchsorted(ids_K, labels_R).clamp(max=len(ids_K) - 1)
    return place_R, ids_K[place_R] == labels_R


@_charge_labels.register_fake
def _(hidden_NC: Tensor, weight_VC: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, teaches_hidden, teaches_weight = others
    sums = _sum_dtype(hidden_NC)
    return (
        hidden_NC.new_empty((), dtype=sums),
        hidden_NC.new_empty(hidden_NC.shape[:1], dtype=sums),
        torch.empty_like(hidden_NC) if teaches_hidden else hidden_NC.new_empty(0),
        torch.empty_like(weight_VC if teaches_weight else weight_VC[:0]),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, charged_N, *gradients = output
    ctx.mark_non_differentiable(charged_N, *gradients)
    # Nothing as large as the table is filled with zeros for outputs that nobody differentiates.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.taught, ctx.num_inputs = inputs[-2:], len(inputs)


def _scale(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of the forward pass times that of its result.

    Raises:
        RuntimeError: They are to be differentiated in turn.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("the gradient of charge_labels has no gradient: leave create_graph out")
    scaled = [
        kept * grad.to(kept.dtype) if is_taught and grad is not None else None
        for kept, is_taught in zip(ctx.saved_tensors, ctx.taught, strict=True)
    ]
    return (*scaled, *[None] * (ctx.num_inputs - len(scaled)))


_charge_labels.register_autograd(_scale, setup_context=_keep)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _scores_at_once(tensor: Tensor) -> int:
    return SCORES_AT_ONCE.get(tensor.device.type, SCORES_AT_ONCE["cuda"])


def _problems(spec: ChargeSpec) -> list[Problem]:
    problems: list[Problem] = []
    if spec.first < 0 or (spec.stop is not None and spec.stop <= spec.first):
        problems.append(_no_range(spec.first, spec.stop, "any vocabulary"))
    if not 0 <= spec.label_smoothing < 1:
        message = f"label_smoothing must be in [0, 1), got {spec.label_smoothing}"
        problems.append(Problem("T0248", message))
    if spec.chunk < 0:
        problems.append(Problem("T0248", f"chunk must be at least 0, got {spec.chunk}"))
    return problems


def _no_range(first: int, stop: int | None, vocabulary: str) -> Problem:
    message = f"ids {first} to {'the last' if stop is None else stop} are no range of {vocabulary}"
    return Problem("T0248", message, "a range begins with first and ends before stop")
