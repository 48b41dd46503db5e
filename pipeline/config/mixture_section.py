"""The section of a project file that says how tasks are mixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ...graph.errors import PlanError, suggest
from ..mixing import Rule, Schedule, Temperature, Tokens, UniMax, Weights
from ..task import Mixture, Task

_STRICT: Final = ConfigDict(extra="forbid", strict=True)


class UniMaxSection(BaseModel):
    """The caps of UniMax."""

    model_config = _STRICT
    epochs: float = Field(description="How often the rows of a part may be seen.")
    budget: float | None = Field(
        default=None, description="Tokens to share out; about those of the run by default."
    )


class RuleSection(BaseModel):
    """One rule."""

    model_config = _STRICT
    weights: dict[str, float] | None = Field(
        default=None, description="Share of samples of each part, by the name of a task or group."
    )
    temperature: float | None = Field(
        default=None, description="Each part counts as the 1/t-th power of its number of rows."
    )
    unimax: UniMaxSection | None = Field(
        default=None,
        description="As many tokens of each part, but none more than `epochs` times; "
        "also `budget`, in tokens.",
    )
    tokens: dict[str, float] | None = Field(
        default=None, description="Share of tokens of each part, or how many it is to have."
    )


class MixtureSection(RuleSection):
    """How tasks and groups are mixed."""

    schedule: dict[int, RuleSection] | None = Field(
        default=None, description="Rules by the step from which on they hold."
    )
    linear: bool = Field(
        default=False,
        description="Whether shares of a schedule run in straight lines from step to step.",
    )
    groups: dict[str, GroupSection] = Field(
        default_factory=dict,
        description="Mixtures inside this one, by name: `tasks`, `weight`, and the keys of a mixture.",
    )


class GroupSection(MixtureSection):
    """A mixture inside another."""

    tasks: list[str] = Field(default_factory=list, description="Names of tasks.")
    weight: float | None = Field(
        default=None,
        description="Its weight against the other parts; its number of rows by default.",
    )


def keys_of_mixture(location: Sequence[int | str]) -> list[str]:
    """Return the keys that the file may have at ``location``, which begins at ``mixture``."""
    last = [str(part) for part in location[-2:]]
    sections: Mapping[str, type[BaseModel]] = {"groups": GroupSection, "schedule": RuleSection}
    section = UniMaxSection if last[-1] == "unimax" else sections.get(last[0], MixtureSection)
    return list(section.model_fields)


def mix_tasks(section: MixtureSection, tasks: Mapping[str, Task]) -> Mixture:
    """Return the mixture of ``tasks``, of which ``section`` groups some.

    Raises:
        PlanError: A group names a task that is not there, or one is in two groups, or rules contradict (T0219).
    """
    taken: list[str] = []
    groups = [_group(name, one, tasks, taken) for name, one in section.groups.items()]
    free = [task for name, task in tasks.items() if name not in taken]
    return Mixture([*free, *groups], weights=_read_weights(section))


def _group(
    name: str, section: GroupSection, tasks: Mapping[str, Task], taken: list[str]
) -> Mixture:
    parts: list[Task | Mixture] = []
    for task in section.tasks:
        if task not in tasks:
            message = f'group "{name}" names task "{task}", which is not here'
            raise PlanError.of("T0219", message, suggest(task, list(tasks)))
        if task in taken:
            raise PlanError.of("T0219", f'task "{task}" is in two groups')
        taken.append(task)
        parts.append(tasks[task])
    parts += [_group(inner, one, tasks, taken) for inner, one in section.groups.items()]
    return Mixture(parts, name=name, weight=section.weight, weights=_read_weights(section))


def _read_weights(section: MixtureSection) -> Weights:
    rules: list[Weights] = [*_read_rules(section)]
    if section.schedule is not None:
        rows = {step: [*_read_rules(one)] for step, one in section.schedule.items()}
        for step, found in rows.items():
            if len(found) != 1:
                raise PlanError.of(
                    "T0219", f"a schedule has one rule for each step, step {step} not"
                )
        rules.append(
            Schedule({step: one for step, (one,) in rows.items()}, is_linear=section.linear)
        )
    if len(rules) > 1:
        message = "a mixture has one rule: weights, temperature, unimax, tokens or schedule"
        raise PlanError.of("T0219", message)
    return rules[0] if rules else None


def _read_rules(section: RuleSection) -> Iterator[Rule]:
    makers: Mapping[str, Any] = {
        "weights": dict[str, float],
        "temperature": Temperature,
        "unimax": lambda one: UniMax(one.epochs, one.budget),
        "tokens": Tokens,
    }
    for name, make in makers.items():
        if (said := getattr(section, name)) is not None:
            yield make(said)
