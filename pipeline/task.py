"""Tasks and mixtures: what a person writes.

A *task* is an instruction and the rows that fill its slots. A *mixture* is the tasks that one model learns,
with their weights and the settings they share.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import xxhash

from ..graph.errors import PlanError, TaskloomWarning, suggest
from ..graph.instruction import Instruction
from ..graph.modality import MODALITIES, Modality, extend
from ..graph.recipe import AttributeValue, Recipe
from ..graph.templates import parse_instructions
from ..ops.catalogue import recipes
from ..ops.host.bpe import Bpe
from ..ops.recipe.text import TextRecipe
from ..storage.files import scheme_of
from ..storage.formats import is_files
from ..storage.frame import Frame
from .mixing import Weights, check_weights

Rows: TypeAlias = "Iterable[Mapping[str, object]]"
Tables: TypeAlias = "Frame | Iterable[Frame]"
Given: TypeAlias = "Rows | Tables"
OneSource: TypeAlias = (
    "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Given | Callable[[], Given]"
)
SourceData: TypeAlias = "OneSource | Mapping[str, OneSource]"

BPE_SIZE: Final = 4096
"""Ids of the text vocabulary, if nothing else is said."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """Rows under a name of their own, for several tasks to share.

    Attributes:
        name: Folder of its columns in the store.
        data: Files (Parquet, Arrow, CSV, JSON lines, WebDataset tars: a path, a glob, or a list of them); an
            iterable of dicts, or of Arrow tables; a frame of polars (lazy or not), pandas, pyarrow or
            dask.dataframe; a dataset of Hugging Face; an `Sql` query; a function that returns one of these; or
            any of them per split: ``{"train": …, "test": …}``.
        version: For what is in no files: rows are read again only when it changes. Without it every build
            reads them and compares.
    """

    name: str
    data: SourceData
    version: str | None = None

    def __post_init__(self) -> None:
        _check_name("source", self.name)


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction and the rows that fill its slots.

    Attributes:
        name: Letters, digits, ``_``, ``-`` and ``.``.
        instruction: Such as ``"[IMAGE:image] what is it? -> [TEXT:label,closed_set]"``; several, the task's
            *templates*, as a list.
        source: A `Source`, or the data of one; not needed for inference.
        holdout: Share of the keys whose rows are held out for evaluation.
        valid: Share of the other keys whose rows are held out for choosing settings.
        key: Column whose hash decides what is held out: rows of one key stay together.
        where: Filters, such as ``"rating >= 0.5"``; a row must pass all of them.
        weight: Share of the samples drawn in training, against the other tasks; the number of rows
            if not given.
    """

    name: str
    instruction: str | Sequence[str]
    source: Source | SourceData | None = None
    _: KW_ONLY
    holdout: float = 0.0
    valid: float = 0.0
    key: str | None = None
    where: str | Sequence[str] = ()
    weight: float | None = None

    def __post_init__(self) -> None:
        _check_name("task", self.name)
        if isinstance(self.instruction, list):
            object.__setattr__(self, "instruction", tuple(self.instruction))
        for share in ("holdout", "valid"):
            if not 0 <= (value := getattr(self, share)) < 1:
                message = f'task "{self.name}": {share} must be at least 0 and below 1, got {value}'
                raise PlanError.of("T0217", message)
        if (self.holdout or self.valid) and not self.key:
            message = f'task "{self.name}" holds rows out but names no key to choose them by'
            help_ = "add key=…, a column whose values stay on one side, such as an id"
            raise PlanError.of("T0217", message, help_)
        if self.weight is not None and not self.weight > 0:
            message = f'task "{self.name}": weight must be positive, got {self.weight}'
            raise PlanError.of("T0217", message)

    def parse(self, modalities: Mapping[str, Modality] = MODALITIES) -> tuple[Instruction, ...]:
        """Return the parsed templates; spellings that ours replace are warned of.

        Args:
            modalities: What slots may hold, such as `Mixture.modalities` of a mixture with recipes of its own.

        Raises:
            InstructionError: Some are malformed, or do not agree; all their problems are shown together.
        """
        templates = parse_instructions(self.instruction, label=self.name, modalities=modalities)
        for problem in (problem for template in templates for problem in template.warnings):
            warnings.warn(TaskloomWarning(problem), stacklevel=2)
        return templates

    @property
    def filters(self) -> tuple[str, ...]:
        """The filters, however they were given."""
        return (self.where,) if isinstance(self.where, str) else tuple(self.where)

    def named_source(self) -> Source:
        """Return the source with its name.

        One file, or one glob, is named after its place, so that tasks over the same files share their
        columns. Lists of files, which grow, and other rows are named after the task.

        Raises:
            PlanError: The task has no source.
        """
        if isinstance(self.source, Source):
            return self.source
        if self.source is None:
            help_ = "give it source=…, or use it for inference only"
            raise PlanError.of("T0218", f'task "{self.name}" has no source', help_)
        if isinstance(self.source, str | os.PathLike):
            path = str(self.source)
            if not scheme_of(path):
                path = os.path.abspath(path)  # noqa: PTH100 - globs are no paths
            stem = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(path).stem) or "source"
            return Source(
                f"{stem.strip('.-_') or 'source'}-{xxhash.xxh3_64_hexdigest(path.encode())[:6]}",
                self.source,
            )
        return Source(self.name, self.source)


