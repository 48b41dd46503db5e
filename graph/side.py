"""One side of a document: the parts that stand on it, in order, and what lies between them.

Neighbouring parts of ids stand between one BOS and one EOS, as OFASys groups them
(``preprocessor/general.py``); tensors stand by themselves. A group is laid out inside like a side; when it
holds ids alone it is a run of ids itself, and what stands around it shares its BOS and EOS.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .errors import Site
from .node import Value
from .op import Plain
from .recipe import Part
from .vocabulary import BOS, EOS

Entry: TypeAlias = Mapping[str, Plain]
"""What a part is to the op that composes documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A part on its side.

    Attributes:
        part: What it contributes.
        site: Where it stands.
        slot: Name of its slot; empty for plain text and groups.
        inside: What a group is made of.
        is_ids: Whether it is a run of ids, or a group of such runs.
        learned: Slots that the model learns to write here, in order.
    """

    part: Part
    site: Site
    slot: str = ""
    inside: tuple[Placed, ...] = ()
    is_ids: bool = True
    learned: tuple[str, ...] = ()


def lay_out(
    placed: Sequence[Placed],
    side: str,
    inputs: MutableMapping[str, Value],
    *,
    has_ends: bool = True,
) -> tuple[Entry, ...]:
    """Return what a side is made of, in order, and enter the values it reads in ``inputs``.

    Args:
        placed: The parts.
        side: What ports are called after.
        inputs: Takes a value for each port.
        has_ends: Whether runs of ids stand between BOS and EOS, where their first part does not say otherwise.
    """
    laid: list[Entry] = []
    is_open = was_ids = False
    for number, each in enumerate(placed):
        if each.is_ids and not was_ids:
            is_open = has_ends and each.part.has_ends
            laid += [{"special": BOS}] if is_open else []
        elif was_ids and not each.is_ids and is_open:
            laid.append({"special": EOS})
            is_open = False
        was_ids = each.is_ids
        laid.append(_enter(each, f"{side}.{number}", f"answers.{number}", inputs))
    return (*laid, *([{"special": EOS}] if is_open else []))


def _enter(
    each: Placed, port: str, answers: str, inputs: MutableMapping[str, Value]
) -> Mapping[str, Plain]:
    part = each.part
    entry: dict[str, Plain] = {}
    if part.value is not None:
        inputs[port] = part.value
        entry["port"] = port
    if each.inside:
        return entry | {"group": True}
    if part.answers is not None:
        inputs[answers] = part.answers
        entry["answers"] = answers
    if part.lane:
        entry |= {"lane": part.lane, "length": part.length}
    if each.slot:
        entry["slot"] = each.slot
    if part.is_given or part.weight != 1.0:
        entry["weight"] = 0.0 if part.is_given else part.weight
    return {**entry, **_describe_ids(part)}


def _describe_ids(part: Part) -> Entry:
    """Return what an entry says of ids: which they are, and how many where that is known."""
    beyond = {} if part.beyond is None else {"beyond": part.beyond.name}
    number = {"num_ids": part.num_ids} if part.num_ids else {}
    return {**number, **beyond, "block": part.block}
