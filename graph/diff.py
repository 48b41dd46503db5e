"""Diff: two graphs as one view, in which every node says what became of it.

Nodes are compared by what they do, not by their keys alone. A key digests everything above a node, so one
parameter gives new keys to all that follows; the diff says *changed* once, and *follows* below. Where the rows
of many tasks meet, as in a pack or a fit, what comes in is data: a task more, or one that changed, is no change
of the program that trains on it. So adding a task changes nothing else.

The result is a `View` like any other: page, picture and text show it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .match import gatherers, maker_ports, match_nodes
from .node import NodeId
from .passes.cut import Stage
from .view_form import (
    ChangeKind,
    ChangeView,
    DiffView,
    EdgeView,
    FactView,
    InstructionView,
    LaneView,
    NodeView,
    ResultView,
    SiteView,
    Status,
    View,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a store holds, as far as it tells what a build will cost.

    Attributes:
        rows: Number of rows of each source.
        bytes: Bytes of the columns of each node.
    """

    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    bytes: Mapping[NodeId, int] = field(default_factory=dict[NodeId, int])


def compare(old: View, new: View, *, holdings: Holdings | None = None) -> View:
    """Return the diff from ``old`` to ``new``: the nodes of ``new``, and those of ``old`` that are gone."""
    diff = _Diff(old, new, holdings or Holdings())
    kept = set(diff.matches.values())
    gone = [was for was in range(len(old["nodes"])) if was not in kept]
    order = _interleave(diff, gone)
    places = {one: place for place, one in enumerate(order)}
    instructions = _merge_instructions(old, new)
    labels = {(i["label"], i["text"]): number for number, i in enumerate(instructions)}
    titles = dict.fromkeys([old["title"], new["title"]])
    return View(
        format=new["format"],
        title=" → ".join(titles),
        project=new["project"],
        digest=new["digest"],
        lanes=_merge_lanes(old, new),
        nodes=[
            diff.node(number) if is_new else _bury(old, number, labels) for is_new, number in order
        ],
        edges=list(_merge_edges(diff, places)),
        segments=new["segments"],
        results=[
            ResultView(name=one["name"], node=places[True, one["node"]], port=one["port"])
            for one in new["results"]
        ],
        instructions=instructions,
        remarks=new["remarks"],
        diff=DiffView(
            old_title=old["title"],
            old_digest=old["digest"],
            new_title=new["title"],
            new_digest=new["digest"],
        ),
    )


class _Diff:
    """What became of every node of ``new``."""

    def __init__(self, old: View, new: View, holdings: Holdings) -> None:
        self.old, self.new, self.holdings = old, new, holdings
        self.matches = match_nodes(old, new)
        before = gatherers(old)
        self._gatherers = gatherers(new) | {n for n, was in self.matches.items() if was in before}
        self._old_ids = {(node["key"], node["rows"]) for node in old["nodes"]}
        self._old_ports, self._new_ports = maker_ports(old), maker_ports(new)
        self.changes: list[ChangeView] = []
        for number in range(len(new["nodes"])):
            self.changes.append(self._change(number))

    def node(self, number: int) -> NodeView:
        """Return node ``number`` of ``new`` with what became of it."""
        return {**self.new["nodes"][number], "change": self.changes[number]}

    def _change(self, number: int) -> ChangeView:
        node, was = self.new["nodes"][number], self.matches.get(number)
        if was is None:
            return self._build(number, ChangeKind.ADDED, [])
        before = self.old["nodes"][was]
        facts = [*_compare_work(before, node), *self._compare_inputs(number, was)]
        types = list(_compare_types(before, node))
        if facts:
            return self._build(number, ChangeKind.CHANGED, facts + types)
        if types or any(self._is_other(maker) for maker in self._inherited(number)):
            return self._build(number, ChangeKind.FOLLOWS, types)
        if not set(before["addresses"]) & set(node["addresses"]) and before["addresses"]:
            fact = FactView(what="address", was=before["address"], now=node["address"])
            return self._build(number, ChangeKind.MOVED, [fact])
        return self._build(number, ChangeKind.SAME, [])

    def _inherited(self, number: int) -> Iterator[int]:
        """Yield the makers of a node a change of which is a change of what it makes."""
        if number not in self._gatherers:
            yield from (maker for maker, _ in self._new_ports[number].values())

    def _is_other(self, number: int) -> bool:
        kinds = (ChangeKind.ADDED, ChangeKind.CHANGED, ChangeKind.FOLLOWS)
        return self.changes[number]["kind"] in kinds

    def _compare_inputs(self, number: int, was: int) -> Iterator[FactView]:
        if number in self._gatherers:
            return
        before, now = self._old_ports[was], self._new_ports[number]
        for port in dict.fromkeys([*before, *now]):
            ours = now.get(port)
            place = (self.matches.get(ours[0]), ours[1]) if ours else None
            if place != before.get(port):
                names = _name(self.old, before.get(port)), _name(self.new, ours)
                yield FactView(what=f"reads {port}", was=names[0], now=names[1])

    def _build(self, number: int, kind: ChangeKind, facts: list[FactView]) -> ChangeView:
        node = self.new["nodes"][number]
        is_column = any(output["stored"] is not None for output in node["outputs"])
        is_there = node["state"] is not None and node["state"]["status"] == Status.CACHED
        is_known = (node["key"], node["rows"]) in self._old_ids
        is_other = kind in (ChangeKind.ADDED, ChangeKind.CHANGED, ChangeKind.FOLLOWS)
        rebuilds = is_column and is_other and not is_there and not is_known
        rows = self.holdings.rows.get(node["rows"]) if rebuilds else None
        size = self._estimate(number, rows) if rebuilds else None
        return ChangeView(kind=kind, facts=facts, rebuilds=rebuilds, rows=rows, bytes=size)

    def _estimate(self, number: int, rows: int | None) -> int | None:
        """Return the bytes of a node's columns: by its type, or else as many as its old ones take."""
        stored = [o for o in self.new["nodes"][number]["outputs"] if o["stored"] is not None]
        sizes = [output["bytes_per_row"] for output in stored]
        known = [size for size in sizes if size is not None]
        if rows is not None and len(known) == len(sizes):
            return rows * sum(known)
        if (was := self.matches.get(number)) is None:
            return None
        before = self.old["nodes"][was]
        return self.holdings.bytes.get(NodeId(before["key"], before["rows"]))


