"""Saving a run: checkpoints written while it goes on, and which of them are kept.

A step waits until what it has come to is copied, and no longer; at most one checkpoint is on its way to the
disk. What goes wrong there is raised when the next one is due, or at the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ...graph.errors import MissingExtraError, Problem, StoreError
from ...storage.access import Access, check_url, is_url
from ...storage.checkpoint import (
    checkpoint_path,
    keep_only,
    latest_checkpoint,
    list_checkpoints,
    step_of,
)
from ...storage.files import write_json
from ...storage.mirror import (
    copy_beside,
    copy_checkpoint,
    fetch_beside,
    fetch_copy,
    find_later,
    keep_copies,
    list_copies,
)
from ...storage.remote import RemoteFolder
from ...storage.saving import Writing, begin_checkpoint
from ..settings import TrainConfig
from .keeping import keep_training
from .learner import Learner
from .metric import sign_of
from .ranks import Ranks
from .run_log import HEADER
from .run_log import NAME as LOG
from .run_measures import NAME as MEASURES
from .sample import FOLDER as SAMPLES
from .watch import PATIENCE_S

NAME: Final = "best.json"
"""File of a run that has the values of the metric whose best checkpoint is kept."""

_BESIDE: Final = (LOG, HEADER, MEASURES, NAME, SAMPLES)
"""What a mirror has of a run beside its checkpoints."""


@dataclass(slots=True)
class Saver:
    """Saves the run in a directory.

    Attributes:
        run: The directory.
        learner: What it has come to.
        config: Which checkpoints are kept.
    """

    run: Path
    learner: Learner
    config: TrainConfig
    _writing: Writing | None = None
    _stager: DefaultStager | None = None
    _values: dict[int, float] = field(default_factory=dict[int, float])

    def save(self, record: Mapping[str, Any], artifacts: Mapping[str, bytes]) -> None:
        """Begin to write a checkpoint of the step that the learner is at, on all ranks.

        Raises:
            CheckpointError: This one cannot be written, or the last one could not (T0704).
        """
        self.finish()
        learner, ranks = self.learner, self.learner.ranks
        ranks.watch.enter("saving", limit_s=PATIENCE_S, is_waiting=True)
        self._stager = self._stager or _make_stager(learner.device)
        self._writing = begin_checkpoint(
            checkpoint_path(self.run, learner.step),
            tensors=learner.result.state_dict(),
            training=keep_training(learner),
            record=record,
            artifacts=artifacts,
            stager=self._stager,
            group=ranks.saving,
            then=self._finish_written,
        )

    def finish(self) -> None:
        """Wait for the checkpoint that is on its way, if there is one.

        Raises:
            CheckpointError: It could not be written (T0704).
        """
        if self._writing is None:
            return
        doing, watch = "waiting for a checkpoint", self.learner.ranks.watch
        is_far = bool(self.config.mirror)
        watch.enter(doing, limit_s=PATIENCE_S, is_waiting=True, may_rest=is_far)
        writing, self._writing = self._writing, None
        writing.wait()

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of what an evaluation after ``step`` has found, so that the best checkpoint is kept.

        Args:
            step: The step; where no checkpoint is written, nothing comes of it.
            metrics: Values by name.
        """
        name = self.config.keep_best
        if not self.learner.ranks.is_first or name not in metrics:
            return
        value = metrics[name]
        if math.isfinite(value):
            self._values = self._read_values() | {step: value}
            write_json(self.run / NAME, {"metric": name, "values": self._values})

    def _finish_written(self) -> None:
        """Remove checkpoints that are not kept, now that another is written, and copy that one."""
        keep_only(self.run, self._find_kept([step_of(path) for path in list_checkpoints(self.run)]))
        if self.config.mirror:
            with reach_mirror(self.config.mirror) as mirror:
                self._copy_last(mirror)

    def _copy_last(self, mirror: RemoteFolder) -> None:
        """Copy the last checkpoint, with what was told until then, and remove copies that are not kept."""
        last = latest_checkpoint(self.run)
        assert last is not None, "it has just been written"
        copy_beside(self.run, _BESIDE, mirror)
        copy_checkpoint(last, mirror)
        # There may be some that are not here: the run was begun elsewhere.
        kept = self._find_kept([step_of(Path(name)) for name in list_copies(mirror)])
        keep_copies(mirror, [checkpoint_path(self.run, step).name for step in kept])

    def _find_kept(self, steps: list[int]) -> set[int]:
        """Return which of ``steps``, in order, keep their checkpoints."""
        kept = set(steps[-self.config.keep_checkpoints :])
        if self.config.keep_every:
            kept |= {step for step in steps if step % self.config.keep_every == 0}
        if best := self._find_best(steps):
            kept.add(best)
        return kept

    def _find_best(self, steps: list[int]) -> int | None:
        """Return which of ``steps`` has the best value; the earliest of equals."""
        if not self.config.keep_best:
            return None
        values = self._read_values()
        sign = sign_of(self.config.keep_best)
        known = [step for step in steps if step in values]
        return max(known, key=lambda step: sign * values[step], default=None)

    def _read_values(self) -> dict[int, float]:
        """Return the values so far, those from before the run was gone on with included."""
        try:
            told = json.loads((self.run / NAME).read_bytes())
        except (FileNotFoundError, ValueError):
            return self._values
        if told["metric"] != self.config.keep_best:
            return self._values
        return {int(step): value for step, value in told["values"].items()}


