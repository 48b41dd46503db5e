"""Every host op keeps what the executor relies on. To add an op, add a line to `CASES` or `FITS`."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from taskloom.graph.op import Op, Rows, parameters
from taskloom.graph.type import Layout, Port
from taskloom.ops.host.bpe import Bpe, EncodeTexts, FitBpe
from taskloom.ops.host.catalogue import HOST_CATALOGUE
from taskloom.ops.host.closed_set import ClosedSet, FitClosedSet, RestrictTexts
from taskloom.ops.host.constant import LoadArtifacts, MakeIds, MakeTexts
from taskloom.ops.host.filter import CompareValues
from taskloom.ops.host.group import CountItems, PickItems, RepeatValues, UnnestLists
from taskloom.ops.host.image import DECODED, DecodeImages, ResizeImages
from taskloom.ops.host.read import SPLIT_COLUMN, ReadColumns, ReadSplits
from taskloom.ops.host.split import AssignSplits, MaskSplits
from taskloom.ops.host.text import FormatTexts, NormalizeTexts


@dataclass(frozen=True, slots=True)
class Case:
    """An op, and two rows that it can compute.

    Attributes:
        op: The op.
        rows: Inputs that have one value a row, by port.
        constants: Artifacts, by port.
    """

    op: Any
    rows: Mapping[str, pa.Array]
    constants: Mapping[str, Any]

    def call(self, start: int, stop: int) -> pa.Array:
        """Return what the op makes of some of the rows."""
        rows = {port: array.slice(start, stop - start) for port, array in self.rows.items()}
        return self.op(**rows, **self.constants)


def encode_png(height: int, width: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


TEXTS = pa.array(["a cat", "two dogs"])
SPLITS = pa.array([0, 0], pa.uint8())
NUMBERS = pa.array([1.5, 7.0])
FILES = pa.array([encode_png(2, 3), encode_png(5, 4)])
PIXELS = DecodeImages()(FILES)
VOCABULARY = Bpe(FitBpe(size=300).finish(FitBpe(size=300).observe(TEXTS, SPLITS)))
ANSWERS = ClosedSet(("a cat", "two dogs", "none"))

LISTS = UnnestLists()(words=pa.array([["a", "b"], []], pa.list_(pa.string())))
ITEMS = LISTS.flatten()

CASES = (
    Case(AssignSplits(test=0.5, valid=0.5), {"split": SPLITS, "key": NUMBERS}, {}),
    Case(CompareValues(operator=">", value=2), {"values": NUMBERS}, {}),
    Case(DecodeImages(), {"values": FILES}, {}),
    Case(EncodeTexts(), {"texts": TEXTS}, {"bpe": VOCABULARY}),
    Case(EncodeTexts(dtype="uint32", max_length=3), {"texts": TEXTS}, {"bpe": VOCABULARY}),
    Case(FormatTexts(), {"values": NUMBERS}, {}),
    Case(CountItems(), {"items": LISTS}, {}),
    Case(PickItems(number=0, dtype="string"), {"items": ITEMS}, {}),
    Case(RepeatValues(), {"values": SPLITS, "items": ITEMS}, {}),
    Case(MaskSplits(), {"split": SPLITS, "keep": pa.array([True, False])}, {}),
    Case(NormalizeTexts(is_lowercase=True, has_punctuation=False), {"texts": TEXTS}, {}),
    Case(ResizeImages(height=4, width=2), {"images": PIXELS}, {}),
    Case(RestrictTexts(), {"texts": TEXTS}, {"closed_set": ANSWERS}),
)
FITS = (FitBpe(size=300), FitClosedSet())
READS = (ReadColumns(column="texts", dtype="string"), ReadSplits())
MAKES = (MakeTexts(text="a cat"), MakeIds(ids=(3, 1), dtype="uint8"))
LOADS = (LoadArtifacts(kind="bpe", digest="5c1f"),)
OF_THE_LOADER = {"compose_documents", "group_items", "pack_documents"}

EXPANDS = (UnnestLists(),)

OPS = [*(case.op for case in CASES), *FITS, *READS, *MAKES, *LOADS, *EXPANDS]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.op))
every_fit = pytest.mark.parametrize("fit", FITS, ids=str)
every_read = pytest.mark.parametrize("read", READS, ids=str)
every_op = pytest.mark.parametrize("op", OPS, ids=str)


def arrow_type(port: Port) -> pa.DataType:
    """Return the Arrow type that a port promises."""
    if port.layout is Layout.DENSE:
        return pa.fixed_shape_tensor(pa.type_for_alias(port.dtype), port.shape)
    if port.layout is Layout.RAGGED and len(port.shape) > 1:
        return DECODED
    element = pa.type_for_alias(port.dtype)
    return pa.list_(element) if port.layout is Layout.RAGGED else element


def equal(left: pa.Array, right: pa.Array) -> bool:
    """Return whether two arrays have the same type and values; tensors have no equality of their own."""
    if isinstance(left, pa.ExtensionArray):
        return left.type == right.type and left.storage.equals(right.storage)
    return left.type == right.type and left.equals(right)


def test_every_host_op_is_under_the_contract() -> None:
    assert {op.traits.name for op in OPS} | OF_THE_LOADER == HOST_CATALOGUE.keys()
    assert all(HOST_CATALOGUE[op.traits.name] is type(op) for op in OPS)


@every_case
def test_no_rows_give_no_rows(case: Case) -> None:
    assert len(case.call(0, 0)) == 0


@every_case
@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_results_have_the_type_that_the_signature_declares(case: Case, num_rows: int) -> None:
    made = case.call(0, num_rows)
    assert made.type == arrow_type(case.op.signature.outputs["out"])
    assert len(made) == num_rows
    assert made.null_count == 0


@every_case
def test_a_batch_of_two_equals_two_batches_of_one(case: Case) -> None:
    parts = [case.call(0, 1), case.call(1, 2)]
    assert equal(case.call(0, 2), pa.concat_arrays(parts))


@every_case
def test_calls_take_the_input_ports_by_name(case: Case) -> None:
    assert {*case.rows, *case.constants} == set(case.op.signature.inputs)


@every_case
def test_calls_leave_their_inputs_as_they_were(case: Case) -> None:
    before = {port: array.to_pylist() for port, array in case.rows.items()}
    case.call(0, 2)
    assert {port: array.to_pylist() for port, array in case.rows.items()} == before


@every_op
def test_ops_are_values(op: Op) -> None:
    fields = {name: getattr(op, name) for name in op.__dataclass_fields__ if name != "traits"}
    again = type(op)(**fields)
    assert again == op
    assert hash(again) == hash(op)


@every_op
def test_ops_cross_process_boundaries(op: Op) -> None:
    assert pickle.loads(pickle.dumps(op)) == op


@every_op
def test_ops_come_back_from_their_canonical_parameters(op: Op) -> None:
    written: Any = json.loads(json.dumps(parameters(op)))
    assert parameters(type(op)(**written)) == parameters(op)
    assert type(op)(**parameters(op)) == op


@every_read
def test_reads_make_one_value_of_each_row(read: Any) -> None:
    batch = pa.RecordBatch.from_pydict({"texts": TEXTS, SPLIT_COLUMN: SPLITS})
    assert read.traits.rows is Rows.READ
    for num_rows in (0, 2):
        made = read(batch.slice(0, num_rows))
        assert made.type == arrow_type(read.signature.outputs["out"])
        assert len(made) == num_rows


@pytest.mark.parametrize("make", MAKES, ids=str)
def test_constants_are_one_value_of_the_declared_type(make: Any) -> None:
    port = make.signature.outputs["out"]
    element = pa.type_for_alias(port.dtype)
    assert make().type == (pa.list_(element) if port.shape else element)
    assert len(make()) == 1


@every_fit
def test_fits_do_not_depend_on_how_rows_are_parted_or_ordered(fit: Any) -> None:
    whole = fit.observe(TEXTS, SPLITS)
    parts = [fit.observe(TEXTS.slice(i, 1), SPLITS.slice(i, 1)) for i in (1, 0)]
    empty = fit.observe(TEXTS.slice(0, 0), SPLITS.slice(0, 0))
    merged = fit.merge(fit.merge(empty, parts[0]), fit.merge(parts[1], empty))
    assert fit.finish(merged) == fit.finish(whole)


@every_fit
def test_observed_states_cross_process_boundaries(fit: Any) -> None:
    state = fit.observe(TEXTS, SPLITS)
    assert fit.finish(pickle.loads(pickle.dumps(state))) == fit.finish(state)
