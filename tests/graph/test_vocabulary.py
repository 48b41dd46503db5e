"""Ids keep their meaning: blocks have their order, and rows are found by what they stand for."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import (
    SPECIAL,
    Block,
    Vocabulary,
    find_rows,
    read_symbols,
    write_symbols,
)

names = st.sampled_from(["text", "code", "bin", "phone", "mask"])
blocks = st.lists(
    st.builds(Block, names, st.integers(1, 6)), unique_by=lambda block: block.name, max_size=5
)


@given(blocks, st.integers(1, 6))
def test_a_block_that_is_appended_moves_no_id(listed: list[Block], size: int) -> None:
    vocabulary = Vocabulary.of(listed)
    longer = Vocabulary((*vocabulary.blocks, Block("last", size)))
    assert longer.places[: vocabulary.size] == vocabulary.places
    assert all(longer.offset(block.name) == vocabulary.offset(block.name) for block in listed)


@given(blocks, blocks)
def test_every_id_finds_the_row_of_its_place_or_none(was: list[Block], now: list[Block]) -> None:
    before, after = Vocabulary.of(was), Vocabulary.of(now)
    rows = find_rows(before.places, after.places)
    assert len(rows) == after.size
    for place, row in zip(after.places, rows, strict=True):
        assert before.places[row] == place if row >= 0 else place not in before.places
    found = [row for row in rows if row >= 0]
    assert len(found) == len({*found})


@given(blocks, st.randoms(use_true_random=False))
def test_places_are_those_that_their_symbols_are_read_as(
    listed: list[Block], random: Random
) -> None:
    places = Vocabulary.of(listed).places
    random.shuffle(places)
    symbols = write_symbols(places)
    assert len({*symbols}) == len(symbols)
    assert read_symbols(symbols) == places


@given(blocks, st.randoms(use_true_random=False))
def test_symbols_in_any_order_have_the_places_of_their_blocks(
    listed: list[Block], random: Random
) -> None:
    places = [place for place in Vocabulary.of(listed).places if place[0] != SPECIAL]
    random.shuffle(places)
    symbols = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *(f"<{block}>_{number}" for block, number in places),
    ]
    assert read_symbols(symbols) == [*((SPECIAL, number) for number in range(4)), *places]


def test_symbols_without_a_number_stand_behind_their_block() -> None:
    symbols = [
        "<text>_7",
        "<text>_madeupword0000",
        "<mask>",
        "<phone>_dict_begin",
        "<text>_b",
        "<bin>_0",
    ]
    assert read_symbols(symbols) == [
        ("text", 7),
        ("text", 8),
        ("mask", 0),
        ("phone", 0),
        ("text", 9),
        ("bin", 0),
    ]


@pytest.mark.parametrize("symbol", ["word", "<text", "", "<s> "])
def test_what_is_no_symbol_is_refused(symbol: str) -> None:
    with pytest.raises(PlanError, match="symbol 1 of the dictionary"):
        read_symbols(["<s>", symbol])


def test_a_symbol_that_is_there_twice_is_refused() -> None:
    with pytest.raises(PlanError, match="<text>_1 twice"):
        read_symbols(["<s>", "<text>_1", "<text>_0", "<text>_1"])
