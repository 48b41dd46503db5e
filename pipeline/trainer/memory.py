"""Memory that does not suffice: told with the rows that were computed, and the one setting to change."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ...graph.errors import TrainingError
from ...storage.checkpoint import latest_checkpoint
from ...storage.files import write_json
from ...storage.pack import Pack
from ..loader.stream import Stream
from .blame import MAX_TOLD, name_documents

NAME: Final = "out-of-memory.json"
"""File of a run that names the documents."""

_SIGNS: Final = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
"""What torch and its libraries say, on a GPU and elsewhere."""


@contextmanager
def told_memory(run: Path, stream: Stream, packs: Sequence[Pack], step: int) -> Generator[None]:
    """Say of a step that does not fit into memory what it is made of.

    Args:
        run: Directory of the run.
        stream: What it learns from.
        packs: What is learned from within.
        step: The step, counted from 1.

    Raises:
        TrainingError: The memory does not suffice (T0781).
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(s in str(error).lower() for s in _SIGNS)):
            raise
        raise _refuse(run, stream, packs, step, error) from error


def _refuse(
    run: Path, stream: Stream, packs: Sequence[Pack], step: int, error: BaseException
) -> TrainingError:
    named = name_documents(stream, packs)
    rows = [dict(zip(("task", "source", "row"), each, strict=True)) for each in named]
    said = next(iter(str(error).splitlines()), type(error).__name__)
    write_json(run / NAME, {"step": step, "said": said, "documents": rows})
    good = f"step {step - 1:,} was the last good one" if step > 1 else "it is the first"
    saved = latest_checkpoint(run)
    told = "no checkpoint was written before" if saved is None else f"{saved} is whole"
    more = (
        [f"  and {len(named) - MAX_TOLD:,} more, in {run / NAME}"] if len(named) > MAX_TOLD else []
    )
    help_ = [
        said,
        f"{good}; {told}",
        f"its {len(named):,} documents:",
        *(f"  {task} {row}" for task, _, row in named[:MAX_TOLD]),
        *more,
        _advise(stream),
    ]
    return TrainingError.of("T0781", f"step {step:,} does not fit into memory", "\n".join(help_))


def _advise(stream: Stream) -> str:
    """Return the one setting to change: packs are computed one after the other, so it is their length."""
    length, packs = stream.config.source_tokens, stream.config.packs_per_step
    return (
        f"lower source_tokens, which is {length:,}: half of it, and packs_per_step {2 * packs} instead of "
        f"{packs}, learns from as much in a step; train into another directory"
    )
