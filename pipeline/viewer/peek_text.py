"""A trace in a terminal: pictures in half blocks where there are colours, tokens coloured by their weight."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final

from PIL import Image
from rich.console import Console
from rich.text import Text

from ...graph.preview import PreviewView, TokenView
from ...graph.render.printable import clip, printable, printable_lines
from .trace import Step, Trace

COLUMNS: Final = 32
"""Width of a picture, in characters; each shows two pixels, one above the other."""

_MAX_TOKENS: Final = 120
_MAX_CHARACTERS: Final = 400
_READ: Final = "cyan"
_LEARNED: Final = "bold green"
_DIM: Final = "dim"


def print_trace(trace: Trace, console: Console) -> None:
    """Print every step of ``trace``; what users wrote moves no cursor and changes no colour."""
    for line in _lines(trace, has_colours=console.color_system is not None):
        console.print(line, soft_wrap=True, highlight=False)


def _lines(trace: Trace, *, has_colours: bool) -> Iterator[Text]:
    yield Text(printable(f"row {trace.row} of {trace.task}"), style="bold")
    for step in trace.steps:
        yield _head(step, trace.task)
        if step.preview is not None:
            yield from _body(step.preview, has_colours=has_colours)
        if step.note:
            yield Text(f"    {printable(step.note)}", style=_DIM)
        if step.problem is not None:
            for line in printable_lines(str(step.problem)).split("\n"):
                yield Text(f"    {line}", style="red")


def _head(step: Step, task: str) -> Text:
    text = Text(printable(step.address_in(task)), style="bold")
    types = ", ".join(str(type_) for type_ in step.node.types.values())
    told = f"{step.node.op}  {types}" if len(step.node.types) == 1 else step.node.op
    return text.append(f"  {printable(told)}", style=_DIM)


def _body(preview: PreviewView, *, has_colours: bool) -> Iterator[Text]:
    if preview["tokens"] is not None:
        yield Text(f"    {printable(preview['text'].partition(':')[0])}")
        yield _tokens(preview["tokens"], has_colours=has_colours)
        return
    yield Text(f"    {clip(printable(preview['text']), _MAX_CHARACTERS)}")
    if preview["image"] is not None and has_colours:
        yield from _picture(preview["image"])


def _tokens(tokens: list[TokenView], *, has_colours: bool) -> Text:
    """Return the ids with their text; without colours those that are learned stand in brackets."""
    line = Text("    ")
    for token in tokens[:_MAX_TOKENS]:
        is_learned = token["weight"] > 0
        said = f"{token['id']}:{printable(token['text'])}"
        plain = f"[{said}]" if is_learned and not has_colours else said
        line.append(plain, style=_LEARNED if is_learned else _READ).append(" ")
    if more := len(tokens) - _MAX_TOKENS:
        line.append(f"and {more:,} more" if more > 0 else "", style=_DIM)
    return line


def _picture(url: str) -> Iterator[Text]:
    content = base64.b64decode(url.partition(",")[2])
    with Image.open(BytesIO(content), formats=("PNG",)) as image:
        rgb = image.convert("RGB")
    width = min(COLUMNS, rgb.width)
    height = max(2, round(rgb.height * width / rgb.width / 2) * 2)
    small: Any = rgb.resize((width, height), Image.Resampling.BOX)
    for top in range(0, height, 2):
        line = Text("    ")
        for x in range(width):
            upper, lower = (small.getpixel((x, y)) for y in (top, top + 1))
            line.append("▀", style=f"rgb({_spell(upper)}) on rgb({_spell(lower)})")
        yield line


def _spell(colour: tuple[int, int, int]) -> str:
    return ",".join(map(str, colour))
