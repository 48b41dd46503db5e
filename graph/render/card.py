"""One box of a picture: its address, op and type, what it cost, and what became of it.

A box is `BOX_WIDTH` wide and as high as what there is to say: text is clipped by the width of its characters,
so nothing runs past the edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

from ..view_form import ChangeKind, Status
from .figures import Figures
from .label import Label
from .layout import BOX_WIDTH
from .mark import draw_mark
from .printable import clip, clip_middle, measure
from .quantity import write_bytes, write_rows, write_seconds, write_share

_TEXT_HEIGHT: Final = 66
_FIGURES_HEIGHT: Final = 46
_FOOT_HEIGHT: Final = 24
_INDENT: Final = 16
_INNER_WIDTH: Final = BOX_WIDTH - 2 * _INDENT
_LARGE_PX: Final = 7.6  # advance of a character of an address, 12.5 px in any monospaced font
_SMALL_PX: Final = 6.7  # the same at 11 px
_BADGE_PX: Final = 6.4  # the mean of a sans-serif font at 11 px


def card_height(label: Label) -> int:
    """Return the height of the box of ``label``, in px."""
    return (
        _TEXT_HEIGHT
        + (_FIGURES_HEIGHT if label.figures else 0)
        + (_FOOT_HEIGHT if _has_foot(label) else 0)
    )


def card_classes(label: Label) -> list[str]:
    """Return the classes of the box of ``label``."""
    kinds = [kind for kind in ChangeKind if kind in label.changes and kind != ChangeKind.SAME]
    change = kinds[0] if kinds else ChangeKind.SAME if label.changes else ""
    return [*(["stored"] if label.stored else []), *label.states, *([change] if change else [])]


def draw_card(label: Label) -> Iterator[str]:
    """Yield the elements of the box of ``label``, its upper left corner at the origin."""
    height = card_height(label)
    yield f"<title>{escape(_tell(label))}</title>"
    for behind in (8, 4) if is_folded(label) else ():
        yield f'<rect class="behind" x="{behind}" y="{behind}" {_size(height)}/>'
    yield f'<rect class="card" {_size(height)}/>'
    yield f'<rect class="lane" x="0" y="10" width="4" height="{height - 20}" rx="2"/>'
    used = yield from _draw_badge(label)
    if label.num_ops > 1:
        way, leaf = "", clip(label.address, int((_INNER_WIDTH - used) / _LARGE_PX))
    else:
        way, leaf = _split(clip_middle(label.address, int((_INNER_WIDTH - used) / _LARGE_PX)))
    yield (
        f'<text class="address" x="{_INDENT}" y="23"><tspan class="way">{escape(way)}</tspan>'
        f"{escape(leaf)}</text>"
    )
    width = int(_INNER_WIDTH / _SMALL_PX)
    op = clip(label.op, width)
    params = clip(", ".join(label.facts) or " ".join(label.params), max(width - measure(op) - 1, 1))
    yield (
        f'<text class="op" x="{_INDENT}" y="41">{escape(op)}'
        f'<tspan class="params" dx="6">{escape(params)}</tspan></text>'
    )
    yield f'<text class="type" x="{_INDENT}" y="57">{escape(clip(label.type, width))}</text>'
    if label.figures:
        yield from _draw_figures(label.figures, _TEXT_HEIGHT)
    if _has_foot(label):
        yield from _draw_foot(label, height - _FOOT_HEIGHT)


def is_folded(label: Label) -> bool:
    """Whether the box of ``label`` stands for several nodes, and so can be opened."""
    return label.num_members > 1 or label.num_ops > 1


def _tell(label: Label) -> str:
    many = f"{label.num_members:,} nodes: " if label.num_members > 1 else ""
    facts = [many + label.address, label.op, *(["stored"] if label.stored else []), *label.states]
    facts += [kind for kind in label.changes if kind != ChangeKind.SAME]
    if label.figures:
        facts.append(f"{write_seconds(label.figures.seconds)}, {write_share(label.figures.share)}")
    return ", ".join(facts)


def _has_foot(label: Label) -> bool:
    has_change = any(kind != ChangeKind.SAME for kind in label.changes)
    return bool(label.stored or label.states or label.scope or has_change)


def _draw_badge(label: Label) -> Iterator[str]:
    """Draw how many there are in the upper right corner and return the width that it takes."""
    badge = f"\u00d7{label.num_members:,}" if label.num_members > 1 else ""
    if len(label.tasks) > 1:
        badge = f"{len(label.tasks):,} tasks"
    opener = 12 if is_folded(label) else 0
    if not badge and not opener:
        return 0.0
    width = _BADGE_PX * len(badge) + 12 + opener
    x = BOX_WIDTH - width - 10
    yield f'<rect class="badge" x="{x:.1f}" y="10" width="{width:.1f}" height="18" rx="9"/>'
    middle = x + (width - opener) / 2
    if badge:
        yield f'<text class="badge" x="{middle:.1f}" y="22.7">{badge}</text>'
    if opener:
        # Drawn around its own middle, so that it turns in place.
        place = f"{x + width - (12 if badge else width / 2):.1f} 19"
        yield f'<g transform="translate({place})"><path class="opener" d="M-2-3.5 2 0-2 3.5"/></g>'
    return width


def _draw_figures(figures: Figures, y: float) -> Iterator[str]:
    heat = max(_INNER_WIDTH * min(figures.share, 1.0), 2.0)
    yield f'<rect class="track" x="{_INDENT}" y="{y}" width="{_INNER_WIDTH:g}" height="5" rx="2.5"/>'
    yield f'<rect class="heat" x="{_INDENT}" y="{y}" width="{heat:.1f}" height="5" rx="2.5"/>'
    time = f"{write_seconds(figures.seconds)} · {write_share(figures.share)}"
    yield f'<text class="figure time" x="{_INDENT}" y="{y + 19}">{time}</text>'
    right = BOX_WIDTH - _INDENT
    size = write_bytes(figures.bytes)
    yield f'<text class="figure end" x="{right:g}" y="{y + 19}">{size}</text>'
    rejects = f"{figures.rejects:,} rejected" if figures.rejects else ""
    room = int(_INNER_WIDTH / _BADGE_PX) - (measure(rejects) + 4 if rejects else 0)
    rows = clip(f"{write_rows(figures.rows_in, figures.rows_out)} rows", room)
    yield f'<text class="figure" x="{_INDENT}" y="{y + 34}">{rows}</text>'
    if rejects:
        yield f'<text class="figure end rejects" x="{right:g}" y="{y + 34}">{rejects}</text>'
        yield draw_mark("rejects", right - measure(rejects) * _BADGE_PX - 16, y + 24)


def _draw_foot(label: Label, y: float) -> Iterator[str]:
    yield f'<path class="rule" d="M{_INDENT} {y + 0.5}H{BOX_WIDTH - _INDENT}"/>'
    y += 6
    words = _words(label)
    room = _INNER_WIDTH - sum(measure(text) * _BADGE_PX + 26 for _, text in words)
    if label.stored:
        yield draw_mark("stored", _INDENT, y)
        yield f'<text class="foot" x="{_INDENT + 17}" y="{y + 10}">stored</text>'
    elif label.scope:
        scope = clip(f"θ {label.scope}", max(int(room / _SMALL_PX), 1))
        yield f'<text class="foot" x="{_INDENT}" y="{y + 10}">{escape(scope)}</text>'
    x = BOX_WIDTH - _INDENT
    for word, text in words:
        x -= measure(text) * _BADGE_PX
        yield f'<text class="foot {word}" x="{x:.1f}" y="{y + 10}">{text}</text>'
        yield draw_mark(word, x - 16, y)
        x -= 26


def _words(label: Label) -> list[tuple[str, str]]:
    """Return what needs attention, most of all first: changes of a diff, states of a store."""
    changes = [kind for kind in ChangeKind if kind in label.changes and kind != ChangeKind.SAME]
    if changes:
        return _count_words(changes, label.changes)[:2]
    return _count_words([s for s in reversed(Status) if s in label.states], label.states)[:2]


def _count_words(
    words: list[ChangeKind] | list[Status], counts: Mapping[str, int]
) -> list[tuple[str, str]]:
    is_many = sum(counts.values()) > 1
    return [(word.value, f"{counts[word]:,} {word}" if is_many else word.value) for word in words]


def _split(address: str) -> tuple[str, str]:
    """Return ``address`` as the way to its last step, and that step."""
    cut = address.rfind("/") + 1 or address.rfind(".") + 1
    return address[:cut], address[cut:]


def _size(height: int) -> str:
    return f'width="{BOX_WIDTH:g}" height="{height}" rx="9"'