def _compare_work(before: NodeView, now: NodeView) -> Iterator[FactView]:
    """Yield how two nodes differ in what they do by themselves."""
    was, is_ = _list_work(before), _list_work(now)
    for what in dict.fromkeys([*was, *is_]):
        if was.get(what, "") != is_.get(what, ""):
            yield FactView(what=what, was=was.get(what, ""), now=is_.get(what, ""))


def _list_work(node: NodeView) -> dict[str, str]:
    params = {name: json.dumps(value, ensure_ascii=False) for name, value in node["params"].items()}
    return params | {
        "op": f"{node['op']} (version {node['version']})",
        "scope": node["scope"],
        "stage": str(node["stage"]),
        "stored": ", ".join(o["port"] for o in node["outputs"] if o["stored"] is not None),
        "rows": node["rows"],
    }


def _compare_types(before: NodeView, now: NodeView) -> Iterator[FactView]:
    types = [
        {output["port"]: _plain(output["type"]) for output in n["outputs"]} for n in (before, now)
    ]
    for port in dict.fromkeys([*types[0], *types[1]]):
        was, is_ = (by_port.get(port, "") for by_port in types)
        if was != is_:
            yield FactView(what="type" if port == "out" else f"type of {port}", was=was, now=is_)


def _plain(type_: str) -> str:
    """Return a type without its row set."""
    head, at, place = type_.partition(">@")
    return head + at + place.partition("/")[0]


def _name(view: View, value: tuple[int, str] | None) -> str:
    if value is None:
        return ""
    address = view["nodes"][value[0]]["address"]
    return address if value[1] == "out" else f"{address}:{value[1]}"


def _interleave(diff: _Diff, gone: Sequence[int]) -> list[tuple[bool, int]]:
    """Return all nodes in order, as (is new, number): what is gone stands after all that it read."""
    were = {was: now for now, was in diff.matches.items()}
    after: dict[tuple[bool, int], list[tuple[bool, int]]] = {}
    first: list[tuple[bool, int]] = []
    makers = maker_ports(diff.old)
    rank: dict[int, int] = {}
    for was in gone:
        read = [maker for maker, _ in makers[was].values()]
        kept = [were[maker] for maker in read if maker in were]
        rank[was] = max([*kept, *(rank[maker] for maker in read if maker in rank), -1])
        place = after.setdefault((True, rank[was]), []) if rank[was] >= 0 else first
        place.append((False, was))
    order = list(first)
    for number in range(len(diff.new["nodes"])):
        order.append((True, number))
        order += after.get((True, number), [])
    return order


def _bury(old: View, number: int, labels: Mapping[tuple[str, str], int]) -> NodeView:
    """Return node ``number`` of ``old`` as one that is gone."""
    node, texts = old["nodes"][number], old["instructions"]
    sites = [
        SiteView(
            instruction=_find(labels, texts[site["instruction"]]),
            start=site["start"],
            stop=site["stop"],
        )
        for site in node["sites"]
    ]
    change = ChangeView(kind=ChangeKind.REMOVED, facts=[], rebuilds=False, rows=None, bytes=None)
    return {**node, "segment": None, "sites": sites, "change": change}


def _find(labels: Mapping[tuple[str, str], int], one: InstructionView) -> int:
    label, text = one["label"], one["text"]
    return labels[(label, text)] if (label, text) in labels else labels[_before(label), text]


def _before(label: str) -> str:
    return f"{label}, before"


def _merge_instructions(old: View, new: View) -> list[InstructionView]:
    merged = list(new["instructions"])
    merged += [
        InstructionView(label=_before(one["label"]), text=one["text"])
        for one in old["instructions"]
        if one not in new["instructions"]
    ]
    return merged


def _merge_lanes(old: View, new: View) -> list[LaneView]:
    lanes = {lane["stage"]: lane for lane in [*old["lanes"], *new["lanes"]]}
    return [lanes[stage] for stage in Stage if stage in lanes]


def _merge_edges(diff: _Diff, places: Mapping[tuple[bool, int], int]) -> Iterator[EdgeView]:
    """Yield the edges of both graphs; one that is gone is left out where it would lead back."""
    were = {was: (True, now) for now, was in diff.matches.items()}
    before: dict[tuple[int, int], EdgeView] = {}
    for edge in diff.old["edges"]:
        maker, user = (places[were.get(edge[end], (False, edge[end]))] for end in ("maker", "user"))
        before.setdefault((maker, user), {**edge, "maker": maker, "user": user})
    drawn: set[tuple[int, int]] = set()
    for edge in diff.new["edges"]:
        ends = places[True, edge["maker"]], places[True, edge["user"]]
        drawn.add(ends)
        kind = ChangeKind.SAME if ends in before else ChangeKind.ADDED
        yield {**edge, "maker": ends[0], "user": ends[1], "change": kind}
    for ends, edge in before.items():
        if ends not in drawn and ends[0] < ends[1]:
            yield {**edge, "change": ChangeKind.REMOVED}
