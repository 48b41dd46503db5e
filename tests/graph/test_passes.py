"""Each pass on graphs that can be read: text in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from textwrap import dedent

import pytest

from taskloom.graph.errors import PlanError
from taskloom.graph.graph import Graph
from taskloom.graph.node import Node
from taskloom.graph.passes.cut import cut
from taskloom.graph.passes.fold import fold
from taskloom.graph.passes.merge import merge
from taskloom.graph.passes.prune import prune
from taskloom.graph.passes.segment import segment
from taskloom.graph.passes.weigh import Size, weigh
from taskloom.graph.type import Type

from .ops import CATALOGUE
from .short import read_short, write_segments, write_short, write_stages

TWO_SIDED = """
%1 = read_columns column="image" over photos at t.image
%2 = decode_images (data=%1) at t.image/decode
%3 = resize_images size=8 (images=%2) at t.image/resize
%4 = make_texts text="what?" at t.text@1
%5 = encode_texts (texts=%4) at t.text@1/encode
%6 = read_columns column="label" over photos at t.label
%7 = encode_texts (texts=%6) at t.label/encode
%8 = compose_documents (source.0=%3, source.1=%5, target.0=%7) at t/document
%9 = pack_documents (t=%8) at pack
%10 = embed_tokens width=4 (ids=%9) in vocabulary at embed
output hidden %10
"""


def text(graph: str) -> str:
    """Return ``graph`` as `write_short` writes it, however it is indented."""
    return dedent(graph).strip() + "\n"


def seven_eight(_: Graph, node: Node) -> Sequence[int] | None:
    return (7, 8) if node.op == "encode_texts" else None


def cut_text(graph: str, persist: Sequence[str] = ()) -> str:
    read = read_short(graph)
    return write_stages(read, cut(read, CATALOGUE, persist))


def segment_text(graph: str) -> str:
    read = read_short(graph)
    return write_segments(read, segment(read, cut(read, CATALOGUE), CATALOGUE))


def test_the_short_form_is_read_as_it_is_written() -> None:
    assert write_short(read_short(TWO_SIDED)) == text(TWO_SIDED)


def test_prune_drops_what_no_output_needs() -> None:
    graph = """
        %1 = read_columns column="a" over rows
        %2 = read_columns column="b" over rows
        %3 = encode_texts (texts=%1)
        %4 = encode_texts (texts=%2)
        output ids %4
    """
    after = """
        %1 = read_columns column="b" over rows
        %2 = encode_texts (texts=%1)
        output ids %2
    """
    assert write_short(prune(read_short(graph))) == text(after)


def test_fold_puts_ids_in_place_of_plain_text() -> None:
    before = """
        %1 = make_texts text="what?" at t.text@1
        %2 = encode_texts (texts=%1) at t.text@1/encode
        %3 = read_columns column="label" over photos at t.label
        %4 = encode_texts (texts=%3) at t.label/encode
        %5 = compose_documents (source.0=%2, target.0=%4) at t/document
        output document %5
    """
    after = """
        %1 = make_texts text="what?" at t.text@1
        %2 = make_ids ids=[7, 8] at t.text@1/encode
        %3 = read_columns column="label" over photos at t.label
        %4 = encode_texts (texts=%3) at t.label/encode
        %5 = compose_documents (source.0=%2, target.0=%4) at t/document
        output document %5
    """
    assert write_short(fold(read_short(before), CATALOGUE, seven_eight)) == text(after)


def test_fold_makes_one_constant_of_texts_that_have_the_same_ids() -> None:
    before = """
        %1 = make_texts text="A" at a.text@0
        %2 = encode_texts (texts=%1) at a.text@0/encode
        %3 = make_texts text="a" at b.text@0
        %4 = encode_texts (texts=%3) at b.text@0/encode
        %5 = compose_documents (source.0=%2, source.1=%4)
        output document %5
    """
    after = """
        %1 = make_ids ids=[7, 8] at a.text@0/encode, b.text@0/encode
        %2 = compose_documents (source.0=%1, source.1=%1)
        output document %2
    """
    assert write_short(prune(fold(read_short(before), CATALOGUE, seven_eight))) == text(after)


def test_fold_leaves_what_is_not_known_yet() -> None:
    graph = read_short(TWO_SIDED)
    assert fold(graph, CATALOGUE, lambda _graph, _node: None) is graph


def test_fold_changes_the_key_of_no_stored_column() -> None:
    before = read_short(TWO_SIDED)
    after = fold(before, CATALOGUE, seven_eight)
    assert after != before
    assert set(cut(before, CATALOGUE).stored) == set(cut(after, CATALOGUE).stored)


def test_merge_joins_what_a_replacement_makes_equal_and_keeps_both_addresses() -> None:
    before = read_short(
        """
        %1 = make_texts text="yes" at a.text@0
        %2 = make_texts text="no" at b.text@0
        %3 = encode_texts (texts=%1) at a.text@0/encode
        %4 = encode_texts (texts=%2) at b.text@0/encode
        output a %3
        output b %4
        """
    )
    yes, no = before["a.text@0"], before["b.text@0"]
    after = """
        %1 = make_texts text="yes" at a.text@0, b.text@0
        %2 = encode_texts (texts=%1) at a.text@0/encode, b.text@0/encode
        output a %2
        output b %2
    """
    assert write_short(merge(before, {no.id: replace(no, params=yes.params)})) == text(after)


def test_merge_without_replacements_leaves_every_node_the_very_same() -> None:
    graph = read_short(TWO_SIDED)
    merged = merge(graph)
    assert merged == graph
    assert all(one is other for one, other in zip(merged, graph, strict=True))


def test_cut_stores_what_crosses_to_the_loader_and_no_constant() -> None:
    assert cut_text(TWO_SIDED) == text(
        """
        offline %1 %2 %3 %4 %5 %6 %7
        online %8 %9
        device %10
        store %3: the loader reads it; 192 bytes a row as uint8
        store %7: the loader reads it; ~64 bytes a row as uint16
        """
    )


def test_cut_runs_random_ops_and_what_follows_online() -> None:
    graph = """
        %1 = read_columns column="label" over letters
        %2 = encode_texts (texts=%1)
        %3 = mask_tokens (ids=%2)
        %4 = compose_documents (source.0=%3)
        output document %4
    """
    assert cut_text(graph) == text(
        """
        offline %1 %2
        online %3 %4
        store %2: mask_tokens draws anew in every epoch; ~64 bytes a row as uint16
        """
    )


SCALED = """
    %1 = read_columns column="image" over photos at t.image
    %2 = decode_images (data=%1) at t.image/decode
    %3 = resize_images size=8 (images=%2) at t.image/resize
    %4 = scale_images size=8 (images=%3) at t.image/scale
    %5 = compose_documents (source.0=%4) at t/document
    output document %5
