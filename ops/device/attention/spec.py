"""What is static about one use of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ....graph.errors import PlanError, Problem, suggest

BACKEND_NAMES: Final = ("math", "sdpa", "blockwise", "triton", "flex", "varlen", "xformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """What is static about one use of attention; part of the key under which programs are compiled.

    Attributes:
        backend: Key of `BACKENDS`, or ``"auto"``, which chooses by the shape of the streams.
        tile: Queries per tile; windows start at multiples of it.
        window: Keys that one tile of queries may reach, a multiple of ``tile``; 0 for all keys.
        is_diagonal: Whether queries and keys are one stream and tile ``i`` sees tile ``i`` alone,
            which needs no gathering. ``window`` is ``tile`` then.
        is_relative: Whether scores carry a relative bias, for which ``"auto"`` chooses otherwise.
        scale: Factor of the scores; ``None`` for the inverse root of the size of a query's head.
    """

    backend: str = "auto"
    tile: int = 64
    window: int = 0
    is_diagonal: bool = False
    is_relative: bool = False
    scale: float | None = None

    def __post_init__(self) -> None:
        if problems := tuple(_problems(self)):
            raise PlanError(*problems)

    @classmethod
    def within_documents(
        cls, longest: int, *, tile: int = 64, backend: str = "auto", is_relative: bool = False
    ) -> AttentionSpec:
        """Return the spec of self-attention over a stream whose documents are aligned to tiles.

        Args:
            longest: Most tokens of a document; 0 where that is not known.
            tile: Alignment: a document crosses a multiple of ``tile`` only if it starts at one.
            backend: As in the class.
            is_relative: As in the class.
        """
        window = -(-longest // tile) * tile
        return cls(
            backend=backend,
            tile=tile,
            window=window,
            is_diagonal=window == tile,
            is_relative=is_relative,
        )

    def scale_of(self, head_size: int) -> float:
        """Return the factor of the scores of queries whose heads have that size."""
        return head_size**-0.5 if self.scale is None else self.scale


def _problems(spec: AttentionSpec) -> list[Problem]:
    problems: list[Problem] = []
    if spec.backend not in {"auto", *BACKEND_NAMES}:
        message = f'unknown attention back end "{spec.backend}"'
        problems.append(Problem("T0221", message, suggest(spec.backend, {"auto", *BACKEND_NAMES})))
    if spec.tile < 1:
        problems.append(Problem("T0222", f"tile must be at least 1, got {spec.tile}"))
    elif spec.window < 0 or spec.window % spec.tile:
        message = f"window must be a multiple of tile, got {spec.window} and {spec.tile}"
        problems.append(Problem("T0222", message))
    if spec.is_diagonal and spec.window != spec.tile:
        message = f"diagonal attention has a window of one tile, got {spec.window} and {spec.tile}"
        problems.append(Problem("T0222", message))
    return problems
