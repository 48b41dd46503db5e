"""The promises of every op, tried on examples.

A package that brings ops keeps examples of them and has one test::

    from taskloom.ops.testing import find_promises

    from taskloom_series.examples import EXAMPLES


    @pytest.mark.parametrize("promise", find_promises(EXAMPLES), ids=str)
    def test_the_ops_keep_their_promises(promise):
        promise.check()

taskloom holds its own ops to the same suite.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ..graph.node import plan_key
from ..graph.op import Rows, parameters
from .by_hand import arrow_type
from .canonical import digest_values
from .example import Example, make_example_keys, take

_ELSEWHERE: Final = """
import pickle, sys
from taskloom.ops.testing import describe
examples = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps([describe(example) for example in examples]))
"""


@dataclass(frozen=True)
class Promise:
    """One thing that an op promises.

    Attributes:
        claim: What it is, in words.
        example: What it is tried on.
        others: The other examples of the suite, which one more process computes all at once.
    """

    claim: str
    example: Example
    others: Elsewhere

    def __str__(self) -> str:
        return f"{self.example}: {self.claim}"

    def check(self) -> None:
        """Try it.

        Raises:
            AssertionError: The op breaks it.
        """
        _PROMISES[self.claim][1](self.example, self.others)


@dataclass(frozen=True)
class Elsewhere:
    """What the examples give in a process with other hashes."""

    examples: Sequence[Example]

    @cached_property
    def described(self) -> Mapping[int, tuple[str, str]]:
        """Key and digest of each example, by its identity here."""
        seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        told = subprocess.run(
            [sys.executable, "-c", _ELSEWHERE],
            input=pickle.dumps(list(self.examples)),
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=False,
        )
        _demand(
            told.returncode == 0, f"another process cannot compute them:\n{told.stderr.decode()}"
        )
        return dict(zip(map(id, self.examples), pickle.loads(told.stdout), strict=True))


def find_promises(examples: Sequence[Example]) -> list[Promise]:
    """Return everything that the ops of ``examples`` promise, each to be tried on its own."""
    elsewhere = Elsewhere([example for example in examples if not example.is_device])
    return [
        Promise(claim, example, elsewhere)
        for example in examples
        for claim, (concerns, _) in _PROMISES.items()
        if concerns(example)
    ]


def describe(example: Example) -> tuple[str, str]:
    """Return the plan key of an example's op over nothing, and the digest of what it makes."""
    traits = example.op.traits
    key = plan_key(traits.name, traits.version, parameters(example.op), {})
    return key, digest_values(example.call()) if example.is_computed else ""


def _check_value(example: Example, _: Elsewhere) -> None:
    op = example.op
    again = type(op)(**{name: getattr(op, name) for name in _fields(op)})
    _demand(again == op, "made from its own parameters it is another op")
    _demand(hash(again) == hash(op), "equal ops have different hashes")


def _check_pickle(example: Example, _: Elsewhere) -> None:
    _demand(pickle.loads(pickle.dumps(example.op)) == example.op, "pickled it becomes another op")


def _check_parameters(example: Example, _: Elsewhere) -> None:
    op = example.op
    written: Any = json.loads(json.dumps(parameters(op)))
    again = type(op)(**written)
    _demand(parameters(again) == parameters(op), "its parameters change on the way through JSON")
    _demand(type(op)(**parameters(op)) == op, "made from its canonical parameters it is another op")


def _check_ports(example: Example, _: Elsewhere) -> None:
    signature, given = example.op.signature, {*example.rows, *example.constants}
    wanted = {name for name, port in signature.inputs.items() if not port.is_optional}
    known = set(signature.inputs) if signature.variadic is None else given | set(signature.inputs)
    _demand(wanted <= given <= known, f"the signature has {sorted(wanted)}, a call {sorted(given)}")


def _check_no_rows(example: Example, _: Elsewhere) -> None:
    _demand(len(example.call(0, 0)) == 0, "no rows give some")


def _check_batches(example: Example, _: Elsewhere) -> None:
    whole = example.call()
    parts = [example.call(i, i + 1) for i in range(example.num_rows)]
    _demand_equal(pa.concat_arrays(parts), whole, "a batch of two differs from two batches of one")


