"""A debugger at the place where an op refuses a row."""

from __future__ import annotations

import pdb  # noqa: T100 - a person has asked for it
from typing import Any

from ...graph.errors import StoreError
from .capsule import Capsule
from .replaying import failing_call


class _Debugger(pdb.Pdb):
    """Knows ``op`` and ``inputs`` wherever it begins, beside what is there."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__()
        self._names = names

    def setup(self, f: Any, tb: Any) -> None:
        """Begin at a frame."""
        super().setup(f, tb)
        known: Any = self.curframe_locals
        for name, value in self._names.items():
            known.setdefault(name, value)


def debug(capsule: Capsule) -> None:
    """Call the op that refuses the row, and open pdb where it raises.

    There ``op`` and ``inputs`` stand beside what the place itself knows.

    Raises:
        StoreError: No op raises (T0515).
    """
    call = failing_call(capsule)
    if call is not None:
        op, inputs = call
        try:
            op(**inputs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is to be looked at
            debugger = _Debugger({"op": op, "inputs": inputs})
            debugger.reset()
            debugger.interaction(None, error.__traceback__)
            return
    message = "there is nothing to debug: no op raises on this row"
    help_ = "the row works now, or a value of it is missing"
    raise StoreError.of("T0515", message, help_).at(row=capsule.problem.row)
