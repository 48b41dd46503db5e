"""How a target is searched for, as plain settings that no tensor library is needed to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from ....graph.errors import PlanError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a target is searched for; by default, the likeliest id is taken at every step.

    What the task allows goes first: a limit that would leave nothing to write does not count there.

    Attributes:
        beams: Targets that are followed at once for each document; drawn, if ``sample``.
        n_best: Targets of each document that are returned, the best first; at most ``beams``.
        length_penalty: Targets are compared by log probability over their number of ids to this power: 0 for
            the sum, 1 for the mean.
        groups: Groups that the beams are divided into, which shun each other's ids; 1 for none.
        diversity: What an id costs a group for each beam of the groups before that takes it at the same step.
            It decides what is followed, and is no part of a probability.
        sample: Whether ids are drawn, rather than the likeliest taken.
        top_k: Ids that are drawn from, the likeliest; 0 for all.
        top_p: Share of the probability that is drawn from, the likeliest ids first; 1 for all.
        temperature: What scores are divided by before they become probabilities; 0 draws the likeliest.
        seed: What is drawn follows from it and from the document, wherever that stands.
        no_repeat_ngram: Length of runs of ids that are not written twice; 0 for none.
        min_length: Ids that are written before the end, at least.
        max_length: Ids that are written, the end included, at most; by default what the model
            is set to.
        prefix: Text that every target begins with.
    """

    beams: int = 1
    n_best: int = 1
    length_penalty: float = 0.0
    groups: int = 1
    diversity: float = 0.0
    sample: bool = False
    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    no_repeat_ngram: int = 0
    min_length: int = 0
    max_length: int | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        if problems := [Problem("T0244", message, help_) for message, help_ in _check(self)]:
            raise PlanError(*problems)

    @property
    def is_chain(self) -> bool:
        """Whether every target is written on its own, so that none is compared with others on the way."""
        return self.sample or self.beams == 1


_LEAST: Final = {"beams": 1, "n_best": 1, "groups": 1, "max_length": 1}
"""What settings must be at least, where that is not 0."""


def _check(search: Search) -> Iterator[tuple[str, str]]:
    wrong_kinds = list(_check_kinds(search))
    yield from wrong_kinds or (*_check_ranges(search), *_check_together(search))


def _check_kinds(search: Search) -> Iterator[tuple[str, str]]:
    for field in fields(search):
        value, kind = getattr(search, field.name), str(field.type)
        # Never an `or`: 0 and False are settings. But True is no number.
        if type(value) not in _ACCEPTED[kind]:
            yield f"{field.name} must be {_KINDS[kind]}, got {value!r}", ""


def _check_ranges(search: Search) -> Iterator[tuple[str, str]]:
    for name in ("beams", "n_best", "groups", "temperature", "seed", *_AT_LEAST_0):
        value, least = getattr(search, name), _LEAST.get(name, 0)
        if value is not None and not least <= value < float("inf"):
            yield f"{name} must be at least {least}, got {value}", ""
    if not 0 < search.top_p <= 1:
        yield f"top_p must be more than 0 and at most 1, got {search.top_p}", "1 keeps all"
    if not abs(search.length_penalty) < float("inf"):
        yield f"length_penalty must be finite, got {search.length_penalty}", ""


def _check_together(search: Search) -> Iterator[tuple[str, str]]:
    if search.n_best > search.beams > 0:
        yield f"n_best is {search.n_best}, and beams only {search.beams}", "follow more beams"
    if search.groups > 0 and search.beams % search.groups:
        message = f"{search.beams} beams do not divide into {search.groups} groups"
        yield message, "beams is a multiple of groups"
    if search.groups == 1 and search.diversity:
        message = f"diversity is {search.diversity}, and there is one group"
        yield message, "diversity is between groups: set groups, or leave out diversity"
    if search.sample and search.groups > 1:
        yield "what is drawn has no groups", "leave out groups, or sample"
    if not search.sample and (search.top_k or search.top_p < 1 or search.temperature == 0):
        help_ = "set sample, or leave out top_k, top_p and a temperature of 0"
        yield "nothing is drawn, and top_k, top_p or a temperature of 0 are set", help_
    if search.max_length is not None and 0 < search.max_length <= search.min_length:
        message = f"min_length is {search.min_length}, max_length {search.max_length}"
        yield message, "max_length counts the end, and must be more"


_AT_LEAST_0: Final = ("diversity", "top_k", "no_repeat_ngram", "min_length", "max_length")
_ACCEPTED: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
}
_KINDS: Final = {
    "int": "a whole number",
    "int | None": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
}
