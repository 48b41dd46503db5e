"""Ranks learn together what one learns alone, whatever a step is divided into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from taskloom.graph.errors import TrainingError
from taskloom.graph.vocabulary import PAD
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.trainer.learner import Learner, own_torch
from taskloom.pipeline.trainer.ranks import Ranks, join_ranks
from taskloom.pipeline.trainer.sharding import make_whole
from taskloom.pipeline.trainer.tally import Tally
from taskloom.storage.one_pass import pack_documents
from taskloom.storage.pack import Pack
from taskloom.storage.store import Store

from .launching import MakeOnce, run_apart
from .stores import CONFIG, MODEL, make_mixture

CPU = torch.device("cpu")
STEP = replace(CONFIG, packs_per_step=4, clip=0.0)
"""Four packs a step, whose gradients are left as they are."""

KINDS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "half precision": ({}, {"precision": "bfloat16"}),
    "clipped": ({}, {"clip": 0.01}),
    "relative": ({"position": "relative"}, {}),
    "by modality": ({"ffn": "per_modality"}, {}),
}
"""Sizes of the model and settings of each kind of step."""
SHARDINGS = ("none", "full")
DIVIDED = ("mixed", "apart")
"""Whether a step's packs are of both tasks each, or of one: then some ranks lack pictures."""

Told = Mapping[str, Any]

_LEARN = """
import sys
from pathlib import Path
import torch
from tests.pipeline.train.test_ranks import tell_of_steps
tell_of_steps(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def tell_of_steps(store: Path, out: Path) -> None:
    """Take steps of several kinds together with the other ranks; the first rank keeps what came of them."""
    torch.set_num_threads(1)
    with join_ranks(STEP, CPU) as ranks:
        told: dict[str, Any] = {
            f"{kind}/{sharding}/{divided}": tell_of_step(store, kind, sharding, divided, ranks)
            for kind, sharding, divided in product(KINDS, SHARDINGS, DIVIDED)
        }
        told["reduced"] = {
            sharding: count_reduced(open_on(store), sharding, ranks) for sharding in SHARDINGS
        }
        if ranks.is_first:
            torch.save(told, out / f"{ranks.number}.pt")


def tell_of_step(
    store: Path, kind: str, sharding: str, divided: str, ranks: Ranks
) -> dict[str, Any]:
    """Take the first step, with dropout, and return its losses, gradients and new parameters."""
    sizes, settings = KINDS[kind]
    stream = open_on(store, **sizes)
    config = replace(STEP, sharding=sharding, **settings)
    packs = pack_apart(stream) if divided == "apart" else first_packs(stream)
    with own_torch(config, CPU):
        learner = Learner.make(stream.plan, config, CPU, ranks)
        learner.take(share(packs, ranks))
    named = dict(learner.program.named_parameters())
    tally = learner.tally.of_all(ranks)
    return {
        "told": tally.describe(stream.losses) | {"seconds": 0.0},
        "grads": {name: make_whole(p.grad) for name, p in named.items() if p.grad is not None},
        "parameters": {name: make_whole(p.detach()) for name, p in named.items()},
    }


@cache
def open_on(store: Path, **sizes: Any) -> Stream:
    model = replace(MODEL, **sizes)
    return open_stream(make_mixture(has_rows=False), Store.open(store), model, STEP)


def first_packs(stream: Stream) -> list[Pack]:
    with stream.loader() as loader:
        return list(next(iter(loader)))


def pack_apart(stream: Stream) -> list[Pack]:
    """Return four packs: two of digits, which alone have pictures, then two of words."""
    return [pack for task in ("digits", "spell") for pack in islice(_pack(stream, task), 2)]


def _pack(stream: Stream, task: str) -> list[Pack]:
    rows = {
        template.name: stream.rows[template.task][: 40 if template.task == task else 0]
        for template in stream.templates
    }
    rows = {name: np.asarray(each, np.int64) for name, each in rows.items()}
    packs = list(
        pack_documents(stream.templates, rows, stream.columns, stream.capacity, pad_id=PAD)
    )
    assert len(packs) >= 2
    return packs


def share(packs: Sequence[Pack], ranks: Ranks) -> Sequence[Pack]:
    size = len(packs) // ranks.number
    return packs[ranks.rank * size : (ranks.rank + 1) * size]


def count_reduced(stream: Stream, sharding: str, ranks: Ranks) -> dict[str, Any]:
    """Return how many numbers each all-reduce of the third step carries, and how often ranks did what."""
    sizes: list[int] = []
    plain = torch.distributed.all_reduce

    def reduce(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        sizes.append(tensor.numel())
        return plain(tensor, *arguments, **options)

    learner = Learner.make(stream.plan, replace(STEP, sharding=sharding), CPU, ranks)
    with stream.loader(rank=ranks.rank, num_ranks=ranks.number) as loader:
        steps = iter(loader)
        for _ in range(2):  # buckets are made anew after the first
            learner.take(next(steps))
        torch.distributed.all_reduce = reduce
        with torch.profiler.profile() as profile:
            learner.take(next(steps))
        torch.distributed.all_reduce = plain
    events: Any = profile.events()
    calls = Counter(each.name for each in events if each.name.startswith("c10d::"))
    num_sharded = sum(isinstance(module, FSDPModule) for module in learner.program.modules())
    num_parts = len(learner.optimizer.parts)
    return {"sizes": sizes, "calls": calls, "sharded": num_sharded, "parts": num_parts}


@pytest.fixture(scope="module")
def alone(store_dir: Path) -> Told:
    """What one rank comes to."""
    return {
        f"{kind}/{divided}": tell_of_step(store_dir, kind, "none", divided, Ranks())
        for kind, divided in product(KINDS, DIVIDED)
    }


@pytest.fixture(
    scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=["2 ranks", "4 ranks"]
)
def together(request: pytest.FixtureRequest, store_dir: Path, make_once: MakeOnce) -> Told:
    """What several come to."""
    number: int = request.param
    out = make_once(
        f"{number} ranks", lambda out: run_apart(_LEARN, number, str(store_dir), str(out))
    )
    return torch.load(out / f"{number}.pt")


@pytest.mark.parametrize("divided", DIVIDED)
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_have_the_loss_and_the_gradients_of_one(
    alone: Told, together: Told, kind: str, sharding: str, divided: str
) -> None:
    """With dropout; in half precision only each pack's own gradient is rounded, as it is on one rank."""
    assert MODEL.dropout > 0
    ours, theirs = together[f"{kind}/{sharding}/{divided}"], alone[f"{kind}/{divided}"]
    assert_near(ours["grads"], theirs["grads"], 1e-6)
    assert_near(ours["parameters"], theirs["parameters"], 1e-6)
    told, expected = ours["told"], theirs["told"]
    assert told["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert told["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)
    assert {t: each["labels"] for t, each in told["tasks"].items()} == {
        t: each["labels"] for t, each in expected["tasks"].items()
    }
    assert told["tokens"] == expected["tokens"]
    assert told["packs"] == expected["packs"], "the fingerprint is that of the whole step"