@dataclass(frozen=True, slots=True)
class Mixture:
    """The tasks that one model learns, and how much of each.

    Attributes:
        parts: At least one task, or mixture inside this one; names differ.
        weights: How much there is of each part: its share of samples by its name, or a rule, such as
            `Temperature`, `UniMax`, `Tokens` or a `Schedule`. By default each part counts its own weight,
            or as many as it has rows.
        name: Of a mixture inside another.
        weight: Of a mixture inside another, against its other parts; its number of rows if not given.
        slots: Attributes for all slots of a modality that do not set them themselves, such as
            ``{"IMAGE": {"size": 32}}``.
        bpe_size: Ids of the text vocabulary that is fitted on the training rows; those of `bpe_files` if
            they are given.
        bpe_files: GPT-2 style ``vocab.json`` and ``merges.txt`` to use instead of fitting.
    """

    parts: Sequence[Task | Mixture]
    _: KW_ONLY
    weights: Weights = None
    name: str | None = None
    weight: float | None = None
    slots: Mapping[str, Mapping[str, AttributeValue]] = field(
        default_factory=dict[str, Mapping[str, AttributeValue]]
    )
    bpe_size: int = BPE_SIZE
    bpe_files: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise PlanError.of("T0219", "a mixture needs at least one task")
        for part in self.parts:
            if isinstance(part, Mixture):
                _check_inside(part)
        names = [task.name for task in self.tasks]
        mixtures = {part.name: 0 for part in self.parts if isinstance(part, Mixture)}
        names += [name for name in mixtures if name is not None]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PlanError.of("T0219", f'two tasks are named "{twice[0]}"')
        check_weights(self.weights, self.parts)
        if self.bpe_files is not None:
            object.__setattr__(self, "bpe_size", Bpe.from_files(*self.bpe_files).size)
        for modality in self.slots:
            if modality not in (known := self.recipes()):
                message = f'slots: no recipe for "{modality}"'
                raise PlanError.of("T0219", message, suggest(modality, list(known)))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, those of mixtures inside this one in their place."""
        return tuple(
            task
            for part in self.parts
            for task in (part.tasks if isinstance(part, Mixture) else (part,))
        )

    def __getitem__(self, name: str) -> Task:
        """Return the task called ``name``.

        Raises:
            PlanError: There is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise PlanError.of("T0219", f'no task is named "{name}"', suggest(name, names))

    def recipes(self) -> dict[str, Recipe]:
        """Return the recipe of each modality."""
        return {**recipes(), "TEXT": TextRecipe(size=self.bpe_size)}

    def modalities(self) -> Mapping[str, Modality]:
        """Return what slots may hold: the modalities of OFASys, and what the recipes add to them."""
        return extend(MODALITIES, {name: one.attributes for name, one in self.recipes().items()})

    def tasks_of(self, source: str) -> list[str]:
        """Return the names of the tasks whose rows are those of ``source``."""
        return [task.name for task in self.tasks if task.named_source().name == source]

    def sources(self) -> dict[str, Source]:
        """Return the sources of all tasks by name.

        Raises:
            PlanError: Two different sources have one name, or a task has none.
        """
        sources: dict[str, Source] = {}
        for task in self.tasks:
            source = task.named_source()
            known = sources.setdefault(source.name, source)
            if not _is_same(known, source):
                message = f'two different sources are named "{source.name}"'
                raise PlanError.of(
                    "T0218", message, "name one of them apart with Source(name, data)"
                )
        return sources


def as_mixture(tasks: Mixture | Task | Sequence[Task]) -> Mixture:
    """Return ``tasks`` as a mixture."""
    if isinstance(tasks, Mixture):
        return tasks
    return Mixture([tasks] if isinstance(tasks, Task) else tasks)


def _is_same(one: Source, other: Source) -> bool:
    if one.data is other.data:
        return one.version == other.version
    # Rows are never compared: they may be many, or arrays, or gone once they were read.
    files = _files(one.data)
    return files is not None and files == _files(other.data)


def _files(data: object) -> object | None:
    if not isinstance(data, Mapping):
        return data if is_files(data) else None
    files = {split: _files(part) for split, part in data.items()}
    return None if None in files.values() else files


def _check_inside(mixture: Mixture) -> None:
    """Check a mixture that is inside another."""
    if mixture.name is None:
        help_ = "give it name=…, by which weights and messages call it"
        raise PlanError.of("T0219", "a mixture inside another has no name", help_)
    _check_name("mixture", mixture.name)
    if mixture.weight is not None and not mixture.weight > 0:
        message = f'mixture "{mixture.name}": weight must be positive, got {mixture.weight}'
        raise PlanError.of("T0219", message)
    if mixture.slots or mixture.bpe_files or mixture.bpe_size != BPE_SIZE:
        message = f'mixture "{mixture.name}", inside another, sets slots or a vocabulary'
        raise PlanError.of("T0219", message, "set them in the outer one, where they hold for all")


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        message = f'"{name}" cannot be the name of a {what}'
        help_ = 'use letters, digits, "_", "-" and ".", and begin with a letter or digit'
        raise PlanError.of("T0219", message, help_)
