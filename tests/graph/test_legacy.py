"""Legacy spellings mean what was meant, are warned of with ours, and are printed as ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest

from taskloom.graph.attribute import Attribute
from taskloom.graph.instruction import parse_instruction
from taskloom.graph.legacy import (
    LEGACY_ATTRIBUTES,
    LEGACY_MODALITIES,
    PROBLEMS,
    SILENT_ATTRIBUTES,
)
from taskloom.graph.modality import MODALITIES, Modality

PAGE = Path(__file__).parents[2] / "docs/language.md"

# Each case: text, ours, and for each warning its code, what is underlined, and the help.
LEGACY = [
    pytest.param(
        "[IMAGE:a,adaptor=image_vit] ->",
        "[IMAGE:a,adapter=image_vit] ->",
        [("T0125", "adaptor", "write adapter")],
        id="adaptor",
    ),
    pytest.param(
        "-> [IMAGE,preprocessor=image_vqgan,adaptor=image_vqgan]",
        "-> [IMAGE:image,preprocess=image_vqgan,adapter=image_vqgan]",
        [
            ("T0125", "preprocessor", "write preprocess"),
            ("T0125", "adaptor", "write adapter"),
        ],
        id="preprocessor",
    ),
    pytest.param(
        "-> [TEXT:a,is_label]",
        "-> [TEXT:a,closed_set]",
        [("T0125", "is_label", "write closed_set")],
        id="is_label",
    ),
    pytest.param(
        "-> [TEXT:a, add_bos , uncased, add_eos]",
        "-> [TEXT:a,uncased]",
        [
            ("T0126", "add_bos", "drop it: there is always a BOS, save with disable_auto_boseos"),
            ("T0126", "add_eos", "drop it: there is always an EOS, save with disable_auto_boseos"),
        ],
        id="add_bos",
    ),
    pytest.param(
        "[BOUNDING_BOX] -> [[ BOUNDING_BOX :b] [TEXT:t]]*",
        "[BOX:box] -> [[BOX:b] [TEXT:t]]*",
        [("T0127", "BOUNDING_BOX", "write BOX")] * 2,
        id="BOUNDING_BOX",
    ),
]


@pytest.mark.parametrize(("text", "ours", "expected"), LEGACY)
def test_a_legacy_spelling_is_warned_of_and_printed_as_ours(
    text: str, ours: str, expected: list[tuple[str, str, str]]
) -> None:
    instruction = parse_instruction(text, label="t:1")
    assert str(instruction) == ours
    assert instruction == parse_instruction(ours)
    assert not parse_instruction(ours).warnings
    told = [
        (w.code, site.text[site.span.start : site.span.stop], w.help)
        for w in instruction.warnings
        for site in w.sites
    ]
    assert told == expected
    for warning in instruction.warnings:
        assert str(warning).startswith(f"warning[{warning.code}]: ")
        assert "  --> t:1\n" in str(warning)


def test_every_code_of_the_table_has_a_case() -> None:
    cases = cast("list[list[tuple[str, str, str]]]", [case.values[2] for case in LEGACY])
    codes = {code for case in cases for code, _, _ in case}
    assert codes | {"T0128"} == set(PROBLEMS)


def test_a_legacy_attribute_and_ours_are_one_given_twice() -> None:
    with pytest.raises(ValueError, match=r'T0113.*"closed_set" is given twice'):
        parse_instruction("-> [TEXT:a,is_label,closed_set]")


def test_an_attribute_of_a_recipe_may_have_a_legacy_name() -> None:
    own = Modality.of("POSE", [Attribute("adaptor", int)])
    instruction = parse_instruction("[POSE:a,adaptor=3] ->", modalities={"POSE": own})
    assert (instruction.slots[0].values, instruction.warnings) == ({"adaptor": 3}, ())


def test_a_legacy_modality_is_unknown_where_ours_is() -> None:
    with pytest.raises(ValueError, match="T0103"):
        parse_instruction("[BOUNDING_BOX:a] ->", modalities={"TEXT": MODALITIES["TEXT"]})


def test_the_page_of_the_language_lists_the_legacy_spellings() -> None:
    _, _, table = PAGE.read_text("utf-8").partition("| legacy | ours |")
    rows = re.findall(r"^\| `(\w+)` \| `?(\w+)`? \|$", table.partition("\n\n")[0], re.MULTILINE)
    nothing = dict.fromkeys(SILENT_ATTRIBUTES, "nothing")
    assert dict(rows) == {**LEGACY_ATTRIBUTES, **nothing, **LEGACY_MODALITIES}
