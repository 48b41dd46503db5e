"""Which rows an op refuses: it is tried on ever fewer of them until those at fault stand alone.

An op may name all bad rows of a call at once (`RowErrors`). Of any other that raises nothing is believed: it is
tried on no rows at all, to tell a broken op from a bad row, and then on one half after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...graph.errors import OpError, Problem, TaskloomError
from ...ops.errors import RowErrors

RowNumbers: TypeAlias = "npt.NDArray[np.int64]"
Part: TypeAlias = "tuple[RowNumbers, pa.Array]"
"""Numbers of rows, ascending, and the value of each."""


def compute_rows(
    call: Callable[[RowNumbers], pa.Array],
    rows: RowNumbers,
    *,
    refuse: Callable[[int, Problem], None],
    op: str,
) -> list[Part]:
    """Return what an op makes of as many of ``rows`` as can be computed.

    Args:
        call: Runs the op on some rows.
        rows: Numbers of the rows.
        refuse: Takes each bad row and what is wrong with it.
        op: Name of the op.

    Raises:
        OpError: The op fails on no rows at all, so no row is to blame (T0305).
    """
    parts: list[Part] = []
    is_sound = False
    waiting = [rows]
    while waiting:
        rows = waiting.pop()
        try:
            parts.append((rows, call(rows)))
        except RowErrors as errors:
            bad = list(errors.reasons)
            for row, problem in zip(rows[bad], errors.reasons.values(), strict=True):
                refuse(int(row), problem)
            waiting.append(np.delete(rows, bad))
        except Exception as error:  # noqa: BLE001 - whatever an op raises, a row made it
            if not is_sound:
                parts.append((rows[:0], _call_on_no_rows(call, op, error)))
                is_sound = True
            if len(rows) == 1:
                refuse(int(rows[0]), _problem_of(error))
            waiting += _halve(rows)
    return parts


def _halve(rows: RowNumbers) -> list[RowNumbers]:
    """Return both halves of ``rows``, the first last; nothing of fewer than two."""
    half = len(rows) // 2
    return [rows[half:], rows[:half]] if half else []


def _call_on_no_rows(call: Callable[[RowNumbers], pa.Array], op: str, first: Exception) -> pa.Array:
    """Return what the op makes of no rows.

    Raises:
        OpError: It fails on them as well, so no row is to blame for ``first``.
    """
    try:
        return call(np.zeros(0, np.int64))
    except Exception as error:  # noqa: BLE001 - as above
        problem = _problem_of(error)
        message = f"{op} fails on no rows at all: {problem.message}"
        raise OpError(Problem("T0305", message, problem.help)) from first


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, TaskloomError):
        return error.problems[0]
    return Problem("T0303", f"{type(error).__name__}: {error}")
