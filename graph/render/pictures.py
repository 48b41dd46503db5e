"""The pictures of a view: with like parts and cheap chains folded, and with every node."""

from __future__ import annotations

from ..view_form import View
from .chain import fold_chains
from .fold import MAX_BOXES, Picture, fold, is_large, unfold


def pictures(view: View) -> dict[str, Picture]:
    """Return the pictures of ``view`` by name, ``folded`` and ``full``, the one to begin with first."""
    folded = fold_chains(view, fold(view))
    if len(view["nodes"]) > MAX_BOXES:
        return {"folded": folded}
    full = unfold(view)
    if len(folded.boxes) == len(full.boxes):
        return {"full": full}
    both = {"folded": folded, "full": full}
    return both if is_large(view) or folded.chains else dict(reversed(both.items()))


def first_picture(view: View, *, is_folded: bool | None = None) -> Picture:
    """Return one picture of ``view``, for what shows no more than one.

    Args:
        view: The planned graph.
        is_folded: Whether parts are folded; by default they are where that is easier to read.
    """
    if is_folded is not None:
        return fold_chains(view, fold(view)) if is_folded else unfold(view)
    (picture, *_) = pictures(view).values()
    return picture
