"""One HTML page on a run: its curves, its mixture, its time and what it answered; it loads nothing.

Charts are drawn here; the script only reads them out, and the page's policy (CSP) runs no other. Every word of
a row is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

from ...graph.render.printable import printable
from ...graph.render.quantity import (
    count,
    write_amount,
    write_bytes,
    write_seconds,
    write_share,
)
from ..trainer.step_part import LEARNING, WAITING
from .chart import Chart, Series, thin
from .run_facts import RunFacts

_HERE: Final = __name__.rpartition(".")[0]
_RENDER: Final = "taskloom.graph.render"

MAX_SLOW: Final = 12
"""Slow steps that are listed."""

MAX_SAMPLES: Final = 60
"""Rows whose answers are shown."""

_KINDS: Final = {
    "waiting for data": "waiting",
    "evaluation": "evaluation",
    "checkpoint": "checkpoint",
    "log": "log",
    "computing": "computing",
}
"""Class of each part of a step; whatever else there is belongs to first steps."""


def render_run(run: Path, page: Path | None = None) -> str:
    """Return the page of the run in directory ``run``.

    Args:
        run: The directory.
        page: Where it is going to lie, if not in that directory. Beside it, it has links into it; elsewhere
            none, for it may be sent to somebody who lacks the run.

    Raises:
        TrainingError: It holds no log (T0784).
    """
    facts = RunFacts.read(run)
    parts = (
        _tiles(facts),
        _header(facts),
        _losses(facts),
        _tasks(facts),
        _mixture(facts),
        _time(facts),
        _samples(facts),
    )
    style = _read(_RENDER, "palette.css") + _read(_HERE, "run_page.css")
    script = "(() => {\n'use strict';\n" + _read(_HERE, "run_page.js") + "})();\n"
    return Template(_read(_HERE, "run_page.html")).substitute(
        title=_text(run.resolve().name),
        summary=_text(_summarize(facts)),
        links=_links(run.resolve(), run.resolve() if page is None else page.resolve().parent),
        body="\n".join(part for part in parts if part),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
    )


def _summarize(facts: RunFacts) -> str:
    told = f"step {facts.step:,} of {facts.steps:,}"
    if any(line["evaluation"].get("stops") for line in facts.evaluations[-1:]):
        told += ", stopped: nothing got better"
    since = next((line["diverges_since"] for line in facts.lines if "diverges_since" in line), None)
    return told if since is None else f"{told}, diverging since step {since:,}"


def _links(run: Path, folder: Path) -> str:
    if folder not in (run, run.parent):
        return ""
    checkpoints = sorted(path.name for path in run.glob("step-*") if path.is_dir())
    names = ["log.jsonl", "measures.json", "trace.json", "samples", *checkpoints[-2:]]
    links = {name: (run / name).relative_to(folder) for name in names if (run / name).exists()}
    return "".join(
        f'<a href="{escape(path.as_posix())}">{_text(name)}</a>' for name, path in links.items()
    )


def _tiles(facts: RunFacts) -> str:
    tokens = sum(line["tokens"] for line in facts.lines)
    loss = facts.lines[-1]["loss"] if facts.lines else None
    speed, mfu = facts.last("speed", "tokens_per_s"), facts.last("speed", "mfu")
    flops, total_s = facts.last("speed", "flops_per_s"), sum(s for _, s in facts.step_times())
    waiting = facts.time_by_part().get(WAITING, 0.0) / total_s if total_s else None
    memory = facts.last("memory", "device_bytes") or facts.last("memory", "host_bytes")
    tiles = {
        "steps taken": f"{facts.step:,}",
        "of training": write_seconds(facts.seconds) if facts.seconds else None,
        "tokens seen": write_amount(tokens, "").strip(),
        "loss at the end": None if loss is None else f"{loss:.3f}",
        "tokens a second": None if speed is None else f"{speed:,.0f}",
        "of the peak (MFU)": None if mfu is None else write_share(mfu),
        "FLOP a second": None
        if flops is None or mfu is not None
        else write_amount(flops, "").strip(),
        "waiting for data": None if waiting is None else write_share(waiting),
        "most memory": None if memory is None else write_bytes(memory),
    }
    if facts.evaluations:
        best = _best(facts)
        tiles[f"best {best[0]}, step {best[2]:,}"] = f"{best[1]:.3f}"
    inner = "".join(
        f'<div class="tile"><b>{_text(value)}</b><span>{_text(name)}</span></div>'
        for name, value in tiles.items()
        if value is not None
    )
    return f'<section class="tiles" aria-label="In short">{inner}</section>'


def _best(facts: RunFacts) -> tuple[str, float, int]:
    """Return what evaluations are compared by, its best value and that one's step."""
    metric = facts.evaluations[-1]["evaluation"]["metric"]
    known = [(e["evaluation"].get("value"), e["step"]) for e in facts.evaluations]
    values = [(value, step) for value, step in known if value is not None] or [(float("nan"), 0)]
    sign = -1 if metric.endswith("loss") else 1
    return metric, *max(values, key=lambda each: sign * each[0])


