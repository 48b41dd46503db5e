"""Slots are found from where documents and tensors lie: ids that stand together are one, each tensor is one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.ops.device.relative.adapter import SlotShape, TokenSlots
from taskloom.ops.device.relative.places import find_starts, make_forms, to_items
from taskloom.ops.device.relative.slot_ops import FindSlots

MOST = 9
FORMS = (
    (
        "image",
        to_items({"kind": "grid", "table": "image", "num_rows": 2, "num_columns": 2, "bucket": 4}),
    ),
    (
        "text",
        to_items({"kind": "line", "table": "text", "num_places": MOST, "bucket": 8, "longest": 16}),
    ),
)
STARTS = find_starts(make_forms(FORMS))
FIND = FindSlots(forms=FORMS, lanes=("image",))

# A document is runs of ids, of these lengths, and images (0), in any order.
documents = st.lists(st.lists(st.integers(0, MOST), max_size=4), max_size=5)


@given(documents, st.integers(0, 6))
def test_every_token_has_its_slot_and_its_place(parts: list[list[int]], num_unused: int) -> None:
    positions, images, slots, places = lay_out(parts, num_unused)
    lane = torch.tensor([*images, [len(positions)] * 4], dtype=torch.int32)
    found, found_places = FIND(None, torch.tensor(positions, dtype=torch.int32), image_places=lane)
    used = slice(len(positions) - num_unused)
    assert found_places[used].tolist() == places[used]
    # Numbers of slots may have gaps; equal ones are told.
    _, expected = np.unique(slots[used], return_inverse=True)
    _, told = np.unique(found[used], return_inverse=True)
    assert told.tolist() == expected.tolist()
    assert not {*found[used].tolist()} & {*found[len(positions) - num_unused :].tolist()}


def test_a_run_longer_than_the_model_knows_is_no_number() -> None:
    positions = torch.arange(MOST + 2, dtype=torch.int32)
    nowhere = torch.full((1, 4), len(positions), dtype=torch.int32)
    _, places = FIND(None, positions, image_places=nowhere)
    adapter = TokenSlots(SlotShape(width=4), FORMS, ["text"])
    hidden, _ = adapter(torch.zeros(len(positions), 4), places)
    assert hidden[:MOST].isfinite().all()
    assert hidden[MOST:].isnan().all()


def lay_out(
    parts: list[list[int]], num_unused: int
) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    """Return positions, where images stand, and slots and places as they should be found."""
    positions: list[int] = []
    images: list[list[int]] = []
    slots: list[int] = []
    places: list[int] = []
    slot = 0
    for document in parts:
        begin, run = len(positions), 0
        slot += 1
        for part in document:
            length, name = (part, "text") if part else (4, "image")
            if not part:
                images.append([*range(len(positions), len(positions) + 4)])
                slot, run = slot + 1, 0
            elif run + part > MOST:
                continue
            places += [STARTS[name] + run + index for index in range(length)]
            positions += [len(positions) - begin + index for index in range(length)]
            slots += [slot] * length
            run, slot = (run + part, slot) if part else (0, slot + 1)
    return (
        positions + [0] * num_unused,
        images,
        slots + [-1] * num_unused,
        places + [-1] * num_unused,
    )
