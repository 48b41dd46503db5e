"""An instruction says what it says: what parses prints and parses again, what does not is pointed at."""

from __future__ import annotations

import pickle
import re
import time
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.errors import InstructionError, Site
from taskloom.graph.instruction import (
    MODALITIES,
    Contrast,
    GivenAttribute,
    Group,
    Instruction,
    Item,
    Slot,
    Text,
    parse_instruction,
)
from taskloom.graph.syntax import AttributeValue

OFASYS_SLOT = re.compile(
    r"\[(TEXT|IMAGE|BOX|AUDIO|MOTION|PHONE|VIDEO|STRUCT|CATEGORY)"
    r"(?::([_A-Za-z0-9]+))?(?:,([_A-Za-z0-9,.=]+))?\]"
)
"""The slots of OFASys, ``preprocessor/instruction.py``."""

OFASYS_TEMPLATES = (
    "[IMAGE:img] what does the image describe? -> [TEXT:cap]",
    "[IMAGE:image] [TEXT:question] -> [TEXT:answer,closed_set]",
    '[IMAGE:img] can image and text1 " [TEXT:cap] " imply text2 " [TEXT:hyp] "? -> [IMAGE:img,no_loss] '
    'can image and text1 " [TEXT:cap,no_loss] " imply text2 " [TEXT:hyp,no_loss] "? '
    "[TEXT:label,closed_set]",
    'what is the summary of article " [TEXT:src] "? -> [TEXT:tgt,noise_ratio=0.2]',
    'what is the complete text of " [TEXT:text,mask_ratio=0.3] "? -> [TEXT:text]',
    "[IMAGE:image,preprocess=imagenet] what does the image describe? -> [TEXT:label_name,closed_set]",
    'what is the complete image? caption: [TEXT:text]"? -> '
    "[IMAGE,preprocess=image_vqgan,adaptor=image_vqgan]",
    "[VIDEO:video] [TEXT:question] -> [TEXT:answer,is_label]",
    "[AUDIO:wav] what is the text corresponding to the voice? -> [TEXT:text,preprocess=text_phone]",
    '" [TEXT:src] " ; structured knowledge: " [STRUCT:database,max_length=876] " . generating sql code. '
    "-> [TEXT:tgt]",
    "motion capture: [TEXT:text] -> [MOTION:bvh_frames,preprocess=motion_6d,adaptor=motion_6d]",
    "-> [TEXT:text]",
)

modalities = st.sampled_from(MODALITIES)
names = st.from_regex(r"[A-Za-z0-9_]{1,6}", fullmatch=True)
values: st.SearchStrategy[AttributeValue] = st.one_of(
    st.just(value=True),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(alphabet='ab0.-+e/:_ ,=[]()|"\\\n\t>é', max_size=8),
)
# Parentheses and bars mean something only to their neighbours; the test of raw lines is about them.
texts = st.text(alphabet=' ab[]\\->,:="*é', max_size=8).map(str.strip).filter(bool).map(Text)
texts_in_brackets = texts.filter(lambda text: '"' not in text.text)
attributes = st.lists(
    st.builds(GivenAttribute, names, values), max_size=3, unique_by=lambda given: given.key
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

BRACKETS = ["[TEXT:a]", "[IMAGE]", "[BOX:b,x", "[A:a]", "[TEXT,x=1]", "[]", "[", "]", "]*", "|"]
OTHERS = ["(", ")", ")*", "->", "|||", "{2}", "\\[", "\\->", "\\", '="', *'" *?+=,a:\n']
pieces = st.sampled_from(BRACKETS + OTHERS)
lines = st.lists(pieces, max_size=16).map("".join)


@given(instructions)
def test_canonical_text_parses_back_to_an_equal_tree(instruction: Instruction) -> None:
    returned = parse_instruction(str(instruction))
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
    parsed = parse_instruction(f"  {instruction} ")
    for item in (*parsed.source, *parsed.target):
        assert parsed.text[item.span.start : item.span.stop] == str(item)
    for slot in parsed.slots:
        assert parsed.text[slot.name_span.start : slot.name_span.stop] == slot.name
        for attribute in slot.attributes:
            assert parsed.text[attribute.span.start : attribute.span.stop] == str(attribute)


@given(
    modalities,
    st.none() | names,
    st.lists(st.from_regex(r"[a-z_]{1,4}(=[A-Za-z0-9_.]+)?", fullmatch=True), max_size=3),
)
def test_slots_are_those_of_ofasys(modality: str, name: str | None, given: list[str]) -> None:
    given = list({attribute.partition("=")[0]: attribute for attribute in given}.values())
    text = f"[{','.join([modality + (f':{name}' if name else ''), *given])}] ->"
    match = OFASYS_SLOT.match(text)
    assert match is not None
    (slot,) = parse_instruction(text).slots
    assert (slot.modality, slot.name) == (match[1], match[2] or modality.lower())
    assert list(slot.values) == [attribute.partition("=")[0] for attribute in given]


@pytest.mark.parametrize("text", OFASYS_TEMPLATES)
def test_templates_of_ofasys_give_their_slots(text: str) -> None:
    parsed = [(slot.modality, slot.span.start) for slot in parse_instruction(text).slots]
    assert parsed == [(match[1], match.start()) for match in OFASYS_SLOT.finditer(text)]


def test_a_slot_knows_its_side_its_values_and_its_place() -> None:
    text = '[IMAGE:img,size=64] where is [TEXT : query , x="a]\\"b" , y = -1.5]? -> [BOX:region,flag,z=a/b]'
    instruction = parse_instruction(text, label="ground:1")
    image, query, region = instruction.slots
    assert (instruction.sources, instruction.targets) == ((image, query), (region,))
    assert (image.is_source, region.is_source) == (True, False)
    assert image.values == {"size": 64}
    assert query.values == {"x": 'a]"b', "y": -1.5}
    assert region.values == {"flag": True, "z": "a/b"}
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
    instruction = parse_instruction('[TEXT:a,x="b"] | ([BOX:b])* -> [[TEXT:a]|[IMAGE]]')
    assert pickle.loads(pickle.dumps(instruction)) == instruction
    assert hash(pickle.loads(pickle.dumps(instruction))) == hash(instruction)


def test_a_thousand_instructions_parse_in_a_third_of_a_second() -> None:
    text = "[IMAGE:image{}] [TEXT:question,max_length=20] what (exactly) is it? -> [TEXT:answer,closed_set]"
    seconds: list[float] = []
    for _ in range(3):
        start = time.process_time()
        for number in range(1000):
            parse_instruction(text.format(number))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3
