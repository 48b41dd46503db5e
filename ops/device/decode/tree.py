"""All that a closed language may write, as one tree, each beginning that answers share once.

A *node* is an id that is not an end, after all that stands before it; the root is what stands before the first.
An *edge* leads from a node to an id that may follow: to another node, or to an end, which is an answer.

Shape letters: N = nodes, the root included and first, E = edges, Q = answers, A = nodes on the longest way, the
root not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....graph.errors import PlanError
from ....graph.vocabulary import EOS, PAD
from ..language import Diagram

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The tree of a closed language.

    Attributes:
        answers: Ids of each answer, the end included.
        ids_N: Id of each node.
        ways_NA: Nodes on the way to each, itself last, the root left out; then -1.
        edges_N: Edge that leads to each node; -1 for the root.
        edge_nodes_E: Node that each edge leads from.
        edge_ids_E: Id that it leads to.
        answer_edges_Q: Edge to the end of each answer.
    """

    answers: tuple[tuple[int, ...], ...]
    ids_N: Ints
    ways_NA: Ints
    edges_N: Ints
    edge_nodes_E: Ints
    edge_ids_E: Ints
    answer_edges_Q: Ints

    @property
    def depths_N(self) -> Ints:
        """Ids on the way to each node, its own included."""
        return (self.ways_NA >= 0).sum(1)


def plan_tree(diagram: Diagram, root: int, *, most_nodes: int = 1_000_000) -> Tree:
    """Return the tree of the language that begins in state ``root``.

    Raises:
        PlanError: The language has free text, frames or repeats, or more than ``most_nodes`` nodes.
    """
    paths: list[tuple[int, ...]] = [()]
    states, parents, edges = [root], [-1], [-1]
    edge_nodes: list[int] = []
    edge_ids: list[int] = []
    ends: list[int] = []
    node = 0
    while node < len(states):
        state = diagram.states[states[node]]
        is_open = state.first < state.stop or state.frames is not None
        if is_open or len(states) > most_nodes:
            raise _endless()
        for id_, way in sorted(state.edges.items()):
            edge_nodes.append(node)
            edge_ids.append(id_)
            if id_ == EOS:
                ends.append(len(edge_ids) - 1)
                continue
            paths.append((*paths[node], len(states)))
            states.append(way.state)
            parents.append(node)
            edges.append(len(edge_ids) - 1)
        node += 1
    nodes_of = [paths[edge_nodes[edge]] for edge in ends]
    ids = np.array([PAD, *(edge_ids[edge] for edge in edges[1:])])
    ways = np.full((len(paths), max(1, *map(len, paths))), -1)
    for row, path in enumerate(paths):
        ways[row, : len(path)] = path
    return Tree(
        answers=tuple((*ids[list(nodes)].tolist(), EOS) for nodes in nodes_of),
        ids_N=ids,
        ways_NA=ways,
        edges_N=np.array(edges),
        edge_nodes_E=np.array(edge_nodes),
        edge_ids_E=np.array(edge_ids),
        answer_edges_Q=np.array(ends),
    )


def _endless() -> PlanError:
    message = "only the answers of a closed set can be scored all at once"
    help_ = "give the target slot closed_set, and no free text or group beside it"
    return PlanError.of("T0245", message, help_)