def _check_types(example: Example, _: Elsewhere) -> None:
    (port, *more) = example.op.signature.outputs.values()
    _demand(not more, "a host op has one output")
    for num_rows in (0, 1, example.num_rows):
        made = example.call(0, num_rows)
        _demand(len(made) == num_rows, f"{num_rows} rows give {len(made)}")
        _demand(made.null_count == 0, "values are missing that were not missing before")
        wanted = None if example.op.traits.rows is Rows.EXPAND else arrow_type(port)
        _demand(wanted in (None, made.type), f"the signature declares {wanted}, got {made.type}")


def _check_constant(example: Example, _: Elsewhere) -> None:
    (port,) = example.op.signature.outputs.values()
    made, element = example.op(), pa.type_for_alias(port.dtype)
    wanted = pa.list_(element) if port.shape else element
    _demand(made.type == wanted, f"the signature declares {wanted}, got {made.type}")
    _demand(len(made) == 1, f"a constant is one value, got {len(made)}")


def _check_inputs(example: Example, _: Elsewhere) -> None:
    before = {port: digest_values(array) for port, array in example.rows.items()}
    example.call()
    after = {port: digest_values(array) for port, array in example.rows.items()}
    _demand(before == after, "a call changes its inputs")


def _check_nulls(example: Example, _: Elsewhere) -> None:
    nothing = {p: pa.array([None, None], array.type) for p, array in example.rows.items()}
    made = example.op(**nothing, **example.constants)
    _demand(len(made) == 2, "it says that it accepts missing values, and loses rows of them")


def _check_elsewhere(example: Example, others: Elsewhere) -> None:
    there, here = others.described[id(example)], describe(example)
    _demand(there[0] == here[0], "its plan key differs in another process")
    _demand(there[1] == here[1], "its results differ in another process")


def _check_fit(example: Example, _: Elsewhere) -> None:
    op, whole = example.op, example.call()
    parts = [
        op.observe(**{p: array.slice(start, size) for p, array in example.rows.items()})
        for start, size in ((1, example.num_rows - 1), (0, 0), (0, 1))
    ]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        first, second, third = (pickle.loads(pickle.dumps(parts[i])) for i in order)
        left = op.finish(op.merge(op.merge(first, second), third))
        right = op.finish(op.merge(first, op.merge(second, third)))
        _demand(left == right == whole, "what is fitted depends on how rows are parted or ordered")


def _check_draws(example: Example, _: Elsewhere) -> None:
    first, again = example.call(), example.call()
    _demand_equal(first, again, "the same keys give other results")
    later = make_example_keys(example.num_rows, pass_number=1)
    other = example.op(**example.rows, **example.constants, keys=later)
    _demand(digest_values(other) != digest_values(first), "other keys give the same results")


def _check_permuted(example: Example, _: Elsewhere) -> None:
    order = list(range(example.num_rows))[::-1]
    rows = {port: take(array, order) for port, array in example.rows.items()}
    made = example.op(**rows, **example.constants, keys=example.keys[order])
    _demand_equal(made, take(example.call(), order), "rows in another order draw other numbers")


def _check_lengths(example: Example, _: Elsewhere) -> None:
    first = next(iter(example.rows.values()))
    if not (pa.types.is_list(first.type) or pa.types.is_large_list(first.type)):
        return
    most = example.op.plan_lengths(_lengths(first), keys=None)
    for number in range(20):
        keys = make_example_keys(example.num_rows, pass_number=number)
        planned = example.op.plan_lengths(_lengths(first), keys=keys)
        _demand(bool((planned <= most).all()), f"no draw is longer than {most}, got {planned}")
        made = _lengths(example.op(**example.rows, **example.constants, keys=keys))
        _demand(len(planned) == len(made), "plan_lengths gives one length for each row")
        _demand(bool((made <= planned).all()), f"planned lengths are {planned}, got {made}")


def _check_evaluation(example: Example, _: Elsewhere) -> None:
    stand_in = example.op.evaluation()
    if stand_in is None:
        return
    _demand(not stand_in.traits.is_random, "its evaluation form draws too")
    plain = Example(op=stand_in, rows=example.rows, constants=example.constants)
    _demand_equal(plain.call(), plain.call(), "its evaluation form is not deterministic")
    _check_types(plain, _)


