"""What a class must have to be an op, and a value to be a recipe, told without calling either."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

from ..graph.attribute import Attribute
from ..graph.op import Rows, Traits
from ..graph.type import Place
from ..graph.vocabulary import Block

OP_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
MODALITY_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")

_RANDOM: Final = ("evaluation", "plan_lengths")


def find_op_fault(op: Any, place: Place) -> str:
    """Return what keeps ``op`` from being the class of an op at ``place``, or an empty text."""
    if not inspect.isclass(op):
        return f"{op!r:.60} is no class"
    fault = _find_class_fault(op, place)
    return f"class {op.__qualname__} {fault}" if fault else ""


def find_recipe_fault(modality: object, recipe: Any) -> str:
    """Return what keeps ``recipe`` from being that of ``modality``, or an empty text."""
    if not isinstance(modality, str) or not MODALITY_NAME.fullmatch(modality):
        return f"modality {modality!r:.60} is not upper case, as IMAGE"
    if inspect.isclass(recipe):
        return f"the recipe of {modality} is a class: name an instance, {recipe.__name__}()"
    missing = [name for name in ("source", "target") if not callable(getattr(recipe, name, None))]
    for name, type_ in (("attributes", Attribute), ("blocks", Block)):
        values: Any = getattr(recipe, name, None)
        if not isinstance(values, tuple) or not all(isinstance(one, type_) for one in values):
            missing.append(f"{name}, a tuple of {type_.__name__}")
    return f"the recipe of {modality} has no {', no '.join(missing)}" if missing else ""


def _find_class_fault(op: Any, place: Place) -> str:
    params = getattr(op, "__dataclass_params__", None)
    if params is None or not params.frozen:
        return "is no frozen dataclass, so it is no value"
    traits = getattr(op, "traits", None)
    if not isinstance(traits, Traits):
        return "has no Traits under the name traits"
    if fault := _find_traits_fault(traits, place):
        return fault
    # Every class can be called, so what it defines is what counts.
    defined = {name for base in op.__mro__ for name in vars(base)}
    missing = [name for name in _methods(traits) if name not in defined]
    missing += [name for name in _RANDOM if traits.is_random and name not in defined]
    return f"has no {', '.join(missing)}" if missing else ""


def _find_traits_fault(traits: Traits, place: Place) -> str:
    rows, where, version = (getattr(traits, name) for name in ("rows", "place", "version"))
    if not isinstance(rows, Rows) or not isinstance(where, Place):
        return f"has rows {rows!r} and place {where!r}: write Rows.… and Place.…"
    if not OP_NAME.fullmatch(traits.name):
        return f'is named "{traits.name}": a name is a verb and its object, as encode_texts'
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        return f"has version {version!r}: versions are 1, 2 and so on"
    if where is not place:
        return f"runs on the {where}, and stands among the ops of the {place}"
    if traits.is_online or rows is Rows.JOIN:
        return "claims to be of the loader, which composes and packs by itself"
    return ""


def _methods(traits: Traits) -> tuple[str, ...]:
    if traits.rows is Rows.FIT:
        return ("signature", "observe", "merge", "finish")
    if traits.place is Place.DEVICE:
        return ("signature", "__call__", "module")
    return ("signature", "__call__")
