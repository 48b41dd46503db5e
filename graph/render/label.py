"""What is said of a box in few words: of one node, or of the many that the box stands for."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..view_form import NodeView, View
from .printable import clip, printable

MANY = "*"
"""Stands for whatever differs between the members of a box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is said of a box. All text is printable.

    Attributes:
        address: Address of the only member, or the pattern of all addresses.
        op: The op; how many, if the box stands for several.
        params: Non-default parameters as ``name=value``.
        type: Type of the only output, without place and rows.
        stored: Why an output is a column: one text per reason.
        states: How many members are in each state.
        whys: The reasons for these states.
        scope: Name of a device node's parameters.
        tasks: What shares a single node: the first parts of its addresses.
        results: Names of the graph's results that come from here.
    """

    address: str
    op: str
    params: tuple[str, ...]
    type: str
    stored: tuple[str, ...]
    states: Mapping[str, int]
    whys: tuple[str, ...]
    scope: str
    tasks: tuple[str, ...]
    results: tuple[str, ...]


def make_label(view: View, members: Sequence[int], *, max_value: int = 32) -> Label:
    """Return the label of the box that stands for ``members``; longer values are clipped."""
    nodes = [view["nodes"][number] for number in members]
    first, numbers = nodes[0], set(members)
    ops = sorted({node["op"] for node in nodes})
    states = [state for node in nodes if (state := node["state"])]
    stored = (reason for node in nodes for reason in _reasons(node))
    return Label(
        address=printable(_pattern([node["address"] for node in nodes])),
        op=ops[0] if len(ops) == 1 else f"{len(ops)} ops",
        params=_params(nodes, max_value) if len(ops) == 1 else (),
        type=_merge([_type(node) for node in nodes]),
        stored=tuple(dict.fromkeys(map(printable, stored))),
        states=Counter(str(state["status"]) for state in states),
        whys=tuple(dict.fromkeys(printable(s["why"]) for s in states if s["why"])),
        scope=_merge([printable(node["scope"]) for node in nodes]),
        tasks=tuple(dict.fromkeys(printable(re.split(r"[./]", a)[0]) for a in first["addresses"]))
        if len(nodes) == 1
        else (),
        results=tuple(printable(r["name"]) for r in view["results"] if r["node"] in numbers),
    )


def _pattern(addresses: Sequence[str]) -> str:
    """Return the address that ``addresses`` have in common, with `MANY` where a part of it differs."""
    split = [re.split(r"([./@])", address) for address in addresses]
    if len({len(parts) for parts in split}) > 1:
        return f"{addresses[0]} …"
    return "".join(_merge(parts) for parts in zip(*split, strict=True))


def _params(nodes: Sequence[NodeView], max_value: int) -> tuple[str, ...]:
    names = dict.fromkeys(name for node in nodes for name in node["changed"])
    return tuple(
        f"{name}={_merge([_write(node['params'][name], max_value) for node in nodes])}"
        for name in names
    )


def _write(value: Any, max_value: int) -> str:
    return clip(printable(json.dumps(value, ensure_ascii=False)), max_value)


def _type(node: NodeView) -> str:
    if len(node["outputs"]) > 1:
        return f"{len(node['outputs'])} outputs"
    head, _, _ = node["outputs"][0]["type"].rpartition(">@")
    return printable(head) + ">"


def _reasons(node: NodeView) -> Iterator[str]:
    for output in node["outputs"]:
        if output["stored"] is not None:
            port = f"{output['port']}: " if len(node["outputs"]) > 1 else ""
            yield port + output["stored"]


def _merge(texts: Sequence[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else MANY