"""


def test_cut_stores_the_pixels_before_a_cast_to_floats() -> None:
    assert cut_text(SCALED) == text(
        """
        offline %1 %2 %3
        online %4 %5
        store %3: scale_images makes 768 bytes of it, cheaply, in every epoch; 192 bytes a row as uint8
        """
    )


def test_persist_overrides_what_the_cut_weighs() -> None:
    assert cut_text(SCALED, persist=["t.image/scale"]) == text(
        """
        offline %1 %2 %3 %4
        online %5
        store %4: the loader reads it; 768 bytes a row as float32
        """
    )


def test_a_cast_that_something_offline_reads_stays_offline() -> None:
    graph = """
        %1 = read_columns column="image" over photos
        %2 = decode_images (data=%1)
        %3 = resize_images size=8 (images=%2)
        %4 = scale_images size=8 (images=%3)
        output pixels %4
    """
    assert cut_text(graph) == text("offline %1 %2 %3 %4")


def test_cut_stores_what_persist_asks_for() -> None:
    assert "store %2: asked for by persist; ~921,600 bytes a row as uint8" in cut_text(
        TWO_SIDED, persist=["t.image/decode"]
    )


@pytest.mark.parametrize(
    ("address", "code"), [("embed", "T0214"), ("t/document", "T0214"), ("nowhere", "T0203")]
)
def test_cut_refuses_to_persist_what_cannot_be_stored(address: str, code: str) -> None:
    with pytest.raises(PlanError, match=rf'(?s){code}.*"{address}"'):
        cut_text(TWO_SIDED, persist=[address])


MASKED = """
    %1 = read_columns column="label" over letters
    %2 = encode_texts (texts=%1)
    %3 = mask_tokens (ids=%2) at t.label/mask
    %4 = spell_ids (ids=%3) at t.label/spell
    output spelled %4
