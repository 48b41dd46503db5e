"""The language knows what slots may hold and have; recipes carry some of it out, and may add to it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from taskloom.graph.attribute import Attribute
from taskloom.graph.errors import InstructionError, PlanError, Problem
from taskloom.graph.instruction import Slot, parse_instruction
from taskloom.graph.modality import MODALITIES, Modality, extend
from taskloom.graph.resolve import fill_defaults, resolve_attributes
from taskloom.graph.syntax import AttributeValue

TEXT = MODALITIES["TEXT"]
PAGE = Path(__file__).parents[2] / "docs/language.md"

OFASYS_ATTRIBUTES = {
    "preprocess": set(MODALITIES),
    "adapter": set(MODALITIES),
    "no_loss": set(MODALITIES),
    "max_length": {"TEXT", "STRUCT", "MOTION"},
    "min_length": {"MOTION"},
    "uncased": {"TEXT", "STRUCT", "CATEGORY"},
    "no_punctuation": {"TEXT", "STRUCT", "CATEGORY"},
    "noise_ratio": {"TEXT", "STRUCT"},
    "mask_ratio": {"TEXT", "STRUCT", "PHONE", "IMAGE"},
    "closed_set": {"TEXT", "STRUCT"},
    "disable_auto_boseos": {"TEXT", "STRUCT", "BOX", "PHONE"},
    "length": {"IMAGE"},
    "n_frames_per_step": {"AUDIO"},
    "use_mask": {"AUDIO"},
    "sample_rate": {"MOTION"},
    "soft_trim": {"MOTION"},
    "window": {"MOTION"},
    "anchor_frame": {"MOTION"},
}
"""Every attribute that the code of OFASys reads, and the modalities whose slots may have it."""

OURS = {
    "size": {"IMAGE"},
    "patch": {"IMAGE"},
    "verbatim": {"TEXT"},
    "loss_weight": set(MODALITIES),
    # Settings of OFASys's preprocessors, of which each slot may have its own here.
    **{key: {"TEXT", "STRUCT"} for key in ("poisson_lambda", "replace_length", "random_ratio")},
}


def slot_of(text: str, modalities: dict[str, Modality] | None = None) -> Slot:
    (slot,) = parse_instruction(text, modalities=modalities or MODALITIES).slots
    return slot


def resolve(
    text: str, specs: tuple[Attribute, ...], **defaults: AttributeValue
) -> dict[str, AttributeValue] | Problem:
    """Return what the one slot of ``text`` resolves to, or the one thing that is wrong."""
    instruction = parse_instruction(text)
    (slot,) = instruction.slots
    try:
        full = fill_defaults(slot, defaults, specs)
        return resolve_attributes(full, specs, instruction.site(slot.span))
    except InstructionError as error:
        (problem,) = error.problems
        return problem


def refused(*found: object) -> Problem:
    (problem,) = found
    assert isinstance(problem, Problem), f"{problem} is not refused"
    return problem


def test_the_nine_modalities_of_ofasys_have_all_its_attributes_and_ours() -> None:
    having = {
        key: {name for name, modality in MODALITIES.items() if key in modality.attributes}
        for key in [key for modality in MODALITIES.values() for key in modality.attributes]
    }
    assert having == OFASYS_ATTRIBUTES | OURS
    assert len(MODALITIES) == 9


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=MODALITIES)
def test_every_attribute_says_in_one_sentence_what_it_does(modality: Modality) -> None:
    for key, attribute in modality.attributes.items():
        assert key == attribute.name
        assert re.fullmatch(r"[A-Z][^.]*\.", attribute.doc), attribute.doc


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=MODALITIES)
def test_every_default_and_choice_may_be_written(modality: Modality) -> None:
    for spec in modality.attributes.values():
        values = [*spec.choices, *([] if spec.default is None else [spec.default])]
        for value in values:
            written = f"{modality.name}:a,{spec.name}={value}"
            text = f"[{written}] ->" if spec.side == "source" else f"-> [{written}]"
            assert slot_of(text).values == {spec.name: value}


@pytest.mark.parametrize("key", ["closed_set", "no_loss", "loss_weight=2"])
def test_what_is_about_answers_belongs_to_target_slots(key: str) -> None:
    assert slot_of(f"-> [TEXT:a,{key}]").attributes
    with pytest.raises(InstructionError, match=r"T0215.*belongs to a target slot"):
        parse_instruction(f"[TEXT:a,{key}] ->")


@pytest.mark.parametrize("text", ["[TEXT:a,noise_ratio=0.2] ->", "-> [TEXT:a,noise_ratio=0.2]"])
def test_noise_may_be_added_to_what_is_read_on_either_side(text: str) -> None:
    assert slot_of(text).values == {"noise_ratio": 0.2}


# --- Recipes carry out some of it ---------------------------------------------------------


def test_a_recipe_carries_out_what_it_selects() -> None:
    specs = TEXT.select("uncased", "max_length", preprocess=("text",))
    assert resolve("[TEXT:a,uncased] ->", specs) == {"uncased": True}
    assert resolve("[TEXT:a,preprocess=text] ->", specs) == {"uncased": False, "preprocess": "text"}


def test_an_attribute_that_no_recipe_carries_out_is_refused_by_name() -> None:
    problem = refused(resolve("[TEXT:a,mask_ratio=0.3] ->", TEXT.select("uncased", "max_length")))
    assert problem.code == "T0124"
    assert problem.message == (
        "mask_ratio is understood, but the recipe of TEXT does not carry it out yet"
    )
    assert problem.help.startswith("it carries out: uncased, max_length\n")
    (site,) = problem.sites
    assert site.text[site.span.start : site.span.stop] == "mask_ratio=0.3"


def test_a_choice_that_no_recipe_carries_out_is_refused_by_name() -> None:
    specs = TEXT.select("uncased", preprocess=("text",))
    problem = refused(resolve("[TEXT:a,preprocess=text_phone] ->", specs))
    assert problem.code == "T0124"
    assert problem.message.startswith("preprocess=text_phone is understood")
    assert problem.help.startswith("it carries out: text\n")


def test_a_recipe_without_attributes_says_so() -> None:
    assert "it carries out: no attribute" in refused(resolve("[TEXT:a,uncased] ->", ())).help


def test_a_recipe_cannot_select_what_the_language_does_not_know() -> None:
    with pytest.raises(PlanError, match="did you mean uncased"):
        TEXT.select("uncasd")
    with pytest.raises(PlanError, match='no attribute "patch"'):
        TEXT.select(patch=("8",))


def test_defaults_fill_only_what_a_slot_does_not_say() -> None:
    specs = TEXT.select("uncased", "max_length")
    assert resolve("[TEXT:a,max_length=3] ->", specs, max_length=5, uncased=True) == {
        "uncased": True,
        "max_length": 3,
    }


def test_defaults_pass_over_slots_of_the_other_side() -> None:
    specs = TEXT.select("closed_set")
    assert resolve("-> [TEXT:a]", specs, closed_set=True) == {"closed_set": True}
    assert resolve("[TEXT:a] ->", specs, closed_set=True) == {"closed_set": False}


def test_defaults_are_checked_as_slots_are() -> None:
    specs = TEXT.select("max_length")
    assert refused(resolve("[TEXT:a] ->", specs, max_length=0)).code == "T0122"
    assert refused(resolve("[TEXT:a] ->", specs, mask_ratio=0.1)).code == "T0124"
    unknown = refused(resolve("[TEXT:a] ->", specs, max_lenght=1))
    assert (unknown.code, unknown.help) == ("T0120", "did you mean max_length?")


# --- Recipes add to it --------------------------------------------------------------------


def test_a_recipe_brings_its_modality_and_its_attributes() -> None:
    bins = Attribute("bins", int, low=2, doc="Classes of depth.")
    more = dict(extend(MODALITIES, {"DEPTH": [bins], "TEXT": TEXT.select("uncased")}))
    slot = slot_of("[DEPTH:d,bins=8] ->", more)
    assert (slot.modality, slot.values) == ("DEPTH", {"bins": 8})
    assert more["TEXT"] is TEXT
    with pytest.raises(InstructionError, match="did you mean DEPTH"):
        parse_instruction("[DEPHT:d] ->", modalities=more)
    with pytest.raises(InstructionError, match="T0103"):
        parse_instruction("[DEPTH:d] ->")


def test_a_recipe_adds_attributes_and_choices_to_a_modality_of_ofasys() -> None:
    own = (
        Attribute("joints", int, low=1),
        Attribute("adapter", str, choices=("pose_graph",)),
    )
    more = dict(extend(MODALITIES, {"MOTION": own}))
    text = "[MOTION:m,joints=4,adapter=pose_graph,window] ->"
    assert slot_of(text, more).values["joints"] == 4
    assert slot_of("[MOTION:m,adapter=motion_6d] ->", more).values == {"adapter": "motion_6d"}
    with pytest.raises(InstructionError, match="T0120"):
        parse_instruction("[MOTION:m,joints=4] ->")


def test_recipes_that_only_select_change_nothing() -> None:
    some = {"TEXT": TEXT.select("uncased", preprocess=("text",)), "BOX": ()}
    assert extend(MODALITIES, some) is MODALITIES


# --- The page about it --------------------------------------------------------------------


def write_tables() -> str:
    """Return the tables of docs/language.md: attributes of all modalities, then those of each."""
    first, *others = MODALITIES.values()
    common = {
        key: one
        for key, one in first.attributes.items()
        if all(other.attributes.get(key) == one for other in others)
    }
    parts = [f"### Every modality\n\n{_write_table(common.values())}"]
    for modality in MODALITIES.values():
        own = [one for key, one in modality.attributes.items() if key not in common]
        parts.append(f"### {modality.name}\n\n{modality.doc}\n\n{_write_table(own)}")
    return "\n\n".join(parts)


def _write_table(attributes: Iterable[Attribute]) -> str:
    head = ["| attribute | value | side | says |", "|---|---|---|---|"]
    return "\n".join(head + [_write_row(one) for one in attributes])


def _write_row(spec: Attribute) -> str:
    value = ", ".join(f"`{choice}`" for choice in spec.choices) or f"{spec.kind} {spec.range}"
    default = "" if spec.default is None else f"; {spec.default} by default"
    return f"| `{spec.name}` | {value.strip()}{default} | {spec.side or 'either'} | {spec.doc} |"


def test_the_page_of_the_language_lists_the_attributes_that_there_are() -> None:
    assert f"\n\n{write_tables()}\n\n" in PAGE.read_text("utf-8")
