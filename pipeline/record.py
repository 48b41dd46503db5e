"""What a checkpoint must hold so that a model works anywhere, without the store it was trained on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .stream import Stream
from .task import Mixture


def model_record(mixture: Mixture, stream: Stream) -> dict[str, Any]:
    """Return the instructions, settings, graph, op versions, vocabulary and artifacts of a model."""
    used = set(used_artifacts(stream))
    return {
        "tasks": {task.name: task.instruction for task in mixture.tasks},
        "slots": {modality: dict(values) for modality, values in mixture.slots.items()},
        "bpe_size": mixture.bpe_size,
        "model": asdict(stream.model),
        "pinned": {name: asdict(pin) for name, pin in stream.pinned.items() if name in used},
        "vocabulary": [[block.name, block.size] for block in stream.plan.vocabulary.blocks],
        "ops": {node.op: node.version for node in stream.plan.graph},
        "graph": str(stream.plan.graph),
    }


def used_artifacts(stream: Stream) -> dict[str, bytes]:
    """Return the content of the artifacts that the plan uses, by name."""
    digests = {str(n.params["digest"]) for n in stream.plan.graph if n.op == "load_artifacts"}
    return {
        name: stream.store.artifact_content(pin.digest)
        for name, pin in stream.pinned.items()
        if pin.digest in digests
    }