def fetch_run(run: Path, config: TrainConfig, ranks: Ranks) -> Path | None:
    """Fetch a run from its mirror, if it has a later checkpoint there than here; on all ranks.

    That is its last checkpoint, its log, and what else it has told.

    Returns:
        Where the checkpoint is now.

    Raises:
        StoreError: The mirror cannot be read.
        MissingExtraError: The library of its file system is not installed.
    """

    def fetch() -> Path | None:
        with reach_mirror(config.mirror) as mirror:
            fetched = find_later(mirror, run)
            if fetched is not None:
                fetch_beside(mirror, _BESIDE, run)
                fetch_copy(mirror, fetched)
            return fetched

    return ranks.let_first(fetch) if config.mirror else None


def try_mirror(config: TrainConfig, ranks: Ranks) -> None:
    """See that the mirror can be written, before steps are taken that could not be kept there; on all ranks.

    Raises:
        StoreError: It cannot be.
    """

    def write() -> None:
        with reach_mirror(config.mirror) as mirror:
            mirror.try_writing()

    if config.mirror:
        ranks.let_first(write)


@contextmanager
def reach_mirror(url: str) -> Generator[RemoteFolder]:
    """Give the folder behind ``url``, and name the setting in what goes wrong there.

    Raises:
        StoreError: It is no URL, holds a secret (T0501), or cannot be reached (T0506, T0520).
        MissingExtraError: The library of its file system is not installed.
    """
    mirror = open_mirror(url)
    try:
        yield mirror
    except (StoreError, MissingExtraError) as error:
        raise type(error)(*(_of_setting(each) for each in error.problems)) from None


def open_mirror(url: str) -> RemoteFolder:
    """Return the folder behind ``url``, opened as its library finds out by itself.

    Raises:
        StoreError: It is no URL, or holds a secret (T0501).
    """
    if not is_url(url):
        message = f'mirror is a URL of another machine, such as "s3://bucket/run", got "{url}"'
        help_ = "leave it out, and let `out` be a folder that outlives this machine"
        raise StoreError.of("T0501", message, help_)
    check_url(url)
    return RemoteFolder(url.rstrip("/"), Access())


def _of_setting(problem: Problem) -> Problem:
    """Return ``problem`` of the mirror, to which no storage options can be given."""
    help_ = _MENDED[problem.code] if "storage_options" in problem.help else problem.help
    return replace(problem, message=f"mirror: {problem.message}", help=help_)


_MENDED: Final = {
    "T0506": "set up credentials that may list, read, write and remove there, as its library reads them",
    "T0520": "see that the network is up, and that the URL is right; what is committed is kept",
}
"""What to do about a mirror that cannot be reached, where a store would need other options, by code."""


def _make_stager(device: torch.device) -> DefaultStager:
    """Return what copies tensors to the host: from a GPU at once, to memory that it can write."""
    is_far = device.type == "cuda"
    return DefaultStager(
        StagingOptions(
            use_pinned_memory=is_far,
            use_shared_memory=False,
            use_async_staging=False,
            use_non_blocking_copy=is_far,
        )
    )
