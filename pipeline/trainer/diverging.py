"""Divergence, told with the last good step, the rows since then, and the one setting to change."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...graph.errors import Problem, TaskloomWarning
from ...storage.checkpoint import list_checkpoints, step_of
from ..loader.stream import Stream
from .blame import advise
from .documents import Rows, find_rows, name_documents, tell_documents, write_documents
from .loss_watch import IN_A_ROW
from .run_log import DIVERGES


def warn_of_divergence(
    run: Path,
    stream: Stream,
    line: Mapping[str, Any],
    good_step: int,
    learned: Sequence[tuple[int, Rows]],
) -> None:
    """Say that the loss of a run stays far above where it was (T0782).

    Args:
        run: Its directory.
        stream: What it learns from.
        line: The line of the log that shows it.
        good_step: The step of the last line that was as usual.
        learned: Step and rows of each pack since then, as far as they are known.

    Raises:
        StoreError: The documents cannot be written.
    """
    since, last, path = line["diverges_since"], line["step"], run / DIVERGES
    documents = name_documents(stream, find_rows(rows for _, rows in learned))
    write_documents(path, documents, since=since, good_step=good_step, step=last)
    good = [path for path in list_checkpoints(run) if step_of(path) <= good_step]
    saved = f"the last checkpoint until then is {good[-1]}" if good else "no checkpoint is as old"
    help_ = [
        f"step {good_step:,} was the last good one; {saved}",
        f"the {len(documents):,} documents of steps {learned[0][0]:,} to {last:,}:",
        *tell_documents(documents, path),
        advise(stream.config),
    ]
    message = (
        f"the loss is far above where it was since step {since:,}: {line['loss']:.3f}, "
        f"in {IN_A_ROW} lines of the log in a row"
    )
    problem = Problem("T0782", message, "\n".join(help_), severity="warning")
    warnings.warn(TaskloomWarning(problem), stacklevel=2)
