"""Reading: the documents of one task, packed and encoded, ready for their targets to be written.

Documents are packed as in training. How many lie in a pack, and how far attention reaches, follows from their
lengths and changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import nn

from ...graph.errors import PlanError
from ...graph.vocabulary import PAD
from ...ops.architecture import (
    DECODER_SCOPE,
    MEMORY_POSITIONS,
    VOCABULARY_SCOPE,
)
from ...ops.device.decode.relative_stack import RelativeStack
from ...ops.device.decode.rotary_stack import RotaryStack
from ...ops.device.decode.stack import Stack
from ...ops.device.decode.step import Sources
from ...ops.device.relative.stack import RelativeDecoder
from ...ops.pack_layout import UNKNOWN, PackLayout
from ...storage.capacity import Capacity
from ...storage.length import measure_documents
from ...storage.one_pass import pack_documents
from ...storage.pack import Pack
from ...storage.template import Columns, Documents, Template
from ..loader.packing import to_inputs
from ..model.program import Program
from ..planner.planning import Plan

TILE = UNKNOWN.tile

_BATCH = 16
"""On a GPU, documents written together are a multiple of this, so that few shapes occur."""

_ROOM = 1.25
"""Room in a pack for what alignment wastes."""


class Read(NamedTuple):
    """Documents of one pack that were read; B of them, rows without a document among them.

    Attributes:
        pack: The pack; documents stand as in it, rows without one last.
        stack: What writes, given the sources.
        sources: What it writes from.
        given_BP: Ids that each target begins with, then padding.
    """

    pack: Pack
    stack: Stack
    sources: Sources
    given_BP: torch.Tensor


@dataclass(eq=False, slots=True, kw_only=True)
class Reader:
    """Reads the documents of one task.

    Attributes:
        replan: Plans the task for inference, for packs of a given layout.
        parameters: A program with the model's parameters.
        source_tokens: Most tokens that are read at once; longer documents are left out.
        head: What scores in place of the vocabulary's table, if anything.
        plan: The task's plan for packs of any layout.
    """

    replan: Callable[[PackLayout], Plan]
    parameters: Program
    source_tokens: int
    head: nn.Module | None = None
    plan: Plan = field(init=False)
    _programs: dict[int, Program] = field(default_factory=dict[int, Program])

    def __post_init__(self) -> None:
        """Plan the task.

        Raises:
            PlanError: The model was not trained to read what the instruction names.
        """
        self.plan = self.replan(UNKNOWN)
        self._programs[0] = program = Program(self.plan, self.parameters.scopes)
        if unknown := program.num_parameters.keys() - self.parameters.num_parameters.keys():
            raise _untrained(sorted(unknown))

    def read(
        self, template: Template, columns: Columns, rows: npt.NDArray[np.int64]
    ) -> Iterator[Read]:
        """Yield the documents of ``rows``, pack by pack.

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
            return
        capacity = self._capacity(documents)
        packs = pack_documents(
            [template], {template.task: documents.rows}, columns, capacity, pad_id=PAD
        )
        program = self._program(int(documents.source_lengths.max()), capacity.source)
        for pack in packs:
            yield self._read_pack(pack, program)

    def _read_pack(self, pack: Pack, program: Program) -> Read:
        device = next(program.parameters()).device
        # Layers that were compiled for training are not compiled anew for every length of answers.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            inputs = to_inputs(self.plan, pack, device)
            memory, positions, stack = read_sources(program, inputs, self.head)
        num_documents = len(pack.rows)
        size = num_documents if device.type == "cpu" else -(-num_documents // _BATCH) * _BATCH
        keys = torch.zeros(2, size, dtype=torch.int64)
        keys[:, :num_documents] = torch.from_numpy(pack.source_ranges.T.astype(np.int64))
        longest = -(-int((keys[1] - keys[0]).max()) // TILE) * TILE
        sources = Sources(memory, keys.to(device), max(longest, 1), positions)
        return Read(pack, stack, sources, _find_given(pack, size).to(device))

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


def read_sources(
    program: Program, inputs: Mapping[str, torch.Tensor], head: nn.Module | None
) -> tuple[torch.Tensor, torch.Tensor | None, Stack]:
    """Return the encoder's stream, its positions if the decoder reads them, and what writes.

    Args:
        program: A program of the task for inference.
        inputs: The source side of a pack, by the ports of its node.
        head: What scores in place of the vocabulary's table, if anything.
    """
    decoder, table = program.scope(DECODER_SCOPE), program.scope(VOCABULARY_SCOPE)
    if not isinstance(decoder, RelativeDecoder):
        return program.compute("memory", inputs), None, RotaryStack(decoder, table, head)
    memory, positions = program.compute_all(("memory", MEMORY_POSITIONS), inputs)
    tokens = program.scope("target_tokens")
    return memory, positions, RelativeStack(decoder, tokens, table, head=head)


def hash_document(pack: Pack, number: int) -> int:
    """Return what tells a document from others wherever it stands: a hash of what it reads and is given."""
    start, stop = pack.source_ranges[number].tolist()
    given = slice(*pack.target_ranges[number].tolist())
    digest = xxhash.xxh3_64(pack.source_ids[start:stop].tobytes())
    digest.update(pack.labels[given].tobytes())
    for lane, places in sorted(pack.places.items()):
        for tensor in np.flatnonzero((places[:, 0] >= start) & (places[:, 0] < stop)):
            digest.update(np.ascontiguousarray(pack.tensors[lane][tensor]).tobytes())
    return digest.intdigest() - (1 << 63)


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
