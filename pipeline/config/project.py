"""Project files: a mixture, its store and its training run in one YAML file.

Keys are those of `Task`, `Mixture`, `ModelConfig`, `TrainConfig` and `Search`; a key that none of them has is
refused with the nearest one that exists. Paths are relative to the file. ``sources:`` gives rows a name that
several tasks use; whatever else a task names as its source is a file, a pattern of files, or a query.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...graph.errors import Problem, ProjectError, StoreError, TaskloomError, suggest
from ...graph.resolve import check_default
from ...ops.device.config import ModelConfig
from ...ops.device.decode.search import Search
from ...storage.access import check_url
from ...storage.files import local_path, scheme_of
from ..settings import TrainConfig
from ..sql import SQLITE, Sql
from ..task import Mixture, Source, Task
from .mixture_section import MixtureSection, mix_tasks
from .sections import Sections, read_sections
from .yaml_file import YamlFile, read_yaml

if TYPE_CHECKING:
    from ...storage.store import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What a project file says.

    Attributes:
        path: The file.
        store: Folder or URL of the store.
        storage_options: How URLs of the store and its sources are opened.
        out: Folder of the training run.
        mixture: The tasks.
        model: Sizes of the model.
        train: Settings of the training run.
        decode: How answers are searched for.
    """

    path: Path
    store: Path | str
    out: Path
    mixture: Mixture
    model: ModelConfig
    train: TrainConfig
    decode: Search
    storage_options: Mapping[str, Any] = dataclasses.field(repr=False)

    def make_store(self) -> Store:
        """Open the store, made if there is none.

        Raises:
            StoreError: It cannot be read or made.
        """
        from ...storage.store import Store  # noqa: PLC0415 - it imports pyarrow

        return Store.create(self.store, storage_options=self.storage_options)

    def open_store(self) -> Store:
        """Open the store.

        Raises:
            StoreError: There is none, or it cannot be read.
        """
        from ...storage.store import Store  # noqa: PLC0415 - it imports pyarrow

        return Store.open(self.store, storage_options=self.storage_options)

    def find_store(self) -> Store | None:
        """Open the store if it was made.

        Raises:
            StoreError: It cannot be read.
        """
        try:
            return self.open_store()
        except StoreError as error:
            if error.problems[0].code != "T0503":
                raise
            return None


def load_project(path: str | Path) -> Project:
    """Read a project file.

    Raises:
        ProjectError: The file is missing or not YAML, or what some keys say makes no task, model or run. All
            problems are shown together, each with the line and the key.
    """
    file = read_yaml(Path(path))
    return _Maker(file, read_sections(file), []).project()


@dataclass(frozen=True, slots=True)
class _Maker:
    """What the sections of a file stand for; what is wrong with them is gathered in ``problems``."""

    file: YamlFile
    sections: Sections
    problems: list[Problem]

    def project(self) -> Project:
        """Return the project.

        Raises:
            ProjectError: Something is wrong.
        """
        sections = self.sections
        store = self._try(("store",), lambda: _locate(self._absolute(sections.store)))
        out = self._try(("out",), lambda: local_path(self._absolute(sections.out)))
        model = self._try(("model",), lambda: ModelConfig(**dict(sections.model)))
        train = self._try(("train",), self._train)
        decode = self._try(("decode",), lambda: Search(**dict(sections.decode)))
        mixture = self._mixture()
        if not (store and out and model and train and decode and mixture) or self.problems:
            raise ProjectError(*self.problems)
        path = self.file.path
        return Project(
            path=path,
            store=store,
            out=out,
            mixture=mixture,
            model=model,
            train=train,
            decode=decode,
            storage_options=sections.storage_options,
        )

    def _train(self) -> TrainConfig:
        given = self.sections.train.model_dump()
        weights = given.pop("weights")
        return TrainConfig(**given, weights=self._absolute(weights) if weights else "")

    def _mixture(self) -> Mixture | None:
        sections = self.sections
        sources = {
            name: self._try(("sources", name), lambda n=name, r=rows: Source(n, self._rows(r)))
            for name, rows in sections.sources.items()
        }
        tasks = {
            name: self._try(("tasks", name), lambda n=name: self._task(n, sources))
            for name in sections.tasks
        }
        good = {name: task for name, task in tasks.items() if task is not None}
        if not good:
            return None
        section = sections.mixture if len(good) == len(tasks) else MixtureSection()
        mixed = self._try(("mixture",), lambda: mix_tasks(section, good))
        if mixed is None:
            return None
        files = [self._absolute(file) for file in sections.text.bpe_files or ()]
        mixture = self._try(
            ("text", "bpe_files"),
            lambda: dataclasses.replace(
                mixed,
                bpe_size=sections.text.bpe_size,
                bpe_files=(files[0], files[1]) if files else None,
            ),
        )
        if mixture is not None:
            self.problems.extend(self._wrong_slots(mixture))
        if mixture is None or self.problems:
            return None
        return dataclasses.replace(mixture, slots=sections.slots)

    def _task(self, name: str, sources: Mapping[str, Source | None]) -> Task:
        fields = dict(self.sections.tasks[name])
        given = fields.pop("source")
        is_named = isinstance(given, str) and given in sources
        return Task(name, source=sources[given] if is_named else self._rows(given), **fields)

    def _rows(self, source: Any) -> Any:
        """Return a source with its paths made absolute."""
        if isinstance(source, dict) and "sql" in source:
            return Sql(source["sql"], self._database(source["connection"]))
        if isinstance(source, dict):
            return {split: self._rows(one) for split, one in source.items()}
        if isinstance(source, list):
            return [self._absolute(one) for one in source]
        return source if source is None else self._absolute(source)

    def _database(self, url: str) -> str:
        return SQLITE + self._absolute(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else url

    def _absolute(self, path: str) -> str:
        """Return ``path``, or a pattern of paths, from where the file stands."""
        if "://" in path:
            return path
        path = os.path.expanduser(path)  # noqa: PTH111 - Path raises where a home is not known
        base = str(self.file.path.absolute().parent)
        # The folder's own name is no pattern, whatever is in it.
        base = glob.escape(base) if glob.has_magic(path) else base
        return os.path.normpath(Path(base) / path)

    def _wrong_slots(self, mixture: Mixture) -> Iterator[Problem]:
        recipes = mixture.recipes()
        for modality, values in self.sections.slots.items():
            if modality not in recipes:
                message = f"{self.file.place(('slots', modality))}: there is no such recipe"
                yield Problem("T0803", message, suggest(modality, recipes))
                continue
            for key, value in values.items():
                problem = check_default(modality, key, value, recipes[modality].attributes)
                if problem is not None:
                    place = self.file.place(("slots", modality, key))
                    code = "T0803" if problem.code == "T0120" else problem.code
                    message = f"{place}: {problem.message}"
                    yield dataclasses.replace(problem, code=code, message=message)

    def _try(self, location: tuple[str, ...], make: Callable[[], T]) -> T | None:
        try:
            return make()
        except TaskloomError as error:
            place = self.file.place(location)
            self.problems.extend(
                dataclasses.replace(problem, message=f"{place}: {problem.message}")
                for problem in error.problems
            )
            return None


def _locate(store: str) -> Path | str:
    if not scheme_of(store):
        return local_path(store)
    check_url(store)
    return store
