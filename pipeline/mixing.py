"""How much of each task there is in a mixture: rules, and the shares that they come to.

A *part* of a mixture is a task, or another mixture. A rule gives every part its weight against the others,
from how many rows and tokens it has. Tokens are the source and target positions of the rows that are learned
from. Whatever the rule, what comes of it are shares of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..graph.errors import PlanError, suggest
from ..storage.blend import Blend


@dataclass(frozen=True, slots=True)
class Temperature:
    """Each part counts as the ``1 / t``-th power of its number of rows.

    Attributes:
        t: At 1 parts are mixed as many rows as they have; the higher, the more alike they are.
    """

    t: float

    def __post_init__(self) -> None:
        _check_positive("the temperature", self.t)


@dataclass(frozen=True, slots=True)
class UniMax:
    """All parts the same number of tokens, but none more than ``epochs`` times its own.

    Source: Chung et al., UniMax, algorithm 1 (arXiv:2304.09151), with tokens for characters.

    Attributes:
        epochs: How often the rows of a part may be seen.
        budget: Tokens to share out; about those of the run if not given.
    """

    epochs: float
    budget: float | None = None

    def __post_init__(self) -> None:
        _check_positive("epochs", self.epochs)
        if self.budget is not None:
            _check_positive("the budget", self.budget)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Shares of tokens where others are shares of samples.

    Attributes:
        weights: For every part its relative share of all tokens, or how many of them it is to have.
    """

    weights: Mapping[str, float]


Rule: TypeAlias = "Mapping[str, float] | Temperature | UniMax | Tokens"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Rules that follow one another in a run.

    Attributes:
        rules: For each of some steps the rule that holds from there on. In explicit weights 0 is allowed.
        is_linear: Whether shares run in straight lines from each step to the next; or else they jump.
    """

    rules: Mapping[int, Rule]
    is_linear: bool = False

    def __post_init__(self) -> None:
        if not self.rules or not all(_is_step(step) for step in self.rules):
            given = ", ".join(map(repr, self.rules)) or "none"
            raise _refuse(f"a schedule needs rules for whole steps of at least 0, got {given}")


Weights: TypeAlias = "Rule | Schedule | None"


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of a part.

    Attributes:
        rows: Its rows.
        tokens_per_row: Source and target positions of one, on average.
    """

    rows: float
    tokens_per_row: float


class Part(Protocol):
    """A task or a mixture inside a mixture."""

    @property
    def name(self) -> str | None:
        """Its name."""
        ...

    @property
    def weight(self) -> float | None:
        """Its weight against the other parts, if it names one itself."""
        ...


class Mixed(Protocol):
    """A mixture, with what it is made of."""

    @property
    def parts(self) -> Sequence[Any]:
        """Tasks, and mixtures."""
        ...

    @property
    def weights(self) -> Weights:
        """The rule they are mixed by."""
        ...


def blend_tasks(mixture: Mixed, sizes: Mapping[str, Size], run_tokens: float) -> Blend:
    """Return the shares of samples of the tasks of ``mixture``.

    Args:
        mixture: What is mixed.
        sizes: How much there is of each task, by its name.
        run_tokens: About how many tokens the run has.
    """
    parts: list[str | Blend] = []
    named: dict[str, Size] = {}
    own: dict[str, float | None] = {}
    for part in mixture.parts:
        if hasattr(part, "parts"):
            inner = blend_tasks(part, sizes, run_tokens)
            parts.append(inner)
            named[part.name] = _sum_sizes(inner, sizes)
        else:
            parts.append(part.name)
            named[part.name] = sizes[part.name]
        own[part.name] = part.weight
    rules: Mapping[int, Rule | None]
    is_linear = False
    if isinstance(mixture.weights, Schedule):
        rules, is_linear = dict(sorted(mixture.weights.rules.items())), mixture.weights.is_linear
    else:
        rules = {0: mixture.weights}
    shares = tuple(
        tuple(float(weight) for weight in _weigh(rule, named, own, run_tokens))
        for rule in rules.values()
    )
    return Blend(tuple(parts), tuple(rules), shares, is_linear)


