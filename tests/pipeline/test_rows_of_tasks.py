"""A task more may move ids, but not what they stand for: every row is found again by its place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taskloom.graph.vocabulary import Vocabulary, find_rows
from taskloom.ops.device.config import ModelConfig
from taskloom.pipeline import Mixture, Task
from taskloom.pipeline.model.handing_back import export_checkpoint
from taskloom.pipeline.model.importing import SCOPES, import_checkpoint, take_over
from taskloom.pipeline.model.program import Program
from taskloom.pipeline.model.record import describe_vocabulary
from taskloom.pipeline.planner.planning import plan
from taskloom.storage.checkpoint import write_checkpoint

POOL = {
    "copies": "[TEXT:a] -> [TEXT:b]",
    "fills": "[TEXT:a,mask_ratio=0.3] -> [TEXT:a]",
    "grounds": "[IMAGE:i,size=32,patch=16] where is [TEXT:a] -> [BOX:b]",
    "describes": "[IMAGE:i,size=32,patch=16] [BOX:b] -> [TEXT:a]",
}
ROWS = f"{SCOPES}vocabulary.weight_VC"
MODEL = ModelConfig(
    position="relative",
    width=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    ffn_width=32,
    max_positions=16,
)

names = st.lists(st.sampled_from(sorted(POOL)), min_size=1, max_size=3, unique=True)
more = st.sampled_from(sorted(POOL))
sizes = st.integers(300, 400)


def mix(named: Sequence[str], bpe_size: int) -> Mixture:
    return Mixture([Task(name, POOL[name]) for name in named], bpe_size=bpe_size)


def number(named: Sequence[str], bpe_size: int) -> Vocabulary:
    return plan(mix(named, bpe_size), has_device=False).vocabulary


def add(named: Sequence[str], task: str) -> list[str]:
    return [*named, *([] if task in named else [task])]


@settings(deadline=None, max_examples=25)
@given(names, more, sizes, st.integers(0, 40))
def test_every_id_of_a_mixture_is_one_of_the_mixture_with_a_task_more(
    named: list[str], task: str, size: int, grown: int
) -> None:
    was, now = number(named, size), number(add(named, task), size + grown)
    rows = find_rows(was.places, now.places)
    assert sorted(row for row in rows if row >= 0) == [*range(was.size)]
    found = [(row, place) for row, place in zip(rows, now.places, strict=True) if row >= 0]
    assert all(was.places[row] == place for row, place in found)
    # Ids themselves stay up to the first block that is new, or longer.
    both = zip(was.blocks, now.blocks, strict=False)
    stay = sum(block.size for block, _ in takewhile(lambda pair: pair[0] == pair[1], both))
    assert rows[:stay] == [*range(stay)]


@settings(deadline=None, max_examples=25)
@given(names, more, sizes)
def test_a_task_more_moves_no_id_but_that_of_the_mask(
    named: list[str], task: str, size: int
) -> None:
    was, now = number(named, size), number(add(named, task), size)
    kept = [place for place in was.places if place[0] != "mask"]
    assert now.places[: len(kept)] == kept


def test_a_first_task_with_boxes_moves_the_mask() -> None:
    was, now = number(["fills"], 300), number(["fills", "grounds"], 300)
    assert (was.offset("mask"), now.offset("mask")) == (304, 1304)


@settings(deadline=None, max_examples=4)
@given(names, more, sizes, st.integers(0, 40))
def test_a_run_with_a_task_more_begins_with_the_row_of_every_old_id(
    named: list[str], task: str, size: int, grown: int
) -> None:
    before = plan(mix(named, size), model=MODEL)
    after = plan(mix(add(named, task), size + grown), model=MODEL)
    old, new = Program(before), Program(after)
    with TemporaryDirectory() as folder:
        path = Path(folder)
        record = {"vocabulary": describe_vocabulary(before)}
        write_checkpoint(path / "run", tensors=old.state_dict(), record=record, artifacts={})
        written = export_checkpoint(path / "run", path / "run.pt")
        import_checkpoint(written.path, path / "imported")
        fresh = new.state_dict()[ROWS].clone()
        for weights in ("run", "imported"):
            begun = Program(after)
            begun.load_state_dict(new.state_dict())
            taken = take_over(begun, after.vocabulary, path / weights)
            assert taken.new_ids == after.vocabulary.size - before.vocabulary.size
            check_rows(begun.state_dict()[ROWS], after.vocabulary, old, before.vocabulary, fresh)


def check_rows(rows: Tensor, now: Vocabulary, old: Program, was: Vocabulary, fresh: Tensor) -> None:
    """Check that the row of every place is what it was, or where there was none, what it began as."""
    known = dict(zip(was.places, old.state_dict()[ROWS], strict=True))
    for id_, place in enumerate(now.places):
        assert torch.equal(rows[id_], known.get(place, fresh[id_])), place
