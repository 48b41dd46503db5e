"""A photograph, for tests of whatever looks at images."""

from __future__ import annotations

import pytest

from .pictures import Pixels


@pytest.fixture(scope="session")
def photo() -> Pixels:
    """A photograph, 427 x 640 pixels; nobody writes to it."""
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - takes a second

    china, _ = load_sample_images().images
    china.setflags(write=False)
    return china
