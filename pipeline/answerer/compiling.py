"""Steps of writing, compiled: one program for all steps of batches of one shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, Final, TypeVar, cast

import torch

MOST_PROGRAMS: Final = 64
"""Shapes of a function of a step that are compiled; torch would stop at 8, and fail."""

_F = TypeVar("_F", bound=Callable[..., object])


def compile_step(function: _F, /) -> _F:
    """Return ``function`` compiled, the same for the same."""
    return cast("_F", _compile(function))


@cache
def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo import config  # noqa: PLC0415 - a second, for those who compile

    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False)

    @wraps(function)
    def run(*inputs: Any) -> Any:
        with config.patch(recompile_limit=MOST_PROGRAMS):
            return compiled(*inputs)

    return run
