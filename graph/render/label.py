"""What is said of a box in few words: of one node, or of the many that the box stands for."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from ..view_form import FactView, NodeView, View
from .figures import Figures, Rebuild, sum_figures, sum_rebuilds
from .fold import Picture
from .printable import clip, printable

MANY = "*"
"""Stands for whatever differs between the members of a box."""

_MAX_CHOICES: Final = 20
_MAX_FACT: Final = 48
_MAX_ALIKE: Final = 12


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
        changes: How many members became what; empty unless this is a diff.
        facts: What is not what it was, as ``name was → now``.
        rebuilds: Rows and bytes that a build has to compute anew, if it has to.
        scope: Name of a device node's parameters.
        tasks: What shares a single node: the first parts of its addresses.
        results: Names of the graph's results that come from here.
        figures: What it cost, if it ran.
        num_members: How many nodes it stands for.
        num_ops: How many ops it stands for, one after the other.
    """

    address: str
    op: str
    params: tuple[str, ...]
    type: str
    stored: tuple[str, ...]
    states: Mapping[str, int]
    whys: tuple[str, ...]
    changes: Mapping[str, int]
    facts: tuple[str, ...]
    rebuilds: Rebuild | None
    scope: str
    tasks: tuple[str, ...]
    results: tuple[str, ...]
    figures: Figures | None
    num_members: int
    num_ops: int


def make_label(view: View, picture: Picture, box: int, *, max_value: int = 32) -> Label:
    """Return the label of box number ``box`` of ``picture``; longer values are clipped."""
    members = picture.boxes[box]
    chain = picture.chains.get(box)
    # A chain gives what its last op gives.
    shown = [view["nodes"][number] for number in (chain[-1] if chain else members)]
    nodes = [view["nodes"][number] for number in members]
    states = [state for node in nodes if (state := node["state"])]
    ops = sorted({node["op"] for node in nodes})
    stored = (reason for node in nodes for reason in _reasons(node))
    addresses = [node["address"] for node in nodes]
    numbers = set(members)
    return Label(
        address=_name_chain(chain) if chain else printable(_pattern(addresses)),
        op=_list_ops(view, chain) if chain else ops[0] if len(ops) == 1 else f"{len(ops)} ops",
        params=_params(nodes, max_value) if len(ops) == 1 else (),
        type=_merge([_type(node) for node in shown]),
        stored=tuple(dict.fromkeys(map(printable, stored))),
        states=Counter(str(state["status"]) for state in states),
        whys=tuple(dict.fromkeys(printable(s["why"]) for s in states if s["why"])),
        changes=Counter(str(change["kind"]) for node in nodes if (change := node["change"])),
        facts=_facts(nodes),
        rebuilds=sum_rebuilds(view, members),
        scope=_merge([printable(node["scope"]) for node in nodes]),
        tasks=_tasks(nodes[0]) if len(nodes) == 1 else (),
        results=tuple(printable(r["name"]) for r in view["results"] if r["node"] in numbers),
        figures=sum_figures(view, chain or (members,)),
        num_members=len(chain[-1]) if chain else len(members),
        num_ops=len(chain) if chain else 1,
    )


def _name_chain(chain: Sequence[object]) -> str:
    return f"low-impact chain, {len(chain)} ops"


def _list_ops(view: View, chain: Sequence[Sequence[int]]) -> str:
    return " → ".join(view["nodes"][box[0]]["op"] for box in chain)


def _tasks(node: NodeView) -> tuple[str, ...]:
    return tuple(dict.fromkeys(printable(re.split(r"[./]", a)[0]) for a in node["addresses"]))


def _pattern(addresses: Sequence[str]) -> str:
    """Return what ``addresses`` have in common, with the few choices, or `MANY`, where a part differs.

    The first part is the task, of which there may be many: it has no choices.
    """
    split = [re.split(r"([./@])", address) for address in addresses]
    if len({len(parts) for parts in split}) > 1:
        return f"{addresses[0]} …"
    task, *parts = zip(*split, strict=True)
    return _merge(task) + "".join(map(_choose, parts))


def _choose(texts: Sequence[str]) -> str:
    choices = "|".join(dict.fromkeys(texts))
    return choices if len(choices) <= _MAX_CHOICES else MANY


def _params(nodes: Sequence[NodeView], max_value: int) -> tuple[str, ...]:
    names = dict.fromkeys(name for node in nodes for name in node["changed"])
    return tuple(
        f"{name}={_merge([_write(node['params'].get(name), max_value) for node in nodes])}"
        for name in names
    )


def _facts(nodes: Sequence[NodeView]) -> tuple[str, ...]:
    facts = [fact for node in nodes if (change := node["change"]) for fact in change["facts"]]
    return tuple(dict.fromkeys(map(_tell, facts)))


def _tell(fact: FactView) -> str:
    was, now = (printable(text) or "nothing" for text in (fact["was"], fact["now"]))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(was, now, strict=False)))
    # Of long values, what is alike at their start says nothing.
    skip = max(same - _MAX_ALIKE, 0) if max(len(was), len(now)) > _MAX_FACT else 0
    before = "…" if skip else ""
    was, now = (clip(before + text[skip:], _MAX_FACT) for text in (was, now))
    return f"{printable(fact['what'])} {was} → {now}"


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