"""


def test_nothing_is_learned_from_what_draws_anew() -> None:
    with pytest.raises(PlanError, match=r"T0242.*words learns from t\.label/spell"):
        cut_text(MASKED.replace("output spelled %4", "%5 = fit_words (texts.0=%4) at words"))


@pytest.mark.parametrize("address", ["t.label/mask", "t.label/spell"])
def test_nothing_that_draws_anew_is_stored(address: str) -> None:
    with pytest.raises(PlanError, match=rf'T0242.*"{address}" is drawn anew in every epoch'):
        cut_text(MASKED, persist=[address])


@pytest.mark.parametrize(
    ("type_", "size"),
    [
        pytest.param("image<uint8[8,8,3] dense>@host/r", Size(192, is_exact=True), id="pixels"),
        pytest.param("image<float32[8,8,3] dense>@host/r", Size(768, is_exact=True), id="floats"),
        pytest.param("split<uint8[] scalar>@host/r", Size(1, is_exact=True), id="number"),
        pytest.param("keep<bool[] scalar>@host/r", Size(1, is_exact=True), id="boolean"),
        pytest.param("text<uint16[T] ragged>@host/r", Size(64, is_exact=False), id="ids"),
        pytest.param(
            "image<uint8[H,W,3] ragged>@host/r", Size(921_600, is_exact=False), id="any size"
        ),
        pytest.param("any<string[] scalar>@host/r", Size(64, is_exact=False), id="text"),
        pytest.param(
            "any<large_binary[] scalar>@host/r", Size(100_000, is_exact=False), id="bytes"
        ),
        pytest.param(
            "any<struct<a: int64>[] scalar>@host/r", Size(1_000, is_exact=False), id="something"
        ),
    ],
)
def test_what_a_type_says_is_exact_and_the_rest_guessed(type_: str, size: Size) -> None:
    assert weigh(Type.parse(type_)) == size


def test_reasons_count_the_rows_that_are_known_and_prefer_what_was_measured() -> None:
    graph = read_short(TWO_SIDED)
    done = cut(graph, CATALOGUE)
    label = next(value for value in done.stored if graph.nodes[value.node].op == "encode_texts")
    told = [*done.reasons({"photos": 2_000}).values()]
    assert told == [
        "the loader reads it; 192 bytes a row as uint8, 375 KiB in 2,000 rows",
        "the loader reads it; ~64 bytes a row as uint16, ~125 KiB in 2,000 rows",
    ]
    measured = done.reasons({"photos": 2_000}, {label: Size(7, is_exact=True)})[label]
    assert measured == "the loader reads it; 7 bytes a row as uint16, 13.7 KiB in 2,000 rows"


def test_segments_are_the_unconnected_chains_of_a_source() -> None:
    assert segment_text(TWO_SIDED) == text(
        """
        photos in a process: %1 %2 %3 -> %3
        photos in a thread: %6 %7 -> %7
        """
    )


def test_chains_that_share_a_column_are_one_segment() -> None:
    graph = """
        %1 = read_columns column="label" over letters
        %2 = encode_texts size=1 (texts=%1)
        %3 = encode_texts size=2 (texts=%1)
        %4 = compose_documents (source.1=%2, source.2=%3)
        output document %4
    """
    assert segment_text(graph) == "letters in a thread: %1 %2 %3 -> %2 %3\n"


def test_a_segment_holds_the_fit_that_it_reads_and_not_what_the_fit_learns_from() -> None:
    graph = """
        %1 = read_columns column="label" over letters
        %2 = read_columns column="title" over photos
        %3 = fit_words (texts.0=%1, texts.1=%2)
        %4 = look_up_words (texts=%1, words=%3)
        %5 = compose_documents (source.0=%4)
        output document %5
    """
    assert segment_text(graph) == "letters in a thread: %1 %3 %4 -> %4\n"
