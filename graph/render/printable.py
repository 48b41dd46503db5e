r"""Words that users wrote, made fit for one line of a terminal or a picture.

Control characters would move a terminal's cursor, and marks of direction would reorder what stands
around them. Both are shown as escapes, such as ``\x1b``.
"""

from __future__ import annotations

from unicodedata import category, combining, east_asian_width


def printable(text: str) -> str:
    """Return ``text`` with every character that is no visible one written as an escape."""
    return "".join(c if _is_visible(c) else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return ``text`` with its line breaks, and everything else that is not visible as an escape."""
    return "\n".join(printable(line) for line in text.split("\n"))


def measure(text: str) -> int:
    """Return how many columns of a terminal, or of a monospaced font, ``text`` takes."""
    return sum(_measure(character) for character in text)


def pad(text: str, width: int) -> str:
    """Return ``text`` with spaces after it, up to ``width`` columns."""
    return text + " " * (width - measure(text))


def clip(text: str, width: int) -> str:
    """Return ``text``, its end replaced by an ellipsis if it is wider than ``width`` columns."""
    return text if measure(text) <= width else _take(text, width - 1) + "…"


def clip_middle(text: str, width: int) -> str:
    """Return ``text``, its middle replaced by an ellipsis if it is wider than ``width`` columns.

    The end keeps two thirds: in an address, the last step says most.
    """
    if measure(text) <= width:
        return text
    start = (width - 1) // 3
    end = _take(text[::-1], width - 1 - start)[::-1]
    return _take(text, start) + "…" + end


def _take(text: str, width: int) -> str:
    taken = 0
    for position, character in enumerate(text):
        taken += _measure(character)
        if taken > width:
            return text[:position]
    return text


def _measure(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def _is_visible(character: str) -> bool:
    return character.isprintable() or category(character) == "Zs"
