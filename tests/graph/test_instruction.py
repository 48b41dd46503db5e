"""An instruction says what it says: what parses prints and parses again, what does not is pointed at."""

from __future__ import annotations

import pickle
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.attribute import Attribute
from taskloom.graph.errors import InstructionError, Site
from taskloom.graph.instruction import (
    Contrast,
    GivenAttribute,
    Group,
    Instruction,
    Item,
    Slot,
    Text,
    parse_instruction,
)
from taskloom.graph.modality import MODALITIES, Modality
from taskloom.graph.syntax import AttributeValue

FREE = {
    name: Modality.of(
        name,
        [
            Attribute("flag", bool),
            Attribute("count", int),
            Attribute("share", float),
            Attribute("word", str),
            Attribute("x9", str),
        ],
    )
    for name in MODALITIES
}
"""The modalities with an attribute of each type, which takes any value."""

modalities = st.sampled_from(list(MODALITIES))
names = st.from_regex(r"[A-Za-z0-9_]{1,6}", fullmatch=True)
words = st.text(alphabet='ab0.-+e/:_ ,=[]()|"\\\n\t>é', max_size=8)
values: dict[str, st.SearchStrategy[AttributeValue]] = {
    "flag": st.just(value=True),
    "count": st.integers(-(1 << 63), (1 << 63) - 1),
    "share": st.floats(allow_nan=False, allow_infinity=False),
    "word": words,
    "x9": words,
}
# Parentheses and bars mean something only to their neighbours; the test of raw lines is about them.
texts = st.text(alphabet=' ab[]\\->,:="*é', max_size=8).map(str.strip).filter(bool).map(Text)
texts_in_brackets = texts.filter(lambda text: '"' not in text.text)
attributes = st.lists(
    st.sampled_from(list(values)).flatmap(
        lambda key: st.builds(GivenAttribute, st.just(key), values[key])
    ),
    max_size=3,
    unique_by=lambda given: given.key,
).map(tuple)


def slots(*, is_source: bool) -> st.SearchStrategy[Slot]:
    """Slots whose names tell their modalities, so that no two of them disagree."""

    def name(slot: Slot) -> Slot:
        return Slot(
            modality=slot.modality,
            name=f"{slot.modality}_{slot.name}",
            is_source=is_source,
            attributes=slot.attributes,
        )

    return st.builds(
        Slot, modality=modalities, name=names, is_source=st.just(is_source), attributes=attributes
    ).map(name)


def separate(items: list[Any]) -> tuple[Any, ...]:
    """Drop each text that follows a text: such two would be one."""
    return tuple(
        item
        for item, last in zip(items, [None, *items], strict=False)
        if not (isinstance(item, Text) and isinstance(last, Text))
    )


def groups(*, is_source: bool) -> st.SearchStrategy[Group]:
    def in_bracket(bracket: str) -> st.SearchStrategy[Group]:
        inside = texts if bracket == "(" else texts_in_brackets
        items = st.lists(st.one_of(inside, slots(is_source=is_source)), min_size=1, max_size=4)
        has_slot = items.map(separate).filter(lambda i: any(isinstance(x, Slot) for x in i))
        return st.builds(Group, items=has_slot, bracket=st.just(bracket))

    return st.one_of(in_bracket("("), in_bracket("["))


def sides(*, is_source: bool) -> st.SearchStrategy[tuple[Item, ...]]:
    slot = slots(is_source=is_source)
    pair = st.builds(Contrast, left=slot, right=slot)
    item = st.one_of(texts, slot, groups(is_source=is_source), pair)
    return st.lists(item, max_size=4).map(separate)


instructions = st.builds(
    Instruction, source=sides(is_source=True), target=sides(is_source=False)
).filter(lambda instruction: bool(instruction.source or instruction.target))

BRACKETS = [
    "[TEXT:a]",
    "[IMAGE]",
    "[BOX:b,no_loss",
    "[A:a,b]",
    "[TEXT,max_length=1]",
    "[]",
    "[",
    "]",
    "]*",
    "|",
]
OTHERS = ["(", ")", ")*", "->", "|||", "{2}", "\\[", "\\->", "\\", '="', *'" *?+=,a:\n']
pieces = st.sampled_from(BRACKETS + OTHERS)
lines = st.lists(pieces, max_size=16).map("".join)


@given(instructions)
def test_canonical_text_parses_back_to_an_equal_tree(instruction: Instruction) -> None:
    returned = parse_instruction(str(instruction), modalities=FREE)
    assert returned == instruction
    assert str(returned) == str(instruction)
    # 1 == 1.0 == True, so equal trees may still differ in types.
    given = [slot.values for slot in instruction.slots]
    assert repr([slot.values for slot in returned.slots]) == repr(given)


