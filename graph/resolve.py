"""What a slot gives and what a recipe carries out, made one.

The language has checked the attributes of every slot already. What is new here is the recipe: it may not carry
out yet what the language knows, and that is refused by name, never passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from .attribute import Attribute, check_attribute
from .errors import InstructionError, Problem, Site
from .modality import MODALITIES, Modality
from .syntax import AttributeValue, GivenAttribute, Slot

PROBLEMS: Final[Mapping[str, str]] = MappingProxyType(
    {"T0124": "attribute that no recipe carries out yet"}
)
"""What can be wrong here alone, by code."""


def resolve_attributes(
    slot: Slot, specs: Iterable[Attribute], site: Site
) -> dict[str, AttributeValue]:
    """Return the value of every attribute of ``slot`` that has one, by name.

    Args:
        slot: The slot that gives values.
        specs: The attributes that the recipe of its modality carries out.
        site: The slot's place; a message points at the attribute inside it.

    Raises:
        InstructionError: With one problem for each attribute that is unknown, of the wrong type, out of
            range, on the wrong side, or known and not carried out yet.
    """
    known = {spec.name: spec for spec in specs}
    values: dict[str, AttributeValue] = {
        name: False if spec.default is None else spec.default
        for name, spec in known.items()
        if spec.default is not None or spec.type is bool
    }
    problems: list[Problem] = []
    for given in slot.attributes:
        value = _resolve(given, slot.modality, known, is_source=slot.is_source)
        if isinstance(value, Problem):
            problems.append(replace(value, sites=(replace(site, span=given.span),)))
        else:
            values[given.key] = value
    if problems:
        raise InstructionError(*problems)
    return values


def fill_defaults(
    slot: Slot, defaults: Mapping[str, AttributeValue], specs: Iterable[Attribute]
) -> Slot:
    """Return ``slot`` with those of ``defaults`` that it does not give and that may stand on its side.

    Args:
        slot: The slot.
        defaults: Attributes for all slots of its modality.
        specs: The attributes that the recipe of its modality carries out.
    """
    wrong = {spec.name for spec in specs if not spec.may_stand(is_source=slot.is_source)}
    added = [
        GivenAttribute(key, value, slot.span)
        for key, value in defaults.items()
        if key not in slot.values and key not in wrong
    ]
    return replace(slot, attributes=(*slot.attributes, *added)) if added else slot


def check_default(
    modality: str, key: str, value: AttributeValue, specs: Iterable[Attribute]
) -> Problem | None:
    """Return what is wrong with an attribute that is meant for all slots of ``modality``, if anything is."""
    known = {spec.name: spec for spec in specs}
    is_source = key not in known or known[key].side != "target"
    found = _resolve(GivenAttribute(key, value), modality, known, is_source=is_source)
    return found if isinstance(found, Problem) else None


def _resolve(
    given: GivenAttribute, modality: str, known: Mapping[str, Attribute], *, is_source: bool
) -> AttributeValue | Problem:
    language = MODALITIES.get(modality, Modality(name=modality))
    spec, meant = known.get(given.key), language.attributes.get(given.key)
    if spec is None:
        if meant is None:
            return replace(language, attributes=known).refuse(given.key)
        return _not_yet(given.key, modality, f"it carries out: {_list(known)}")
    value = check_attribute(given, spec, is_source=is_source)
    is_choice = isinstance(value, Problem) and value.code == "T0123"
    if is_choice and meant is not None and given.value in meant.choices:
        return _not_yet(str(given), modality, f"it carries out: {_list(spec.choices)}")
    return value


def _not_yet(what: str, modality: str, advice: str) -> Problem:
    message = f"{what} is understood, but the recipe of {modality} does not carry it out yet"
    return Problem("T0124", message, f"{advice}\na recipe is one file: docs/adding-a-modality.md")


def _list(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "no attribute"