def _header(facts: RunFacts) -> str:
    if not facts.header:
        return ""
    items = "".join(f"<li>{_text(line)}</li>" for line in facts.header)
    return f'<section><h2>What it learns from, and with</h2><ul class="sentences">{items}</ul></section>'


def _losses(facts: RunFacts) -> str:
    train = [(line["step"], line["loss"]) for line in facts.lines if line["loss"] is not None]
    valid = [
        (e["step"], e["evaluation"]["mean"]["loss"])
        for e in facts.evaluations
        if "loss" in e["evaluation"]["mean"]
    ]
    loss = Chart(
        title="Loss of a label, all tasks together",
        series=(
            Series(name="training", points=thin(train), kind="train"),
            Series(name="validation, mean of tasks", points=valid, kind="valid", is_dotted=True),
        ),
        last=facts.step,
        write=lambda number: f"{number:.2f}",
    )
    keys = {"training": "train", "validation, mean of tasks": "valid dot"}
    norms = [(line["step"], line["gradient_norm"]) for line in facts.lines]
    rates = [(line["step"], line["rate"]) for line in facts.lines]
    norm = Chart(
        title="Norm of the gradient",
        series=(Series(name="norm", points=thin(norms), kind="seen"),),
        last=facts.step,
        height=104,
        floor=0.0,
    )
    rate = Chart(
        title="Learning rate",
        series=(Series(name="rate", points=thin(rates), kind="typical"),),
        last=facts.step,
        height=104,
        floor=0.0,
        write=lambda number: f"{number:.2g}",
    )
    return (
        f'<section class="wide"><div class="card"><h2>Loss</h2>{_legend(keys)}{loss.draw()}</div>'
        f'<div class="card"><h2>Gradient and learning rate</h2><h3>norm of the gradient</h3>{norm.draw()}'
        f"<h3>learning rate</h3>{rate.draw()}</div></section>"
    )


def _tasks(facts: RunFacts) -> str:
    cards = "".join(map(_card, [facts] * len(facts.tasks), facts.tasks))
    keys = {
        "training loss": "train",
        "validation loss": "valid dot",
        "corrected score": "score dot",
    }
    note = (
        "Validation is on rows that training never sees. The corrected score is 0 for always giving the "
        "commonest answer, and 1 for no mistake."
    )
    return _section("Tasks", note, f'{_legend(keys)}<div class="cards">{cards}</div>')


