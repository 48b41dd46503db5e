"""The probability of every answer of a closed set, from one pass over the tree of all of them.

A node sees the nodes on its way and what stands before the tree, as if its answer were alone. Scores are
taken of the ids that may follow a node, and of no others; so the probabilities of all answers add up to one.

Shape letters: as in `taskloom.ops.device.decode.tree`, and B = documents, P = ids before the tree, the begin of
sequence among them, J = keys of a node, P + A of them, H = heads, D = head size, C = channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ....graph.vocabulary import BOS
from .stack import attend, hide
from .step import Cache, ask_places, open_cache, read, take_step
from .task import Task
from .tree import Tree

MOST_NODES = 1 << 14
"""Nodes of all documents that are computed together; more documents are taken one part after another."""

MOST_KEYS = 1 << 22
"""Numbers that are gathered at once."""


class _Nodes(NamedTuple):
    """The tree of each document.

    Attributes:
        ids_N: Ids, without the root's.
        positions_BN: Position of each in its document.
        ways_NA: Nodes on the way, 0 for the first that is no root; 0 where there are no more.
        key_positions_BNJ: Positions of keys.
        mask_BNJ: What is added to their scores.
    """

    ids_N: Tensor
    positions_BN: Tensor
    ways_NA: Tensor
    key_positions_BNJ: Tensor
    mask_BNJ: Tensor


@torch.no_grad()
def weigh_answers(task: Task, tree: Tree) -> Tensor:
    """Return the log probability of every answer for each document, shape ``(B, Q)``.

    Args:
        task: Documents, with what they are given; of its search, the temperature counts.
        tree: What they may write.

    Raises:
        PlanError: The model has fewer positions than the longest answer needs.
    """
    num_documents = len(task.roots_B)
    size = max(1, MOST_NODES // len(tree.ids_N))
    parts = [
        _weigh(_select(task, slice(first, first + size)), tree)
        for first in range(0, num_documents, size)
    ]
    return torch.cat(parts)


def _select(task: Task, documents: slice) -> Task:
    given_BP = None if task.given_BP is None else task.given_BP[documents]
    sources = task.sources._replace(keys_2B=task.sources.keys_2B[:, documents])
    return replace(task, sources=sources, roots_B=task.roots_B[documents], given_BP=given_BP)


def _weigh(task: Task, tree: Tree) -> Tensor:
    stack, device = task.stack, task.roots_B.device
    num_before = task.num_given + 1
    longest = num_before + tree.ways_NA.shape[1]
    cache = open_cache(stack, task.sources, num_rows=1, max_length=longest)
    begins_B = task.begins(1)
    root_BC = _read_given(task, cache, begins_B)
    hidden_BNC = root_BC[:, None]
    if len(tree.ids_N) > 1:
        nodes = _place(tree, begins_B, num_before)
        hidden_BNC = torch.cat((hidden_BNC, _read_nodes(task, cache, nodes, num_before)), 1)
    edge_nodes_E, edge_ids_E, edges_N, answer_edges_Q = (
        torch.from_numpy(each).to(device)
        for each in (tree.edge_nodes_E, tree.edge_ids_E, tree.edges_N, tree.answer_edges_Q)
    )
    head_EC = stack.weight_VC[edge_ids_E]
    # Document by document: what is gathered is as large as the states of all edges.
    scores_BE = torch.stack(
        [(hidden_NC[edge_nodes_E] * head_EC).sum(-1) for hidden_NC in hidden_BNC]
    )
    scores_BE = scores_BE.float() / (task.search.temperature or 1.0)
    log_probs_BE = _normalise(scores_BE, edge_nodes_E, len(tree.ids_N))
    # What leads to each node, and then along the way of each.
    to_node_BN = log_probs_BE[:, edges_N.clamp(min=0)]
    ways_NA = torch.from_numpy(tree.ways_NA).to(device)
    along_BN = to_node_BN[:, ways_NA.clamp(min=0)].masked_fill(ways_NA < 0, 0.0).sum(-1)
    return log_probs_BE[:, answer_edges_Q] + along_BN[:, edge_nodes_E[answer_edges_Q]]


def _read_given(task: Task, cache: Cache, begins_B: Tensor) -> Tensor:
    """Return the state after all that each document is given, shape ``(B, C)``."""
    ids_B = torch.full_like(task.roots_B, BOS)
    root_BC = None
    for at, index in enumerate(torch.arange(task.num_given + 1, device=ids_B.device).split(1)):
        hidden_BC = take_step(task.stack, ids_B, index, cache, task.num_given + 1)
        is_last_B1 = (begins_B == at)[:, None]
        root_BC = hidden_BC if root_BC is None else hidden_BC.where(is_last_B1, root_BC)
        if task.given_BP is not None and at < task.num_given:
            ids_B = task.given_BP[:, at].long()
    assert root_BC is not None, "the begin of sequence was read"
    return root_BC


def _place(tree: Tree, begins_B: Tensor, num_before: int) -> _Nodes:
    device = begins_B.device
    ids_N, ways_NA, depths_N = (
        torch.from_numpy(each[1:]).to(device) for each in (tree.ids_N, tree.ways_NA, tree.depths_N)
    )
    positions_BN = begins_B[:, None] + depths_N
    depth_A = torch.arange(1, ways_NA.shape[1] + 1, device=device)
    before_P = torch.arange(num_before, device=device)
    shape = positions_BN.shape
    key_positions_BNJ = torch.cat(
        (
            before_P.expand(*shape, -1),
            (begins_B[:, None] + depth_A)[:, None].expand(*shape, -1),
        ),
        -1,
    )
    is_hidden_BNJ = torch.cat(
        (
            (before_P > begins_B[:, None])[:, None].expand(*shape, -1),
            (ways_NA < 0).expand(*shape, -1),
        ),
        -1,
    )
    ways_NA = (ways_NA - 1).clamp(min=0)
    return _Nodes(ids_N, positions_BN, ways_NA, key_positions_BNJ, hide(is_hidden_BNJ))


def _read_nodes(task: Task, cache: Cache, nodes: _Nodes, num_before: int) -> Tensor:
    """Return the states of all nodes but the root, shape ``(B, N - 1, C)``."""
    stack, (num_documents, num_nodes) = task.stack, nodes.positions_BN.shape
    positions = nodes.positions_BN.flatten()
    x, at = stack.enter(nodes.ids_N.repeat(num_documents), positions, cache.places)
    biases = stack.biases(positions, nodes.key_positions_BNJ.flatten(0, 1), cache.places)
    asked = ask_places(stack, positions, cache)
    for layer in range(stack.sizes.num_layers):
        states = stack.project(layer, x, at).unflatten(0, (num_documents, num_nodes)).unbind(2)
        before = (cache.keys[layer][:, :, :num_before], cache.values[layer][:, :, :num_before])
        bias = None if biases is None else biases[layer % len(biases)]
        seen = _see_ways(*states, before, nodes, bias, stack.sizes.scale)
        x = stack.add(layer, x, seen)
        x = stack.add_read(layer, x, read(stack, layer, x, at, cache, asked))
        x = stack.feed(layer, x, at)
    return stack.leave(x).unflatten(0, (num_documents, num_nodes))


def _see_ways(
    q_BNHD: Tensor,
    k_BNHD: Tensor,
    v_BNHD: Tensor,
    before: tuple[Tensor, Tensor],
    nodes: _Nodes,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Return what each node sees of its way and of what stands before the tree, ``(B * N, H, D)``."""
    num_documents, num_nodes, num_heads, _ = q_BNHD.shape
    num_keys = nodes.mask_BNJ.shape[-1]
    size = max(1, MOST_KEYS // (num_documents * num_keys * num_heads * q_BNHD.shape[-1]))
    mask_BN1J = nodes.mask_BNJ[:, :, None]
    if bias is not None:
        mask_BN1J = mask_BN1J + bias.unflatten(0, (num_documents, num_nodes))
    seen: list[Tensor] = []
    for first in range(0, num_nodes, size):
        part = slice(first, first + size)
        k, v = (
            _gather_ways(own, kept, nodes.ways_NA[part])
            for own, kept in zip((k_BNHD, v_BNHD), before, strict=True)
        )
        mask = mask_BN1J[:, part, :, None].flatten(0, 1)
        out = attend(q_BNHD[:, part, :, None].flatten(0, 1), k, v, mask, scale)
        seen.append(out[:, :, 0].unflatten(0, (num_documents, -1)))
    return torch.cat(seen, 1).flatten(0, 1)


def _gather_ways(own_BNHD: Tensor, before_BHPD: Tensor, ways_NA: Tensor) -> Tensor:
    """Return what each node sees, shape ``(B * N, H, J, D)``."""
    on_way = own_BNHD[:, ways_NA].transpose(2, 3)
    before = before_BHPD[:, None].expand(-1, len(ways_NA), -1, -1, -1)
    return torch.cat((before, on_way), 3).flatten(0, 1)


def _normalise(scores_BE: Tensor, nodes_E: Tensor, num_nodes: int) -> Tensor:
    """Return the log softmax of the edges of each node."""
    index_BE = nodes_E.expand_as(scores_BE)
    highest_BN = scores_BE.new_full((len(scores_BE), num_nodes), -torch.inf)
    highest_BN = highest_BN.scatter_reduce(1, index_BE, scores_BE, "amax")
    above_BE = scores_BE - highest_BN.gather(1, index_BE)
    sums_BN = torch.zeros_like(highest_BN).scatter_add(1, index_BE, above_BE.exp())
    return above_BE - sums_BN.log().gather(1, index_BE)
