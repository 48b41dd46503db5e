"""Saving: checkpoints that any number of processes write together, in the background.

`torch.distributed.checkpoint` decides which process writes which tensor, or which piece of one that lies spread
over processes, and carries what they tell each other. The processes write into one directory under a temporary
name; the first of them, told by all that they are done, adds the manifest and gives the directory its name. A
piece of a tensor goes by ``NAME@OFFSETS`` in its file, a whole one by its name.
"""

from __future__ import annotations

import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future as TorchFuture

from ..graph.errors import CheckpointError, TaskloomError
from .checkpoint import PLAIN, encode_files, refuse_existing, save_tensors
from .files import encode_json, sync, temporary_path
from .manifest import NAME, NEWEST, FileFacts, Manifest, writing
from .nested import split_nested
from .parts import INDEX


@dataclass(frozen=True, slots=True)
class Writing:
    """A checkpoint that is being written in the background.

    Attributes:
        path: Where it will be.
    """

    path: Path
    _future: Future[Any]
    _writer: _PartsWriter

    def wait(self) -> None:
        """Wait until it is there; on all processes, if several write it.

        Raises:
            CheckpointError: The disk refuses (T0704).
        """
        try:
            self._future.result()
        except CheckpointException as failure:
            self._writer.discard()
            causes = [error for error, _ in failure.failures.values()]
            told = next((each for each in causes if isinstance(each, TaskloomError)), None)
            if told is not None:
                raise told from None
            message = f"cannot write checkpoint {self.path}: {causes[0]!r}"
            raise CheckpointError.of("T0704", message, "earlier checkpoints are whole") from failure


def begin_checkpoint(
    path: Path,
    *,
    tensors: Mapping[str, torch.Tensor],
    record: Mapping[str, Any],
    artifacts: Mapping[str, bytes],
    training: Any,
    stager: AsyncStager | None = None,
    group: Any = None,
    then: Callable[[], None] = lambda: None,
) -> Writing:
    """Copy what a checkpoint holds, and write it to ``path`` in the background.

    What was given may change when this returns. Of several processes each calls this, with the same
    ``path``, and writes a share.

    Args:
        path: Directory to become; it does not exist yet.
        tensors: Tensors by name; no two share memory.
        record: Data that JSON can hold.
        artifacts: Contents by name.
        training: Nested dicts, lists and tuples of tensors, numbers, texts, booleans and None.
        stager: Copies tensors; one that was used before copies to the same memory again.
        group: The processes; None if there is one.
        then: Called in the background by the first process when the checkpoint is there.

    Raises:
        CheckpointError: Something is there already (T0705), or an artifact's name or a part of ``training``
            cannot be kept (T0706).
    """
    refuse_existing(path)
    plain, needed = split_nested(training)
    files = encode_files(record, artifacts) | {PLAIN: encode_json({"training": plain})}
    # Groups of tensors: torch has something to do for each entry of a state, while the step waits.
    state = {"model": dict(tensors), "training": needed}
    # In one process, torch says at each write that it takes it for one.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
    writer = _PartsWriter(path, files, then)
    future: Any = async_save(
        state,
        storage_writer=writer,
        process_group=group,
        async_stager=stager,
        no_dist=group is None,
    )
    return Writing(path, future, writer)


class _Place(NamedTuple):
    """Where a process writes: the directory, its number, and how many there are."""

    directory: str
    number: int
    num_processes: int

    def name(self, group: str) -> str:
        """Return the name of its file of ``group``."""
        if self.num_processes == 1:
            return f"{group}.safetensors"
        return f"{group}-{self.number:05d}-of-{self.num_processes:05d}.safetensors"


class _Piece(NamedTuple):
    """Where a piece was written: its file, its name there, and the facts of the file."""

    file: str
    key: str
    facts: FileFacts


