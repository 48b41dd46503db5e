"""Series are resampled, and the ops of the package keep the promises of every op."""

from __future__ import annotations

import pytest
from taskloom_series.examples import EXAMPLES
from taskloom_series.host import ResampleSeries

from taskloom.ops.errors import RowErrors
from taskloom.ops.package import find_package
from taskloom.ops.testing import Promise, find_promises


@pytest.mark.parametrize("promise", find_promises(EXAMPLES), ids=str)
def test_the_ops_keep_their_promises(promise: Promise) -> None:
    """Try each on the examples."""
    promise.check()


def test_the_code_is_that_of_its_version() -> None:
    """Compare it with the lock."""
    assert find_package("taskloom-series").check() == []


def test_points_lie_straight_between_their_neighbours() -> None:
    """Resample a line and a corner."""
    made = ResampleSeries(points=5)([[0.0, 4.0], [0.0, 2.0, 0.0]])
    assert made.to_numpy_ndarray().tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 1, 0]]


def test_a_series_of_one_point_is_a_bad_row() -> None:
    """Name the row, not the batch."""
    with pytest.raises(RowErrors, match="S0003"):
        ResampleSeries(points=5)([[0.0, 4.0], [1.0]])
