"""Writing: what a model answers to the documents of one task.

Documents are packed as in training, encoded once, and written token by token within what the decode automaton
allows. How many lie in a pack, and how far attention reaches, follows from their lengths and changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ..graph.errors import PlanError
from ..graph.vocabulary import PAD
from ..ops.architecture import DECODER_SCOPE, UNKNOWN, VOCABULARY_SCOPE, PackLayout
from ..ops.device.automaton import (
    FINISHED,
    ClosedLanguage,
    DecodeAutomaton,
    FreeLanguage,
    build_automaton,
)
from ..ops.device.generation import Generated, generate
from ..ops.host.bpe import Bpe
from ..ops.host.closed_set import ClosedSet
from ..ops.recipe.text import BLOCK
from ..storage.capacity import Capacity
from ..storage.one_pass import pack_documents
from ..storage.pack import Pack
from ..storage.template import Columns, ConstPiece, Documents, Template, measure_documents
from .document import answers_digest, make_template
from .execute import LoadArtifact
from .packing import to_inputs
from .planning import Plan
from .program import Program

TILE = UNKNOWN.tile

_BATCH = 16
"""Documents written together are a multiple of this, so that few shapes occur."""

_ROOM = 1.25
"""Room in a pack for what alignment wastes."""


class Written(NamedTuple):
    """What was written for one document.

    Attributes:
        text: The target, without what the instruction says before it.
        log_prob: Log probability of the text, among those that were allowed.
    """

    text: str
    log_prob: float


@dataclass(eq=False, slots=True, kw_only=True)
class Writer:
    """Writes the targets of one task.

    Attributes:
        task: Name of the task.
        replan: Plans the task for inference, for packs of a given layout.
        load: Returns the artifact of a kind and digest.
        bpe: The vocabulary that targets are written in.
        parameters: A program with the model's parameters.
        source_tokens: Most tokens that are read at once; longer documents are not answered.
        max_length: Most ids that are written where a target is free text.
        plan: The task's plan for packs of any layout.
    """

    task: str
    replan: Callable[[PackLayout], Plan]
    load: LoadArtifact
    bpe: Bpe
    parameters: Program
    source_tokens: int
    max_length: int
    plan: Plan = field(init=False)
    _automaton: DecodeAutomaton = field(init=False)
    _programs: dict[int, Program] = field(default_factory=dict[int, Program])

    def __post_init__(self) -> None:
        """Plan the task.

        Raises:
            PlanError: The model was not trained to read what the instruction names, or to answer from a
                closed set.
        """
        self.plan = self.replan(UNKNOWN)
        self._programs[0] = program = Program(self.plan, self.parameters.scopes)
        if unknown := program.num_parameters.keys() - self.parameters.num_parameters.keys():
            raise _untrained(sorted(unknown))
        self._automaton = self._make_automaton()

    def write(
        self, template: Template, columns: Columns, rows: npt.NDArray[np.int64]
    ) -> dict[int, Written]:
        """Write the target of each of ``rows``; rows longer than `source_tokens` are missing.

        Args:
            template: What documents are made of, targets left out.
            columns: The columns that it names.
            rows: Rows of these columns, valid in all of them.

        Raises:
            PlanError: The documents hold tensors that the model was not trained to read.
        """
        lanes: Any = self.plan.graph["pack"].params["lanes"]
        if unknown := {piece.lane for piece in template.tensors} - set(lanes):
            raise _untrained(sorted(unknown))
        documents = measure_documents(template, columns, rows)
        documents = documents.select(documents.source_lengths <= self.source_tokens)
        if not len(documents):
            return {}
        capacity = self._capacity(documents)
        packs = pack_documents(
            [template], {template.task: documents.rows}, columns, capacity, pad_id=PAD
        )
        program = self._program(int(documents.source_lengths.max()), capacity.source)
        written: dict[int, Written] = {}
        # Layers that were compiled for training are not compiled anew for every length of answers.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            for pack in packs:
                generated = self._write_pack(pack, program)
                written |= zip(
                    pack.rows[:, 1].tolist(), self._read(generated, len(pack.rows)), strict=True
                )
        return written

    def _write_pack(self, pack: Pack, program: Program) -> Generated:
        device, automaton = next(program.parameters()).device, self._automaton
        memory = program.compute("memory", to_inputs(self.plan, pack, device))
        num_documents = len(pack.rows)
        size = -(-num_documents // _BATCH) * _BATCH
        keys = torch.zeros(2, size, dtype=torch.int64)
        keys[:, :num_documents] = torch.from_numpy(pack.source_ranges.T.astype(np.int64))
        roots = torch.full((size,), FINISHED)
        roots[:num_documents] = automaton.roots[0]
        longest = -(-int((keys[1] - keys[0]).max()) // TILE) * TILE
        return generate(
            program.scope(DECODER_SCOPE),
            program.scope(VOCABULARY_SCOPE),
            automaton.to(device),
            memory_MC=memory,
            source_keys_2B=keys.to(device),
            roots_B=roots.to(device),
            longest_source=max(longest, 1),
            max_length=automaton.longest or len(self.prefix) + self.max_length,
        )

    def _read(self, generated: Generated, num_documents: int) -> Iterator[Written]:
        """Yield what the ids of each document say, without what the instruction forces."""
        offset, num_forced = self.plan.vocabulary.offset(BLOCK), len(self.prefix)
        log_probs = generated.log_probs_B[:num_documents].tolist()
        all_ids = generated.ids_BL[:num_documents].cpu().numpy()
        for ids, log_prob in zip(all_ids, log_probs, strict=True):
            texts = ids[num_forced:]
            yield Written(self.bpe.decode(texts[texts >= offset] - offset), log_prob)

    @property
    def prefix(self) -> Sequence[int]:
        """The ids that every target begins with, after the first."""
        pieces = make_template(self.plan, self.task).target
        return [i for piece in pieces if isinstance(piece, ConstPiece) for i in piece.ids][1:]

    def _make_automaton(self) -> DecodeAutomaton:
        prefix, offset = tuple(self.prefix), self.plan.vocabulary.offset(BLOCK)
        digest = answers_digest(self.plan, self.task)
        if digest is None:
            language = FreeLanguage(prefix=prefix, first=offset, stop=offset + self.bpe.size)
        else:
            closed = self.load("closed_set", digest)
            assert isinstance(closed, ClosedSet), "a closed set is loaded as one"
            answers = self.bpe.encode(pa.array(closed.answers, pa.string()), dtype="uint32")
            sequences = [(*prefix, *(offset + i for i in ids)) for ids in answers.to_pylist()]
            language = ClosedLanguage(tuple(sequences))
        return build_automaton([language], num_ids=self.plan.vocabulary.size)

    def _capacity(self, documents: Documents) -> Capacity:
        """Return a shape for packs: no longer than the documents need, and one of few."""
        source, needed = TILE, _ROOM * int(documents.source_lengths.sum())
        while source < needed:
            source *= 2
        source = min(source, self.source_tokens)
        num_forced = -(-len(self.prefix) // TILE) * TILE
        lanes = {piece.lane: piece.length for piece in documents.template.tensors}
        return Capacity(
            source=source,
            target=num_forced * source // TILE,
            tensors={lane: max(1, source // length) for lane, length in lanes.items()},
            tile=TILE,
        )

    def _program(self, longest: int, size: int) -> Program:
        """Return the program whose attention reaches as far as ``longest`` documents need, no further.

        It shares the model's parameters; reaching further costs time and changes no answer.
        """
        window = TILE
        while window < longest:
            window *= 2
        window = window if 2 * window <= size else 0
        if window not in self._programs:
            plan = self.replan(PackLayout(tile=TILE, longest_source=window))
            self._programs[window] = Program(plan, self.parameters.scopes)
        return self._programs[window].eval()


def _untrained(unknown: Sequence[str]) -> PlanError:
    message = f"the model was not trained to read this: {', '.join(unknown)}"
    return PlanError.of("T0234", message, "use the sizes and modalities of its tasks")