def _check_device_types(example: Example, _: Elsewhere) -> None:
    signature, sizes = example.op.signature, dict[str, int]()
    ports = [(signature.inputs[name], values) for name, values in example.rows.items()]
    ports += list(zip(signature.outputs.values(), _run(example), strict=True))
    for port, values in ports:
        dtype = str(values.dtype).removeprefix("torch.")
        _demand(port.dtype == dtype, f"the signature declares {port.dtype}, got {dtype}")
        _demand(len(port.shape) == values.ndim, f"{port} has other dimensions: {values.shape}")
        for axis, size in zip(port.shape, values.shape, strict=True):
            wanted = sizes.setdefault(axis, size) if isinstance(axis, str) else axis
            _demand(wanted == size, f"{port}: dimension {axis} is {wanted} and {size}")


def _check_device_draw(example: Example, _: Elsewhere) -> None:
    before = {port: values.copy() for port, values in example.rows.items()}
    for left, right in zip(_run(example), _run(example), strict=True):
        _demand(bool((left == right).all()), "the same parameters give other results")
    for port, values in example.rows.items():
        _demand(bool(np.array_equal(values, before[port])), "a call changes its inputs")


def _run(example: Example) -> tuple[Any, ...]:
    from .device.trial import run_example  # noqa: PLC0415 - host ops do without torch

    return run_example(example)


def _fields(op: Any) -> Iterator[str]:
    return (name for name in op.__dataclass_fields__ if name != "traits")


def _lengths(array: pa.Array) -> np.ndarray:
    return np.array([len(value) for value in array.to_pylist()], np.int64)


def _demand_equal(got: pa.Array, wanted: pa.Array, otherwise: str) -> None:
    same = got.type == wanted.type and digest_values(got) == digest_values(wanted)
    _demand(same, f"{otherwise}\ngot:      {str(got)[:400]}\nexpected: {str(wanted)[:400]}")


def _demand(is_kept: bool, otherwise: str) -> None:  # noqa: FBT001 - as assert has it
    if not is_kept:
        raise AssertionError(otherwise)


def _is_any(_: Example) -> bool:
    return True


def _is_value(example: Example) -> bool:
    return not example.op.traits.is_online


def _is_host(example: Example) -> bool:
    return not example.is_device


def _maps(example: Example) -> bool:
    reads = example.op.traits.rows in (Rows.FIT, Rows.READ)
    return _is_host(example) and example.is_computed and bool(example.rows) and not reads


def _makes_rows(example: Example) -> bool:
    return _maps(example) or (_is_host(example) and example.op.traits.rows is Rows.READ)


def _is_made(example: Example) -> bool:
    return _is_host(example) and example.is_computed and not example.rows


def _is_fit(example: Example) -> bool:
    return example.op.traits.rows is Rows.FIT


def _is_random(example: Example) -> bool:
    return example.op.traits.is_random


def _accepts_null(example: Example) -> bool:
    return _maps(example) and example.op.traits.accepts_null and not _is_random(example)


_Check = Callable[[Example, Elsewhere], None]

_PROMISES: Final[Mapping[str, tuple[Callable[[Example], bool], _Check]]] = MappingProxyType(
    {
        "it is a value": (_is_value, _check_value),
        "it crosses process boundaries": (_is_any, _check_pickle),
        "it comes back from its canonical parameters": (_is_any, _check_parameters),
        "calls take the input ports by name": (_maps, _check_ports),
        "no rows give no rows": (_makes_rows, _check_no_rows),
        "a batch of two equals two batches of one": (_maps, _check_batches),
        "results have the type that the signature declares": (_makes_rows, _check_types),
        "it makes one value of the declared type": (_is_made, _check_constant),
        "a call leaves its inputs as they were": (_maps, _check_inputs),
        "missing values are accepted where it says so": (_accepts_null, _check_nulls),
        "another process finds the same key and the same bytes": (_is_host, _check_elsewhere),
        "a fit does not depend on how rows are parted or ordered": (_is_fit, _check_fit),
        "the same keys give the same result, others another": (_is_random, _check_draws),
        "rows in another order give the same results": (_is_random, _check_permuted),
        "planned lengths bound those that come out": (_is_random, _check_lengths),
        "its evaluation form draws nothing": (_is_random, _check_evaluation),
        "tensors have the types that the signature declares": (
            lambda example: example.is_device,
            _check_device_types,
        ),
        "the same parameters give the same tensors": (
            lambda example: example.is_device,
            _check_device_draw,
        ),
    }
)
