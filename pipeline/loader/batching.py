"""Batches for a model of one's own: what the slots of a task hold, padded, without our packs and program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...graph.errors import PlanError, suggest
from ...graph.node import Value
from ...graph.type import source_of
from ...storage.row_batches import BatchConfig, RowBatches
from ...storage.store import Store
from ..builder.dataset import Split, open_dataset
from ..planner.planning import Plan
from ..task import Mixture, Task, as_mixture


def open_batches(
    tasks: Mixture | Task | Sequence[Task],
    store: str | Path | Store,
    *,
    task: str | None = None,
    split: Split = "train",
    batch_size: int = 32,
    seed: int | None = 0,
    window_rows: int | None = None,
    prefetch: int = 0,
) -> RowBatches:
    """Return the rows of a task in shuffled, padded batches of NumPy arrays.

    Every slot that is stored is in a batch under its name: pixels as shape ``(batch, height, width, 3)``, ids
    as ``(batch, longest)`` with ``<slot>_lengths`` beside them. Ids count from the beginning of their block:
    those of a text are the ids of its tokenizer. What is random in training, plain text between slots and
    what is repeated in groups is no part of a batch.

    Args:
        tasks: The tasks that the store was built with, or some of them.
        store: The store.
        task: Name of the task, unless there is only one.
        split: Which of its rows.
        batch_size: Rows of a batch; the last of an epoch may have fewer.
        seed: Decides every order; None leaves rows as they are.
        window_rows: Rows that are shuffled together, for stores larger than memory; all if not given.
        prefetch: Groups of batches to stay ahead in a background thread; 0 for no thread.

    Raises:
        PlanError: No task has the name ``task``, or none was named of several.
        StoreError: The task is not built.
        LoaderError: There are no rows (T0601), or an argument is out of range (T0606).
    """
    config = BatchConfig(
        batch_size=batch_size, seed=seed, window_rows=window_rows, prefetch=prefetch
    )
    mixture = as_mixture(tasks)
    if task is None and len(mixture.tasks) > 1:
        names = [one.name for one in mixture.tasks]
        raise PlanError.of("T0227", "task= names one of several tasks", suggest("", names))
    chosen = mixture[task or next(one.name for one in mixture.tasks)]
    store = store if isinstance(store, Store) else Store.open(store)
    dataset = open_dataset(mixture, store)
    columns = {
        name: dataset.columns[source_of(value.node.rows), value.column_id]
        for name, value in _name_slots(dataset.plan, chosen.name)
    }
    return RowBatches(columns, dataset.rows(chosen.name, split).usable, config)


def _name_slots(planned: Plan, task: str) -> Iterator[tuple[str, Value]]:
    """Yield the stored values that the slots of ``task`` hold, one a row, by the slots' names."""
    for value, port in planned.stored_of(task).items():
        is_slot = port.startswith(("source.", "target."))
        if is_slot and value.node.rows == source_of(value.node.rows):
            address = planned.graph.nodes[value.node].note.address_in(task)
            yield address.removeprefix(f"{task}.").partition("/")[0], value


__all__ = ["open_batches"]
