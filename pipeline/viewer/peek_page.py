"""A trace as one page that loads nothing and runs nothing: every word of a row is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from ...graph.preview import PreviewView, TokenView
from ...graph.render.printable import printable, printable_lines
from .trace import Step, Trace

_STYLE: Final = """
:root { color-scheme: light dark; --faint: #8886; --read: #0a7d; --learned: #c50a; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
section { border-left: 3px solid var(--faint); padding: .2rem 0 .6rem 1rem; margin: .6rem 0; }
section.bad { border-color: #d33; }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
h2 code { font-weight: normal; opacity: .7; }
p { margin: .2rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
p.note { opacity: .7; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; color: #d33; }
img { image-rendering: pixelated; min-width: 8rem; max-width: 100%; border: 1px solid var(--faint); }
svg { width: 100%; height: 6rem; background: var(--faint); }
.token { display: inline-block; padding: 0 .25em; margin: .1em; border-radius: .2em; white-space: pre;
  border-bottom: 3px solid var(--read); }
.token small { opacity: .6; margin-left: .3em; }
.token.learned { border-color: var(--learned); font-weight: bold; }
"""

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_trace(trace: Trace) -> str:
    """Return ``trace`` as HTML; it needs no network, and holds no script."""
    title = _text(f"row {trace.row} of {trace.task}")
    body = "\n".join(_section(step, trace.task) for step in trace.steps)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def _section(step: Step, task: str) -> str:
    types = ", ".join(str(type_) for type_ in step.node.types.values())
    told = f"{step.node.op} {types}" if len(step.node.types) == 1 else step.node.op
    head = f"<h2>{_text(step.address_in(task))} <code>{_text(told)}</code></h2>"
    is_bad = ' class="bad"' if step.problem is not None else ""
    return f"<section{is_bad}>{head}{''.join(_parts(step))}</section>"


def _parts(step: Step) -> Iterator[str]:
    if step.preview is not None:
        yield from _preview(step.preview)
    if step.note:
        yield f'<p class="note">{_text(step.note)}</p>'
    if step.problem is not None:
        yield f"<pre>{escape(printable_lines(str(step.problem)))}</pre>"


def _preview(preview: PreviewView) -> Iterator[str]:
    if preview["tokens"] is not None:
        yield f"<p>{_text(preview['text'].partition(':')[0])}</p>"
        yield f"<p>{''.join(map(_token, preview['tokens']))}</p>"
        return
    yield f"<p>{_text(preview['text'])}</p>"
    if preview["image"] is not None:
        yield f'<img alt="" src="{escape(preview["image"])}">'
    if preview["waveform"]:
        yield _waveform(preview["waveform"])


def _token(token: TokenView) -> str:
    weight = token["weight"]
    kind = "token learned" if weight > 0 else "token"
    told = f"id {token['id']}, " + (f"weight {weight:g}" if weight > 0 else "only read")
    return (
        f'<span class="{kind}" title="{told}">{_text(token["text"])}'
        f"<small>{token['id']}</small></span>"
    )


def _waveform(points: list[float]) -> str:
    line = " ".join(f"{x},{50 - 48 * y:.1f}" for x, y in enumerate(points))
    return (
        f'<svg viewBox="0 0 {max(1, len(points) - 1)} 100" preserveAspectRatio="none">'
        f'<polyline points="{line}" fill="none" stroke="currentColor"/></svg>'
    )


def _text(text: str) -> str:
    return escape(printable(text))
