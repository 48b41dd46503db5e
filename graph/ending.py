"""Where the values of a target end: whatever is written freely must be followed by something that ends it.

Free text ends where the plain text after it begins, or with the target. Two of them side by side could be
learned, but never be told apart in what the model writes; so they are refused before anything is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

from .errors import Problem, Site
from .side import Placed

_Next: TypeAlias = Literal["end", "text", "free", "bounded"]

_ENDINGS: Final[frozenset[_Next]] = frozenset({"end", "text"})


def find_endless(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Yield a problem for each slot of a target side of which nothing tells where its value ends."""
    for site, message in _find(placed, frozenset({"end"})):
        help_ = "write text between it and what follows it, such as a comma"
        yield Problem("T0253", message, help_, (site,))


def _find(placed: Sequence[Placed], follow: frozenset[_Next]) -> Iterator[tuple[Site, str]]:
    for number, each in enumerate(placed):
        after = _first(placed[number + 1 :], follow)
        if each.inside:
            again = _first(each.inside, after)
            yield from _find(each.inside, again | after)
            if "free" in after and "free" in _first(each.inside, frozenset()):
                yield (
                    each.site,
                    "nothing tells whether another item follows, or what stands after the group",
                )
        elif each.part.is_free and not after <= _ENDINGS:
            yield each.site, f'nothing tells where the text of "{each.slot}" ends'


def _first(placed: Sequence[Placed], follow: frozenset[_Next]) -> frozenset[_Next]:
    """Return what ``placed`` may begin with, and ``follow`` if there may be nothing of it."""
    found = frozenset[_Next]()
    for each in placed:
        if not each.inside:
            return found | _kind(each)
        found |= _first(each.inside, frozenset())
    return found | follow


def _kind(each: Placed) -> frozenset[_Next]:
    if not each.slot:
        return frozenset({"text"})
    return frozenset({"free"}) if each.part.is_free else frozenset({"bounded"})
