"""Documents and packs: where the columns of a task meet, and where the tasks of a mixture meet.

Both belong to the loader, which composes and packs many rows at once from stored columns; these classes say
what goes in and what comes out, so that the graph shows it and checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...graph.op import Plain, Rows, Traits
from ...graph.type import ANY, Layout, Port, Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeDocuments:
    """Join the parts of one row to a document with a source and a target side.

    Attributes:
        source: What the source side is made of, in order. An entry holds either ``special`` (one special
            id), or ``block`` (and ``port``) for ids, or ``port``, ``lane`` and ``length`` for a tensor that
            takes ``length`` positions, or ``port`` and ``group`` for what repeats. ``slot`` names the slot;
            plain text has none. ``num_ids`` tells how many ids a slot always has, ``answers`` names the port
            of the closed set that a target slot is chosen from.
        target: The same for the target side. Entries of slots are learned with their ``weight``, 1 if none
            is given; plain text is given.
    """

    source: tuple[Mapping[str, Plain], ...] = ()
    target: tuple[Mapping[str, Plain], ...] = ()
    traits: ClassVar[Traits] = Traits("compose_documents", version=1, is_online=True)

    @property
    def signature(self) -> Signature:
        """Any number of parts, filters and splits of one row set in; one document for each row out."""
        return Signature(
            inputs={},
            outputs={"out": Port("document", "int32", ("T",), Layout.RAGGED)},
            variadic=Port(ANY, ANY, (), Layout.ANY),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackDocuments:
    """Lay the documents of many tasks into two flat streams of fixed length, and their tensors into lanes.

    Attributes:
        lanes: Tensors by lane: ``kind``, ``dtype`` and ``shape`` of one, and its ``length`` in positions.
        has_pairs: Whether there are contrastive pairs, each half of which is a document.
    """

    lanes: Mapping[str, Mapping[str, Any]]
    has_pairs: bool = False
    traits: ClassVar[Traits] = Traits("pack_documents", version=1, rows=Rows.JOIN, is_online=True)

    @property
    def signature(self) -> Signature:
        """Documents in; streams, key ranges and tensors of static shape out."""
        packed = Layout.PACKED
        outputs = {
            "source_ids": Port("ids", "int32", ("NS",), packed),
            "source_positions": Port("positions", "int32", ("NS",), packed),
            "source_keys": Port("keys", "int32", (2, "NS"), packed),
            "target_ids": Port("ids", "int32", ("NT",), packed),
            "target_positions": Port("positions", "int32", ("NT",), packed),
            "target_keys": Port("keys", "int32", (2, "NT"), packed),
            "cross_keys": Port("keys", "int32", (2, "NT"), packed),
            "labels": Port("labels", "int32", ("NT",), packed),
            "weights": Port("weights", "float32", ("NT",), packed),
            "loss_ids": Port("loss_ids", "int32", ("NT",), packed),
        }
        for name, lane in self.lanes.items():
            count = f"N_{name}"
            outputs[name] = Port(lane["kind"], lane["dtype"], (count, *lane["shape"]), packed)
            outputs[f"{name}_places"] = Port("places", "int32", (count, lane["length"]), packed)
        if self.has_pairs:
            outputs["pair_ranges"] = Port("ranges", "int32", ("NP", 2, 2), packed)
            outputs["pair_loss_ids"] = Port("loss_ids", "int32", ("NP",), packed)
        document = Port("document", "int32", ("T",), Layout.RAGGED)
        return Signature(inputs={}, outputs=outputs, variadic=document)
