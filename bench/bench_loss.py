"""What it costs to charge labels: the chunked op beside the plain formula over all scores at once.

Both passes of either are timed in turn, on one thread, in CPU-seconds. Memory is that beside
states and table. Both must agree, or the bench fails.

    python bench/bench_loss.py [--out FILE] [--rounds N] [--scale N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from peak import count_peak
from report import describe, tell
from torch import Tensor

from taskloom.ops.device.cross_entropy import ChargeSpec, IdSets, charge_labels

SMOOTHING = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Rows to charge.

    Attributes:
        num_rows: States.
        width: Channels of a state.
        num_ids: Size of the vocabulary.
        learned: Share of the rows that have weight.
        answers: Ids of the closed set that every label is one of; 0 for all ids.
    """

    num_rows: int
    width: int
    num_ids: int
    learned: float = 1.0
    answers: int = 0


CASES: Mapping[str, Case] = {
    "a large vocabulary": Case(num_rows=1024, width=512, num_ids=59_457),
    "a large vocabulary, 4 rows of 5 learned": Case(
        num_rows=1024, width=512, num_ids=59_457, learned=0.8
    ),
    "a large vocabulary, one of 3,129 answers": Case(
        num_rows=1024, width=512, num_ids=59_457, answers=3129
    ),
    "the demo": Case(num_rows=128, width=160, num_ids=4100),
    "bytes": Case(num_rows=64, width=32, num_ids=260),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """A case as tensors: states, table, labels, weights, and the ids that are told apart."""

    hidden_NC: Tensor
    weight_VC: Tensor
    labels_N: Tensor
    weights_N: Tensor
    answers_K: Tensor | None

    def teach(self, charge: Callable[[Rows], Tensor]) -> tuple[Tensor, ...]:
        """Go forward and backward; return the loss and both gradients."""
        loss = charge(self) / self.weights_N.sum()
        return loss.detach(), *torch.autograd.grad(loss, [self.hidden_NC, self.weight_VC])


def make_rows(case: Case) -> Rows:
    """Draw the rows of ``case``, the same in every run."""
    random = torch.Generator().manual_seed(0)
    hidden_NC = torch.randn(case.num_rows, case.width, generator=random)
    weight_VC = torch.randn(case.num_ids, case.width, generator=random) * case.width**-0.5
    answers_K = None
    labels_N = torch.randint(case.num_ids, (case.num_rows,), generator=random)
    if case.answers:
        answers_K = torch.randperm(case.num_ids, generator=random)[: case.answers].sort().values
        labels_N = answers_K[labels_N % case.answers]
    weights_N = (torch.rand(case.num_rows, generator=random) < case.learned).float()
    return Rows(
        hidden_NC.requires_grad_(), weight_VC.requires_grad_(), labels_N, weights_N, answers_K
    )


def charge_plainly(rows: Rows) -> Tensor:
    """Charge over all scores, those of other ids masked where there are answers."""
    scores_NV = F.linear(rows.hidden_NC, rows.weight_VC)
    labels_N, num_ids = rows.labels_N, len(rows.weight_VC)
    if rows.answers_K is not None:
        scores_NV = scores_NV[:, rows.answers_K]
        num_ids = len(rows.answers_K)
        labels_N = torch.searchsorted(rows.answers_K, labels_N)
    # torch spreads what is smoothed over all ids, the label's own among them.
    losses_N = F.cross_entropy(
        scores_NV, labels_N, reduction="none", label_smoothing=SMOOTHING * num_ids / (num_ids - 1)
    )
    return (losses_N * rows.weights_N).sum()


def charge_in_chunks(rows: Rows) -> Tensor:
    """Charge with the op."""
    sets = None
    if (ids := rows.answers_K) is not None:
        sets = IdSets(torch.zeros_like(rows.labels_N), torch.tensor([0, len(ids)]), ids)
    spec = ChargeSpec(label_smoothing=SMOOTHING)
    args = rows.hidden_NC, rows.weight_VC, rows.labels_N, rows.weights_N
    return charge_labels(*args, spec, sets)[0]


WAYS: Mapping[str, Callable[[Rows], Tensor]] = {
    "plain": charge_plainly,
    "chunked": charge_in_chunks,
}


def measure(case: Case, num_rounds: int) -> dict[str, Any]:
    """Return what both ways take, in seconds of CPU of each round, and in MB at most."""
    rows = make_rows(case)
    results = [rows.teach(charge) for charge in WAYS.values()]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    del results
    calls = max(1, 2_000_000 // (case.num_rows * case.num_ids))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(num_rounds):
        order = list(WAYS.items())
        for name, charge in order if number % 2 else order[::-1]:
            began = time.process_time()
            for _ in range(calls):
                rows.teach(charge)
            seconds[name].append((time.process_time() - began) / calls)
    ratios = [c / p for c, p in zip(seconds["chunked"], seconds["plain"], strict=True)]
    return {
        "CPU-seconds": {name: [round(s, 6) for s in each] for name, each in seconds.items()},
        "least CPU-seconds": {name: round(min(each), 6) for name, each in seconds.items()},
        "time, chunked to plain": round(median(ratios), 3),
        "peak, MB": {
            name: round(count_peak(partial(rows.teach, charge)) / 1e6, 2)
            for name, charge in WAYS.items()
        },
    }


def main() -> None:
    """Measure all cases and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time the loss beside the plain formula.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=int, default=1, help="divide rows by it, to try the bench")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        **describe("torch"),
        "rounds": options.rounds,
        "cases": {
            name: {
                "rows": case.num_rows // options.scale,
                "width": case.width,
                "ids": case.num_ids,
                **measure(replace(case, num_rows=case.num_rows // options.scale), options.rounds),
            }
            for name, case in CASES.items()
        },
    }
    tell(result, options.out)


if __name__ == "__main__":
    main()
