"""What packs demand is what their documents do, and a run's header tells what its steps compute."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest
import torch

from taskloom.pipeline import Run
from taskloom.pipeline.loader.stream import Stream
from taskloom.pipeline.model.demand import Demand
from taskloom.pipeline.model.pack_units import LABEL, PACK, PAIR, count_in_documents, count_used
from taskloom.pipeline.model.work import trace_work
from taskloom.pipeline.settings import ScopeRule
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.pipeline.trainer.scopes import apply_rules
from taskloom.storage.pack import Pack
from taskloom.storage.template import Documents


def first_packs(stream: Stream, number: int) -> list[Pack]:
    with stream.loader() as loader:
        return [pack for packs in islice(loader, number) for pack in packs]


def documents_of(pack: Pack, stream: Stream) -> list[Documents]:
    """Return the documents of ``pack``, by template, as their rows are known in advance."""
    found = list[Documents]()
    for number, documents in enumerate(stream.documents):
        rows = pack.rows[pack.rows[:, 0] == number, 1]
        found.append(documents.select(np.isin(documents.rows, rows)))
    return found


def test_a_pack_has_the_units_of_its_documents(stream: Stream) -> None:
    for pack in first_packs(stream, 3):
        counts: dict[str, float] = {LABEL: 0, PACK: 1, PAIR: 0}
        for documents in documents_of(pack, stream):
            for unit, number in count_in_documents(documents).items():
                counts[unit] = counts.get(unit, 0) + number
        used = count_used(pack)
        # What a prompt says before the slot has no weight.
        assert used[LABEL] < counts[LABEL]
        assert counts | {LABEL: used[LABEL]} == used


def test_a_blank_pack_is_enough_to_know_what_others_demand(stream: Stream) -> None:
    packs = first_packs(stream, 2)
    demand, work = Demand.of(stream), trace_work(stream.plan, packs[0])
    assert demand.of_packs(packs) == pytest.approx(work.of(packs).useful)
    assert demand.of_packs([stream.blank()]) == 0


def test_knowing_what_packs_demand_draws_no_random_numbers(stream: Stream) -> None:
    before = torch.random.get_rng_state()
    scopes = {"encoder": ScopeRule(learn="lora", rank=2)}
    Demand.of(stream, lambda program, _: apply_rules(program, scopes))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_frozen_demands_less(stream: Stream) -> None:
    scopes = {"encoder": ScopeRule(learn="frozen")}
    frozen = Demand.of(stream, lambda program, _: apply_rules(program, scopes))
    all_learned = Demand.of(stream)
    assert frozen.prices["source"] < all_learned.prices["source"]
    assert frozen.prices["target"] == pytest.approx(all_learned.prices["target"])


def test_what_steps_computed_is_about_what_the_header_says(run: Run) -> None:
    (told,) = (line for line in run.header if line.startswith("a step: "))
    found = re.search(r"(\d+) samples, about ([\d.]+) MFLOP", told)
    assert found is not None
    lines = [line for line in read_log(run.path) if line["speed"]["flops_per_s"]]
    speeds = [line["speed"] for line in lines]
    per_sample = sum(s["flops_per_s"] for s in speeds) / sum(s["samples_per_s"] for s in speeds)
    assert per_sample == pytest.approx(float(found[2]) * 1e6 / int(found[1]), rel=0.15)
