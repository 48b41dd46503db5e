"""What a few steps of training have cost, node by node, as a run keeps it: ``measures.json`` in its directory.

Nodes go by their addresses: a run knows how documents lie in its packs, which is part of keys in its plan, and
of none in a plan that is only looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from ...graph.errors import StoreError
from ...graph.measure import Measure
from ...storage.files import read_json, write_json
from ..builder.measuring import FIELDS, FORMAT, from_row, to_row

NAME: Final = "measures.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMeasures:
    """What some steps have cost.

    Attributes:
        measures: Figures by address, of all steps together.
        model: Sizes of the model.
        steps: How many steps.
        first: The first of them, counted from 1.
        step_s: Seconds that a step took.
        waited_s: Seconds that it waited for its packs before that.
        how: Where it was computed and how, in words.
    """

    measures: Mapping[str, Measure]
    model: Mapping[str, Any]
    steps: int
    first: int
    step_s: float
    waited_s: float
    how: str

    def __str__(self) -> str:
        step, waited = 1e3 * self.step_s, 1e3 * self.waited_s
        return f"{step:,.1f} ms a step, {waited:,.1f} ms of waiting for packs before it; {self.how}"

    def write(self, run: Path) -> None:
        """Keep it in the directory of a run.

        Raises:
            StoreError: It cannot be written.
        """
        write_json(run / NAME, self._to_plain())

    @classmethod
    def read(cls, run: Path) -> Self | None:
        """Return what was kept in the directory of a run; None if there is nothing that can be read."""
        with suppress(
            StoreError, FileNotFoundError, KeyError, TypeError, ValueError, AttributeError
        ):
            plain = read_json(run / NAME)
            if plain.pop("format") == FORMAT:
                names = plain.pop("fields")
                rows = plain.pop("measures")
                measures = {address: from_row(names, row) for address, row in rows.items()}
                return cls(measures=measures, **plain)
        return None

    def _to_plain(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        rows = {address: to_row(measure) for address, measure in self.measures.items()}
        return plain | {"format": FORMAT, "fields": FIELDS, "measures": rows}
