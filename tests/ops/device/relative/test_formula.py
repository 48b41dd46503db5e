"""Stacks compute what OFASys' formula says where no golden case has the option: outputs and gradients.

Each document is computed by itself, with a loop over layers, heads, queries and keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taskloom.ops.device.relative.names import to_ofasys
from taskloom.ops.device.relative.places import FormSpecs, to_items
from taskloom.ops.device.relative.stack_ops import DecodeRelative, EncodeRelative

WIDTH, NUM_HEADS, NUM_LAYERS, BUCKET, LONGEST = 8, 2, 3, 4, 12
SCALE = (WIDTH // NUM_HEADS * 2) ** -0.5
LINE: dict[str, Any] = {"kind": "line", "table": "text", "bucket": BUCKET, "longest": LONGEST}
FORMS: FormSpecs = (("text", to_items(LINE | {"num_places": LONGEST})),)
SOURCES, TARGETS = [[9, 2], [4]], [[3], [10]]
"""Lengths of the slots of each document."""


class Document(NamedTuple):
    """What a stack reads of one document; `slots` and `places` have one number per token."""

    hidden: Tensor
    positions: Tensor
    slots: list[int]
    places: list[int]


def read_documents(lengths: list[list[int]]) -> list[Document]:
    documents: list[Document] = []
    for parts in lengths:
        hidden, positions = (
            torch.randn(sum(parts), WIDTH, dtype=torch.float64, requires_grad=True) for _ in "hp"
        )
        slots = [number for number, part in enumerate(parts) for _ in range(part)]
        places = [place for part in parts for place in range(part)]
        documents.append(Document(hidden, positions, slots, places))
    return documents


class Formula:
    """A model as OFASys' inventory has it, by its names; of tables, all layers read the last there is."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def encode(self, source: Document) -> Tensor:
        absolute = self.absolute("encoder.adaptor.pos", source, source)
        x = source.hidden
        for number in range(NUM_LAYERS):
            layer = f"encoder.layers.{number}"
            bias = absolute + self.relative("encoder", number, source)
            normal = self.norm(f"{layer}.self_attn_layer_norm", x)
            added = self.attend(f"{layer}.self_attn", normal, normal, bias)
            x = x + self.norm(f"{layer}.attn_ln", added)
            x = self.feed(layer, x)
        return self.norm("encoder.layer_norm", x)

    def decode(self, target: Document, source: Document, memory: Tensor) -> Tensor:
        absolute = self.absolute("decoder.adaptor.pos", target, target)
        cross = self.absolute("decoder.cross_pos", target, source)
        x = target.hidden
        future = torch.full((len(x), len(x)), -torch.inf).triu(1)
        for number in range(NUM_LAYERS):
            layer = f"decoder.layers.{number}"
            bias = absolute + self.relative("decoder", number, target) + future
            normal = self.norm(f"{layer}.self_attn_layer_norm", x)
            added = self.attend(f"{layer}.self_attn", normal, normal, bias)
            x = x + self.norm(f"{layer}.self_attn_ln", added)
            normal = self.norm(f"{layer}.encoder_attn_layer_norm", x)
            added = self.attend(f"{layer}.encoder_attn", normal, memory, cross)
            x = x + self.norm(f"{layer}.cross_attn_ln", added)
            x = self.feed(layer, x)
        return self.norm("decoder.layer_norm", x)

    def absolute(self, name: str, queries: Document, keys: Document) -> Tensor:
        q = self.linear(f"{name}_q_linear", queries.positions)
        k = self.linear(f"{name}_k_linear", keys.positions)
        pairs = zip(q.chunk(NUM_HEADS, 1), k.chunk(NUM_HEADS, 1), strict=True)
        return torch.stack([q @ k.T * SCALE for q, k in pairs])

    def relative(self, side: str, number: int, document: Document) -> Tensor:
        name = f"{side}.adaptor.text.token_rel_pos_table_list.{{}}.weight"
        table = self.state.get(name.format(number), self.state[name.format(0)])
        length = len(document.places)
        bias = [torch.zeros(NUM_HEADS, dtype=torch.float64)] * length**2
        for query in range(length):
            for key in range(length):
                if document.slots[query] == document.slots[key]:
                    row = bucket(document.places[query] - document.places[key]) + BUCKET - 1
                    bias[query * length + key] = table[row]
        return torch.stack(bias).T.unflatten(1, (length, length))

    def attend(self, name: str, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            self.linear(f"{name}.{letter}_proj", read).chunk(NUM_HEADS, 1)
            for letter, read in zip("qkv", (x, memory, memory), strict=True)
        )
        heads = [
            self.state[f"{name}.c_attn"][head]
            * ((q[head] * SCALE @ k[head].T + bias[head]).softmax(1) @ v[head])
            for head in range(NUM_HEADS)
        ]
        return self.linear(f"{name}.out_proj", torch.cat(heads, 1))

    def feed(self, layer: str, x: Tensor) -> Tensor:
        up = F.gelu(self.linear(f"{layer}.fc1", self.norm(f"{layer}.final_layer_norm", x)))
        added = self.linear(f"{layer}.fc2", self.norm(f"{layer}.ffn_layernorm", up))
        return self.state.get(f"{layer}.w_resid", torch.ones(())) * x + added

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias)


