"""Memory that does not suffice: told with the rows that were computed, and the one setting to change."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ...graph.errors import CheckpointError, TrainingError
from ...storage.checkpoint import latest_checkpoint
from ...storage.pack import Pack
from ..loader.stream import Stream
from .documents import find_rows, name_documents, tell_documents, write_documents
from .run_log import OUT_OF_MEMORY

_SIGNS: Final = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
"""What torch and its libraries say, on a GPU and elsewhere."""


@contextmanager
def told_memory(
    run: Path, stream: Stream, packs: Sequence[Pack], step: int, settle: Callable[[], None]
) -> Generator[None]:
    """Say of a step that does not fit into memory what it is made of.

    Args:
        run: Directory of the run.
        stream: What it learns from.
        packs: What is learned from within.
        step: The step, counted from 1.
        settle: Waits for a checkpoint that is on its way.

    Raises:
        TrainingError: The memory does not suffice (T0781).
    """

    def refuse(error: BaseException) -> TrainingError:
        with suppress(CheckpointError):
            settle()
        return _refuse(run, stream, packs, step, error)

    with _told(refuse):
        yield


@contextmanager
def told_evaluation_memory(run: Path, num_rows: int, step: int) -> Generator[None]:
    """Say of an evaluation that does not fit into memory how to make it smaller.

    Args:
        run: Directory of the run.
        num_rows: Rows of each task that are evaluated.
        step: The step after which it is.

    Raises:
        TrainingError: The memory does not suffice (T0781).
    """

    def refuse(error: BaseException) -> TrainingError:
        message = f"the evaluation after step {step:,} does not fit into memory"
        help_ = (
            f"{_first_line(error)}\nstep {step:,} was good; {_tell_saved(run)}\n"
            f"lower evaluate_rows, which is {num_rows:,}, and train on"
        )
        return TrainingError.of("T0781", message, help_)

    with _told(refuse):
        yield


@contextmanager
def _told(refuse: Callable[[BaseException], TrainingError]) -> Generator[None]:
    """Raise what ``refuse`` makes of an error within that says that the memory does not suffice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_short(error):
            raise
        raise refuse(error) from error


def _is_short(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _tell_saved(run: Path) -> str:
    saved = latest_checkpoint(run)
    return "no checkpoint was written before" if saved is None else f"{saved} is whole"


def _refuse(
    run: Path, stream: Stream, packs: Sequence[Pack], step: int, error: BaseException
) -> TrainingError:
    named = name_documents(stream, find_rows(pack.rows for pack in packs))
    said = _first_line(error)
    write_documents(run / OUT_OF_MEMORY, named, step=step, said=said)
    good = f"step {step - 1:,} was the last good one" if step > 1 else "it is the first"
    help_ = [
        said,
        f"{good}; {_tell_saved(run)}",
        f"its {len(named):,} documents:",
        *tell_documents(named, run / OUT_OF_MEMORY),
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
