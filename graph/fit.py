"""Artifacts in a plan: pinned ones are loaded, the others are fitted on all the inputs that ask for them."""

from __future__ import annotations

from collections.abc import Mapping

from .draft import Draft
from .errors import PlanError
from .node import Value
from .op import Op
from .recipe import Pinned


class Fits:
    """The artifacts that the recipes of one plan have asked for.

    A fit reads inputs of many tasks, so its node can be made only when all of them are planned. Until `close`,
    `fit` notes the inputs and answers with a stand-in, in whose place `close` puts the fit's output.
    """

    def __init__(self, draft: Draft, pinned: Mapping[str, Pinned], *, is_inference: bool) -> None:
        self._draft = draft
        self._pinned = pinned
        self._is_inference = is_inference
        self._asked: dict[str, tuple[Op, dict[tuple[Value, ...], Mapping[str, Value]]]] = {}
        self._loads: dict[tuple[str, str, str], Value] = {}
        self.values: dict[str, Value] = {}
        """The node of each artifact that is not pinned."""

    def fit(self, name: str, op: Op, inputs: Mapping[str, Value]) -> Value:
        """Return the artifact ``name``, which ``op`` fits on ``inputs`` and those of the other callers.

        Raises:
            PlanError: Two callers want one artifact fitted differently.
        """
        kind = op.signature.outputs["out"].kind
        if pinned := self._pinned.get(name):
            return self._load(kind, pinned.digest, name)
        if self._is_inference:
            return self._load(kind, "", name)
        first, groups = self._asked.setdefault(name, (op, {}))
        if first != op:
            message = f'artifact "{name}" is asked for in two ways'
            raise PlanError.of("T0213", message, f"{first}\n{op}")
        groups[tuple(inputs.values())] = inputs
        return self._load(kind, f"of {name}", name)

    def close(self) -> dict[Value, Value]:
        """Make the fits' nodes, each reading everything that was noted for it, and let its readers read it.

        Returns:
            What the values of the draft have become, where they are others now.
        """
        stand_ins: dict[Value, Value] = {}
        for name, (op, groups) in sorted(self._asked.items()):
            # Sorted, so that the order of tasks is in no key.
            ordered = [groups[values] for values in sorted(groups)]
            if op.signature.variadic is None:
                inputs = ordered[0]
            else:
                inputs = {f"{p}.{i}": v for i, g in enumerate(ordered) for p, v in g.items()}
            self.values[name] = self._draft.add(op, inputs, address=name)
            kind = op.signature.outputs["out"].kind
            stand_ins[self._load(kind, f"of {name}", name)] = self.values[name]
        self._asked.clear()
        self._loads.clear()
        return self._draft.substitute(stand_ins)

    def _load(self, kind: str, digest: str, name: str) -> Value:
        asked = (kind, digest, name)
        if asked not in self._loads:
            op = self._draft.catalogue["load_artifacts"](kind=kind, digest=digest)
            self._loads[asked] = self._draft.add(op, address=name)
        return self._loads[asked]
