"""Answering: a trained model, and rows it has never seen.

A model is self-contained: its directory holds the instructions, the artifacts, the sizes and the weights, and
needs no store. Rows go through the same host ops as in a build and are then written to (`writing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch

from ..graph.errors import (
    CheckpointError,
    PlanError,
    Problem,
    RowError,
    TaskloomError,
)
from ..graph.recipe import Pinned
from ..ops.artifact import load_artifact
from ..ops.device.config import ModelConfig
from ..ops.pack_layout import PackLayout
from ..ops.recipe.text import BLOCK, BPE
from ..storage.checkpoint import latest_checkpoint, read_checkpoint
from ..storage.files import local_path
from .document import make_templates
from .given_rows import RowReader
from .planning import Plan, plan
from .program import Program, choose_device
from .record import SOURCE_TOKENS, describe_vocabulary, refuse_other_ops
from .spelling import find_pictures, measure_picture, place_boxes
from .task import Mixture, Task
from .writing import Writer

_KEPT_WRITERS = 32
"""Instructions that a model keeps ready to follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model wrote for one row.

    Attributes:
        text: The value of the only slot, or the whole target where there are several, with the ids of boxes in
            it; None if the row could not be answered.
        values: The text of each target slot; a list of texts for a slot of a group. A box is ``x0,y0,x1,y1`` in
            pixels of the row's picture, its four ids where there is none.
        log_prob: Log probability of the text, among those that were allowed.
        error: Why the row could not be answered.
    """

    text: str | None
    values: Mapping[str, str | list[str]] = field(default_factory=dict[str, "str | list[str]"])
    log_prob: float = float("-inf")
    error: TaskloomError | None = None


@dataclass(eq=False, slots=True)
class Model:
    """A trained model.

    Attributes:
        mixture: The tasks it was trained on, without their sources.
        plan: Their graph for inference.
        config: Its sizes.
        program: Its parameters.
        artifacts: Content of every artifact, by name.
        pinned: Kind and digest of every artifact, by name.
        source_tokens: Most tokens that it reads at once; longer rows are not answered.
        max_length: Most ids that it writes where a target is free text.
    """

    mixture: Mixture
    plan: Plan
    config: ModelConfig
    program: Program
    artifacts: Mapping[str, bytes]
    pinned: Mapping[str, Pinned]
    source_tokens: int = SOURCE_TOKENS
    max_length: int = 64
    _loaded: dict[str, Any] = field(default_factory=dict[str, Any])
    _writers: dict[tuple[Any, ...], Writer] = field(default_factory=dict[Any, Any])

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Self:
        """Load a model from a run, or from one of its checkpoints.

        Args:
            path: The directory.
            device: Where it computes; ``"auto"`` takes a GPU where there is one.

        Raises:
            CheckpointError: There is no whole checkpoint, it was made by another version of some op, or its
                parts do not fit each other.
            TrainingError: There is no such device.
            StoreError: ``path`` is a URL.
        """
        path = local_path(path)
        chosen = choose_device(device)
        checkpoint = read_checkpoint(latest_checkpoint(path) or path)
        record, path = checkpoint.record, checkpoint.path
        if missing := [name for name in _RECORDED if name not in record]:
            message = f"{path} is no model: its record lacks {', '.join(missing)}"
            raise CheckpointError.of("T0720", message, "give the directory that training wrote")
        mixture = Mixture(
            [Task(name, text) for name, text in record["tasks"].items()],
            slots=record["slots"],
            bpe_size=record["bpe_size"],
        )
        pinned = {name: Pinned(**pin) for name, pin in record["pinned"].items()}
        # Parameters are about to be read: none are drawn, and no random numbers used up.
        with torch.device("meta"):
            model = cls.make(mixture, ModelConfig(**record["model"]), pinned, checkpoint.artifacts)
        refuse_other_ops(path, record, model.plan)
        _refuse_other_vocabulary(path, record, model)
        model.program.load(checkpoint.tensors, path)
        model.program.to(chosen).eval()
        model.source_tokens = record["source_tokens"]
        return model

    @classmethod
    def make(
        cls,
        mixture: Mixture,
        config: ModelConfig,
        pinned: Mapping[str, Pinned],
        artifacts: Mapping[str, bytes],
        program: Program | None = None,
    ) -> Self:
        """Return a model of ``mixture``; its parameters are new, or shared with ``program``."""
        planned = plan(mixture, "infer", model=config, pinned=pinned)
        scopes = None if program is None else program.scopes
        return cls(mixture, planned, config, Program(planned, scopes), artifacts, pinned)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.program.parameters()).device

    def infer(
        self,
        task: Task | str,
        rows: Iterable[Mapping[str, object]],
        *,
        on_error: Literal["raise", "return"] = "raise",
    ) -> list[Prediction]:
        """Answer ``rows``.

        Args:
            task: A task, the name of one the model knows, or an instruction.
            rows: A dict per row, with a value for every source slot.
            on_error: What to do about rows that cannot be answered: raise one error that names them all,
                or return predictions that carry an error each.

        Raises:
            RowError: Some rows cannot be answered.
            SourceError: The rows lack a column that the instruction names, or are no rows at all.
            PlanError: The model cannot follow the instruction.
        """
        task = self._find(task)
        writer = self.writer(task)
        pictures = find_pictures(task.parse()[0])
        reader = RowReader.make(writer.plan, writer.task, self.load_artifact)
        predictions: list[Prediction] = []
        for batch in reader.batches(list(rows)):
            predictions += _answer(writer, reader, pictures, batch, len(predictions))
        errors = [p.error for p in predictions if p.error is not None]
        if errors and on_error == "raise":
            raise RowError(*(problem for error in errors for problem in error.problems))
        return predictions

    def writer(self, task: Task | str) -> Writer:
        """Return what writes the targets of ``task``: a task, the name of a known one, or an instruction.

        Raises:
            PlanError: The model cannot follow the instruction.
        """
        task = self._find(task)
        key = (task.name, task.instruction, self.source_tokens, self.max_length)
        if key not in self._writers:
            if len(self._writers) == _KEPT_WRITERS:
                self._writers.pop(next(iter(self._writers)))
            self._writers[key] = self._make_writer(task)
        return self._writers[key]

    def _find(self, task: Task | str) -> Task:
        if isinstance(task, Task):
            return task
        return Task("instruction", task) if "->" in task else self.mixture[task]

    def _make_writer(self, task: Task) -> Writer:
        mixture = replace(self.mixture, parts=[Task(task.name, task.instruction)])
        return Writer(
            task=task.name,
            replan=partial(self._replan, mixture),
            load=self.load_artifact,
            bpe=self.load_artifact("bpe", self.pinned[BPE].digest),
            parameters=self.program,
            source_tokens=self.source_tokens,
            max_length=self.max_length,
        )

    def load_artifact(self, kind: str, digest: str) -> Any:
        """Return the artifact of ``kind`` with ``digest``.

        Raises:
            PlanError: The model holds none.
        """
        if digest not in self._loaded:
            contents = {self.pinned[name].digest: c for name, c in self.artifacts.items()}
            if digest not in contents:
                message = f"the model holds no {kind.replace('_', ' ')} for this instruction"
                help_ = "closed_set works for tasks it was trained on; drop it to answer freely"
                raise PlanError.of("T0235", message, help_)
            self._loaded[digest] = load_artifact(kind, contents[digest])
        return self._loaded[digest]

    def _replan(self, mixture: Mixture, layout: PackLayout) -> Plan:
        return plan(
            mixture,
            "infer",
            model=self.config,
            pinned=self.pinned,
            load=self.load_artifact,
            layout=layout,
            vocabulary=self.plan.vocabulary,
        )


def _answer(
    writer: Writer,
    reader: RowReader,
    pictures: Mapping[str, str],
    batch: pa.RecordBatch,
    first: int,
) -> Iterator[Prediction]:
    """Yield the answers to the rows of ``batch``, the first of which is row ``first`` of all.

    Boxes are placed in the picture that their row has in the column that ``pictures`` tells.
    """
    columns, problems = reader.read(batch, first)
    usable = [row for row in range(batch.num_rows) if row not in problems]
    template = make_templates(writer.plan, writer.task)[0]
    written = writer.write(template, columns, np.array(usable, np.int64))
    for row in range(batch.num_rows):
        if row in written:
            said = written[row]
            sizes = {
                slot: measure_picture(batch.column(pictures[slot])[row])
                for slot in said.values
                if slot in pictures
            }
            values = place_boxes(said.values, sizes)
            only = next(iter(values.values())) if len(values) == 1 else None
            text = only if isinstance(only, str) else said.text
            yield Prediction(text=text, values=values, log_prob=said.log_prob)
        else:
            bad = problems.get(row) or [_too_long(writer, first + row)]
            yield Prediction(text=None, error=RowError(*bad))


def _too_long(writer: Writer, row: int) -> Problem:
    message = f"the row is longer than the {writer.source_tokens:,} tokens that the model reads"
    return Problem("T0312", message, "shorten it", row=str(row), address=writer.task)


def _refuse_other_vocabulary(path: Path, record: Mapping[str, Any], model: Model) -> None:
    """Check that ids mean what they meant, and that no text has an id without a parameter."""
    ours = describe_vocabulary(model.plan)
    size, used = (
        dict(map(tuple, ours))[BLOCK],
        model.load_artifact("bpe", model.pinned[BPE].digest).size,
    )
    told: list[str] = []
    if record["vocabulary"] != ours:
        told.append(
            f"its parameters are of vocabulary {record['vocabulary']}, its instructions of {ours}"
        )
    if used > size:
        told.append(f"its text vocabulary has {used:,} ids, its parameters are for {size:,}")
    if told:
        help_ = "use the checkpoint as training wrote it"
        raise CheckpointError(*(Problem("T0721", f"{path}: {line}", help_) for line in told))


_RECORDED = (
    "taskloom",
    "tasks",
    "slots",
    "bpe_size",
    "model",
    "source_tokens",
    "pinned",
    "vocabulary",
    "ops",
)
