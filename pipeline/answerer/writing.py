"""Writing: what a model answers to the documents of one task.

Documents are read once. Their targets are written token by token within what the decode automaton allows; where
there are few answers, all of them may be weighed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...graph.errors import PlanError, Problem, RowError
from ...ops.device.automaton import DecodeAutomaton, build_automaton
from ...ops.device.decode.chain import write_chains
from ...ops.device.decode.record import Recorder
from ...ops.device.decode.search import Search
from ...ops.device.decode.task import Compile, as_is
from ...ops.device.decode.task import Task as DecodeTask
from ...ops.device.decode.tree import plan_tree
from ...ops.device.decode.weigh_answers import weigh_answers
from ...ops.device.decode.write import step_alone, write
from ...ops.device.decode.written import Written
from ...ops.device.language import FINISHED
from ...ops.host.bpe import Bpe
from ...ops.pack_layout import PackLayout
from ...storage.pack import Pack
from ...storage.template import Columns, Template
from ..host.execute import LoadArtifact
from ..model.program import Program
from ..planner.planning import Plan
from ..planner.target import Target, make_target
from .reading import Read, Reader, hash_document

_HALF = "\ufffd"
"""What stands for bytes that are no character, or not yet."""


class Said(NamedTuple):
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
        max_length: Most ids that are written where a target is free text, and the search does not say.
        head: What scores in place of the vocabulary's table, if anything.
        compile: Compiles steps.
        recorder: Records steps on a GPU.
        automaton: What targets may be.
    """

    task: str
    replan: Callable[[PackLayout], Plan]
    load: LoadArtifact
    bpe: Bpe
    parameters: Program
    source_tokens: int
    max_length: int
    head: nn.Module | None = None
    compile: Compile = as_is
    recorder: Recorder = field(default_factory=Recorder)
    _reader: Reader = field(init=False)
    _target: Target = field(init=False)
    automaton: DecodeAutomaton = field(init=False)

    def __post_init__(self) -> None:
        """Plan the task.

        Raises:
            PlanError: The model was not trained to read what the instruction names, or to answer from a
                closed set.
        """
        self._reader = Reader(
            replan=self.replan,
            parameters=self.parameters,
            source_tokens=self.source_tokens,
            head=self.head,
        )
        self._target = make_target(self.plan, self.task, self.load, self.bpe)
        self.automaton = build_automaton(self._target.diagram)

    @property
    def plan(self) -> Plan:
        """The task's plan for packs of any layout."""
        return self._reader.plan

    def write(
        self,
        template: Template,
        columns: Columns,
        rows: npt.NDArray[np.int64],
        search: Search | None = None,
    ) -> dict[int, list[Said]]:
        """Write targets of each of ``rows``, the best first; rows longer than `source_tokens` are missing.

        Args:
            template: What documents are made of, targets left out.
            columns: The columns that it names.
            rows: Rows of these columns, valid in all of them.
            search: How targets are searched for; by default the likeliest id is taken at every step.

        Raises:
            PlanError: The documents hold tensors that the model was not trained to read, or the search asks for
                what the task cannot write.
        """
        said: dict[int, list[Said]] = {}
        for read in self._reader.read(template, columns, rows):
            written = write(self._task(read, Search() if search is None else search), self.recorder)
            said |= zip(read.pack.rows[:, 1].tolist(), self._tell(written, read.pack), strict=True)
        return said

    def weigh(
        self, template: Template, columns: Columns, rows: npt.NDArray[np.int64]
    ) -> dict[int, list[Said]]:
        """Return every answer that a closed set allows, the likeliest first; arguments are those of `write`.

        Raises:
            PlanError: The task does not write answers of closed sets alone, or the documents hold tensors that
                the model was not trained to read.
        """
        tree = plan_tree(self._target.diagram, self._target.diagram.roots[0])
        answers = [self._target.read(answer) for answer in tree.answers]
        said: dict[int, list[Said]] = {}
        for read in self._reader.read(template, columns, rows):
            numbers = read.pack.rows[:, 1].tolist()
            log_probs = weigh_answers(self._task(read, Search()), tree)[: len(numbers)].tolist()
            for row, row_log_probs in zip(numbers, log_probs, strict=True):
                every = [Said(*each, p) for each, p in zip(answers, row_log_probs, strict=True)]
                said[row] = sorted(every, key=lambda each: -each.log_prob)
        return said

    def stream(
        self, template: Template, columns: Columns, row: int, search: Search
    ) -> Iterator[str]:
        """Yield the text of one row's target piece by piece, as it is written; arguments are those of `write`.

        Raises:
            RowError: The row is longer than `source_tokens`.
            PlanError: As `write`; or the search compares targets, so that none is known before its end.
        """
        if not search.is_chain or search.beams > 1:
            message = f"what is searched for with {search.beams} beams is known at its end"
            raise PlanError.of("T0244", message, "to stream, set beams=1")
        read = next(self._reader.read(template, columns, np.array([row])), None)
        if read is None:
            raise RowError(self.too_long(row))
        start = int(np.diff(read.pack.target_ranges, axis=1)[0, 0])
        task, told = self._task(read, search), ""
        for state in step_alone(write_chains(task)):
            _, text = self._target.read(state.tokens_RT[0, 1 + start : 1 + state.at].tolist())
            is_done = bool(state.is_done()) or state.at == task.max_length
            # Half a character is told when it is whole.
            if text != told and text.startswith(told) and (is_done or not text.endswith(_HALF)):
                yield text[len(told) :]
                told = text
            if is_done:
                break

    def too_long(self, row: int) -> Problem:
        """Return what is to be said of a row that is missing from the answers."""
        message = f"the row is longer than the {self.source_tokens:,} tokens that the model reads"
        return Problem("T0312", message, "shorten it", row=str(row), address=self.task)

    def _task(self, read: Read, search: Search) -> DecodeTask:
        """Return what is to be written for documents that were read."""
        device, num_documents = read.given_BP.device, len(read.pack.rows)
        roots_B = torch.full((len(read.given_BP),), FINISHED)
        roots_B[:num_documents] = self.automaton.roots[0]
        keys_B = torch.zeros_like(roots_B)
        if search.sample:
            hashes = [hash_document(read.pack, number) for number in range(num_documents)]
            keys_B[:num_documents] = torch.tensor(hashes)
        length = self.length(search)
        self.automaton = self.automaton.to(device)
        return DecodeTask(
            stack=read.stack,
            automaton=self.automaton,
            sources=read.sources,
            roots_B=roots_B.to(device),
            max_length=read.given_BP.shape[1] + length,
            search=search,
            given_BP=read.given_BP,
            prefix=self._target.encode_prefix(search.prefix, length),
            keys_B=keys_B.to(device),
            compile=self.compile,
        )

    def length(self, search: Search) -> int:
        """Return the most ids that are written; no more than a closed set needs.

        Raises:
            PlanError: A text is to be no shorter than it may be long (T0244), or an answer longer (T0226).
        """
        longest = self.automaton.longest
        if search.max_length is not None and search.max_length < longest:
            message = f"max_length is {search.max_length}, and a target needs {longest} ids"
            raise PlanError.of("T0226", message, f"max_length must be at least {longest}")
        if search.max_length is None and not longest and search.min_length >= self.max_length:
            message = f"min_length is {search.min_length}, and {self.max_length} ids are written"
            raise PlanError.of("T0244", message, "set max_length, which counts the end")
        if search.max_length is None:
            return longest or self.max_length
        return longest or search.max_length

    def _tell(self, written: Written, pack: Pack) -> Iterator[list[Said]]:
        """Yield what the ids of each document say, without what the instruction says before them."""
        starts = np.diff(pack.target_ranges, axis=1)[:, 0].tolist()
        ids, log_probs, scores = (
            each[: len(starts)].tolist()
            for each in (written.ids_BNL, written.log_probs_BN, written.scores_BN)
        )
        for row, start in enumerate(starts):
            yield [
                Said(*self._target.read(ids[row][place][start:]), log_probs[row][place])
                for place, score in enumerate(scores[row])
                # The first is told even if it has no probability, so that a broken model shows.
                if not place or score > -math.inf
            ]
