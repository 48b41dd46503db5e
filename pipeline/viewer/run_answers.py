"""What a run's model answered, on its page: the last samples, and what was answered to them before."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .run_facts import RunFacts
from .run_section import section, text_of

MAX_SAMPLES: Final = 60
"""Rows whose answers are shown."""


def draw_answers(facts: RunFacts) -> str:
    """Return the section on samples; empty where there are none."""
    if not facts.samples:
        return ""
    last = max(facts.samples)
    shown = facts.samples[last][:MAX_SAMPLES]
    cards = "".join(_sample(sample, facts) for sample in shown)
    note = f"What the model answered to a few validation rows after step {last:,}, and before that."
    return section("Samples", note, f'<div class="cards">{cards}</div>')


def _sample(sample: Mapping[str, Any], facts: RunFacts) -> str:
    is_right = sample["answer"] == sample["reference"]
    verdict = (
        "" if is_right else f' <span class="history">right: {text_of(sample["reference"])}</span>'
    )
    pictures = "".join(_picture(facts.path / "samples" / name) for name in sample["pictures"][:1])
    return (
        f'<div class="card sample">{pictures}<div><h3>{text_of(sample["task"])} <span class="history">'
        f'{text_of(sample["row"])}</span></h3><p class="prompt">{text_of(sample["prompt"])}</p>'
        f'<p class="answer {"right" if is_right else "wrong"}">'
        f"{text_of(sample['answer']) or 'nothing'}{verdict}</p>"
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
            yield f"{step:,}: <b>{text_of(said)}</b> &nbsp; "


def _picture(path: Path) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'