def test_a_step_has_one_all_reduce_of_gradients(alone: Told, together: Told) -> None:
    """And one of three numbers: what the losses weigh, and whether somebody wants to stop."""
    num_parameters = sum(p.numel() for p in alone["plain/mixed"]["parameters"].values())
    reduced = together["reduced"]["none"]
    assert sorted(reduced["sizes"]) == [3, num_parameters]
    assert reduced["calls"] == {"c10d::allreduce_": 2}


def test_ranks_that_share_parameters_sum_gradients_once_a_step(together: Told) -> None:
    """Those of each layer and of the rest, however many packs; norms are summed beside what losses weigh."""
    reduced = together["reduced"]["full"]
    assert sorted(reduced["sizes"]) == sorted([3, reduced["parts"]])
    assert reduced["calls"]["c10d::_reduce_scatter_base_"] == reduced["sharded"]


def assert_near(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], most: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, rtol=0, atol=most, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_packs_that_ranks_cannot_share_are_refused_with_both_numbers() -> None:
    with pytest.raises(TrainingError, match=r"T0760.*packs_per_step is 6.* 4 ranks"):
        Ranks(number=4).refuse_uneven(6)
    Ranks(number=4).refuse_uneven(8)


@pytest.mark.parametrize("told", [("x", "2"), ("2", "2"), ("-1", "4")])
def test_an_environment_that_names_no_rank_is_refused(
    monkeypatch: pytest.MonkeyPatch, told: tuple[str, str]
) -> None:
    for name, value in zip(("RANK", "WORLD_SIZE"), told, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=f"T0761.*RANK={told[0]}"), join_ranks(CONFIG, CPU):
        pass


def test_ranks_that_are_not_told_where_to_meet_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a scheduler sets the variables of ranks without starting any."""
    monkeypatch.delenv("MASTER_PORT", raising=False)
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=r"T0761.* no MASTER_PORT"), join_ranks(CONFIG, CPU):
        pass


def test_one_rank_of_a_launcher_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join_ranks(CONFIG, CPU) as ranks:
        assert ranks.number == 1
        assert ranks.group is None


def test_what_ranks_keep_of_a_tally_is_all_of_it_together() -> None:
    sums = {"losses": torch.ones(2), "gradient_norm": torch.ones(())}
    whole = Tally(sums, 7, 1, [["a"]], {"caption": [3, 7]})
    shares = [whole.share(Ranks(rank=rank, number=2)) for rank in range(2)]
    assert torch.stack([each.sums["losses"] for each in shares]).sum(0).tolist() == [1.0, 1.0]
    assert [each.tokens for each in shares] == [7, 0]
    assert [each.packs for each in shares] == [[["a"]], [[]]]
    assert [each.seen for each in shares] == [{"caption": [3, 7]}, {}]
