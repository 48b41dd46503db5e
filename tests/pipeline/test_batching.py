"""Slots of a built task come as padded batches of arrays, whatever model they are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from taskloom.graph.errors import PlanError
from taskloom.ops.host.bpe import Bpe
from taskloom.pipeline import open_batches
from taskloom.storage.store import Store

from .rows import WORDS, digit_rows, digits_mixture, digits_task, mix, run


def test_every_slot_comes_under_its_name_and_texts_are_ids_of_the_tokenizer(
    digits_dir: Path,
) -> None:
    batches = open_batches(digits_mixture(), digits_dir, batch_size=8)
    store = Store.open(digits_dir)
    bpe = Bpe(store.artifact_content(store.artifacts()["bpe-main"].digest))
    rows = digit_rows()
    seen = 0
    for batch in batches.epoch():
        assert set(batch) == {"rows", "image", "label", "label_lengths"}
        assert batch["image"].shape[1:] == (16, 16, 3)
        assert torch.from_numpy(batch["label"]).dtype == torch.int32
        for place, row in enumerate(batch["rows"].tolist()):
            ids = batch["label"][place, : batch["label_lengths"][place]]
            assert bpe.decode(ids) == str(rows[row]["label"])
        seen += len(batch["rows"])
    held_out = open_batches(digits_mixture(), digits_dir, split="test")
    assert seen == batches.num_rows == len(rows) - held_out.num_rows


def test_rows_without_a_value_and_of_other_splits_are_left_out(tmp_path: Path) -> None:
    rows = digit_rows(20)
    rows[3]["image"] = b"no image"
    mixture = mix(digits_task(rows, holdout=0.0, key=None))
    run(mixture, tmp_path)
    batches = open_batches(mixture, tmp_path, seed=None)
    (batch,) = batches.epoch()
    assert batch["rows"].tolist() == [n for n in range(20) if n != 3]


def test_one_of_several_tasks_is_named(tmp_path: Path) -> None:
    rows = digit_rows(20)
    mixture = mix(digits_task(rows), digits_task(rows, WORDS, name="words"))
    run(mixture, tmp_path)
    with pytest.raises(PlanError, match=r"(?s)one of several tasks.*words"):
        open_batches(mixture, tmp_path)
    batch = next(open_batches(mixture, tmp_path, task="words", batch_size=4).epoch())
    assert set(batch) == {"rows", "note", "note_lengths", "label", "label_lengths"}
    assert np.array_equal(
        batch["note"] != 0, np.arange(batch["note"].shape[1]) < batch["note_lengths"][:, None]
    )
