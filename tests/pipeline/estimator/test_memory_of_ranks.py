"""Memory that is planned for each of two ranks is what it holds, within a tenth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peak import count_peak

from taskloom.pipeline.estimator.cluster import Cluster
from taskloom.pipeline.estimator.run_plan import Case, RunPlan
from taskloom.pipeline.estimator.sampled import sample_packs
from taskloom.pipeline.loader.stream import Stream, open_stream
from taskloom.pipeline.settings import TrainConfig
from taskloom.pipeline.trainer.learner import Learner
from taskloom.pipeline.trainer.ranks import join_ranks
from taskloom.storage.store import Store

from ..train.launching import run_ranks
from .conftest import MODELS, OpenStream, make_texts

CPU = torch.device("cpu")

_HOLD = """
import sys
sys.path.append(sys.argv[3])
from pathlib import Path
from tests.pipeline.estimator.test_memory_of_ranks import tell_of_rank
tell_of_rank(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[4:])
"""


def settings_of(sharding: str, precision: str) -> dict[str, Any]:
    return {"packs_per_step": 2, "sharding": sharding, "precision": precision}


def tell_of_rank(store: Path, out: Path, sharding: str, precision: str) -> None:
    """Write down the most that a rank holds that learns for two steps."""
    torch.set_num_threads(1)
    config = TrainConfig(source_tokens=1024, compile="off", **settings_of(sharding, precision))
    stream = open_stream(make_texts(), Store.open(store), MODELS["rotary"], config)
    with join_ranks(config, CPU) as ranks:
        with stream.loader(rank=ranks.rank, num_ranks=ranks.number) as loader:
            steps = iter(loader)
            given = [list(next(steps)) for _ in range(2)]
        most = count_peak(lambda: learn(stream, given, ranks))
        (out / f"{ranks.rank}").write_text(str(most))


def learn(stream: Stream, steps: list[Any], ranks: Any) -> None:
    learner = Learner.make(stream.plan, stream.config, CPU, ranks)
    for packs in steps:
        learner.take(packs)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_of_two_ranks_holds_what_is_planned_for_it(
    open_small: OpenStream, tmp_path: Path, sharding: str, precision: str
) -> None:
    stream = open_small("texts", "rotary", **settings_of(sharding, precision))
    bench = Path(__file__).parents[3] / "bench"
    run_ranks(_HOLD, 2, str(stream.store.path), str(tmp_path), str(bench), sharding, precision)
    cluster = Cluster(kind="cpu", per_node=2)
    planned = RunPlan.of(Case(stream=stream, sampled=sample_packs(stream), cluster=cluster)).memory
    held = [int((tmp_path / f"{rank}").read_text()) for rank in range(2)]
    # Packs are there before.
    assert max(held) == pytest.approx(planned.tensors - planned.pack, rel=0.1)