def _card(facts: RunFacts, task: str) -> str:
    train = _numbers(facts.lines, "tasks", task, "loss")
    told = [{"step": e["step"], **e["evaluation"]} for e in facts.evaluations]
    valid = _numbers(told, "tasks", task, "loss")
    scores = _numbers(told, "tasks", task, "corrected")
    loss = Chart(
        title=f"Loss of {task}",
        series=(
            Series(name="training", points=thin(train), kind="train"),
            Series(name="validation", points=thin(valid), kind="valid", is_dotted=True),
        ),
        last=facts.step,
        width=340,
        height=150,
        write=lambda number: f"{number:.2f}",
    )
    score = Chart(
        title=f"Corrected score of {task}",
        series=(Series(name="corrected", points=thin(scores), kind="score"),),
        last=facts.step,
        width=340,
        height=110,
        floor=0.0,
        ceiling=1.0,
        write=lambda number: f"{number:.2f}",
    )
    shares = _numbers(facts.lines, "tasks", task, "gradient_share")
    told_share = f" · {write_share(shares[-1][1])} of the gradient" if shares else ""
    last = f"{train[-1][1]:.3f}" if train else "nothing learned"
    head = f'<h3>{_text(task)}</h3><p class="note">loss {last}{told_share}</p>'
    return f'<div class="card">{head}{loss.draw()}{score.draw()}</div>'


def _numbers(
    lines: Sequence[Mapping[str, Any]], part: str, task: str, name: str
) -> list[tuple[int, float]]:
    """Return step and number ``name`` of ``task``, where lines know it."""
    known = ((line["step"], line.get(part, {}).get(task, {}).get(name)) for line in lines)
    return [(step, number) for step, number in known if number is not None]


