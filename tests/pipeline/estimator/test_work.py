"""FLOP of a step are those that plain attention and plain products have on its documents, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from taskloom.ops.device import loss, modality
from taskloom.ops.device.attention import backend
from taskloom.ops.device.attention.spec import AttentionSpec
from taskloom.pipeline.loader.packing import to_inputs
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.model.work import (
    Count,
    add_up_flops,
    count_units,
    trace_work,
)
from taskloom.pipeline.settings import ScopeRule
from taskloom.pipeline.trainer.scopes import apply_rules
from taskloom.storage.pack import Pack

from .conftest import OpenStream

CPU = torch.device("cpu")
NUM_DOCUMENTS = 12

every_case = pytest.mark.parametrize(
    ("mixture", "model"),
    [
        ("digits", "rotary"),
        ("texts", "relative"),
        pytest.param("texts", "rotary", marks=pytest.mark.slow),
        pytest.param("digits", "relative", marks=pytest.mark.slow),
        pytest.param("digits", "absolute", marks=pytest.mark.slow),
        ("digits", "per_modality"),
        pytest.param("names", "trunk", marks=pytest.mark.slow),
    ],
)
every_rule = pytest.mark.parametrize(
    "scopes",
    [
        pytest.param({"encoder": ScopeRule(learn="lora", rank=4)}, id="low-rank pairs"),
        pytest.param({"encoder": ScopeRule(learn="frozen")}, id="frozen"),
    ],
)


def first_pack(stream: Stream) -> Pack:
    with stream.loader() as loader:
        return next(iter(loader))[0]


def split_documents(pack: Pack) -> Iterator[Pack]:
    """Yield each document of ``pack`` as a pack that has no room for anything else."""
    for (start, stop), (first, last) in zip(
        pack.source_ranges.tolist(), pack.target_ranges.tolist(), strict=True
    ):
        source, target = slice(start, stop), slice(first, last)
        lanes = {
            name: (places[:, 0] >= start) & (places[:, 0] < stop)
            for name, places in pack.places.items()
        }
        yield replace(
            pack,
            **{name: getattr(pack, name)[source] for name in ("source_ids", "source_positions")},
            source_lo=pack.source_lo[source] - start,
            source_hi=pack.source_hi[source] - start,
            **{
                name: getattr(pack, name)[target]
                for name in ("target_ids", "labels", "weights", "loss_ids", "target_positions")
            },
            target_lo=pack.target_lo[target] - first,
            target_hi=pack.target_hi[target] - first,
            cross_lo=pack.cross_lo[target] - start,
            cross_hi=pack.cross_hi[target] - start,
            tensors={name: pack.tensors[name][kept] for name, kept in lanes.items()},
            places={name: pack.places[name][kept] - start for name, kept in lanes.items()},
        )


def charge_plainly(
    hidden: Tensor, table: Tensor, labels: Tensor, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    learned = weights > 0
    scores = hidden[learned] @ table.T
    losses = F.cross_entropy(scores, labels[learned].long(), reduction="none") * weights[learned]
    charged = torch.zeros_like(weights).masked_scatter(learned, losses.detach())
    return losses.sum(), charged


def multiply_plainly(x_NC: Tensor, weights: Sequence[Tensor], stops_E: Tensor) -> Tensor:
    """Return products of groups, one after another."""
    parts = x_NC.tensor_split(stops_E[:-1].tolist())
    return torch.cat([F.linear(x, weight) for x, weight in zip(parts, weights, strict=True)])


def count_plainly(stream: Stream, documents: list[Pack], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return what torch counts for ``documents``, computed as formulas say."""

    def choose(_lo: Tensor, _num_keys: int, spec: AttentionSpec) -> AttentionSpec:
        return replace(spec, backend="math", window=0, is_diagonal=False)

    monkeypatch.setattr(backend, "choose_backend", choose)
    monkeypatch.setattr(loss, "charge_labels", charge_plainly)
    monkeypatch.setattr(modality, "multiply_groups", multiply_plainly)
    program = Program(stream.plan)
    apply_rules(program, stream.config.scopes)
    with FlopCounterMode(display=False) as counter:
        for document in documents:
            program(to_inputs(stream.plan, document, CPU))["loss"].backward()
    return counter.get_total_flops()


@every_case
def test_useful_flops_are_those_of_plain_formulas(
    open_small: OpenStream, monkeypatch: pytest.MonkeyPatch, mixture: str, model: str
) -> None:
    _compare(open_small(mixture, model), monkeypatch)


@every_rule
def test_gradients_that_nobody_learns_from_count_nothing(
    open_small: OpenStream, monkeypatch: pytest.MonkeyPatch, scopes: dict[str, ScopeRule]
) -> None:
    _compare(open_small("digits", "rotary", scopes=scopes), monkeypatch)


def _compare(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a few documents both ways."""
    pack = first_pack(stream)
    documents = list(split_documents(pack))[:NUM_DOCUMENTS]
    work = trace_work(
        stream.plan, pack, lambda program, _: apply_rules(program, stream.config.scopes)
    )
    useful, dense = 0.0, 0.0
    for document in documents:
        counts = count_units(document)
        useful += add_up_flops((part, counts[part.unit]) for part in work.parts).useful
        # A dense mask computes the half of the target that is not seen as well.
        counts["target keys"] = Count(len(document.target_ids) ** 2, 0)
        dense += add_up_flops((part, counts[part.unit]) for part in work.parts).useful
    plain = count_plainly(stream, documents, monkeypatch)
    assert useful == pytest.approx(plain, rel=0.1)
    assert dense == pytest.approx(plain, rel=0.01)


def test_what_is_executed_is_more_than_what_is_useful(open_small: OpenStream) -> None:
    stream = open_small("texts", "relative")
    pack = first_pack(stream)
    counted = trace_work(stream.plan, pack).of([pack])
    assert 1.1 * counted.useful < counted.executed < 3 * counted.useful


def test_work_is_named_by_node_and_by_what_it_is_done_for(open_small: OpenStream) -> None:
    stream = open_small("digits", "rotary")
    work = trace_work(stream.plan, first_pack(stream))
    addresses = {node.address for node in stream.plan.graph}
    assert {part.node for part in work.parts} <= addresses
    assert {part.is_backward for part in work.parts} == {False, True}
    units = {part.unit for part in work.parts if part.is_attention}
    assert units == {"source keys", "target keys", "cross keys"}
    assert {"source", "target", "label", "image_16_8"} <= {part.unit for part in work.parts}


def test_flops_of_packs_are_the_sums_of_theirs_and_follow_their_units(
    open_small: OpenStream,
) -> None:
    stream = open_small("texts", "rotary")
    with stream.loader() as loader:
        steps = iter(loader)
        packs = [next(steps)[0] for _ in range(3)]
    work = trace_work(stream.plan, packs[0])
    single = [work.of([pack]) for pack in packs]
    assert work.of(packs).useful == pytest.approx(sum(each.useful for each in single))
    for pack in packs:
        counts = count_units(pack)
        assert counts["source keys"].used == (pack.source_hi - pack.source_lo).sum()
        assert all(count.used <= count.held for count in counts.values())