def bucket(behind: int) -> int:
    """Return the bucket of a key that lies ``behind`` its query."""
    middle = BUCKET // 2
    if abs(behind) <= middle:
        return behind
    share = math.log(abs(behind) / middle) / math.log((LONGEST - 1) / middle)
    return int(math.copysign(math.ceil(share * (middle - 1)) + middle, behind))


def lay_out(documents: list[Document]) -> dict[str, Tensor]:
    """Return the stream of ``documents``, each of whose tokens sees all of its own."""
    lengths = torch.tensor([len(document.places) for document in documents])
    stops = lengths.cumsum(0).repeat_interleave(lengths)
    slots = [(n, slot) for n, document in enumerate(documents) for slot in document.slots]
    names = sorted(set(slots))
    return {
        "hidden": torch.cat([document.hidden for document in documents]),
        "positions": torch.cat([document.positions for document in documents]),
        "slots": torch.tensor([names.index(slot) for slot in slots]),
        "places": torch.tensor([place for document in documents for place in document.places]),
        "keys": torch.stack((stops - lengths.repeat_interleave(lengths), stops)),
    }


def make_ops(**options: bool) -> tuple[EncodeRelative, DecodeRelative]:
    sizes = {"width": WIDTH, "num_heads": NUM_HEADS, "ffn_width": 2 * WIDTH}
    shape = to_items({**sizes, "num_layers": NUM_LAYERS, **options})
    return EncodeRelative(shape=shape, forms=FORMS), DecodeRelative(shape=shape, forms=FORMS)


@pytest.mark.parametrize("scale_resids", [False, True])
@pytest.mark.parametrize("share_tables", [False, True])
def test_stacks_compute_the_formula_and_its_gradients(
    *, share_tables: bool, scale_resids: bool
) -> None:
    torch.manual_seed(0)
    encode, decode = make_ops(share_tables=share_tables, scale_resids=scale_resids)
    model: Any = nn.ModuleDict({"encoder": encode.module(), "decoder": decode.module()}).double()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 2
    sources, targets = read_documents(SOURCES), read_documents(TARGETS)
    source, target = lay_out(sources), lay_out(targets)
    # Each target token sees those before it, and the source of its document.
    document_of = torch.tensor([0] * 3 + [1] * 10)
    cross_keys = source["keys"].unique(dim=1)[:, document_of]
    target["keys"][1] = torch.arange(13) + 1
    memory = encode(model["encoder"], **source)
    own = {"memory": memory, "memory_positions": source["positions"], "cross_keys": cross_keys}
    found = decode(model["decoder"], **own, **target)

    formula = Formula(to_ofasys(dict(model.named_parameters())).tensors)
    memories = [formula.encode(document) for document in sources]
    triples = zip(targets, sources, memories, strict=True)
    expected = torch.cat([formula.decode(*triple) for triple in triples])

    torch.testing.assert_close(memory, torch.cat(memories), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    given = dict(model.named_parameters())
    for number, document in enumerate((*sources, *targets)):
        given |= {f"hidden {number}": document.hidden, f"positions {number}": document.positions}
    pull = torch.randn_like(found)
    grads, expected_grads = (
        torch.autograd.grad(out, [*given.values()], pull, retain_graph=True)
        for out in (found, expected)
    )
    for name, grad, expected_grad in zip(given, grads, expected_grads, strict=True):
        assert (grad - expected_grad).norm() <= 1e-9 * max(1, expected_grad.norm()), name
        # What is added to all keys alike changes no attention.
        assert expected_grad.norm() > 1e-6 or name.endswith("ositions.key.bias"), name
    assert ("encoder.layers.2.ffn_sum.factor_C" in given) == scale_resids
    assert len(given["decoder.relative.tables.text"]) == (1 if share_tables else NUM_LAYERS)
