"""Every op of taskloom keeps the promises that a plug-in's ops are held to, and a broken promise is seen."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from taskloom.graph.op import Op, Rows, Traits
from taskloom.graph.type import Layout, Port, Signature
from taskloom.ops.catalogue import whole_catalogue
from taskloom.ops.device.catalogue import DEVICE_CATALOGUE
from taskloom.ops.device.examples import EXAMPLES as DEVICE_EXAMPLES
from taskloom.ops.draw import Keys
from taskloom.ops.example import Example
from taskloom.ops.host.catalogue import HOST_CATALOGUE
from taskloom.ops.host.examples import EXAMPLES as HOST_EXAMPLES
from taskloom.ops.testing import Promise, find_promises

NUMBER = Port("number", "float64")
IDS = Port("text", "uint16", ("T",), Layout.RAGGED)


@pytest.mark.parametrize("promise", find_promises(HOST_EXAMPLES + DEVICE_EXAMPLES), ids=str)
def test_ops_keep_their_promises(promise: Promise) -> None:
    promise.check()


def test_every_op_has_an_example() -> None:
    examples = HOST_EXAMPLES + DEVICE_EXAMPLES
    assert {example.name for example in examples} == {*HOST_CATALOGUE, *DEVICE_CATALOGUE}
    catalogue = whole_catalogue()
    assert all(catalogue[example.name] is type(example.op) for example in examples)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a test op does to numbers."""

    traits: ClassVar[Traits] = Traits("numbers", version=1)

    @property
    def signature(self) -> Signature:
        return Signature(inputs={"numbers": NUMBER}, outputs={"out": NUMBER})

    def __call__(self, numbers: pa.Array) -> pa.Array:
        return numbers


@dataclass(frozen=True, slots=True)
class Centre(Numbers):
    """Depends on the other rows of its batch."""

    def __call__(self, numbers: pa.Array) -> pa.Array:
        return pc.subtract(numbers, pc.mean(numbers))


@dataclass(frozen=True, slots=True)
class NeedRows(Numbers):
    """Fails on no rows."""

    def __call__(self, numbers: pa.Array) -> pa.Array:
        return numbers if len(numbers) else pa.array([0.0])


@dataclass(frozen=True, slots=True)
class Narrow(Numbers):
    """Gives another type than it declares."""

    def __call__(self, numbers: pa.Array) -> pa.Array:
        return numbers.cast(pa.float32())


@dataclass(frozen=True, slots=True)
class Lose(Numbers):
    """Gives nulls without a word."""

    def __call__(self, numbers: pa.Array) -> pa.Array:
        return pa.array([None] * len(numbers), pa.float64())


@dataclass(frozen=True, slots=True)
class Hash(Numbers):
    """Depends on the process."""

    def __call__(self, numbers: pa.Array) -> pa.Array:
        return pa.array([float(hash("a text"))] * len(numbers), pa.float64())


@dataclass(frozen=True, slots=True)
class Misname(Numbers):
    """Takes an argument that is no port."""

    @property
    def signature(self) -> Signature:
        return Signature(inputs={"values": NUMBER}, outputs={"out": NUMBER})


@dataclass(frozen=True, slots=True)
class Overwrite(Numbers):
    """Writes into its input."""

    def __call__(self, numbers: pa.Array) -> pa.Array:
        buffer = np.frombuffer(numbers.buffers()[1], np.float64)
        buffer.setflags(write=True)
        buffer += 1
        return numbers


@dataclass(frozen=True, slots=True)
class Unstable:
    """Changes its parameter on every way through its constructor."""

    size: float = 1.0
    traits: ClassVar[Traits] = Traits("unstable", version=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.size + 1)

    signature = Numbers.signature
    __call__ = Numbers.__call__


@dataclass(frozen=True, slots=True)
class FitFirst:
    """Remembers the first number that it happens to see."""

    traits: ClassVar[Traits] = Traits("fit_first", version=1, rows=Rows.FIT)

    @property
    def signature(self) -> Signature:
        return Signature(inputs={"numbers": NUMBER}, outputs={"out": NUMBER})

    def observe(self, numbers: pa.Array) -> list[float]:
        return numbers.to_pylist()

    def merge(self, left: list[float], right: list[float]) -> list[float]:
        return left + right

    def finish(self, state: list[float]) -> bytes:
        return str(state[:1]).encode()


