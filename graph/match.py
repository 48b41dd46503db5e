"""Which node of one graph stands where a node of another stood.

Equal ids are the same work over the same rows. What is left is matched by address, and then by position: the
maker at the same port of matched users, and the only user of its op at the same port of matched makers. So a
task that was renamed and changed is still the same task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .view_form import View

_UP: Final = "maker"
_DOWN: Final = "user"


def match_nodes(old: View, new: View) -> dict[int, int]:
    """Return for nodes of ``new`` the node of ``old`` that each was; every node stands for one at most."""
    matching = _Matching(old, new)
    matching.match_ids()
    matching.match_addresses()
    matching.match_neighbours(_DOWN)
    matching.match_neighbours(_UP)
    return matching.found


def gatherers(view: View) -> set[int]:
    """Return the nodes where many row sets meet: which inputs they have, and in which order, is data."""
    nodes = view["nodes"]
    pairs = ((nodes[edge["maker"]]["rows"], edge["user"]) for edge in view["edges"])
    return {user for rows, user in pairs if rows and rows != nodes[user]["rows"]}


@dataclass(slots=True)
class _Matching:
    old: View
    new: View
    found: dict[int, int] = field(default_factory=dict[int, int])
    taken: set[int] = field(default_factory=set[int])

    def add(self, now: int, was: int) -> None:
        self.found[now] = was
        self.taken.add(was)

    def match_ids(self) -> None:
        places = {(n["key"], n["rows"]): number for number, n in enumerate(self.old["nodes"])}
        for now, node in enumerate(self.new["nodes"]):
            if (was := places.get((node["key"], node["rows"]))) is not None:
                self.add(now, was)

    def match_addresses(self) -> None:
        """Match what shares an address: nodes of one op first, so that an op put between moves none."""
        places: dict[str, list[int]] = {}
        for was, node in enumerate(self.old["nodes"]):
            for address in node["addresses"]:
                places.setdefault(address, []).append(was)
        for is_same_op in (True, False):
            for now, node in enumerate(self.new["nodes"]):
                near = [was for address in node["addresses"] for was in places.get(address, ())]
                fit = (was for was in near if self._may_be(now, was, is_same_op=is_same_op))
                if (was := next(fit, None)) is not None:
                    self.add(now, was)

    def match_neighbours(self, end: str) -> None:
        """Match the only node of its op at the ``end`` of an edge like one of ``old``."""
        start = _UP if end == _DOWN else _DOWN
        near: dict[tuple[int, str, str], list[int]] = {}
        for edge in self.old["edges"]:
            near.setdefault((edge[start], edge["output"], edge["input"]), []).append(edge[end])
        edges = self.new["edges"] if end == _DOWN else self.new["edges"][::-1]
        for edge in sorted(edges, key=lambda edge: edge["user"], reverse=end == _UP):
            if (was := self.found.get(edge[start])) is None:
                continue
            places = near.get((was, edge["output"], edge["input"]), [])
            fit = {place for place in places if self._may_be(edge[end], place, is_same_op=True)}
            if len(fit) == 1:
                self.add(edge[end], fit.pop())

    def _may_be(self, now: int, was: int, *, is_same_op: bool) -> bool:
        if now in self.found or was in self.taken:
            return False
        theirs, ours = self.old["nodes"][was], self.new["nodes"][now]
        is_alike = theirs["op"] == ours["op"] and bool(theirs["rows"]) == bool(ours["rows"])
        return is_alike or not is_same_op


def maker_ports(view: View) -> Sequence[Mapping[str, tuple[int, str]]]:
    """Return for each node what it reads at each port: the maker, and its port."""
    ports: list[dict[str, tuple[int, str]]] = [{} for _ in view["nodes"]]
    for edge in view["edges"]:
        ports[edge["user"]][edge["input"]] = (edge["maker"], edge["output"])
    return ports
