"""The loss counts what is learned, per step and per task, and nothing else."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor

from taskloom.ops.device.embedding import TokenTable
from taskloom.ops.device.loss import ScoreTokens

NUM_IDS, WIDTH, NUM_TASKS = 9, 4, 3


def inputs(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length = 12
    return {
        "hidden": torch.randn(length, WIDTH, generator=generator),
        "labels": torch.randint(NUM_IDS, (length,), generator=generator, dtype=torch.int32),
        "weights": torch.randint(3, (length,), generator=generator).float() / 2,
        "loss_ids": torch.randint(NUM_TASKS, (length,), generator=generator, dtype=torch.int32),
    }


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), smoothing=st.sampled_from([0.0, 0.1, 0.5]))
def test_the_loss_is_the_weighted_mean_and_tasks_add_up_to_it(seed: int, smoothing: float) -> None:
    table, given_ = TokenTable(NUM_IDS, WIDTH), inputs(seed)
    op = ScoreTokens(
        num_ids=NUM_IDS, model_width=WIDTH, num_losses=NUM_TASKS, label_smoothing=smoothing
    )
    loss, task_losses, task_weights = op(table, **given_)
    log_probs = table.score(given_["hidden"]).log_softmax(-1)
    label_costs = -log_probs.gather(1, given_["labels"].long()[:, None])[:, 0]
    others = -log_probs.sum(-1) - label_costs
    costs = (1 - smoothing) * label_costs + smoothing / (NUM_IDS - 1) * others
    weights = given_["weights"]
    torch.testing.assert_close(loss, (costs * weights).sum() / weights.sum().clamp(min=0.5))
    for task in range(NUM_TASKS):
        of_task = weights * (given_["loss_ids"] == task)
        torch.testing.assert_close(task_weights[task], of_task.sum())
        torch.testing.assert_close(task_losses[task], (costs * of_task).sum())


def test_losses_of_parts_with_the_divisor_of_the_whole_add_up() -> None:
    table, given_ = TokenTable(NUM_IDS, WIDTH), inputs(0)
    op = ScoreTokens(num_ids=NUM_IDS, model_width=WIDTH, num_losses=NUM_TASKS)
    whole, *_ = op(table, **given_)
    divisor = given_["weights"].sum()
    parts = [
        op(table, **{name: value[half] for name, value in given_.items()}, divisor=divisor)[0]
        for half in (slice(0, 5), slice(5, None))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_a_pack_without_weight_costs_nothing_and_teaches_nothing() -> None:
    table, given_ = TokenTable(NUM_IDS, WIDTH), inputs(0)
    op = ScoreTokens(num_ids=NUM_IDS, model_width=WIDTH, num_losses=NUM_TASKS)
    loss, task_losses, task_weights = op(table, **given_ | {"weights": torch.zeros(12)})
    loss.backward()
    assert loss.item() == 0
    assert task_losses.tolist() == task_weights.tolist() == [0, 0, 0]
    assert table.weight_VC.grad is not None
    assert not table.weight_VC.grad.any()