@dataclass(eq=False, slots=True)
class _PartsWriter(StorageWriter):
    """Writes a checkpoint whose tensors are called ``GROUP.NAME``.

    Attributes:
        path: Directory to become.
        files: Contents of the other files, by name; those of the first process count.
        then: Called by the first process when the checkpoint is there.
    """

    path: Path
    files: Mapping[str, bytes]
    then: Callable[[], None]
    _temporary: Path | None = None

    def reset(self, checkpoint_id: object = None) -> None:
        """Do nothing: a writer is for one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:  # noqa: FBT001 - torch's
        """Make the directory to write into, in the first process."""
        if is_coordinator:
            self._temporary = temporary_path(self.path)
            with writing(self.path):
                self._temporary.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tell every process where to write."""
        directory = str(self._temporary)
        return [
            replace(plan, storage_data=_Place(directory, number, len(plans)))
            for number, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> TorchFuture[list[WriteResult]]:
        """Write the pieces of this process."""
        place: _Place = plan.storage_data
        groups: dict[str, list[WriteItem]] = defaultdict(list)
        for item in plan.items:
            groups[item.index.fqn.partition(".")[0]].append(item)
        written: list[WriteResult] = []
        with writing(self.path):
            for group, items in groups.items():
                file = place.name(group)
                path = Path(place.directory) / file
                tensors = {_key_of(item): _resolve(planner, item) for item in items}
                save_tensors(tensors, path)
                sync(path)
                facts = FileFacts.of(path)
                written += [
                    WriteResult(item.index, facts.bytes, _Piece(file, key, facts))
                    for item, key in zip(items, tensors, strict=True)
                ]
        done: TorchFuture[list[WriteResult]] = TorchFuture()
        done.set_result(written)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Add what the first process knows, and give the directory its name."""
        root = self._temporary
        assert root is not None, "the first process made it"
        pieces = [piece for of_process in results for piece in of_process]
        with writing(self.path):
            own = {**self.files, INDEX: encode_json(_describe(metadata, pieces))}
            for name, content in own.items():
                (root / name).parent.mkdir(exist_ok=True)
                (root / name).write_bytes(content)
                sync(root / name)
            # What others wrote is not read again: each has told the digest of its file.
            facts = {name: FileFacts.of(root / name) for name in own}
            facts |= {piece.storage_data.file: piece.storage_data.facts for piece in pieces}
            (root / NAME).write_bytes(Manifest(NEWEST, facts).encode())
            for path in (root / NAME, *{(root / name).parent for name in own}, root):
                sync(path)
            root.rename(self.path)
            sync(self.path.parent)
        self.then()

    def discard(self) -> None:
        """Remove what a write that failed has left."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        """Say that a writer is never chosen by its path."""
        del checkpoint_id
        return False


def _describe(metadata: Metadata, pieces: list[WriteResult]) -> dict[str, dict[str, Any]]:
    """Return the index: type, size and pieces of every tensor, by group."""
    index: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, meta in metadata.state_dict_metadata.items():
        assert isinstance(meta, TensorStorageMetadata), f"{name} is a tensor"
        group, _, rest = name.partition(".")
        dtype = str(meta.properties.dtype).removeprefix("torch.")
        index[group][rest] = {"dtype": dtype, "size": list(meta.size), "pieces": []}
    for piece in pieces:
        group, _, rest = piece.index.fqn.partition(".")
        where: _Piece = piece.storage_data
        index[group][rest]["pieces"].append([where.file, where.key, list(piece.index.offset or ())])
    return index


def _key_of(item: WriteItem) -> str:
    """Return the name of a piece in its file."""
    name = item.index.fqn.partition(".")[2]
    data = item.tensor_data
    assert data is not None, f"{name} is a tensor"
    if data.chunk.sizes == data.size:
        return name
    return f"{name}@{','.join(map(str, data.chunk.offsets))}"


def _resolve(planner: SavePlanner, item: WriteItem) -> Tensor:
    tensor: Any = planner.resolve_data(item)
    tensor = tensor.detach().cpu().contiguous()
    # A view of something larger would be written as if it shared memory with the rest of that.
    return tensor if tensor.untyped_storage().size() == tensor.nbytes else tensor.clone()
