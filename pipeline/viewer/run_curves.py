"""The curves of a run's page: losses and scores, of all tasks together and of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...graph.render.quantity import write_share
from .chart import Chart, Series, thin
from .run_facts import RunFacts
from .run_section import legend, section, text_of


def draw_losses(facts: RunFacts) -> str:
    """Return the section on the loss, the gradient and the learning rate."""
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
        scale="log",
        write=lambda number: f"{number:.3g}",
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
        f'<section class="wide"><div class="card"><h2>Loss, logarithmic</h2>{legend(keys)}{loss.draw()}</div>'
        f'<div class="card"><h2>Gradient and learning rate</h2><h3>norm of the gradient</h3>{norm.draw()}'
        f"<h3>learning rate</h3>{rate.draw()}</div></section>"
    )


def draw_tasks(facts: RunFacts) -> str:
    """Return the section with a card for each task."""
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
    return section("Tasks", note, f'{legend(keys)}<div class="cards">{cards}</div>')


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
        scale="log",
        write=lambda number: f"{number:.3g}",
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
    head = f'<h3>{text_of(task)}</h3><p class="note">loss {last}{told_share}</p>'
    return f'<div class="card">{head}{loss.draw()}{score.draw()}</div>'


def _numbers(
    lines: Sequence[Mapping[str, Any]], part: str, task: str, name: str
) -> list[tuple[int, float]]:
    """Return step and number ``name`` of ``task``, where lines know it."""
    known = ((line["step"], line.get(part, {}).get(task, {}).get(name)) for line in lines)
    return [(step, number) for step, number in known if number is not None]