@given(st.one_of(lines, st.tuples(lines, lines).map(" -> ".join), st.text()))
def test_any_line_parses_and_prints_or_is_refused_in_order(line: str) -> None:
    try:
        instruction = parse_instruction(line)
    except InstructionError as error:
        sites = [problem.sites[0] for problem in error.problems]
        is_printable = all(len(site.text.splitlines()) <= 1 for site in sites)
        is_in_order = [site.span for site in sites] == sorted(site.span for site in sites)
    else:
        is_printable = is_in_order = parse_instruction(str(instruction)) == instruction
    assert is_printable
    assert is_in_order


@given(instructions)
def test_spans_cut_each_item_out_of_the_text(instruction: Instruction) -> None:
    parsed = parse_instruction(f"  {instruction} ", modalities=FREE)
    for item in (*parsed.source, *parsed.target):
        assert parsed.text[item.span.start : item.span.stop] == str(item)
    for slot in parsed.slots:
        assert parsed.text[slot.name_span.start : slot.name_span.stop] == slot.name
        for attribute in slot.attributes:
            assert parsed.text[attribute.span.start : attribute.span.stop] == str(attribute)


def test_a_slot_knows_its_side_its_values_and_its_place() -> None:
    text = (
        '[IMAGE:img,count=64] where is [TEXT : query , word="a]\\"b" , share = -1.5]? '
        "-> [BOX:region,flag,word=a/b]"
    )
    instruction = parse_instruction(text, label="ground:1", modalities=FREE)
    image, query, region = instruction.slots
    assert (instruction.sources, instruction.targets) == ((image, query), (region,))
    assert (image.is_source, region.is_source) == (True, False)
    assert image.values == {"count": 64}
    assert query.values == {"word": 'a]"b', "share": -1.5}
    assert region.values == {"flag": True, "word": "a/b"}
    assert instruction.site(image.name_span) == Site("ground:1", text, image.name_span)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("what (exactly) is it?", "what (exactly) is it?", id="parentheses"),
        pytest.param("a  b", "a  b", id="inner spaces"),
        pytest.param("  a  ", "a", id="outer spaces"),
        pytest.param(r"\[IMAGE:img\]", "[IMAGE:img]", id="brackets"),
        pytest.param(r"a \-> b", "a -> b", id="arrow"),
        pytest.param(r"\\[TEXT:b]", "\\", id="backslash before a slot"),
        pytest.param("a - > b > c | d || e * (f)* (g)+", None, id="marks that mean nothing here"),
        pytest.param('say "x', 'say "x', id="quotes are text outside slots"),
    ],
)
def test_plain_text_is_unescaped_and_stripped(text: str, expected: str | None) -> None:
    assert parse_instruction(f"{text} [TEXT:a] ->").source[0] == Text(expected or text)


def test_groups_and_pairs_are_nodes_of_the_tree() -> None:
    boxes = Slot(modality="BOX", name="boxes", is_source=False)
    label = Slot(modality="TEXT", name="label", is_source=False)
    text = (
        "-> (box (in px) [BOX:boxes] [TEXT:label])* [a: [BOX:boxes] ]* [[BOX:boxes]|[TEXT:label]]?"
    )
    instruction = parse_instruction(text)
    assert instruction.target == (
        Group(items=(Text("box (in px)"), boxes, label)),
        Group(items=(Text("a:"), boxes), bracket="["),
        Contrast(left=boxes, right=label),
        Text("?"),
    )
    assert instruction.slots == (boxes, label, boxes, boxes, label)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[IMAGE] [IMAGE] -> [TEXT]", ["image", "image_2", "text"]),
        ("[IMAGE] -> [IMAGE:image] [IMAGE:image_2]", ["image_3", "image", "image_2"]),
        ("[IMAGE] -> [TEXT:image]", ["image_2", "image"]),
        ("([BOX] [TEXT])* ->", ["box", "text"]),
    ],
)
def test_slots_without_a_name_meet_no_other_slot(text: str, expected: list[str]) -> None:
    assert [slot.name for slot in parse_instruction(text).slots] == expected


def test_one_column_may_stand_on_both_sides() -> None:
    source, target = parse_instruction("[TEXT:text,mask_ratio=0.3] -> [TEXT:text]").slots
    assert (source.name, source.values, target.values) == ("text", {"mask_ratio": 0.3}, {})


def test_a_line_break_at_the_end_is_no_part_of_the_text() -> None:
    assert parse_instruction("\n [TEXT:a] ->\r\n").text == "[TEXT:a] ->"


def test_instructions_cross_process_boundaries() -> None:
    text = "[TEXT:a,uncased] | ([BOX:b])* -> [[TEXT:a,is_label]|[IMAGE]]"
    instruction = parse_instruction(text)
    assert pickle.loads(pickle.dumps(instruction)) == instruction
    assert pickle.loads(pickle.dumps(instruction)).warnings == instruction.warnings
    assert hash(pickle.loads(pickle.dumps(instruction))) == hash(instruction)