@dataclass(frozen=True, slots=True)
class Drop:
    """Drops each id with probability one half; sound."""

    traits: ClassVar[Traits] = Traits("drop", version=1, is_random=True)

    @property
    def signature(self) -> Signature:
        return Signature(inputs={"ids": IDS}, outputs={"out": IDS})

    def evaluation(self) -> Op | None:
        return None

    def plan_lengths(self, lengths: np.ndarray, *, keys: Keys) -> np.ndarray:
        del keys
        return lengths

    def __call__(self, ids: pa.Array, *, keys: Keys) -> pa.Array:
        rows = [self._row(row, int(key)) for row, key in zip(ids.to_pylist(), keys, strict=True)]
        return pa.array(rows, pa.list_(pa.uint16()))

    def _row(self, row: list[int], key: int) -> list[int]:
        return [value for i, value in enumerate(row) if key >> i & 1]


@dataclass(frozen=True, slots=True)
class DropByOrder(Drop):
    """Draws by the place in the batch."""

    def __call__(self, ids: pa.Array, *, keys: Keys) -> pa.Array:
        return Drop.__call__(self, ids, keys=np.sort(keys))


@dataclass(frozen=True, slots=True)
class DropNothing(Drop):
    """Draws nothing."""

    def __call__(self, ids: pa.Array, *, keys: Keys) -> pa.Array:
        return Drop.__call__(self, ids, keys=np.full_like(keys, 5))


@dataclass(frozen=True, slots=True)
class DropAtWill(Drop):
    """Draws from elsewhere."""

    state: ClassVar[Iterator[int]] = itertools.count()

    def __call__(self, ids: pa.Array, *, keys: Keys) -> pa.Array:
        return Drop.__call__(self, ids, keys=keys + np.uint64(next(self.state)))


@dataclass(frozen=True, slots=True)
class DropMore(Drop):
    """Promises lengths that are too small."""

    def plan_lengths(self, lengths: np.ndarray, *, keys: Keys) -> np.ndarray:
        del keys
        return lengths // 2


@dataclass(frozen=True, slots=True)
class DropToTest(Drop):
    """Draws when it is evaluated, too."""

    def evaluation(self) -> Op | None:
        return Drop()


@dataclass(frozen=True, slots=True)
class Listed:
    """Has a parameter that cannot be hashed."""

    sizes: list[int] = field(default_factory=lambda: [1])
    traits: ClassVar[Traits] = Traits("listed", version=1)
    signature = Numbers.signature
    __call__ = Numbers.__call__


ROWS = {"numbers": pa.array([1.5, 7.0])}
LISTS = {"ids": pa.array([list(range(20)), list(range(15))], pa.list_(pa.uint16()))}


@pytest.mark.parametrize(
    ("op", "rows", "claim"),
    [
        (Centre(), ROWS, "a batch of two"),
        (NeedRows(), ROWS, "no rows give no rows"),
        (Narrow(), ROWS, "results have the type"),
        (Lose(), ROWS, "results have the type"),
        (Misname(), ROWS, "calls take the input ports"),
        (Overwrite(), {"numbers": pa.array([1.5, 7.0])}, "a call leaves its inputs"),
        (Unstable(), ROWS, "it is a value"),
        (Unstable(), ROWS, "it comes back"),
        (Listed(), ROWS, "it is a value"),
        (FitFirst(), ROWS, "a fit does not depend"),
        (DropByOrder(), LISTS, "rows in another order"),
        (DropNothing(), LISTS, "the same keys"),
        (DropAtWill(), LISTS, "the same keys"),
        (DropMore(), LISTS, "planned lengths"),
        (DropToTest(), LISTS, "its evaluation form"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_broken_promise_is_seen(op: Any, rows: dict[str, pa.Array], claim: str) -> None:
    promises = find_promises([Example(op=op, rows=rows)])
    (broken,) = [promise for promise in promises if promise.claim.startswith(claim)]
    with pytest.raises((AssertionError, TypeError)):
        broken.check()


@pytest.mark.parametrize(("op", "rows"), [(Numbers(), ROWS), (Drop(), LISTS)], ids=["map", "draw"])
def test_a_sound_op_breaks_none(op: Any, rows: dict[str, pa.Array]) -> None:
    for promise in find_promises([Example(op=op, rows=rows)]):
        if "another process" not in promise.claim:  # which cannot import a test
            promise.check()
