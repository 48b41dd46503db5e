"""The sections of a project file: which keys there are, of which types, and how a wrong one is told.

What a key says is said here once, for readers of the JSON schema and of docs/project-file.md alike; the keys of
``model:`` and ``train:`` are the fields of their dataclasses, and said there.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from ...graph.errors import Problem, ProjectError, suggest
from ...ops.device.config import ModelConfig
from ...ops.device.decode.search import Search
from ...storage.record import SPLITS
from ..settings import ScopeRule, TrainConfig
from .mixture_section import MixtureSection, keys_of_mixture
from .yaml_file import YamlFile


def _expect(words: str, is_right: Callable[[Any], bool]) -> BeforeValidator:
    """Return a check that says in ``words`` what was expected, where pydantic would list its attempts."""

    def check(value: object) -> object:
        if not is_right(value):
            raise PydanticCustomError("expected", words)  # pyright: ignore[reportArgumentType]
        return value

    return BeforeValidator(check)


def _is_words(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value)
    return isinstance(value, str) or (is_list and all(isinstance(one, str) for one in value))


def _is_query(value: Any) -> bool:
    is_named = isinstance(value, dict) and value.keys() == {"sql", "connection"}
    return is_named and all(isinstance(text, str) for text in value.values())


def _is_rows(value: Any) -> bool:
    return _is_words(value) or _is_query(value)


def _is_source(value: Any) -> bool:
    is_split = isinstance(value, dict) and bool(value) and value.keys() <= set(SPLITS)
    return all(map(_is_rows, value.values())) if is_split else _is_rows(value)


def _is_scalar(value: object) -> bool:
    return isinstance(value, int | float | str)


_SOURCE = (
    "must be a path, a list of paths, a query (sql and connection), or one of these for each of train, "
    "valid and test"
)

_WORDS_SCHEMA: Final[Mapping[str, Any]] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ]
}
_QUERY_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"sql": {"type": "string"}, "connection": {"type": "string"}},
    "required": ["sql", "connection"],
    "additionalProperties": False,
}
_PART_SCHEMA: Final[Mapping[str, Any]] = {"anyOf": [*_WORDS_SCHEMA["anyOf"], _QUERY_SCHEMA]}
_SPLITS_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": dict.fromkeys(SPLITS, _PART_SCHEMA),
    "additionalProperties": False,
    "minProperties": 1,
}
_ROWS_SCHEMA: Final = {"anyOf": [*_PART_SCHEMA["anyOf"], _SPLITS_SCHEMA]}

Rows: TypeAlias = Annotated[Any, _expect(_SOURCE, _is_source), WithJsonSchema(_ROWS_SCHEMA)]
Conditions: TypeAlias = Annotated[
    Any,
    _expect("must be a condition, or a list of conditions", _is_words),
    WithJsonSchema(dict(_WORDS_SCHEMA)),
]
Instructions: TypeAlias = Annotated[
    Any,
    _expect("must be an instruction, or a list of instructions", _is_words),
    WithJsonSchema(dict(_WORDS_SCHEMA)),
]
Scalar: TypeAlias = Annotated[
    Any,
    _expect("must be a number, text, true or false", _is_scalar),
    WithJsonSchema({"type": ["number", "string", "boolean"]}),
]

_STRICT: Final = ConfigDict(extra="forbid", strict=True)


class TaskSection(BaseModel):
    """One task."""

    model_config = _STRICT
    instruction: Instructions = Field(description="The line of text; several, as a list.")
    source: Rows | None = Field(
        default=None, description="The name of one of `sources`, or what such a source is."
    )
    holdout: float = Field(
        default=0.0, description="Share of the keys whose rows are held out for `evaluate`."
    )
    valid: float = Field(
        default=0.0, description="Share of the other keys, for `evaluate --split valid`."
    )
    key: str | None = Field(
        default=None, description="Column whose hash decides; rows of one key stay together."
    )
    where: Conditions = Field(
        default_factory=list,
        description="A condition, or a list of them: `rating >= 0.5`, `lang in ['en', 'de']`, "
        "`not is_noisy`.",
    )
    weight: float | None = Field(
        default=None,
        description="Share of the samples in training, against the other tasks; the number of rows "
        "by default.",
    )


class TextSection(BaseModel):
    """The vocabulary."""

    model_config = _STRICT
    bpe_size: int = Field(
        default=4096, ge=256, description="Ids of the vocabulary that is fitted on training rows."
    )
    bpe_files: list[str] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="`vocab.json` and `merges.txt` in the form of GPT-2's, to use instead.",
    )


def _section(name: str, settings: type) -> type[BaseModel]:
    """Return a model of the fields of the dataclass ``settings``."""
    hints, said = get_type_hints(settings), _describe_fields(settings)
    fields: dict[str, Any] = {}
    for each in dataclasses.fields(settings):
        type_, description = hints[each.name], said[each.name]
        if type_ == Mapping[str, ScopeRule]:
            field = Field(default_factory=dict, description=description)
            fields[each.name] = dict[str, ScopeSection], field
        else:
            fields[each.name] = type_, Field(default=each.default, description=description)
    return create_model(name, __config__=_STRICT, **fields)


def _describe_fields(settings: type) -> dict[str, str | None]:
    """Return what the docstring of a dataclass says of each field; None where docstrings are stripped."""
    _, _, listed = (inspect.getdoc(settings) or "").partition("Attributes:\n")
    said = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE)
    words = {name: " ".join(text.split()).replace("``", "`") for name, text in said}
    return {field.name: words.get(field.name) for field in dataclasses.fields(settings)}


ScopeSection = _section("ScopeSection", ScopeRule)
ModelSection = _section("ModelSection", ModelConfig)
TrainSection = _section("TrainSection", TrainConfig)
DecodeSection = _section("DecodeSection", Search)


class Sections(BaseModel):
    """A whole file."""

    model_config = _STRICT
    store: str = Field(
        description="Folder of the store, or a URL such as `s3://bucket/store`; made if there is none."
    )
    out: str = Field(description="Folder of the training run.")
    tasks: dict[str, TaskSection] = Field(min_length=1, description="Tasks, by name.")
    sources: dict[str, Rows] = Field(
        default_factory=dict,
        description='Rows, by name: a path or URL, a pattern such as `"part-*.parquet"`, a list of them, '
        'a query, `{sql: "select …", connection: "sqlite:///rows.db"}`, or one of these for each of '
        "`train`, `valid` and `test`.",
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        description="How URLs of the store and the sources are opened, in the words of the file system's "
        "library. Secrets are better left to the environment.",
    )
    slots: dict[str, dict[str, Scalar]] = Field(
        default_factory=dict,
        description="Attributes, by modality, for all of its slots that do not set them themselves.",
    )
    mixture: MixtureSection = Field(
        default_factory=MixtureSection,
        description="How much there is of each task; as many samples as it has rows by default.",
    )
    text: TextSection = Field(default_factory=TextSection, description="The vocabulary.")
    model: ModelSection = Field(  # pyright: ignore[reportInvalidTypeForm]
        default_factory=ModelSection, description="Sizes of the model."
    )
    train: TrainSection = Field(  # pyright: ignore[reportInvalidTypeForm]
        default_factory=TrainSection, description="How to train."
    )
    decode: DecodeSection = Field(  # pyright: ignore[reportInvalidTypeForm]
        default_factory=DecodeSection, description="How answers are searched for."
    )


def read_sections(file: YamlFile) -> Sections:
    """Return the sections of ``file``.

    Raises:
        ProjectError: A key is unknown, missing or given twice, or a value is of a wrong type; all of them are
            shown together.
    """
    problems = [
        Problem("T0808", f"{file.path}:{line}: {'.'.join(location)} is given twice", "drop one")
        for location, line in file.repeated
    ]
    try:
        sections = Sections.model_validate(file.content)
    except ValidationError as error:
        problems += [_problem(item, file) for item in error.errors()]
    else:
        if not problems:
            return sections
    raise ProjectError(*problems)


_WORDS: Final[Mapping[str, str]] = {
    "bool_type": "must be true or false",
    "dict_type": "must hold keys",
    "float_type": "must be a number",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_type": "must hold keys",
    "string_type": "must be text",
    "too_long": "must have {max_length} entries",
    "too_short": "must have {min_length} or more entries",
}


def _problem(item: ErrorDetails, file: YamlFile) -> Problem:
    """Return what pydantic found, in the words of all other messages."""
    location = [part for part in item["loc"] if part != "[key]"]
    place = file.place(location)
    if item["type"] == "missing":
        return Problem("T0804", f"{place} is missing")
    if item["type"] == "extra_forbidden":
        name, known = str(location[-1]), _keys_at(tuple(location[:-1]))
        return Problem("T0803", f'{place}: unknown key "{name}"', suggest(name, known))
    words = _WORDS.get(item["type"], item["msg"]).format(**item.get("ctx", {}))
    hint = "put the name in quotes" if location != list(item["loc"]) else ""
    return Problem("T0805", f"{place} {words}, got {_spell(item['input'])}", hint)


def _spell(value: object) -> str:
    """Return ``value`` about as the file spells it, shortened."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the file may have at ``location``."""
    if location[:1] == ("mixture",):
        return keys_of_mixture(location)
    if location[:2] == ("train", "scopes"):
        return list(ScopeSection.model_fields)
    sections: dict[tuple[int | str, ...], type[BaseModel]] = {
        (): Sections,
        ("text",): TextSection,
        ("model",): ModelSection,
        ("train",): TrainSection,
        ("decode",): DecodeSection,
    }
    return list(sections.get(location, TaskSection).model_fields)