def check_weights(weights: Weights, parts: Sequence[Part]) -> None:
    """Check that ``weights`` are of ``parts``.

    Raises:
        PlanError: They name another part, or lack one; or a part has a weight of its own beside them (T0219).
    """
    if weights is None:
        return
    names = [part.name or "" for part in parts]
    if own := [part.name for part in parts if part.weight is not None]:
        help_ = "say it in one place"
        raise _refuse(f'"{own[0]}" has a weight of its own, and so has its mixture', help_)
    is_schedule = isinstance(weights, Schedule)
    for rule in weights.rules.values() if isinstance(weights, Schedule) else [weights]:
        given = rule.weights if isinstance(rule, Tokens) else rule
        if isinstance(given, Mapping):
            for problem, help_ in _wrong(given, names, may_be_zero=is_schedule):
                raise _refuse(problem, help_)
        elif not _is_rule(given):
            rules = "weights by name, Temperature, UniMax or Tokens"
            help_ = f"a rule is {rules}; only a whole mixture has a Schedule of these"
            raise _refuse(f"{given!r} is no rule", help_)


def _wrong(
    given: Mapping[str, float], names: Sequence[str], *, may_be_zero: bool
) -> Iterator[tuple[str, str]]:
    for name in given:
        if name not in names:
            yield f'a weight is given for "{name}", which is no part of it', suggest(name, names)
    for name in names:
        if name not in given:
            yield f'"{name}" has no weight', "give one to every part, or to none"
        elif not (0 <= given[name] < math.inf) or not (given[name] or may_be_zero):
            yield f'the weight of "{name}" must be positive, got {given[name]}', ""
    if not any(given.values()):
        yield "every weight is 0", ""


def _weigh(
    rule: Rule | None,
    sizes: Mapping[str, Size],
    own: Mapping[str, float | None],
    run_tokens: float,
) -> list[float]:
    """Return the weight of every part, in samples."""
    match rule:
        case None:
            weights = own.items()
            return [sizes[name].rows if weight is None else weight for name, weight in weights]
        case Temperature():
            return [size.rows ** (1 / rule.t) for size in sizes.values()]
        case Tokens():
            return [rule.weights[name] / size.tokens_per_row for name, size in sizes.items()]
        case UniMax():
            budget = run_tokens if rule.budget is None else rule.budget
            tokens = [size.rows * size.tokens_per_row for size in sizes.values()]
            shared = share_out(tokens, budget, rule.epochs)
            return [s / z.tokens_per_row for s, z in zip(shared, sizes.values(), strict=True)]
        case _:
            return [rule[name] for name in sizes]


def share_out(tokens: Sequence[float], budget: float, epochs: float) -> list[float]:
    """Return how much of ``budget`` each part gets: alike, but at most ``epochs`` times its ``tokens``.

    Where all parts are at their most, less than the budget is shared out.
    """
    shared = [0.0] * len(tokens)
    left = budget
    smallest_first = sorted(range(len(tokens)), key=tokens.__getitem__)
    for number, part in enumerate(smallest_first):
        shared[part] = min(left / (len(tokens) - number), tokens[part] * epochs)
        left -= shared[part]
    return shared


def _sum_sizes(blend: Blend, sizes: Mapping[str, Size]) -> Size:
    """Return the size of a mixture; the length of its rows as its first shares make it."""
    shares = blend.at(0)
    return Size(
        rows=sum(sizes[task].rows for task in shares),
        tokens_per_row=sum(share * sizes[task].tokens_per_row for task, share in shares.items()),
    )


def _is_rule(given: object) -> bool:
    """Return whether what somebody gave as a rule of no names is one."""
    return isinstance(given, Temperature | UniMax)


def _is_step(step: object) -> bool:
    """Return whether what somebody gave as a step is one."""
    return isinstance(step, int) and not isinstance(step, bool) and step >= 0


def _check_positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise _refuse(f"{what} must be positive, got {value}")


def _refuse(message: str, help_: str = "") -> PlanError:
    return PlanError.of("T0219", f"tasks cannot be mixed so: {message}", help_)


__all__ = [
    "Rule",
    "Schedule",
    "Size",
    "Temperature",
    "Tokens",
    "UniMax",
    "Weights",
    "blend_tasks",
    "check_weights",
    "share_out",
]
