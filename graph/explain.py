"""A view as text, top down like the code that it stands for.

One line per node: address, op with the parameters that are not defaults, type. Below it, whatever a
reader must know beside: why its value is stored, what the store holds, which tasks share it. Nodes
of large graphs that look alike share a line, ``(x30)``.

Of a run that was measured, the line tells what the node cost in place of its type. Of a diff, only what is
not as it was has a line, which begins with a mark for what became of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from .render.figures import Rebuild, lane_measures, sum_rebuilds
from .render.fold import Picture
from .render.label import Label, make_label
from .render.pictures import first_picture
from .render.printable import clip, clip_middle, measure, pad, printable
from .render.quantity import (
    count,
    write_bar,
    write_bytes,
    write_rows,
    write_seconds,
    write_share,
)
from .view_form import ChangeKind, View

SIGNS: Final[Mapping[str, str]] = {
    ChangeKind.ADDED: "+",
    ChangeKind.REMOVED: "-",
    ChangeKind.CHANGED: "~",
    ChangeKind.FOLLOWS: ">",
    ChangeKind.MOVED: "@",
    ChangeKind.SAME: " ",
}
"""The mark of each kind of change, at the start of a line."""

_MAX_ADDRESS: Final = 36
_MAX_OP: Final = 60
_MAX_MEASURED_OP: Final = 34
_BAR_WIDTH: Final = 10
_MAX_LIST: Final = 5
_RIGHT: Final = frozenset({"time", "share", "rejected", "bytes"})


def explain(view: View, *, is_folded: bool | None = None) -> str:
    """Return ``view`` as text for a terminal, without any control character but the line feed.

    Args:
        view: The planned graph, or two of them compared.
        is_folded: Whether like parts share a line; by default they do in a large graph.
    """
    picture = first_picture(view, is_folded=is_folded)
    lines = [_summarize(view), *map(printable, view["remarks"]), *_summarize_diff(view)]
    for lane in view["lanes"]:
        boxes = [n for n, b in enumerate(picture.boxes) if _stage(view, b) == lane["stage"]]
        labels = [make_label(view, picture, box) for box in boxes]
        changed = [label for label in labels if set(label.changes) != {ChangeKind.SAME}]
        lines += ["", f"{lane['stage']}   {lane['about']}{_total(view, lane['stage'])}"]
        lines += _write_lane(changed)
        if len(changed) < len(labels):
            lines.append(f"  {_count_same(view, picture, boxes)} as before")
    return "\n".join(lines) + "\n"


def _stage(view: View, box: Sequence[int]) -> str:
    return view["nodes"][box[0]]["stage"]


def _summarize(view: View) -> str:
    nodes = [node for node in view["nodes"] if not _is_gone(node["change"])]
    columns = sum(output["stored"] is not None for node in nodes for output in node["outputs"])
    facts = [count(len(nodes), "node"), f"{count(columns, 'column')} stored"]
    if view["segments"]:
        facts.append(count(len(view["segments"]), "segment"))
    digest = printable(view["digest"])
    return f"{printable(view['title'])}   {', '.join(facts)}   graph {digest}"


def _is_gone(change: Mapping[str, object] | None) -> bool:
    return change is not None and change["kind"] == ChangeKind.REMOVED


def _summarize_diff(view: View) -> Iterator[str]:
    """Yield what a diff comes to: how many nodes became what, and what a build has to do."""
    if (diff := view["diff"]) is None:
        return
    kinds = [str(change["kind"]) for node in view["nodes"] if (change := node["change"])]
    numbers = [f"{kinds.count(kind):,} {kind}" for kind in ChangeKind if kinds.count(kind)]
    old, now = printable(diff["old_digest"]), printable(diff["new_digest"])
    yield f"{', '.join(numbers) or 'nothing to compare'}   graph {old} -> {now}"
    rebuild = sum_rebuilds(view, range(len(view["nodes"])))
    yield (
        f"a build computes {_write_rebuild(rebuild)}"
        if rebuild
        else "a build computes nothing anew"
    )


def _write_rebuild(rebuild: Rebuild) -> str:
    facts = [f"{count(rebuild.columns, 'column')} anew"]
    facts += [count(rebuild.rows, "value")] if rebuild.rows is not None else []
    facts += [f"about {write_bytes(rebuild.bytes)}"] if rebuild.bytes is not None else []
    return ", ".join(facts)


def _count_same(view: View, picture: Picture, boxes: Sequence[int]) -> str:
    changes = (view["nodes"][n]["change"] for box in boxes for n in picture.boxes[box])
    return count(sum(c is not None and c["kind"] == ChangeKind.SAME for c in changes), "node")


def _total(view: View, stage: str) -> str:
    measures = lane_measures(view, stage)
    if not measures:
        return ""
    rejects = sum(one["rejects"] for one in measures)
    refused = f", {count(rejects, 'row')} rejected" if rejects else ""
    stored = sum(one["stored_bytes"] for one in measures)
    kept = f", {write_bytes(stored)} stored" if stored else ""
    return f"   {write_seconds(sum(one['seconds'] for one in measures))}{kept}{refused}"


def _write_lane(labels: Sequence[Label]) -> Iterator[str]:
    is_measured = any(label.figures for label in labels)
    rows = [_write_row(label, is_measured=is_measured) for label in labels]
    names = dict.fromkeys(name for row in rows for name in row if any(r[name] for r in rows))
    titles = {name: "" if name in {"address", "op", "bar"} else name for name in names}
    widths = {name: max(measure(row[name]) for row in [titles, *rows]) for name in names}
    if is_measured:
        yield _join(titles, widths, " ")
    for row, label in zip(rows, labels, strict=True):
        yield _join(row, widths, _sign(label))
        yield from (f"      {remark}" for remark in _remark(label))


def _write_row(label: Label, *, is_measured: bool) -> dict[str, str]:
    address = clip_middle(label.address, _MAX_ADDRESS)
    row = {"address": address + (f" (x{label.num_members:,})" if label.num_members > 1 else "")}
    op = " ".join((label.op, *(() if label.changes else label.params)))
    row["op"] = clip(op, _MAX_MEASURED_OP if is_measured else _MAX_OP)
    figures = label.figures
    if not is_measured:
        return row | {"type": label.type}
    if figures is None:
        return row | dict.fromkeys(("time", "share", "bar", "rows", "rejected", "bytes"), "")
    return row | {
        "time": write_seconds(figures.seconds),
        "share": write_share(figures.share),
        "bar": write_bar(figures.share, _BAR_WIDTH),
        "rows": write_rows(figures.rows_in, figures.rows_out),
        "rejected": f"{figures.rejects:,}" if figures.rejects else "",
        "bytes": write_bytes(figures.bytes),
    }


def _join(row: Mapping[str, str], widths: Mapping[str, int], sign: str) -> str:
    cells = [
        " " * (width - measure(row[name])) + row[name] if name in _RIGHT else pad(row[name], width)
        for name, width in widths.items()
    ]
    return f"{sign} {'  '.join(cells)}".rstrip()


def _sign(label: Label) -> str:
    kinds = [kind for kind in SIGNS if kind in label.changes]
    return SIGNS[kinds[0]] if kinds else " "


def _remark(label: Label) -> Iterator[str]:
    if label.changes:
        yield from label.facts
        if label.rebuilds:
            yield f"a build computes {_write_rebuild(label.rebuilds)}"
        return
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
