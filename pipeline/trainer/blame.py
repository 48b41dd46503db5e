"""Blame: which documents of a step have a loss, or a gradient, that is no finite number.

A step that goes wrong changes no parameter, so it can be taken again. Its documents are then computed in ever
smaller groups, without dropout: one that is wrong alone is at fault, whatever stood beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ...graph.vocabulary import PAD
from ...storage.one_pass import pack_documents
from ...storage.pack import Pack
from ..loader.packing import to_inputs
from ..loader.stream import Stream
from ..settings import TrainConfig
from .documents import Document, Row, find_rows, name_documents, tell_documents, write_documents
from .learner import Learner
from .run_log import NOT_FINITE
from .sharding import local

_MAX_TRIES: Final = 2000
"""Groups that are computed at most; with more documents at fault some are named though they are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blamed:
    """The documents of a step that went wrong.

    Attributes:
        step: The step.
        documents: Task, source and row id of those at fault; of all in the step, if none is by itself.
        num_documents: How many the step has.
        is_narrowed: Whether they are at fault by themselves.
    """

    step: int
    documents: tuple[Document, ...]
    num_documents: int
    is_narrowed: bool

    def tell(self, path: Path) -> str:
        """Return lines that name the documents; all of them are in ``path``."""
        number, of_all = len(self.documents), f"of its {self.num_documents:,} documents"
        good = (
            f"step {self.step - 1:,} was the last good one" if self.step > 1 else "it is the first"
        )
        if self.is_narrowed and number == self.num_documents > 1:
            return f"{good}\neach {of_all} is wrong alone, so the parameters are: all are in {path}"
        were = "is" if number == 1 else "are"
        head = f"{number:,} {of_all} {were}" if self.is_narrowed else f"none {of_all} is"
        return "\n".join([good, f"{head} wrong alone:", *tell_documents(self.documents, path)])

    def write(self, run: Path, what: str) -> Path:
        """Write all documents to the directory ``run``, and return the file."""
        path = run / NOT_FINITE
        write_documents(
            path,
            self.documents,
            what=what,
            step=self.step,
            is_narrowed=self.is_narrowed,
            num_documents=self.num_documents,
        )
        return path


def advise(config: TrainConfig) -> str:
    """Return the one setting to change of a run whose parameters go astray."""
    what = (
        "set clip to 1"
        if not config.clip
        else f"lower learning_rate, which is {config.learning_rate:g}"
    )
    return f"{what}, and train into another directory"


def find_documents(
    stream: Stream, learner: Learner, state: Mapping[str, Any], num_steps: int
) -> Blamed:
    """Return the documents that made a step go wrong.

    Args:
        stream: What the run learns from.
        learner: It stands where it stood before the step.
        state: State of a loader some steps before.
        num_steps: How many steps after it the step is; 1 for the next.
    """
    learner.recorder = None  # so its memory is free
    with stream.loader(state) as loader:
        *_, packs = islice(loader, num_steps)
    trial = _Trial(stream, learner)
    rows = find_rows(pack.rows for pack in packs)
    found = trial.search(rows) or trial.search(rows, with_gradient=True)
    return Blamed(
        step=learner.sound_step + 1,
        documents=tuple(name_documents(stream, found or rows)),
        num_documents=len(rows),
        is_narrowed=bool(found),
    )


class _Trial:
    """Computes documents of a stream by themselves."""

    def __init__(self, stream: Stream, learner: Learner) -> None:
        self._stream = stream
        self._learner = learner
        self._tries = 0

    def search(self, rows: Sequence[Row], *, with_gradient: bool = False) -> list[Row]:
        """Return those of ``rows`` whose loss, or gradient, is no finite number."""
        self._learner.working.eval()
        bad: list[Row] = []
        waiting = [list(rows)]
        while waiting:
            group = waiting.pop()
            if self._is_sound(group, with_gradient=with_gradient):
                continue
            if len(group) == 1 or self._tries > _MAX_TRIES:
                bad += group
            else:
                half = len(group) // 2
                waiting += [group[half:], group[:half]]
        self._learner.working.train()
        return bad

    def _is_sound(self, rows: Sequence[Row], *, with_gradient: bool) -> bool:
        self._tries += 1
        return all(self._is_finite(pack, with_gradient=with_gradient) for pack in self._pack(rows))

    def _pack(self, rows: Sequence[Row]) -> Sequence[Pack]:
        stream = self._stream
        by_name = {
            template.name: np.array([row for template, row in rows if template == number], np.int64)
            for number, template in enumerate(stream.templates)
        }
        return list(
            pack_documents(stream.templates, by_name, stream.columns, stream.capacity, pad_id=PAD)
        )

    def _is_finite(self, pack: Pack, *, with_gradient: bool) -> bool:
        learner = self._learner
        inputs = to_inputs(learner.plan, pack, learner.device)
        # Packs have the shape of training, but evaluation is not what was compiled.
        with torch.set_grad_enabled(with_gradient), torch.compiler.set_stance("force_eager"):
            loss = learner.working(inputs)["loss"]
            if not with_gradient:
                return bool(loss.isfinite())
            learner.working.zero_grad(set_to_none=True)
            loss.backward()
        grads = [
            local(p.grad).isfinite().all()
            for p in learner.working.parameters()
            if p.grad is not None
        ]
        # Ranks that share parameters have a share of each gradient, and look at the same documents.
        (num_bad,) = learner.ranks.add_up([float(not torch.stack(grads).all())])
        return not num_bad
