"""Samples of what a node gave, small enough to be shown: in a terminal, in a page, in a report."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict


class TokenView(TypedDict):
    """One id of a sequence."""

    id: int
    text: Annotated[str, "What it stands for; empty if nobody knows."]
    weight: Annotated[float, "Share in the loss; 0 for what is only read."]


class PreviewView(TypedDict):
    """The value of one row after one node."""

    row: Annotated[str, "Row id, or the number of a row that was given by hand."]
    kind: Literal["text", "number", "bytes", "image", "waveform", "tokens", "missing"]
    text: Annotated[str, "The value in a few words; always there."]
    image: Annotated[str | None, "The picture as a data URL."]
    waveform: Annotated[list[float] | None, "At most 400 points from -1 to 1."]
    tokens: Annotated[list[TokenView] | None, "The ids of a sequence."]
