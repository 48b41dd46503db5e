"""Writing: what a model answers to the documents of one task.

Documents are packed as in training, encoded once, and written token by token within what the decode automaton
allows. How many lie in a pack, and how far attention reaches, follows from their lengths and changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..graph.errors import PlanError
from ..graph.vocabulary import PAD
from ..ops.architecture import DECODER_SCOPE, MEMORY_POSITIONS, VOCABULARY_SCOPE
from ..ops.device.automaton import DecodeAutomaton, build_automaton
from ..ops.device.generation import Generated, IdTable, TargetWriter, generate
from ..ops.device.language import FINISHED
from ..ops.device.relative.stack import RelativeDecoder
from ..ops.device.relative.writer import RelativeWriter
from ..ops.host.bpe import Bpe
from ..ops.pack_layout import UNKNOWN, PackLayout
from ..storage.capacity import Capacity
from ..storage.length import measure_documents
from ..storage.one_pass import pack_documents
from ..storage.pack import Pack
from ..storage.template import Columns, Documents, Template
from .execute import LoadArtifact
from .packing import to_inputs
from .planning import Plan
from .program import Program
from .target import Target, make_target

TILE = UNKNOWN.tile

_BATCH = 16
"""Documents written together are a multiple of this, so that few shapes occur."""

_ROOM = 1.25
"""Room in a pack for what alignment wastes."""


class Written(NamedTuple):
    """What was written for one document.

    Attributes:
        values: The text of each slot; a list of texts for a slot of a group.
        text: The text of the only slot, or the whole target where there are several.
        log_prob: Log probability of what was written, among what was allowed.
    """

    values: Mapping[str, str | list[str]]
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
    _target: Target = field(init=False)
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
        self._target = make_target(self.plan, self.task, self.load, self.bpe)
        self._automaton = build_automaton(self._target.diagram)

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
                written |= zip(pack.rows[:, 1].tolist(), self._read(generated, pack), strict=True)
        return written

    def _write_pack(self, pack: Pack, program: Program) -> Generated:
        device, automaton = next(program.parameters()).device, self._automaton
        memory, decoder, table = _read_sources(program, to_inputs(self.plan, pack, device))
        num_documents = len(pack.rows)
        size = -(-num_documents // _BATCH) * _BATCH
        keys = torch.zeros(2, size, dtype=torch.int64)
        keys[:, :num_documents] = torch.from_numpy(pack.source_ranges.T.astype(np.int64))
        roots = torch.full((size,), FINISHED)
        roots[:num_documents] = automaton.roots[0]
        longest = -(-int((keys[1] - keys[0]).max()) // TILE) * TILE
        given = _find_given(pack, size)
        return generate(
            decoder,
            table,
            automaton.to(device),
            memory_MC=memory,
            source_keys_2B=keys.to(device),
            roots_B=roots.to(device),
            longest_source=max(longest, 1),
            max_length=given.shape[1] + (automaton.longest or self.max_length),
            given_BP=given.to(device),
        )

    def _read(self, generated: Generated, pack: Pack) -> Iterator[Written]:
        """Yield what the ids of each document say, without what the instruction says before them."""
        num_documents = len(pack.rows)
        log_probs = generated.log_probs_B[:num_documents].tolist()
        all_ids = generated.ids_BL[:num_documents].tolist()
        starts = np.diff(pack.target_ranges, axis=1)[:, 0].tolist()
        for ids, start, log_prob in zip(all_ids, starts, log_probs, strict=True):
            values, text = self._target.read(ids[start:])
            yield Written(values, text, log_prob)

    def _capacity(self, documents: Documents) -> Capacity:
        """Return a shape for packs: no longer than the documents need, and one of few."""
        source, needed = TILE, _ROOM * int(documents.source_lengths.sum())
        while source < needed:
            source *= 2
        source = min(source, self.source_tokens)
        num_given = -(-int(documents.target_lengths.max()) // TILE) * TILE
        lanes = {piece.lane: piece.length for piece in documents.template.tensors}
        return Capacity(
            source=source,
            target=num_given * source // TILE,
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


def _read_sources(
    program: Program, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, TargetWriter, IdTable]:
    """Return the encoder's stream, and what writes of it."""
    decoder, table = program.scope(DECODER_SCOPE), program.scope(VOCABULARY_SCOPE)
    if not isinstance(decoder, RelativeDecoder):
        return program.compute("memory", inputs), decoder, table
    memory, positions = program.compute_all(("memory", MEMORY_POSITIONS), inputs)
    writer = RelativeWriter(decoder, program.scope("target_tokens"), table, positions)
    return memory, writer, writer


def _find_given(pack: Pack, size: int) -> torch.Tensor:
    """Return the ids that each target begins with, after the first; padded, for ``size`` documents."""
    longest = int(np.diff(pack.target_ranges, axis=1).max(initial=0))
    given = torch.full((size, longest), PAD)
    for number, (start, stop) in enumerate(pack.target_ranges.tolist()):
        given[number, : stop - start] = torch.from_numpy(pack.labels[start:stop])
    return given


def _untrained(unknown: Sequence[str]) -> PlanError:
    message = f"the model was not trained to read this: {', '.join(unknown)}"
    return PlanError.of("T0234", message, "use the sizes and modalities of its tasks")
