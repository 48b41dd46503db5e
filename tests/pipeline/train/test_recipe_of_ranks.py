"""Whatever the recipe, ranks learn together what one learns alone, sharing parameters or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taskloom.pipeline import Run
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.model.record import used_artifacts
from taskloom.pipeline.settings import ScopeRule, TrainConfig
from taskloom.pipeline.trainer.keeping import begin_with, whole_result
from taskloom.pipeline.trainer.learner import Learner, own_torch
from taskloom.pipeline.trainer.ranks import Ranks, join_ranks
from taskloom.storage.store import Store

from .launching import run_ranks
from .stores import CONFIG, MODEL, make_mixture

CPU = torch.device("cpu")
STEP = replace(CONFIG, packs_per_step=4, warmup=0.0, learning_rate=1e-3)
RECIPES: Mapping[str, dict[str, Any]] = {
    "muon": {"optimizer": "muon"},
    "ema": {"ema": 0.5},
    "frozen": {"scopes": {"encoder": ScopeRule(learn="frozen"), "decoder": ScopeRule(rate=0.5)}},
    "lora": {"scopes": {"*": ScopeRule(learn="lora", rank=2)}},
    "initial": {"balance": "initial"},
    "uncertainty": {"balance": "uncertainty"},
    "famo": {"balance": "famo"},
    "compiled": {"compile": "on"},
}

_LEARN = """
import sys
from pathlib import Path
from tests.pipeline.train.test_recipe_of_ranks import tell_of_recipes
tell_of_recipes(*map(Path, sys.argv[1:]))
"""


def tell_of_recipes(store: Path, weights: Path, out: Path) -> None:
    """Learn by each recipe together with the other ranks; the first rank keeps what came of it."""
    torch.set_num_threads(1)
    stream = open_on(store)
    with join_ranks(STEP, CPU) as ranks:
        told = {
            f"{name}/{sharding}": learn(
                stream, replace(STEP, sharding=sharding, **more), ranks, weights
            )
            for name, more in RECIPES.items()
            for sharding in ("none", "full")
        }
        if ranks.is_first:
            torch.save(told, out / "told.pt")


def open_on(store: Path) -> Stream:
    return open_stream(make_mixture(has_rows=False), Store.open(store), MODEL, STEP)


def learn(stream: Stream, config: TrainConfig, ranks: Ranks, weights: Path) -> dict[str, Tensor]:
    """Begin with ``weights``, take three steps, with dropout, and return what came of them."""
    with own_torch(config, CPU), stream.loader(rank=ranks.rank, num_ranks=ranks.number) as loader:
        learner = Learner.make(stream.plan, config, CPU, ranks)
        begin_with(learner, weights, used_artifacts(stream))
        for packs in islice(loader, 3):
            learner.take(packs)
        told = {name: p.detach() for name, p in whole_result(learner).named_parameters()}
    balance = {} if learner.balance is None else learner.balance.balancer.state()
    return told | {f"balance {name}": tensor.detach() for name, tensor in balance.items()}


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def together(
    request: pytest.FixtureRequest,
    store_dir: Path,
    run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """What several ranks come to; of four, two have no share of a low-rank pair."""
    out = tmp_path_factory.mktemp("told")
    run_ranks(_LEARN, request.param, str(store_dir), str(run.path), str(out))
    return torch.load(out / "told.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the compiler, which differ from version to version
@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("name", RECIPES)
def test_ranks_come_to_what_one_does(
    store_dir: Path, run: Run, together: Any, name: str, sharding: str
) -> None:
    alone = learn(open_on(store_dir), replace(STEP, **RECIPES[name]), Ranks(), run.path)
    ours = together[f"{name}/{sharding}"]
    assert ours.keys() == alone.keys()
    # Muon computes in half precision, where sums in another order round otherwise.
    most = 1e-3 if name == "muon" else 1e-4
    for key, tensor in alone.items():
        torch.testing.assert_close(
            ours[key], tensor, rtol=1e-3, atol=most, msg=lambda m, k=key: f"{k}: {m}"
        )
