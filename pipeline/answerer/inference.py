"""Answering: a trained model, and rows it has never seen.

A model is self-contained: its directory holds the instructions, the artifacts, the sizes and the weights, and
needs no store. Rows go through the same host ops as in a build and are then written to (`writing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import nn

from ...graph.errors import (
    CheckpointError,
    PlanError,
    Problem,
    RowError,
)
from ...graph.recipe import Pinned
from ...ops.architecture import DECODER_SCOPE, VOCABULARY_SCOPE
from ...ops.artifact import load_artifact
from ...ops.device.config import ModelConfig
from ...ops.device.decode.few_rows import FewRowsLinear, lay_out
from ...ops.device.decode.fold_gains import fold_gains
from ...ops.device.decode.int8 import Int8Linear, shrink
from ...ops.device.decode.pad_table import pad_table
from ...ops.device.decode.record import Recorder
from ...ops.device.decode.search import Search
from ...ops.device.decode.task import Compile, as_is
from ...ops.pack_layout import PackLayout
from ...ops.recipe.text import BLOCK, BPE
from ...storage.checkpoint import latest_checkpoint, read_checkpoint
from ...storage.files import local_path
from ..loader.given_rows import RowReader
from ..model.program import Program, choose_device
from ..model.record import SOURCE_TOKENS, describe_vocabulary, refuse_other_ops
from ..planner.document import make_templates
from ..planner.planning import Plan, plan
from ..planner.spelling import find_pictures
from ..task import Mixture, Task
from .compiling import compile_step
from .prediction import Prediction, answer
from .writing import Said, Writer

_KEPT_WRITERS = 32
"""Instructions that a model keeps ready to follow."""


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
        max_length: Most ids that it writes where a target is free text, and the search does not say.
        search: How it searches for targets, unless it is asked otherwise.
        head: What scores in place of the vocabulary's table, if anything.
        compile: Compiles the steps that write.
        recorder: Records them on a GPU.
    """

    mixture: Mixture
    plan: Plan
    config: ModelConfig
    program: Program
    artifacts: Mapping[str, bytes]
    pinned: Mapping[str, Pinned]
    source_tokens: int = SOURCE_TOKENS
    max_length: int = 64
    search: Search = field(default_factory=Search)
    head: nn.Module | None = None
    compile: Compile = as_is
    recorder: Recorder = field(default_factory=Recorder)
    _loaded: dict[str, Any] = field(default_factory=dict[str, Any])
    _writers: dict[tuple[Any, ...], Writer] = field(default_factory=dict[Any, Any])

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "cpu", int8: bool = False, compiled: bool = False
    ) -> Self:
        """Load a model from a run, or from one of its checkpoints.

        Args:
            path: The directory.
            device: Where it computes; ``"auto"`` takes a GPU where there is one.
            int8: Whether weights that write are kept in eight bits: faster, not quite the same, on a CPU alone.
            compiled: Whether the steps that write are compiled: faster on a GPU, after a minute for each shape
                of batch.

        Raises:
            PlanError: There are no weights in eight bits on the device, or they would be compiled.
            CheckpointError: There is no whole checkpoint, it was made by another version of some op, or its
                parts do not fit each other.
            TrainingError: There is no such device.
            StoreError: ``path`` is a URL.
        """
        if int8 and compiled:
            message = "weights in eight bits have kernels of their own, which are not compiled"
            raise PlanError.of("T0246", message, "leave out int8, or compiled")
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
        if DECODER_SCOPE in model.program.scopes:
            model.lay_out_for(chosen, int8=int8)
        if compiled:
            model.compile = compile_step
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

    def lay_out_for(self, device: torch.device, *, int8: bool) -> None:
        """Lay out what writes as ``device`` likes to read it."""
        table, decoder = (self.program.scope(name) for name in (VOCABULARY_SCOPE, DECODER_SCOPE))
        if int8:
            self.head = Int8Linear(table.weight_VC, None)
            shrink(decoder)
        elif device.type == "cpu":
            self.head = FewRowsLinear(table.weight_VC)
            lay_out(decoder)
        elif device.type == "cuda":
            pad_table(table)
            fold_gains(decoder)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.program.parameters()).device

    def infer(
        self,
        task: Task | str,
        rows: Iterable[Mapping[str, object]],
        *,
        search: Search | None = None,
        on_error: Literal["raise", "return"] = "raise",
    ) -> list[Prediction]:
        """Answer ``rows``.

        Args:
            task: A task, the name of one the model knows, or an instruction.
            rows: A dict per row, with a value for every source slot.
            search: How to search for targets; as `search` says by default.
            on_error: What to do about rows that cannot be answered: raise one error that names them all,
                or return predictions that carry an error each.

        Raises:
            RowError: Some rows cannot be answered.
            SourceError: The rows lack a column that the instruction names, or are no rows at all.
            PlanError: The model cannot follow the instruction, or the search asks for what it rules out.
        """
        chosen = self.search if search is None else search
        return self._ask(task, rows, on_error, partial(Writer.write, search=chosen))

    def weigh(
        self,
        task: Task | str,
        rows: Iterable[Mapping[str, object]],
        *,
        on_error: Literal["raise", "return"] = "raise",
    ) -> list[Prediction]:
        """Weigh all answers that a closed set allows; arguments are those of `infer`.

        Returns:
            The likeliest answer to each row; the others are its ``others``. All probabilities add up to one.

        Raises:
            RowError: As `infer`.
            SourceError: As `infer`.
            PlanError: The model cannot follow the instruction, or its target is not of a closed set.
        """
        return self._ask(task, rows, on_error, Writer.weigh)

    def stream(
        self, task: Task | str, row: Mapping[str, object], *, search: Search | None = None
    ) -> Iterator[str]:
        """Yield the answer to ``row`` piece by piece, while it is written; arguments are those of `infer`.

        Raises:
            RowError: The row cannot be answered.
            SourceError: As `infer`.
            PlanError: As `infer`, or the search follows more than one target.
        """
        writer = self.writer(task)
        reader = RowReader.make(writer.plan, writer.task, self.load_artifact)
        (batch,) = reader.batches([row])
        columns, problems = reader.read(batch, 0)
        if problems:
            raise RowError(*problems[0])
        template = make_templates(writer.plan, writer.task)[0]
        chosen = self.search if search is None else search
        yield from writer.stream(template, columns, 0, chosen)

    def _ask(
        self,
        task: Task | str,
        rows: Iterable[Mapping[str, object]],
        on_error: Literal["raise", "return"],
        write: Callable[..., dict[int, list[Said]]],
    ) -> list[Prediction]:
        task = self._find(task)
        writer, pictures = self.writer(task), find_pictures(task.parse()[0])
        reader = RowReader.make(writer.plan, writer.task, self.load_artifact)
        predictions: list[Prediction] = []
        for batch in reader.batches(list(rows)):
            predictions += answer(writer, reader, batch, len(predictions), write, pictures)
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
            head=self.head,
            compile=self.compile,
            recorder=self.recorder,
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
