"""The text plan names every node once, top down, and nothing in it can move a terminal's cursor."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from taskloom.graph.explain import explain
from taskloom.graph.render.printable import clip, clip_middle, measure, printable
from taskloom.graph.view import State, Status

from .plans import plan_like_tasks, plan_prompt, plan_two_tasks


def lines_of(text: str) -> list[list[str]]:
    """Return the words of the lines that stand for nodes."""
    return [
        line.split()
        for line in text.splitlines()
        if line.startswith("  ") and not line.startswith("   ")
    ]


def test_every_node_has_a_line_and_follows_what_it_uses() -> None:
    view = plan_two_tasks().view()
    order = [words[0] for words in lines_of(explain(view))]
    assert sorted(order) == sorted(node["address"] for node in view["nodes"])
    for edge in view["edges"]:
        maker, user = (view["nodes"][edge[end]]["address"] for end in ("maker", "user"))
        assert order.index(maker) < order.index(user)


def test_lanes_stand_in_the_order_of_their_work() -> None:
    heads = [line.split()[0] for line in explain(plan_two_tasks().view()).splitlines() if line]
    assert [h for h in heads if h in {"offline", "online", "device"}] == [
        "offline",
        "online",
        "device",
    ]


def test_only_parameters_that_are_not_defaults_are_shown() -> None:
    text = explain(plan_two_tasks().view())
    assert "resize_images height=224 width=224  " in text
    assert "bicubic" not in text


def test_the_reason_stands_below_every_stored_column() -> None:
    view = plan_two_tasks().view()
    lines = explain(view).splitlines()
    reasons = {
        node["address"]: node["outputs"][0]["stored"]
        for node in view["nodes"]
        if node["outputs"][0]["stored"] is not None
    }
    for address, reason in reasons.items():
        (place,) = [n for n, line in enumerate(lines) if line.startswith(f"  {address} ")]
        assert lines[place + 1] == f"      stored: {reason}"
    assert sum(line.startswith("      stored:") for line in lines) == len(reasons)


def test_states_say_why() -> None:
    state = State(Status.STALE, "resize_images height 192 -> 224")
    assert "\n      stale: resize_images height 192 -> 224\n" in explain(
        plan_two_tasks().view(resize_images=state)
    )


def test_like_tasks_share_their_lines() -> None:
    few, many = (explain(plan_like_tasks(n).view(), is_folded=True) for n in (3, 30))
    assert len(lines_of(few)) == len(lines_of(many))
    assert "*.img/decode (x30)" in many
    assert len(lines_of(explain(plan_like_tasks(30).view(), is_folded=False))) > 300


def test_members_in_different_states_are_counted() -> None:
    planned = plan_like_tasks(30)
    view = planned.view(encode_texts=State(Status.CACHED))
    first = next(node for node in view["nodes"] if node["address"] == "task_000.answer/encode")
    first["state"] = {"status": Status.STALE, "why": "new rows"}
    assert "29 cached, 1 stale: new rows" in explain(view)


@settings(max_examples=40)
@given(st.text(min_size=1), st.text())
def test_nothing_that_users_write_leaves_its_line(prompt: str, title: str) -> None:
    text = explain(plan_prompt(f"say {prompt}").view(title))
    assert all(c == "\n" or printable(c) == c for c in text)
    assert len(text.splitlines()) == len(explain(plan_prompt("say x").view("x")).splitlines())


def test_escape_sequences_are_shown_and_not_sent() -> None:
    text = explain(plan_prompt("\x1b[2J\x9b1A").view("\x1b]0;owned\x07"))
    assert r"\x1b]0;owned\x07" in text
    assert "\x1b" not in text
    assert "\x9b" not in text


@given(st.text(), st.integers(1, 40))
def test_clipped_text_fits(text: str, width: int) -> None:
    for clipped in (clip(text, width), clip_middle(text, width)):
        assert measure(clipped) <= width
        assert clipped == text or "…" in clipped


@given(st.text())
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)
