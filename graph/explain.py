"""A planned graph as text, top down like the code that it stands for.

One line per node: address, op with the parameters that are not defaults, type. Below it, whatever a
reader must know beside: why its value is stored, what the store holds, which tasks share it. Nodes
of large graphs that look alike share a line, ``(x30)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .render.fold import fold, is_large, unfold
from .render.label import Label, make_label
from .render.printable import clip, clip_middle, measure, pad, printable
from .view_form import View

_MAX_ADDRESS: Final = 36
_MAX_OP: Final = 60
_MAX_LIST: Final = 5


def explain(view: View, *, is_folded: bool | None = None) -> str:
    """Return ``view`` as text for a terminal, without any control character but the line feed.

    Args:
        view: The planned graph.
        is_folded: Whether like parts share a line; by default they do in a large graph.
    """
    should_fold = is_large(view) if is_folded is None else is_folded
    picture = fold(view) if should_fold else unfold(view)
    lines = [_summarize(view), *map(printable, view["remarks"])]
    for lane in view["lanes"]:
        boxes = [b for b in picture.boxes if view["nodes"][b[0]]["stage"] == lane["stage"]]
        lines += ["", f"{lane['stage']}   {lane['about']}"]
        lines += _write_lane(view, boxes)
    return "\n".join(lines) + "\n"


def _summarize(view: View) -> str:
    nodes, columns = view["nodes"], sum(_num_columns(view))
    facts = [_count(len(nodes), "node"), f"{_count(columns, 'column')} stored"]
    if view["segments"]:
        facts.append(_count(len(view["segments"]), "segment"))
    return f"{printable(view['title'])}   {', '.join(facts)}   graph {view['digest']}"


def _num_columns(view: View) -> Iterator[int]:
    for node in view["nodes"]:
        yield sum(output["stored"] is not None for output in node["outputs"])


def _write_lane(view: View, boxes: Sequence[Sequence[int]]) -> Iterator[str]:
    labels = [make_label(view, box) for box in boxes]
    addresses = [
        clip_middle(label.address, _MAX_ADDRESS) + (f" (x{len(box)})" if len(box) > 1 else "")
        for label, box in zip(labels, boxes, strict=True)
    ]
    ops = [clip(" ".join((label.op, *label.params)), _MAX_OP) for label in labels]
    address_width, op_width = max(map(measure, addresses)), max(map(measure, ops))
    for address, op, label in zip(addresses, ops, labels, strict=True):
        yield f"  {pad(address, address_width)}  {pad(op, op_width)}  {label.type}".rstrip()
        yield from (f"      {remark}" for remark in _remark(label))


def _remark(label: Label) -> Iterator[str]:
    yield from (f"stored: {reason}" for reason in label.stored)
    if label.states:
        is_many = sum(label.states.values()) > 1
        counts = sorted(label.states.items())
        state = ", ".join(f"{number:,} {word}" if is_many else word for word, number in counts)
        yield f"{state}: {_list(label.whys, '; ')}" if label.whys else state
    if label.scope:
        yield f"parameters: {label.scope}"
    if len(label.tasks) > 1:
        yield f"shared by {_list(label.tasks, ', ')}"
    if label.results:
        yield f"gives {_list(label.results, ', ')}"


def _list(texts: Sequence[str], separator: str) -> str:
    more = f" and {len(texts) - _MAX_LIST:,} more" if len(texts) > _MAX_LIST else ""
    return separator.join(texts[:_MAX_LIST]) + more


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
