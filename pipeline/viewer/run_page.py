"""One HTML page on a run: its curves, its mixture, its time and what it answered; it loads nothing.

Charts are drawn here; the script only reads them out, and the page's policy (CSP) runs no other. Every word of
a row is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from ...graph.render.quantity import (
    write_amount,
    write_bytes,
    write_seconds,
    write_share,
)
from ..trainer.metric import sign_of
from ..trainer.step_part import WAITING
from .run_answers import draw_answers
from .run_curves import draw_losses, draw_tasks
from .run_facts import FAILURES, RunFacts
from .run_section import legend, section, text_of
from .run_time import draw_time

_HERE: Final = __name__.rpartition(".")[0]
_RENDER: Final = "taskloom.graph.render"


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
        draw_losses(facts),
        draw_tasks(facts),
        _mixture(facts),
        draw_time(facts),
        draw_answers(facts),
    )
    style = _read(_RENDER, "palette.css") + _read(_HERE, "run_page.css")
    script = "(() => {\n'use strict';\n" + _read(_HERE, "run_page.js") + "})();\n"
    return Template(_read(_HERE, "run_page.html")).substitute(
        title=text_of(run.resolve().name),
        summary=text_of(_summarize(facts)),
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
    told += "" if since is None else f", diverging since step {since:,}"
    return f"{told}, {facts.failure}" if facts.failure else told


def _links(run: Path, folder: Path) -> str:
    if folder not in (run, run.parent):
        return ""
    checkpoints = sorted(path.name for path in run.glob("step-*") if path.is_dir())
    names = ["log.jsonl", "measures.json", "trace.json", "samples", *FAILURES, *checkpoints[-2:]]
    links = {name: (run / name).relative_to(folder) for name in names if (run / name).exists()}
    return "".join(
        f'<a href="{escape(path.as_posix())}">{text_of(name)}</a>' for name, path in links.items()
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
        f'<div class="tile"><b>{text_of(value)}</b><span>{text_of(name)}</span></div>'
        for name, value in tiles.items()
        if value is not None
    )
    return f'<section class="tiles" aria-label="In short">{inner}</section>'


def _best(facts: RunFacts) -> tuple[str, float, int]:
    """Return what evaluations are compared by, its best value and that one's step."""
    metric = facts.evaluations[-1]["evaluation"]["metric"]
    known = [(e["evaluation"].get("value"), e["step"]) for e in facts.evaluations]
    values = [(value, step) for value, step in known if value is not None] or [(float("nan"), 0)]
    return metric, *max(values, key=lambda each: sign_of(metric) * each[0])


def _header(facts: RunFacts) -> str:
    if not facts.header:
        return ""
    items = "".join(f"<li>{text_of(line)}</li>" for line in facts.header)
    return f'<section><h2>What it learns from, and with</h2><ul class="sentences">{items}</ul></section>'


def _mixture(facts: RunFacts) -> str:
    mixture = facts.mixture()
    if not mixture:
        return ""
    most = (
        max(max(m["asked"], m["sample_share"], m["token_share"]) for m in mixture.values()) or 1.0
    )
    rows = "".join(
        _row(
            text_of(task),
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
    return section("Mixture", note, f'{legend(keys)}<div class="card scroll">{table}</div>')


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


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text("utf-8")
