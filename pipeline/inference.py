"""Answering: a trained model, and rows it has never seen.

A model is self-contained: its directory holds the instructions, the artifacts, the sizes and the weights, and
needs no store. Rows go through the same host ops as in a build, are packed as in training, encoded once, and
written token by token within what the decode automaton allows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ..graph.errors import (
    CheckpointError,
    PlanError,
    Problem,
    RowError,
    SourceError,
    TaskloomError,
    suggest,
)
from ..graph.recipe import Pinned
from ..graph.vocabulary import PAD
from ..ops.architecture import DECODER_SCOPE, UNKNOWN, VOCABULARY_SCOPE, PackLayout
from ..ops.artifact import load_artifact
from ..ops.device.automaton import (
    FINISHED,
    ClosedLanguage,
    DecodeAutomaton,
    FreeLanguage,
    Language,
    build_automaton,
)
from ..ops.device.config import ModelConfig
from ..ops.device.generation import Generated, generate
from ..ops.host.bpe import Bpe
from ..ops.host.closed_set import ClosedSet
from ..ops.recipe.text import BLOCK, BPE
from ..storage.array_column import ArrayColumn
from ..storage.capacity import Capacity
from ..storage.checkpoint import latest_checkpoint, read_checkpoint
from ..storage.one_pass import pack_documents
from ..storage.pack import Pack
from ..storage.template import Columns, ConstPiece, Template, measure_documents
from ..storage.values import to_table
from .document import answers_digest, make_template
from .execute import Execution
from .packing import to_inputs
from .planning import Plan, plan
from .program import Program
from .task import Mixture, Task

_CHUNK = 1024
"""Rows that are computed at a time."""

_BATCH = 16
"""Documents written together are a multiple of this, so that few shapes occur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model wrote for one row.

    Attributes:
        text: The target; None if the row could not be answered.
        log_prob: Log probability of the text, among those that were allowed.
        error: Why the row could not be answered.
    """

    text: str | None
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
        max_length: Most ids that are written where a target is free text.
        source_tokens: Length of the source stream that rows are packed into.
    """

    mixture: Mixture
    plan: Plan
    config: ModelConfig
    program: Program
    artifacts: Mapping[str, bytes]
    pinned: Mapping[str, Pinned]
    max_length: int = 64
    source_tokens: int = 2048
    _loaded: dict[str, Any] = field(default_factory=dict[str, Any])
    _programs: dict[int, Program] = field(default_factory=dict[int, Program])

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Self:
        """Load a model from a run, or from one of its checkpoints.

        Args:
            path: The directory.
            device: Where it computes.

        Raises:
            CheckpointError: There is no whole checkpoint, or it was made by a newer taskloom.
        """
        path = Path(path)
        checkpoint = read_checkpoint(latest_checkpoint(path) or path)
        model = cls.make(
            Mixture(
                [Task(name, text) for name, text in checkpoint.record["tasks"].items()],
                slots=checkpoint.record["slots"],
                bpe_size=checkpoint.record["bpe_size"],
            ),
            ModelConfig(**checkpoint.record["model"]),
            {name: Pinned(**pin) for name, pin in checkpoint.record["pinned"].items()},
            checkpoint.artifacts,
        )
        missing, unexpected = model.program.load_state_dict(checkpoint.tensors, strict=False)
        if missing or unexpected:
            message = f"{path} holds parameters of another graph"
            help_ = f"missing: {missing[:3]}\nnot known: {unexpected[:3]}"
            raise CheckpointError.of("T0720", message, help_)
        model.program.to(device).eval()
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
        contents = {pinned[name].digest: content for name, content in artifacts.items()}
        load = lru_cache(lambda kind, digest: load_artifact(kind, contents[digest]))
        planned = plan(mixture, "infer", model=config, pinned=pinned, load=load)
        scopes = None if program is None else program.scopes
        return cls(mixture, planned, config, Program(planned, scopes), artifacts, pinned)

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
            PlanError: The model cannot follow the instruction.
        """
        model, name = self._for(task)
        table = to_table(list(rows)).combine_chunks()
        predictions: list[Prediction] = []
        for batch in table.to_batches(max_chunksize=_CHUNK):
            predictions += model._answer(name, batch, len(predictions))  # noqa: SLF001 - same class
        errors = [p.error for p in predictions if p.error is not None]
        if errors and on_error == "raise":
            raise RowError(*(problem for error in errors for problem in error.problems))
        return predictions

    def write(
        self, template: Template, columns: Columns, rows: npt.NDArray[np.int64]
    ) -> dict[int, Prediction]:
        """Write the target of each of ``rows``; rows longer than the model reads are missing."""
        if not len(rows):
            return {}
        automaton = build_automaton(
            [self._language(template.task)], num_ids=self.plan.vocabulary.size
        )
        capacity = self._capacity(template)
        packs = pack_documents([template], {template.task: rows}, columns, capacity, pad_id=PAD)
        longest = measure_documents(template, columns, rows).source_lengths.max()
        program = self._program_for(min(int(longest), capacity.source))
        predictions: dict[int, Prediction] = {}
        for pack in packs:
            written = self._write_pack(pack, program, automaton)
            numbers = (int(row) for _, row in pack.rows)
            # The batch is wider than its documents; what stands past them is padding.
            predictions |= dict(zip(numbers, self._read(template.task, written), strict=False))
        return predictions

    def _for(self, task: Task | str) -> tuple[Model, str]:
        """Return a model that plans ``task`` with these parameters, and the task's name."""
        names = [known.name for known in self.mixture.tasks]
        if isinstance(task, str) and "->" not in task:
            return self, self.mixture[task].name
        if isinstance(task, str):
            task = Task("instruction", task)
        if task.name in names and self.mixture[task.name].instruction == task.instruction:
            return self, task.name
        mixture = replace(self.mixture, tasks=[Task(task.name, task.instruction)])
        model = Model.make(mixture, self.config, self.pinned, self.artifacts, self.program)
        if unknown := set(model.program.scopes) - set(self.program.scopes):
            message = f"the model was not trained to read this: {', '.join(sorted(unknown))}"
            raise PlanError.of("T0234", message, "use the sizes and modalities of its tasks")
        model.program.to(self.device).eval()
        return model, task.name

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.program.parameters()).device

    def _answer(self, task: str, batch: pa.RecordBatch, first: int) -> list[Prediction]:
        columns, problems = self._compute(task, batch, first)
        usable = [row for row in range(batch.num_rows) if row not in problems]
        template = make_template(self.plan, task)
        written = self.write(template, columns, np.array(usable, np.int64))
        for row in usable:
            if row not in written:
                message = (
                    f"the row is longer than the {self.source_tokens:,} tokens the model reads"
                )
                problems[row] = [Problem("T0312", message, row=str(first + row), address=task)]
        return [
            written.get(row) or Prediction(text=None, error=RowError(*problems[row]))
            for row in range(batch.num_rows)
        ]

    def _compute(
        self, task: str, batch: pa.RecordBatch, first: int
    ) -> tuple[dict[tuple[str, str], ArrayColumn], dict[int, list[Problem]]]:
        """Return the columns that the task's documents read, and the problems of bad rows."""
        graph = self.plan.graph
        wanted = [
            value
            for value in graph.nodes[self.plan.documents[task]].inputs.values()
            if value.node.rows
        ]
        nodes = [node.id for node in graph.needs(wanted)]
        execution = Execution(graph, nodes, self.plan.catalogue, self._load)
        if missing := [c for c in execution.columns if c not in batch.schema.names]:
            raise SourceError(
                *(
                    Problem(
                        "T0212",
                        f'the rows have no column "{column}"',
                        suggest(column, batch.schema.names),
                        column=column,
                    )
                    for column in missing
                )
            )
        values, failures = execution.run(batch)
        problems: dict[int, list[Problem]] = {}
        for failure in failures:
            placed = dataclasses.replace(failure.problem, row=str(first + failure.offset))
            problems.setdefault(failure.offset, []).append(placed)
        columns = {(v.node.rows, v.column_id): ArrayColumn(values[v]) for v in wanted}
        return columns, problems

    @torch.no_grad()
    def _write_pack(self, pack: Pack, program: Program, automaton: DecodeAutomaton) -> Generated:
        inputs = to_inputs(self.plan, pack, self.device)
        memory = program.compute("memory", inputs)
        num_documents = len(pack.rows)
        size = -(-num_documents // _BATCH) * _BATCH
        keys = torch.zeros(2, size, dtype=torch.int64)
        keys[:, :num_documents] = torch.from_numpy(pack.source_ranges.T.astype(np.int64))
        roots = torch.full((size,), FINISHED)
        roots[:num_documents] = automaton.roots[0]
        longest = -(-int((keys[1] - keys[0]).max()) // UNKNOWN.tile) * UNKNOWN.tile
        return generate(
            self.program.scope(DECODER_SCOPE),
            self.program.scope(VOCABULARY_SCOPE),
            automaton.to(self.device),
            memory_MC=memory,
            source_keys_2B=keys.to(self.device),
            roots_B=roots.to(self.device),
            longest_source=max(longest, 1),
            max_length=automaton.longest or self.max_length,
        )

    def _program_for(self, longest: int) -> Program:
        """Return the program whose attention reaches as far as ``longest`` documents need, no further.

        It shares the parameters of `program`; reaching further changes no answer and costs time.
        """
        tile = UNKNOWN.tile
        window = tile
        while window < longest:
            window *= 2
        if 2 * window > self.source_tokens:
            return self.program
        if window not in self._programs:
            layout = PackLayout(tile=tile, longest_source=window)
            planned = plan(
                self.mixture, "infer", model=self.config, pinned=self.pinned, layout=layout
            )
            self._programs[window] = Program(planned, self.program.scopes).eval()
        return self._programs[window]

    def _read(self, task: str, written: Generated) -> Iterator[Prediction]:
        """Yield what the ids of each document say, without what the instruction forces."""
        bpe: Bpe = self._load("bpe", self.pinned[BPE].digest)
        offset = self.plan.vocabulary.offset(BLOCK)
        num_forced = len(self._prefix(task))
        log_probs = written.log_probs_B.tolist()
        for ids, log_prob in zip(written.ids_BL.cpu().numpy(), log_probs, strict=True):
            texts = ids[num_forced:]
            texts = texts[texts >= offset] - offset
            yield Prediction(text=bpe.decode(texts), log_prob=log_prob)

    def _language(self, task: str) -> Language:
        prefix = self._prefix(task)
        offset = self.plan.vocabulary.offset(BLOCK)
        bpe: Bpe = self._load("bpe", self.pinned[BPE].digest)
        if digest := answers_digest(self.plan, task):
            closed: ClosedSet = self._load("closed_set", digest)
            ids = bpe.encode(pa.array(closed.answers, pa.string()), dtype="uint32").to_pylist()
            return ClosedLanguage(tuple((*prefix, *(offset + i for i in one)) for one in ids))
        return FreeLanguage(prefix=prefix, first=offset, stop=offset + bpe.size)

    def _prefix(self, task: str) -> tuple[int, ...]:
        """Return the ids that every target begins with, after the first."""
        pieces = make_template(self.plan, task).target
        ids = [i for piece in pieces if isinstance(piece, ConstPiece) for i in piece.ids]
        return tuple(ids[1:])

    def _capacity(self, template: Template) -> Capacity:
        lanes = {piece.lane: piece.length for piece in template.tensors}
        forced = -(-len(self._prefix(template.task)) // UNKNOWN.tile) * UNKNOWN.tile
        return Capacity(
            source=self.source_tokens,
            target=forced * self.source_tokens // UNKNOWN.tile,
            tensors={lane: self.source_tokens // length for lane, length in lanes.items()},
            tile=UNKNOWN.tile,
        )

    def _load(self, kind: str, digest: str) -> Any:
        if digest not in self._loaded:
            contents = {self.pinned[name].digest: c for name, c in self.artifacts.items()}
            if digest not in contents:
                message = f"the model holds no {kind.replace('_', ' ')} for this instruction"
                help_ = "closed_set works for tasks it was trained on; drop it to answer freely"
                raise PlanError.of("T0235", message, help_)
            self._loaded[digest] = load_artifact(kind, contents[digest])
        return self._loaded[digest]
