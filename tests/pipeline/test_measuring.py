"""Every build measures what its nodes cost, and whoever looks later finds the figures of what is there."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from taskloom.graph.errors import RowError
from taskloom.graph.measure import Measure
from taskloom.graph.passes.cut import Stage
from taskloom.pipeline import Mixture, Source
from taskloom.pipeline.builder.measuring import FIELDS, build_measures
from taskloom.pipeline.host.meter import Meter
from taskloom.pipeline.viewer.inspection import open_plan
from taskloom.storage.column import read_receipt
from taskloom.storage.store import Store

from .number_ops import AddNumbers, Chain, HalveNumbers
from .rows import NUM_ROWS, SLOTS, digit_rows, digits_mixture, digits_task, mix, run, spoiled, tree


def look(mixture: Mixture, path: Path) -> dict[str, Measure]:
    """Return what the nodes of ``mixture`` have cost, by address."""
    store = Store.open(path)
    planned = open_plan(mixture, store)
    measures = build_measures(planned.graph, store)
    return {planned.graph.nodes[node].address: measure for node, measure in measures.items()}


def rows_of(measures: dict[str, Measure]) -> dict[str, tuple[int, int, int, int]]:
    """Return what does not vary from run to run."""
    return {address: (m.rows_in, m.rows_out, m.rejects, m.bytes) for address, m in measures.items()}


def change_size(size: int) -> Mixture:
    """Return the mixture of digits with pictures of another size."""
    return mix(
        digits_task(Source("digits", digit_rows())),
        slots={"IMAGE": SLOTS["IMAGE"] | {"size": size}},
    )


@given(st.lists(st.none() | st.integers(-50, 50), max_size=70), st.integers(1, 70))
def test_rows_go_in_and_come_out_or_are_refused_by_the_node_that_says_so(
    rows: list[int | None], batch_size: int
) -> None:
    chain = Chain()
    read = chain.read()
    halved = chain.add(HalveNumbers(), values=read)
    summed = chain.add(AddNumbers(), left=halved, right=read)
    execution, meter = chain.execution(summed), Meter()
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    for batch in batches:
        execution.run(pa.RecordBatch.from_pydict({"x": pa.array(batch, pa.int64())}), meter)
    measures = meter.measures()
    assert set(measures) == ({read.node, halved.node, summed.node} if rows else set())
    if rows:
        present = [row for row in rows if row is not None]
        even = sum(row % 2 == 0 for row in present)
        told = {value: measures[value.node] for value in (read, halved, summed)}
        assert [(m.rows_in, m.rows_out, m.rejects) for m in told.values()] == [
            (len(rows), len(present), len(rows) - len(present)),
            (len(present), even, len(present) - even),
            (even, even, 0),
        ]
        assert {m.calls for m in told.values()} == {len(batches)}
        assert all(m.seconds > 0 for m in told.values())
        assert told[summed].bytes >= 8 * even


def test_time_of_reading_is_shared_out_by_bytes() -> None:
    chain = Chain()
    wide, narrow = chain.read("wide"), chain.read("narrow")
    execution = chain.execution(wide, narrow)
    meter = Meter(execution.readers)
    batch = pa.RecordBatch.from_pydict({"wide": ["x" * 1000] * 9, "narrow": ["y"] * 9})
    waiting = threading.Event()

    def batches() -> Any:
        waiting.wait(0.05)  # as a disk would let us wait
        yield batch

    for each in meter.reading(batches()):
        execution.run(each, meter)
    measures = meter.measures()
    assert measures[wide.node].seconds > 0.04
    assert sum(measure.seconds for measure in measures.values()) >= 0.05


def test_a_build_measures_every_node_that_ran(tmp_path: Path) -> None:
    mixture = spoiled()
    run(mixture, tmp_path)
    store = Store.open(tmp_path)
    planned = open_plan(mixture, store)
    measures = build_measures(planned.graph, store)
    ran = {n.id for n in planned.graph if planned.cut.stages[n.id] is Stage.OFFLINE and n.id.rows}
    assert ran <= measures.keys()
    told = look(mixture, tmp_path)
    assert (told["digits.image"].rows_in, told["digits.image"].rows_out) == (NUM_ROWS, NUM_ROWS)
    decode = told["digits.image/decode"]
    assert (decode.rows_in, decode.rows_out, decode.rejects) == (NUM_ROWS, NUM_ROWS - 2, 2)
    resize = told["digits.image/resize"]
    assert (resize.rows_in, resize.rows_out, resize.rejects) == (NUM_ROWS - 2, NUM_ROWS - 2, 0)
    assert resize.bytes >= (NUM_ROWS - 2) * 16 * 16 * 3
    for value in planned.cut.stored:
        (partition,) = store.source("digits").partitions
        receipt = read_receipt(store, "digits", value.column_id, partition.id)
        assert receipt is not None
        assert measures[value.node].stored_bytes == receipt.bytes
        assert measures[value.node].writing_seconds > 0


def test_a_fit_is_measured_as_the_artifact_that_it_gave(tmp_path: Path) -> None:
    run(digits_mixture(), tmp_path)
    told = look(digits_mixture(), tmp_path)
    store = Store.open(tmp_path)
    for name, artifact in store.artifacts().items():
        measure = told[name]
        assert measure.bytes >= len(store.artifact_content(artifact.digest))
        assert measure.rows_in >= NUM_ROWS
        assert measure.seconds > 0


def test_partitions_are_added_up_and_each_is_counted_once(parts: Mixture, tmp_path: Path) -> None:
    run(parts, tmp_path, workers=2)
    told = look(parts, tmp_path)
    assert told["digits.image"].rows_out == 60
    assert told["digits.image/decode"].rejects == 1
    assert told["digits.image/decode"].calls == 3
    # It is read for the fit and for the columns: twice the work, and the same rows.
    assert (told["digits.label"].rows_out, told["digits.label"].calls) == (60, 6)


def test_what_was_cached_shows_what_it_cost_when_it_was_computed(tmp_path: Path) -> None:
    run(digits_mixture(), tmp_path)
    before = look(digits_mixture(), tmp_path)
    assert run(digits_mixture(), tmp_path).partitions == 0
    assert look(digits_mixture(), tmp_path) == before
    other = change_size(24)
    run(other, tmp_path)
    after = look(digits_mixture(), tmp_path)
    assert after["digits.image/resize"] == before["digits.image/resize"]
    assert after["digits.label/encode"] == before["digits.label/encode"]
    # It ran again, over the same rows: those are told once.
    assert rows_of(after) == rows_of(before)
    assert after["digits.image/decode"].seconds != before["digits.image/decode"].seconds
    assert look(other, tmp_path)["digits.image/resize"].bytes > after["digits.image/resize"].bytes


def test_rows_that_left_the_source_are_no_longer_counted(tmp_path: Path) -> None:
    run(digits_mixture(), tmp_path)
    run(digits_mixture(20), tmp_path)
    assert look(digits_mixture(20), tmp_path)["digits.image/decode"].rows_in == 20


def test_builds_at_the_same_time_lose_nothing_of_each_other(tmp_path: Path) -> None:
    run(digits_mixture(), tmp_path)
    others = [change_size(size) for size in (8, 24)]
    threads = [threading.Thread(target=run, args=(other, tmp_path)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "measures").iterdir())) == 3
    for mixture in (digits_mixture(), *others):
        assert look(mixture, tmp_path)["digits.image/resize"].rows_out == NUM_ROWS


def test_a_build_that_fails_keeps_what_it_has_measured(tmp_path: Path) -> None:
    mixture = spoiled()
    with pytest.raises(RowError):
        run(mixture, tmp_path, on_error="raise")
    assert look(mixture, tmp_path)["digits.label"].rows_out == NUM_ROWS  # it was fitted


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"format":1,"fie', id="cut off"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[1]", id="no record"),
        pytest.param(b'{"format":1}', id="nothing in it"),
        pytest.param(
            b'{"format":2,"fields":["calls"],"measures":{"NODE":{"PLACE":[9]}}}', id="newer"
        ),
        pytest.param(
            b'{"format":1,"fields":["calls"],"measures":{"NODE":{"PLACE":["9"]}}}', id="text"
        ),
        pytest.param(
            b'{"format":1,"fields":["calls"],"measures":{"NODE":{"PLACE":[9,9]}}}', id="long"
        ),
        pytest.param(b'{"format":1,"fields":["calls"],"measures":{"NODE":[9]}}', id="other form"),
        pytest.param(b'{"format":1,"fields":["calls"],"measures":{"x":{"y":[9]}}}', id="foreign"),
    ],
)
def test_a_file_that_tells_nothing_is_passed_over(digits_dir: Path, content: bytes) -> None:
    before = look(digits_mixture(), digits_dir)
    (written,) = (digits_dir / "measures").iterdir()
    node, places = next(iter(json.loads(written.read_bytes())["measures"].items()))
    content = content.replace(b"NODE", node.encode()).replace(b"PLACE", min(places).encode())
    later = digits_dir / "measures" / "99991231T235959.000000Z-1.json"
    later.write_bytes(content)
    try:
        assert look(digits_mixture(), digits_dir) == before
    finally:
        later.unlink()


def test_figures_that_are_not_known_here_are_passed_over(digits_dir: Path) -> None:
    before = look(digits_mixture(), digits_dir)
    (path,) = (digits_dir / "measures").iterdir()
    content = path.read_bytes()
    record = json.loads(content)
    assert record["fields"] == list(FIELDS)
    record["fields"] += ["joules"]
    for places in record["measures"].values():
        for row in places.values():
            row += [3.5]
    path.write_bytes(json.dumps(record).encode())
    try:
        assert look(digits_mixture(), digits_dir) == before
    finally:
        path.write_bytes(content)


def test_a_store_without_measures_is_whole(tmp_path: Path) -> None:
    run(digits_mixture(), tmp_path)
    before = tree(tmp_path)
    for path in (tmp_path / "measures").iterdir():
        path.unlink()
    assert look(digits_mixture(), tmp_path) == {}
    assert run(digits_mixture(), tmp_path).partitions == 0
    assert tree(tmp_path) == before
