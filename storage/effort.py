"""What a loader has spent on the packs it has filled so far, in its own thread."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Effort:
    """Wall time by what it was spent on, always counted: a few readings of the clock for each pack.

    Attributes:
        packs: Packs that were filled.
        seconds: All of it: planning windows, gathering columns and filling packs.
        gathering: The part of it that gathering columns took, by template.
    """

    packs: int = 0
    seconds: float = 0.0
    gathering: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