def _mixture(facts: RunFacts) -> str:
    mixture = facts.mixture()
    if not mixture:
        return ""
    most = (
        max(max(m["asked"], m["sample_share"], m["token_share"]) for m in mixture.values()) or 1.0
    )
    rows = "".join(
        _row(
            _text(task),
            _bars(
                {"asked": m["asked"], "seen": m["sample_share"], "tokens": m["token_share"]}, most
            ),
            *(write_share(m[name]) for name in ("asked", "sample_share", "token_share")),
            f"{m['samples']:,.0f}",
            f"{m['epochs']:.2f}",
        )
        for task, m in mixture.items()
    )
    keys = {"samples asked for": "asked", "samples seen": "seen", "tokens seen": "tokens"}
    head = (
        '<th>task</th><th></th><th class="number">asked</th><th class="number">samples</th>'
        '<th class="number">tokens</th><th class="number">samples seen</th><th class="number">epochs</th>'
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    note = "What was asked for, and what came of it."
    return _section("Mixture", note, f'{_legend(keys)}<div class="card scroll">{table}</div>')


def _row(name: str, bars: str, *numbers: str) -> str:
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f"<tr><td>{name}</td><td>{bars}</td>{cells}</tr>"


def _bars(shares: Mapping[str, float], most: float) -> str:
    bars = "".join(
        f'<rect class="track" y="{7 * n}" width="100" height="5"/>'
        f'<rect class="fill {kind}" y="{7 * n}" width="{100 * share / most:.1f}" height="5"/>'
        for n, (kind, share) in enumerate(shares.items())
    )
    return f'<svg class="bar" viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>'


def _time(facts: RunFacts) -> str:
    times = list(facts.step_times())
    if not times:
        return ""
    slow = facts.slow_steps()
    kinds = dict.fromkeys(_kind(each["why"]) for each in slow)
    by_kind = {
        kind: [(s["step"], s["seconds"]) for s in slow if _kind(s["why"]) == kind] for kind in kinds
    }
    names = {_kind(each["why"]): each["why"] for each in slow}
    chart = Chart(
        title="Seconds of each step",
        series=(
            Series(name="mean", points=thin(times), kind="computing"),
            *(
                Series(
                    name=f"slow: {names[kind]}",
                    points=thin(points, by="max"),
                    kind=kind,
                    is_dotted=True,
                )
                for kind, points in by_kind.items()
            ),
        ),
        last=facts.step,
        width=1160,
        height=200,
        scale="log",
        write=write_seconds,
    )
    legend = {"a step": "computing"} | {
        f"slow: {name}": f"{kind} dot" for kind, name in names.items()
    }
    note = (
        "A step's time reaches from the end of the one before to its own, so it holds what happens in "
        f"between. {count(len(slow), 'step')} took twice as long as usual, and 20 ms longer."
    )
    body = (
        f'<div class="card scroll long">{_legend(legend)}{chart.draw()}</div>'
        f'<div class="wide after"><div class="card"><h3>Where the time went</h3>{_parts(facts)}</div>'
        f'<div class="card scroll"><h3>The slowest steps</h3>{_slowest(slow)}</div></div>'
    )
    return _section("Time", note, body)


def _parts(facts: RunFacts) -> str:
    parts, total = facts.time_by_part(), sum(seconds for _, seconds in facts.step_times())
    # What is left is spent in the host between parts, or by the device after the host has asked for it.
    parts[LEARNING] = parts.get(LEARNING, 0.0) + max(total - sum(parts.values()), 0.0)
    total = max(sum(parts.values()), 1e-9)
    x, rects = 0.0, list[str]()
    for name, seconds in parts.items():
        width = 100 * seconds / total
        rects.append(
            f'<rect class="fill {_kind(name)}" x="{x:.2f}" width="{width:.2f}" height="18"/>'
        )
        x += width
    rows = "".join(
        f'<tr><td class="why"><i class="key {_kind(name)}"></i>{_text(name)}</td>'
        f'<td class="number">{write_seconds(seconds)}</td>'
        f'<td class="number">{write_share(seconds / total)}</td></tr>'
        for name, seconds in parts.items()
    )
    return (
        '<svg class="stack" viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(rects)}</svg><table><tbody>{rows}</tbody></table>"
    )


def _slowest(slow: Sequence[Mapping[str, Any]]) -> str:
    if not slow:
        return '<p class="note">None.</p>'
    rows = "".join(
        f'<tr><td class="number">{each["step"]:,}</td><td class="number">{write_seconds(each["seconds"])}</td>'
        f'<td class="why"><i class="key {_kind(each["why"])}"></i>{_text(each["why"])}</td></tr>'
        for each in sorted(slow, key=lambda each: -each["seconds"])[:MAX_SLOW]
    )
    head = '<th class="number">step</th><th class="number">took</th><th>why</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _kind(part: str) -> str:
    return _KINDS.get(part, "first")


def _samples(facts: RunFacts) -> str:
    if not facts.samples:
        return ""
    last = max(facts.samples)
    shown = facts.samples[last][:MAX_SAMPLES]
    cards = "".join(_sample(sample, facts) for sample in shown)
    note = f"What the model answered to a few validation rows after step {last:,}, and before that."
    return _section("Samples", note, f'<div class="cards">{cards}</div>')


def _sample(sample: Mapping[str, Any], facts: RunFacts) -> str:
    is_right = sample["answer"] == sample["reference"]
    verdict = (
        "" if is_right else f' <span class="history">right: {_text(sample["reference"])}</span>'
    )
    pictures = "".join(_picture(facts.path / "samples" / name) for name in sample["pictures"][:1])
    return (
        f'<div class="card sample">{pictures}<div><h3>{_text(sample["task"])} <span class="history">'
        f'{_text(sample["row"])}</span></h3><p class="prompt">{_text(sample["prompt"])}</p>'
        f'<p class="answer {"right" if is_right else "wrong"}">'
        f"{_text(sample['answer']) or 'nothing'}{verdict}</p>"
        f'<p class="history">{"".join(_history(sample, facts))}</p></div></div>'
    )


def _history(sample: Mapping[str, Any], facts: RunFacts) -> Iterator[str]:
    """Yield what was answered to the row before, wherever that changed."""
    said = ""
    for step, samples in list(facts.samples.items())[:-1]:
        answers = [
            s["answer"] for s in samples if (s["task"], s["row"]) == (sample["task"], sample["row"])
        ]
        if answers and answers[0] != said:
            said = answers[0]
            yield f"{step:,}: <b>{_text(said)}</b> &nbsp; "


def _picture(path: Path) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'


def _section(title: str, note: str, body: str) -> str:
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{body}</section>'


def _legend(names: Mapping[str, str]) -> str:
    entries = "".join(
        f'<span><i class="key {kind}"></i>{_text(name)}</span>' for name, kind in names.items()
    )
    return f'<div class="legend">{entries}</div>'


def _text(text: str) -> str:
    return escape(printable(text))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text("utf-8")
