"""The stream that a run learns from: plan, templates, rows and the shape of packs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph.errors import LoaderError, Problem
from ...graph.planned import name_scored
from ...graph.recipe import Pinned
from ...graph.vocabulary import PAD
from ...ops.architecture import DECODER_SCOPE, ENCODER_SCOPE
from ...ops.device.config import ModelConfig
from ...ops.pack_layout import PackLayout
from ...storage.blend import Blend
from ...storage.capacity import Capacity
from ...storage.fill import PackFiller
from ...storage.length import measure_documents, select_fitting
from ...storage.loader import Loader, LoaderConfig
from ...storage.pack import Pack
from ...storage.store import Store
from ...storage.template import Columns, Documents, Template
from ...storage.window import PackPlan
from ..builder.dataset import Dataset, TaskRows, open_dataset, pinned_artifacts, plan_stored
from ..planner.planning import Plan
from ..settings import TrainConfig
from ..task import Mixture
from .crew import Crew
from .online import add_online_columns
from .packing import blend_documents, choose_capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What a run learns from.

    Attributes:
        plan: The plan, which knows the longest documents.
        model: Sizes of the model.
        dataset: The stored columns.
        templates: What documents are made of, in the order of the tasks.
        rows: Training rows of each task.
        documents: Their documents, of each template.
        columns: What the templates read: stored columns, and what is drawn from them.
        blend: Share of the samples of each task, at every step.
        capacity: Shape of a pack.
        pinned: The artifacts of the store.
        store: The store.
        config: Settings of the run.
    """

    plan: Plan
    model: ModelConfig
    dataset: Dataset
    templates: tuple[Template, ...]
    rows: Mapping[str, npt.NDArray[np.int64]]
    documents: tuple[Documents, ...]
    columns: Columns
    blend: Blend
    capacity: Capacity
    pinned: Mapping[str, Pinned]
    store: Store
    config: TrainConfig

    @property
    def losses(self) -> list[str]:
        """What is scored apart, by number: each task, with the slot where it writes several."""
        return name_scored(self.plan.scored)

    @property
    def digest(self) -> str:
        """Digest of what documents are made of: tasks, columns and constants."""
        members = self.plan.members.items()
        made_of = sorted((name, member.document.node.key) for name, member in members)
        return hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]

    def loader(
        self, state: Mapping[str, Any] | None = None, *, rank: int = 0, num_ranks: int = 1
    ) -> Loader:
        """Return a loader that begins, or goes on at ``state``.

        Args:
            state: Where to go on.
            rank: Whose share of each step it fills, from 0.
            num_ranks: Into how many shares steps are divided.
        """
        config = LoaderConfig(
            capacity=self.capacity,
            weights=self.blend,
            seed=self.config.seed,
            packs_per_step=self.config.packs_per_step,
            pad_id=PAD,
            patience_s=self.config.loader_timeout_s,
        )
        return Loader(
            self.templates,
            self.rows,
            self.columns,
            config,
            plan_digest=self.digest,
            state=state,
            rank=rank,
            world_size=num_ranks,
        )

    def blank(self) -> Pack:
        """Return a pack that holds nothing: all packs are of its shape."""
        filler = PackFiller(self.templates, self.columns, self.capacity, PAD)
        (pack,) = filler.fill([PackPlan.blank(len(self.capacity.tensors))])
        return pack

    def header(self, loader: Loader, sizes: Mapping[str, int], remark: str) -> list[str]:
        """Return what the run learns from and with, in sentences.

        Args:
            loader: What packs come from.
            sizes: Number of parameters of each scope.
            remark: How it computes.
        """
        seen = loader.header(
            self.config.steps,
            source_flops=sizes[ENCODER_SCOPE],
            target_flops=sizes.get(DECODER_SCOPE, 0),
        )
        parts = ", ".join(f"{scope} {number:,}" for scope, number in sizes.items())
        return [*seen, f"{sum(sizes.values()):,} parameters: {parts}", remark]


def open_stream(
    mixture: Mixture,
    store: Store,
    model: ModelConfig,
    config: TrainConfig,
    capacity: Capacity | None = None,
) -> Stream:
    """Open what ``mixture`` is trained on.

    Args:
        mixture: The tasks.
        store: Where they were built into.
        model: Sizes of the model.
        config: Settings of the run.
        capacity: Shape of a pack; what suits the mixture if not given.

    Raises:
        StoreError: Some task is not built, or was built otherwise than it stands now.
        LoaderError: Some task has no training rows.
    """
    dataset = open_dataset(mixture, store, model)
    rows = {task.name: dataset.rows(task.name, "train") for task in mixture.tasks}
    _refuse_empty(rows)
    templates = tuple(each for task in mixture.tasks for each in rows[task.name].templates)
    crew = Crew(config.loader_workers, timeout_s=config.loader_timeout_s)
    columns = add_online_columns(dataset.plan, dataset.columns, config.seed, crew)
    documents = [measure_documents(t, columns, rows[t.task].usable) for t in templates]
    blend = blend_documents(mixture, documents, config)
    if capacity is None:
        weights = blend.mean(range(config.steps))
        capacity = choose_capacity(documents, weights, model, config)
    plan = plan_stored(mixture, store, model=model, layout=_layout(documents, capacity))
    return Stream(
        plan=plan,
        model=model,
        dataset=dataset,
        templates=templates,
        rows={name: each.usable for name, each in rows.items()},
        documents=tuple(documents),
        columns=columns,
        blend=blend,
        capacity=capacity,
        pinned=pinned_artifacts(store),
        store=store,
        config=config,
    )


def _refuse_empty(rows: Mapping[str, TaskRows]) -> None:
    empty = {name: len(each.expected) for name, each in rows.items() if not len(each.usable)}
    if not empty:
        return
    problems: list[Problem] = []
    for task, expected in empty.items():
        message = f'task "{task}" has no training rows'
        help_ = "no row of its source passes its filters, or all are held out"
        if expected:
            message += f": none of {expected:,} could be computed"
            help_ = "the ledger of the store says why; mend the rows and build again"
        problems.append(Problem("T0601", message, help_, address=task))
    raise LoaderError(*problems)


def _layout(documents: list[Documents], capacity: Capacity) -> PackLayout:
    source, target = 1, 1
    for kept in select_fitting(documents, capacity):
        source = max(source, int(kept.longest_source.max(initial=1)))
        target = max(target, int(kept.longest_target.max(initial=1)))
    return PackLayout(tile=capacity.tile, longest_source=source, longest_target=target)
