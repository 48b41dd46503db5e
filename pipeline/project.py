"""Project files: a mixture, its store and its training run in one YAML file.

Keys are those of `Task`, `Mixture`, `ModelConfig` and `TrainConfig`; a key that none of them has is refused
with the nearest one that exists. Paths are relative to the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..graph.errors import Problem, ProjectError, suggest
from ..ops.device.config import ModelConfig
from .settings import TrainConfig
from .task import Mixture, Task

_STRICT = ConfigDict(extra="forbid", strict=True)


class _TaskSection(BaseModel):
    model_config = _STRICT
    instruction: str
    source: str | list[str] | dict[str, str | list[str]] | None = None
    holdout: float = 0.0
    valid: float = 0.0
    key: str | None = None
    where: str | list[str] = Field(default_factory=list)
    weight: float | None = None


class _TextSection(BaseModel):
    model_config = _STRICT
    bpe_size: int = 4096
    bpe_files: list[str] | None = Field(default=None, min_length=2, max_length=2)


def _section(name: str, settings: type) -> type[BaseModel]:
    """Return a model of the fields of the dataclass ``settings``."""
    hints = get_type_hints(settings)
    fields: dict[str, Any] = {
        field.name: (
            hints[field.name],
            Field(default=field.default)
            if field.default_factory is dataclasses.MISSING
            else Field(default_factory=field.default_factory),
        )
        for field in dataclasses.fields(settings)
    }
    return create_model(name, __config__=_STRICT, **fields)


_ModelSection = _section("_ModelSection", ModelConfig)
_TrainSection = _section("_TrainSection", TrainConfig)


class _File(BaseModel):
    model_config = _STRICT
    store: str
    out: str
    tasks: dict[str, _TaskSection] = Field(min_length=1)
    slots: dict[str, dict[str, int | float | str | bool]] = Field(default_factory=dict)
    text: _TextSection = Field(default_factory=_TextSection)
    model: _ModelSection = Field(default_factory=_ModelSection)  # pyright: ignore[reportInvalidTypeForm]
    train: _TrainSection = Field(default_factory=_TrainSection)  # pyright: ignore[reportInvalidTypeForm]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What a project file says.

    Attributes:
        path: The file.
        store: Folder of the store.
        out: Folder of the training run.
        mixture: The tasks.
        model: Sizes of the model.
        train: Settings of the training run.
    """

    path: Path
    store: Path
    out: Path
    mixture: Mixture
    model: ModelConfig
    train: TrainConfig


def load_project(path: str | Path) -> Project:
    """Read a project file.

    Raises:
        ProjectError: The file is missing or no YAML, or some keys are unknown or of a wrong type; all of
            them are named together.
        TaskloomError: What the keys say makes no task, model or run.
    """
    path = Path(path)
    content = _read(path)
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise ProjectError(*_problems(error, path)) from None
    base = path.resolve().parent
    tasks = [_task(name, section, base) for name, section in file.tasks.items()]
    files = file.text.bpe_files
    mixture = Mixture(
        tasks,
        slots=file.slots,
        bpe_size=file.text.bpe_size,
        bpe_files=None if files is None else (str(base / files[0]), str(base / files[1])),
    )
    return Project(
        path=path,
        store=base / file.store,
        out=base / file.out,
        mixture=mixture,
        model=ModelConfig(**dict(file.model)),
        train=TrainConfig(**dict(file.train)),
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content: object = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ProjectError.of("T0801", f"there is no project file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectError.of("T0801", f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ProjectError.of("T0802", f"{path} is no YAML: {error}") from None
    if not isinstance(content, dict):
        help_ = "it begins with keys such as store:, out: and tasks:"
        raise ProjectError.of("T0802", f"{path} holds no keys", help_)
    return content


def _task(name: str, section: _TaskSection, base: Path) -> Task:
    fields = dict(section)
    fields["source"] = _absolute(section.source, base)
    return Task(name, **fields)


def _absolute(source: Any, base: Path) -> Any:
    if isinstance(source, dict):
        return {split: _absolute(one, base) for split, one in source.items()}
    if isinstance(source, list):
        return [_absolute(one, base) for one in source]
    return source if source is None or "://" in source else str(base / source)


def _problems(error: ValidationError, path: Path) -> Iterator[Problem]:
    for item in error.errors():
        where = [str(part) for part in item["loc"]]
        place = f"{path}: {'.'.join(where)}"
        if item["type"] == "extra_forbidden":
            known = _keys_at(item["loc"][:-1])
            yield Problem("T0803", f'{place}: unknown key "{where[-1]}"', suggest(where[-1], known))
        elif item["type"] == "missing":
            yield Problem("T0804", f"{place} is missing")
        else:
            got = repr(item["input"])[:60]
            message = item["msg"].removeprefix("Input ")
            yield Problem("T0805", f"{place} {message[:1].lower()}{message[1:]}, got {got}")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the file may have at ``location``."""
    sections: dict[tuple[int | str, ...], type[BaseModel]] = {
        (): _File,
        ("text",): _TextSection,
        ("model",): _ModelSection,
        ("train",): _TrainSection,
    }
    return list(sections.get(location, _TaskSection).model_fields)
